"""The curves of whatever programs of the user's own measure: one chart for a value, the runs in it side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.formatting import cut, figure, one_line
from orchestrator.report.html.axes import legend
from orchestrator.report.html.svg import SERIES, Canvas, Picture, picture
from orchestrator.report.names import short_names
from orchestrator.report.series import main_keys

MOST_CHARTS = 6
MOST_LINES = len(SERIES)
LONGEST_KEY = 60
WIDE_NAME, NARROW_NAME = 34, 24
Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class ValueCurves:
    """All curves of one run, by the names of the values."""

    run: str
    unit: str  # what its steps are
    curves: Mapping[str, Points]


def value_charts(runs: Sequence[ValueCurves], key: str) -> list[Picture]:
    """Draw the values that people look for first, of the newest runs that have them."""
    names = main_keys({name for one in runs for name, points in one.curves.items() if len(points) > 1})
    charts = []
    for name in names[:MOST_CHARTS]:
        known = [one for one in runs if len(one.curves.get(name, ())) > 1]
        for unit in dict.fromkeys(one.unit for one in known):  # steps and epochs have no axis in common
            charts.append((name, unit, [one for one in known if one.unit == unit]))
    return [_chart(*one, f"{key}-{place}") for place, one in enumerate(charts[:MOST_CHARTS])]


def _chart(name: str, unit: str, known: Sequence[ValueCurves], key: str) -> Picture:
    shown = known[-MOST_LINES:]
    title = cut(one_line(name), LONGEST_KEY)

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes
        labels = short_names([one_line(one.run) for one in shown], WIDE_NAME if canvas.is_wide else NARROW_NAME)
        for colour, one, label in zip(SERIES, shown, labels, strict=False):
            steps, values = zip(*one.curves[name], strict=True)
            (line,) = axes.plot(steps, values, color=colour, linewidth=1.5, label=label)
            canvas.tip(line, f"{one_line(one.run)}: {figure(values[-1])} at {unit} {steps[-1]:,}")
        axes.set_xlabel(unit)
        axes.set_ylabel(cut(title, 30))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="x", nbins=6 if canvas.is_wide else 4, integer=True)
        legend(canvas)

    ends = "; ".join(
        f"{one.run} {figure(one.curves[name][-1][1])} at {unit} {one.curves[name][-1][0]}" for one in shown
    )
    left = f" The newest {len(shown)} of {len(known)} runs." if len(shown) < len(known) else ""
    return picture(
        key,
        title,
        f"As the program measures it; means where there are many measurements.{left}",
        f"Line chart of {title} over the {unit}s. At the end: {ends}.",
        draw,
    )
