"""The chart of what an epoch costs on each type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.formatting import cut
from orchestrator.report.html.axes import STYLE, legend_of_kinds, part
from orchestrator.report.html.svg import INK, Canvas, Picture, picture
from orchestrator.report.html.units import three_digits, unit_for
from orchestrator.report.rows import PredictedRow, Report, TypeRow

MOST_BARS = 24
LONGEST_LABEL = 24  # of what a machine's words may be


@dataclass(frozen=True)
class EpochBar:
    """One bar: an epoch on one type."""

    label: str
    usd: float
    kind: str  # measured, predicted, embedded


def epoch_bars(report: Report, workload: str) -> list[EpochBar]:
    """Return the cost of an epoch, the cheapest type first and the embedded cloud last."""
    bars = []
    types: list[TypeRow | PredictedRow] = [*report.types, *report.predicted]
    for row in types:
        if row.workload != workload or not row.usd_per_epoch:
            continue
        if isinstance(row, TypeRow):
            kind = "embedded" if row.is_embedded else "measured"
            market = "(this CPU)" if row.is_embedded else cut(row.market, LONGEST_LABEL)
            label = f"{cut(row.label, LONGEST_LABEL)} {market}"
        else:
            kind, label = "predicted", f"{row.instance_type} {row.price_source.split(',')[0]}"
        bars.append(EpochBar(label, float(row.usd_per_epoch), kind))
    return sorted(bars, key=lambda one: (one.kind == "embedded", one.usd))


def height_of(bars: Sequence[EpochBar]) -> float:
    """Return the height in inches that the chart needs."""
    return 1.25 + 0.3 * min(len(bars), MOST_BARS)


def cost_per_epoch(bars: Sequence[EpochBar], workload: str, key: str, heights: tuple[float, float]) -> Picture | None:
    """Draw the cost of one epoch (heights in inches, wide and narrow); None without a bar."""
    if not bars:
        return None
    shown = bars[:MOST_BARS]
    unit = unit_for([bar.usd for bar in shown], "epoch")

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes
        axes.grid(visible=False, axis="y")
        most = max(bar.usd for bar in shown) * unit.scale
        for lane, bar in enumerate(shown):
            colour = STYLE[bar.kind][0]
            is_solid = bar.kind == "measured"
            (drawn,) = axes.barh(
                [lane], [bar.usd * unit.scale], height=0.62, color=colour if is_solid else "none", edgecolor=colour,
                linewidth=1.4, hatch=None if is_solid else "////",
            )  # fmt: skip
            drawn.set_alpha(0.9 if is_solid else 0.75)
            canvas.tip(drawn, f"{bar.label}: {unit.words(bar.usd)} per {unit.per}, {bar.kind}")
            axes.text(bar.usd * unit.scale + most * 0.012, lane, unit.words(bar.usd), va="center", color=INK)
        axes.set_yticks(range(len(shown)), [bar.label for bar in shown])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, most * (1.16 if canvas.is_wide else 1.4))
        axes.xaxis.set_major_formatter(lambda value, _: three_digits(value))
        axes.locator_params(axis="x", nbins=5 if canvas.is_wide else 3)
        axes.set_xlabel(f"{unit.title}, training time only" if canvas.is_wide else f"{unit.sign} per {unit.per}")
        legend_of_kinds(canvas, {bar.kind for bar in shown}, bars=True)

    cheapest = next((bar for bar in shown if bar.kind != "embedded"), shown[0])
    return picture(
        key,
        "Cost of an epoch",
        "One pass over the training data at the hourly price of each type. Solid: measured. Hatched: predicted, "
        f"or measured on this machine's CPU.{part(len(shown), len(bars), 'first', 'bars')}",
        f"Bar chart of dollars per epoch for {workload}; the cheapest is {cheapest.label} at "
        f"{unit.words(cheapest.usd)} per {unit.per} ({cheapest.kind}). The tables below hold every figure.",
        draw,
        heights=heights,
    )
