"""The chart of spot prices over the time of the runs: the pools that were paid, drawn thick, among the cheapest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.formatting import cut, money
from orchestrator.report.html.axes import days, legend, linear_money, log_money, part
from orchestrator.report.html.svg import SERIES, Canvas, Picture, picture
from orchestrator.report.names import short_names
from orchestrator.report.rows import Report
from orchestrator.runs.spec import EMBEDDED_TITLE

MOST_PAID = 5
LONGEST_WORD = 24  # of a type or a zone
LEAST_PAD_S = 60.0
WIDE_NAME, NARROW_NAME = 34, 24
LOG_ABOVE = 15  # the highest price over the lowest: on a linear axis the low ones would be one line
FROM_ZERO_ABOVE = 2  # the highest price over the lowest
Step = tuple[float, float]  # unix seconds, dollars per hour


@dataclass(frozen=True)
class History:
    """The price of a pool over time, as the market has it."""

    label: str
    changes: tuple[Step, ...]
    end: float  # unix seconds: the end of the last price
    source: str


@dataclass(frozen=True)
class Line:
    """One line of the chart: a pool's price, and when a run paid it."""

    label: str
    spans: tuple[tuple[Step, ...], ...]  # each a price over time, its last moment repeated
    is_paid: bool
    source: str


@dataclass(frozen=True)
class _Paid:
    label: str
    began_at: float
    spans: tuple[tuple[Step, ...], ...]
    source: str


def paid_pools(report: Report) -> list[_Paid]:
    """Return the spot pools (type and zone) that the runs paid, the newest first."""
    found: dict[str, list[tuple[float, tuple[Step, ...], str]]] = {}
    for run in report.runs:
        for attempt in run.attempts:
            if attempt.market != "spot":
                continue
            label = f"{cut(attempt.instance_type, LONGEST_WORD)} {cut(attempt.zone, LONGEST_WORD)}"
            end = attempt.ended_at if attempt.ended_at is not None else report.generated_at
            source = "embedded" if run.cloud == EMBEDDED_TITLE else "seen by a run"
            span = _within(attempt.prices, attempt.started_at, max(end, attempt.started_at))
            found.setdefault(label, []).append((attempt.started_at, span, source))
    newest = sorted(found.items(), key=lambda item: -max(began for began, _, _ in item[1]))
    return [
        _Paid(label, min(one[0] for one in uses), tuple(one[1] for one in sorted(uses)), uses[-1][2])
        for label, uses in newest
    ]


def _within(changes: Sequence[Step], start: float, end: float) -> tuple[Step, ...]:
    """Return a price between two moments: the one in force at the first, the changes, the last one at the end."""
    before = [usd_h for at, usd_h in changes if at <= start]
    inside = [(at, usd_h) for at, usd_h in changes if start < at < end]
    if before:
        inside.insert(0, (start, before[-1]))
    if not inside:
        inside = [(start, changes[0][1])] if changes and changes[0][0] <= end else []
    return (*inside, (end, inside[-1][1])) if inside else ()


def price_lines(report: Report, histories: Sequence[History]) -> tuple[list[Line], int]:
    """Return (the lines of the chart, the pools that were paid first; how many paid pools there are).

    The time is that of the runs that paid these pools. Without any it is that of the histories.
    """
    paid = paid_pools(report)
    shown = paid[:MOST_PAID]
    older = {one.label for one in paid[MOST_PAID:]}
    market = {one.label: one for one in histories if one.changes and one.label not in older}
    lines: list[Line] = []
    start, end = _window(shown)
    for one in shown:
        lines.append(Line(one.label, one.spans, is_paid=True, source=one.source))
    for label, history in market.items():
        span = _within(history.changes, start, min(end, history.end)) if shown else _all_of(history)
        if span and len(span) > 1 and span[0][0] < span[-1][0]:
            lines.append(Line(label, (span,), is_paid=False, source=history.source))
    known = {line.label for line in lines if line.is_paid}
    doubles = [line for line in lines if not line.is_paid and line.label in known]
    rest = [line for line in lines if line.is_paid or line.label not in known][: len(SERIES)]
    return [*rest, *doubles], len(paid)


def _window(paid: Sequence[_Paid]) -> tuple[float, float]:
    """Return the time that the chart shows: that of the paid spans, with a little room."""
    moments = [at for one in paid for span in one.spans for at, _ in span]
    if not moments:
        return 0.0, 0.0
    pad = max(LEAST_PAD_S, 0.08 * (max(moments) - min(moments)))
    return min(moments) - pad, max(moments) + pad


def _all_of(history: History) -> tuple[Step, ...]:
    return (*history.changes, (history.end, history.changes[-1][1]))


def price_history(report: Report, histories: Sequence[History], key: str) -> Picture | None:
    """Draw the spot prices over time; None where no price is known."""
    lines, known = price_lines(report, histories)
    prices = [usd_h for line in lines for span in line.spans for _, usd_h in span if usd_h > 0]
    if not prices:
        return None
    labels = list(dict.fromkeys(line.label for line in lines))
    colours = dict(zip(labels, SERIES, strict=False))
    paid = [line for line in lines if line.is_paid]

    def draw(canvas: Canvas) -> None:
        named = dict(zip(labels, short_names(labels, WIDE_NAME if canvas.is_wide else NARROW_NAME), strict=True))
        for line in reversed(lines):  # what was paid lies above
            _draw_line(canvas, line, colours[line.label])
        _time_axis(canvas)
        if max(prices) > LOG_ABOVE * min(prices):
            canvas.axes.set_yscale("log")
            log_money(canvas, canvas.axes.yaxis)
        else:
            canvas.axes.set_ylim(*_limits(prices))
            linear_money(canvas.axes.yaxis)
        canvas.axes.set_ylabel("dollars per hour")
        _legend_of_pools(canvas, named, colours, {line.label for line in paid})

    sources = ", ".join(dict.fromkeys(line.source for line in lines))
    now = "; ".join(f"{line.label} ${money(_last(line))}{' (paid)' if line.is_paid else ''}" for line in lines)
    what = "Thick: a pool that a run paid, while it paid. Thin: other pools. " if paid else "The pools of the market. "
    return picture(
        key,
        "Spot prices over the time of the runs" if paid else "Spot prices",
        f"{what}Sources: {sources}.{part(len(paid), known, 'newest', 'paid pools')}",
        f"Line chart of spot prices over time. At the end: {now}.",
        draw,
    )


def _limits(prices: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a price axis: prices that move a little are seen to move, others are drawn from zero."""
    low, high = min(prices), max(prices)
    room = max(high - low, 0.1 * high)
    return (0.0 if high > FROM_ZERO_ABOVE * low else max(0.0, low - 0.6 * room)), high + 0.35 * room


def _last(line: Line) -> float:
    return next((span[-1][1] for span in reversed(line.spans) if span), 0.0)


def _draw_line(canvas: Canvas, line: Line, colour: str) -> None:
    """Draw all spans of a line as one mark: a pool may have been paid a thousand times."""
    times: list[float] = []
    prices: list[float] = []
    for span in filter(None, line.spans):
        times += [*(days(at) for at, _ in span), days(span[-1][0])]
        prices += [*(usd_h for _, usd_h in span), math.nan]  # a gap
    if not times:
        return
    style: dict[str, Any] = {"linewidth": 4.5, "solid_capstyle": "round", "zorder": 4}
    if not line.is_paid:
        style = {"linewidth": 1.4, "alpha": 0.85, "zorder": 2}
    (drawn,) = canvas.axes.step(times, prices, where="post", color=colour, **style)
    first, last, lowest = prices[0], _last(line), min(usd_h for usd_h in prices if not math.isnan(usd_h))
    words = (
        f"{'paid, ' if line.is_paid else ''}first ${money(first)}, lowest ${money(lowest)}, at the end ${money(last)}"
    )
    canvas.tip(drawn, f"{line.label}: {words} per hour ({line.source})")


def _time_axis(canvas: Canvas) -> None:
    import matplotlib.dates

    dates: Any = matplotlib.dates
    locator = dates.AutoDateLocator(minticks=2, maxticks=7 if canvas.is_wide else 4)
    canvas.axes.xaxis.set_major_locator(locator)
    canvas.axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))


def _legend_of_pools(canvas: Canvas, named: dict[str, str], colours: dict[str, str], paid: set[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colours[label], linewidth=4.5 if label in paid else 1.4,
               label=f"{short} (paid)" if label in paid else short)
        for label, short in named.items()
    ]  # fmt: skip
    legend(canvas, handles)
