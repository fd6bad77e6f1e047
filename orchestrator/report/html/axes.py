"""What the charts share: axes of money, numbers and time, legends, the words on what is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.report.html.svg import GREY, INK, SERIES, Canvas
from orchestrator.report.html.units import three_digits

KIND_WORDS = {"measured": "measured", "predicted": "predicted", "embedded": "this machine's CPU"}
STYLE: dict[str, tuple[str, str, Any]] = {  # colour, marker, fill
    "measured": (SERIES[0], "o", "full"),
    "predicted": (SERIES[1], "D", "none"),
    "embedded": (GREY, "s", "none"),
}
WIDE_LEGEND = 78  # letters that fit in a row of it
NARROW_LEGEND = 48
MOST_DECIMALS = 6
SHORT_DECADES, WIDE_DECADES, NARROW_DECADES = 0.7, 2.8, 1.4  # of a logarithmic axis: up to there 2 and 5 have room


def part(shown: int, known: int, which: str, what: str) -> str:
    """Return a sentence on what a chart leaves out, "" if it shows everything."""
    return f" The {which} {shown} of {known} {what}." if shown < known else ""


def days(at: float) -> float:
    """Return unix seconds as matplotlib counts time: days since 1970."""
    return at / 86400.0


def log_money(canvas: Canvas, axis: Any) -> None:
    """Make a logarithmic axis of dollars per hour with few, round ticks; its limits are final."""
    _log_axis(canvas, axis, lambda value, _: f"${three_digits(value)}")


def log_numbers(canvas: Canvas, axis: Any) -> None:
    """Make a logarithmic axis of counts with few, round ticks; its limits are final."""
    _log_axis(canvas, axis, lambda value, _: three_digits(value))


def _log_axis(canvas: Canvas, axis: Any, words: Callable[[float, object], str]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    canvas.axes.autoscale_view()
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    steps: tuple[float, ...] = (1.0, 2.0, 5.0)
    if decades < SHORT_DECADES:
        steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    elif decades > (WIDE_DECADES if canvas.is_wide else NARROW_DECADES):
        steps = (1.0,)
    axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axis.set_major_formatter(words)
    axis.set_minor_formatter(NullFormatter())


def linear_money(axis: Any) -> None:
    """Label a linear axis of dollars, with as many decimals for each tick as the finest needs."""
    from matplotlib.ticker import MaxNLocator

    def words(value: float, _: object) -> str:
        ticks = axis.get_majorticklocs()
        step = float(ticks[1] - ticks[0]) if len(ticks) > 1 else value
        exact = (n for n in range(MOST_DECIMALS) if math.isclose(step * 10**n, round(step * 10**n), rel_tol=1e-6))
        return f"${value:,.{next(exact, MOST_DECIMALS) if step > 0 else 2}f}"

    axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))  # in steps of 2.5 a label needs a digit more
    axis.set_major_formatter(words)


def time_unit(longest_s: float) -> tuple[float, str]:
    """Return (seconds, name) of the unit in which a length of time is drawn."""
    if longest_s > 4 * 86400:
        return 86400.0, "days"
    if longest_s > 2 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if longest_s > 180 else (1.0, "seconds")


def legend_of_kinds(canvas: Canvas, kinds: set[str], *, bars: bool = False) -> None:
    """Say which marks, or bars, are measured and which are predicted."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for kind in [kind for kind in KIND_WORDS if kind in kinds]:
        colour, marker, fill = STYLE[kind]
        if bars:
            face, hatch = (colour, None) if kind == "measured" else ("none", "////")
            handles.append(Patch(facecolor=face, edgecolor=colour, hatch=hatch, label=KIND_WORDS[kind]))
        else:
            handles.append(
                Line2D([], [], color=colour, marker=marker, fillstyle=fill, linestyle="", label=KIND_WORDS[kind])
            )
    legend(canvas, handles)


def legend(canvas: Canvas, handles: Sequence[Any] | None = None) -> None:
    """Place the legend above the chart, where it covers no mark, in as many columns as its words leave room for."""
    shown = list(handles) if handles is not None else canvas.axes.get_legend_handles_labels()[0]
    lengths = [len(one.get_label()) + 6 for one in shown]  # with the sample of the line or the bar
    room = (WIDE_LEGEND if canvas.is_wide else NARROW_LEGEND) * (1.75 if canvas.is_full and canvas.is_wide else 1)
    columns = len(shown) if sum(lengths) <= room else max(1, int(room // max(lengths)))
    given = {} if handles is None else {"handles": shown}
    canvas.figure.legend(
        loc="outside upper left", ncols=columns, labelcolor=INK, handletextpad=0.5, columnspacing=1.2, **given
    )
