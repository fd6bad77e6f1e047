"""The bill against on-demand as one bar: its parts, and what the same seconds would have cost on demand. HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from orchestrator.formatting import counted
from orchestrator.report.html.units import usd_words
from orchestrator.report.rows import RunRow

LEAST_PART = 0.1  # per cent of the bar: a part that was billed is seen
NO_BREAK = "\u00a0"
PARTS = (  # name, field of a run, class in the style sheet
    ("instances", "instance_usd", "p1"), ("disks", "volume_usd", "p2"),
    ("addresses", "address_usd", "p3"), ("data out", "data_out_usd", "p4"),
)  # fmt: skip


@dataclass(frozen=True)
class Bill:
    """The sum over the runs whose on-demand price is known."""

    parts: tuple[tuple[str, Decimal], ...]  # name and dollars
    on_demand_usd: Decimal  # of the same seconds
    runs: int
    is_estimate: bool

    @property
    def usd(self) -> Decimal:
        """What was billed."""
        return sum((usd for _, usd in self.parts), Decimal(0))

    @property
    def saved(self) -> float:
        """The share of the on-demand price that was not billed; below zero: more was billed."""
        return float(1 - self.usd / self.on_demand_usd)


def bill_of(runs: Sequence[RunRow]) -> Bill | None:
    """Return the bill of the runs; None where no on-demand price is known."""
    known = [run for run in runs if run.on_demand_usd]
    on_demand = sum((run.on_demand_usd or Decimal(0) for run in known), Decimal(0))
    if not on_demand:
        return None
    parts = tuple((name, sum((getattr(run, key) for run in known), Decimal(0))) for name, key, _ in PARTS)
    return Bill(parts, on_demand, len(known), any(run.is_estimate for run in known))


def saving_words(bill: Bill) -> str:
    """Return the saving in per cent."""
    percent = round(100 * bill.saved)
    if percent == 0:
        return "the same as on demand"
    return f"{percent}{NO_BREAK}% saved" if percent > 0 else f"{-percent}{NO_BREAK}% more than on demand"


def bill_bar(runs: Sequence[RunRow]) -> str:
    """Return the bar as HTML, "" where no on-demand price is known."""
    bill = bill_of(runs)
    if bill is None:
        return ""
    whole = max(bill.usd, bill.on_demand_usd)
    mark = "~" if bill.is_estimate else ""
    kinds = [kind for _, _, kind in PARTS]
    widths = [(*part, kind, 100 * float(part[1] / whole)) for part, kind in zip(bill.parts, kinds, strict=True)]
    bar = "".join(
        f'<i class="{kind}" style="width:{max(width, LEAST_PART):.2f}%" title="{name}: {usd_words(usd)}"></i>'
        for name, usd, kind, width in widths
        if usd
    )
    rest = 100 * float((bill.on_demand_usd - bill.usd) / whole)
    if rest > 0:
        bar += f'<i class="rest" style="width:{rest:.2f}%" title="not billed"></i>'
    words = ", ".join(f"{name} {usd_words(usd)}" for name, usd, _, _ in widths)
    alt = (
        f"The bill of {counted(bill.runs, 'run')} is {mark}{usd_words(bill.usd)}: {words}. The same seconds cost "
        f"{usd_words(bill.on_demand_usd)} on demand: {saving_words(bill)}."
    )
    keys = "".join(
        f'<li><i class="{kind}"></i>{html.escape(name)} <b>{usd_words(usd)}</b></li>' for name, usd, kind, _ in widths
    )
    if rest > 0:
        keys += f'<li><i class="rest"></i>not billed <b>{usd_words(bill.on_demand_usd - bill.usd)}</b></li>'
    whole_words = "on-demand price of the same seconds" if rest > 0 else "bill"
    without = len(runs) - bill.runs
    left = f" {counted(without, 'run')} without a known on-demand price left out." if without else ""
    return (
        '<section class="bill" aria-labelledby="bill"><div class="bill-head"><h2 id="bill">Bill against on-demand</h2>'
        f'<p class="saved"><b>{mark}{usd_words(bill.usd)}</b> billed, {usd_words(bill.on_demand_usd)} on demand: '
        f"<b>{saving_words(bill)}</b></p></div>"
        f'<div class="bar" role="img" aria-label="{html.escape(alt)}">{bar}</div>'
        f'<ul class="keys">{keys}</ul><p class="hint">The whole bar is the {whole_words}.{left}</p></section>'
    )
