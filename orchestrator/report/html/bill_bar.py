"""The bill against on-demand as one bar: its parts, and what the same seconds would have cost on demand. HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from orchestrator.formatting import counted
from orchestrator.report.html.units import amounts
from orchestrator.report.rows import RunRow

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


@dataclass(frozen=True)
class _Piece:
    name: str
    kind: str  # its class in the style sheet
    amount: str
    percent: float  # of the bar

    @property
    def bar(self) -> str:
        """Its piece of the bar."""
        title = html.escape(f"{self.name}: {self.amount}")
        return f'<i class="{self.kind}" style="width:{self.percent:.2f}%" title="{title}"></i>' if self.percent else ""

    @property
    def key(self) -> str:
        """Its entry in the legend."""
        return f'<li><i class="{self.kind}"></i>{self.name} <b>{html.escape(self.amount)}</b></li>'


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
    saved = bill.on_demand_usd - bill.usd
    kinds = [kind for _, _, kind in PARTS]
    *paid, billed, on_demand, not_billed = amounts(
        [*(usd for _, usd in bill.parts), bill.usd, bill.on_demand_usd, saved]
    )
    pieces = [
        _Piece(name, kind, words, 100 * float(usd / whole))
        for (name, usd), kind, words in zip(bill.parts, kinds, paid, strict=True)
    ]
    if saved > 0:
        pieces.append(_Piece("not billed", "rest", not_billed, 100 * float(saved / whole)))
    billed = f"{'~' if bill.is_estimate else ''}{billed}"
    words = ", ".join(f"{one.name} {one.amount}" for one in pieces)
    alt = (
        f"The bill of {counted(bill.runs, 'run')} is {billed}: {words}. The same seconds cost {on_demand} on demand: "
        f"{saving_words(bill)}."
    )
    without = len(runs) - bill.runs
    left = f" {counted(without, 'run')} without a known on-demand price left out." if without else ""
    whole_words = "on-demand price of the same seconds" if saved > 0 else "bill"
    return (
        '<section class="bill" aria-labelledby="bill"><div class="bill-head"><h2 id="bill">Bill against on-demand</h2>'
        f'<p class="saved"><b>{html.escape(billed)}</b> billed, {html.escape(on_demand)} on demand: '
        f"<b>{saving_words(bill)}</b></p></div>"
        f'<div class="bar" role="img" aria-label="{html.escape(alt)}">{"".join(one.bar for one in pieces)}</div>'
        f'<ul class="keys">{"".join(one.key for one in pieces)}</ul>'
        f'<p class="basis">The whole bar is the {whole_words}.{left}</p></section>'
    )
