"""The charts of the HTML report, drawn from the report's rows and the metrics of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from orchestrator.formatting import counted, cut, money, number, span
from orchestrator.report.html.svg import BAD, CARD, GOOD, GREY, INK, MUTED, SERIES, Canvas, Picture, picture
from orchestrator.report.rows import PredictedRow, Report, TypeRow

MOST_RUNS_ON_A_TIMELINE = 12
MOST_CURVES = len(SERIES)
MOST_WORKLOADS = 3
LONGEST_LABEL = 24  # of what a machine's words may be
Step = tuple[float, float]  # unix seconds or a step, and a value


@dataclass(frozen=True)
class History:
    """The price of a pool over time."""

    label: str
    changes: tuple[Step, ...]
    end: float  # unix seconds: the end of the last price
    source: str


@dataclass(frozen=True)
class Curve:
    """The learning curves of a run, in bits/dim."""

    run: str
    train: tuple[tuple[int, float], ...]
    valid: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Spot:
    """One point in the chart of price against speed."""

    label: str
    price_usd_h: float
    images_per_s: float
    low: float
    high: float
    kind: str  # measured, predicted, embedded


def spots(report: Report, workload: str) -> list[Spot]:
    """Return the points of one workload, measured and predicted."""
    found = []
    for row in report.types:
        if row.workload == workload and row.images_per_s:
            kind = "embedded" if row.is_embedded else "measured"
            low, high = row.slow_images_per_s or row.images_per_s, row.fast_images_per_s or row.images_per_s
            label = cut(row.instance_type, LONGEST_LABEL) + (" (this CPU)" if row.is_embedded else "")
            found.append(Spot(label, float(row.price_usd_h), row.images_per_s, low, high, kind))
    for one in report.predicted:
        if one.workload == workload and one.price_usd_h:
            low, high = one.low_images_per_s, one.high_images_per_s
            found.append(Spot(one.instance_type, float(one.price_usd_h), one.images_per_s, low, high, "predicted"))
    return found


def front(points: Sequence[Spot]) -> list[Spot]:
    """Return the Pareto front: the points for which no cheaper point is at least as fast."""
    best: list[Spot] = []
    for point in sorted(points, key=lambda p: (p.price_usd_h, -p.images_per_s)):
        if not best or point.images_per_s > 1.001 * best[-1].images_per_s:  # predictions may differ by rounding only
            best.append(point)
    return best


STYLE: dict[str, tuple[str, str, Any]] = {
    "measured": (SERIES[0], "o", "full"),
    "predicted": (SERIES[1], "D", "none"),
    "embedded": (GREY, "s", "none"),
}


def price_and_speed(report: Report, workload: str, key: str) -> Picture | None:
    """Draw price per hour against images/s, with the Pareto front."""
    points = spots(report, workload)
    if not points:
        return None
    measured = [p for p in points if p.kind == "measured"]
    on_front = front(measured if len(measured) > 1 else [p for p in points if p.kind != "embedded"])

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes
        axes.set_xscale("log")
        axes.set_yscale("log")
        if len(on_front) > 1:
            xs, ys = [p.price_usd_h for p in on_front], [p.images_per_s for p in on_front]
            dashed = any(p.kind == "predicted" for p in on_front)
            axes.plot(xs, ys, color=GOOD, linewidth=6, alpha=0.25, solid_capstyle="round", zorder=1)
            axes.plot(xs, ys, color=GOOD, linewidth=1.5, linestyle="--" if dashed else "-", zorder=1)
        for point in points:
            colour, marker, fill = STYLE[point.kind]
            axes.plot([point.price_usd_h] * 2, [point.low, point.high], color=colour, linewidth=1.2, alpha=0.6)
            (mark,) = axes.plot(
                [point.price_usd_h], [point.images_per_s], marker, color=colour, fillstyle=fill, markersize=8,
                markeredgewidth=1.8, zorder=3,
            )  # fmt: skip
            canvas.tip(
                mark,
                f"{point.label}: {number(point.images_per_s)} images/s ({number(point.low)} to {number(point.high)}), "
                f"${money(point.price_usd_h)} per hour, {point.kind}",
            )
        _money_axis(axes.xaxis)
        _number_axis(axes.yaxis)
        axes.set_xlabel("dollars per hour")
        axes.set_ylabel("images per second")
        axes.margins(x=0.14, y=0.16)
        _legend_of_kinds(canvas, {p.kind for p in points})
        _labels(canvas, [(p.price_usd_h, p.images_per_s, p.label) for p in points])

    is_measured = len(measured) > 1
    whose = "measured types" if is_measured else "measured and predicted types"
    names = ", ".join(p.label for p in on_front) or "none"
    nothing = "no measured type" if is_measured else "no type"
    line = f"; {nothing} lies above and left of the line" if len(on_front) > 1 else ""
    return picture(
        key,
        "Price against speed",
        f"Up is faster, left is cheaper{line}. "
        "Bars: 10 to 90 % of the measurements, or the 90 % interval of a prediction.",
        f"Chart of price per hour against images per second for {workload}. On the Pareto front of {whose}: {names}. "
        "The tables below hold every figure.",
        draw,
    )


def cost_per_epoch(report: Report, workload: str, key: str) -> Picture | None:
    """Draw the cost of one epoch, the cheapest type first and the embedded cloud last."""
    rows: list[tuple[str, Decimal, str]] = []
    types: list[TypeRow | PredictedRow] = [*report.types, *report.predicted]
    for row in types:
        if row.workload != workload or not row.usd_per_epoch:
            continue
        if isinstance(row, TypeRow):
            kind = "embedded" if row.is_embedded else "measured"
            market = "(this CPU)" if row.is_embedded else cut(row.market, LONGEST_LABEL)
            label = f"{cut(row.instance_type, LONGEST_LABEL)} {market}"
        else:
            kind, label = "predicted", f"{row.instance_type} {row.price_source.split(',')[0]}"
        rows.append((label, row.usd_per_epoch, kind))
    if not rows:
        return None
    rows.sort(key=lambda one: (one[2] == "embedded", one[1]))

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes
        axes.grid(visible=False, axis="y")
        most = max(float(usd) for _, usd, _ in rows)
        for place, (label, usd, kind) in enumerate(rows):
            colour = STYLE[kind][0]
            is_solid = kind == "measured"
            (bar,) = axes.barh(
                [place], [float(usd)], height=0.62, color=colour if is_solid else "none", edgecolor=colour,
                linewidth=1.4, hatch=None if is_solid else "////",
            )  # fmt: skip
            bar.set_alpha(0.9 if is_solid else 0.75)
            canvas.tip(bar, f"{label}: ${money(usd)} per epoch, {kind}")
            axes.text(float(usd) + most * 0.012, place, f"${money(usd)}", va="center", color=INK)
        axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, most * (1.16 if canvas.is_wide else 1.35))
        axes.xaxis.set_major_formatter(lambda value, _: f"${money(value)}")
        axes.locator_params(axis="x", nbins=5 if canvas.is_wide else 3)
        axes.set_xlabel("dollars per epoch, training time only")
        _legend_of_kinds(canvas, {kind for _, _, kind in rows}, bars=True)

    height = 1.0 + 0.3 * len(rows)
    cheapest = next((row for row in rows if row[2] != "embedded"), rows[0])
    return picture(
        key,
        "Cost of an epoch",
        "One pass over the training images at the hourly price of each type. Solid: measured. Hatched: predicted, "
        "or measured on this machine's CPU.",
        f"Bar chart of dollars per epoch for {workload}; the cheapest is {cheapest[0]} at ${money(cheapest[1])} "
        f"({cheapest[2]}). The tables below hold every figure.",
        draw,
        heights=(height, height + 0.3),
    )


def price_history(histories: Sequence[History], key: str) -> Picture | None:
    """Draw the spot prices over time as a step chart."""
    known = [h for h in histories if h.changes]
    histories = known[: len(SERIES)]
    if not histories:
        return None

    def draw(canvas: Canvas) -> None:
        import matplotlib.dates

        dates: Any = matplotlib.dates
        axes = canvas.axes
        for colour, one in zip(SERIES, histories, strict=False):
            times = [_days(at) for at, _ in one.changes] + [_days(one.end)]
            prices = [price for _, price in one.changes] + [one.changes[-1][1]]
            (line,) = axes.step(times, prices, where="post", color=colour, linewidth=1.8, label=one.label)
            canvas.tip(
                line, f"{one.label}: now ${money(prices[-1])} per hour, lowest ${money(min(prices))} ({one.source})"
            )
        locator = dates.AutoDateLocator(minticks=2, maxticks=7 if canvas.is_wide else 5)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
        axes.yaxis.set_major_formatter(lambda value, _: f"${money(value)}")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("dollars per hour")
        _legend(canvas, len(histories))

    sources = ", ".join(dict.fromkeys(h.source for h in histories))
    now = "; ".join(f"{h.label} ${money(h.changes[-1][1])}" for h in histories)
    return picture(
        key,
        "Spot prices",
        f"The spot price of each pool over time ({sources}).{_part(len(histories), len(known), 'first', 'pools')}",
        f"Line chart of spot prices over time. At the end: {now}.",
        draw,
    )


def timeline(report: Report, key: str) -> Picture | None:
    """Draw the attempts of the newest runs, with interruptions and lost steps."""
    known = [run for run in report.runs if run.attempts]
    runs = known[-MOST_RUNS_ON_A_TIMELINE:][::-1]
    if not runs:
        return None

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes
        axes.grid(visible=False, axis="y")
        longest = max(_ends(run, report.generated_at) - run.created_at for run in runs)
        unit_s, unit = (
            (3600.0, "hours") if longest > 2 * 3600 else (60.0, "minutes") if longest > 180 else (1.0, "seconds")
        )
        for place, run in enumerate(runs):
            for attempt in run.attempts:
                lane = place + (0.0 if len(run.attempts) == 1 else 0.15 if attempt.number % 2 == 0 else -0.15)
                thick = 0.5 if len(run.attempts) == 1 else 0.28  # two lanes: attempts may overlap in time
                began = (attempt.started_at - run.created_at) / unit_s
                ended_at = attempt.ended_at if attempt.ended_at is not None else report.generated_at
                length = max((ended_at - attempt.started_at) / unit_s, longest / unit_s * 0.004)
                colour = SERIES[0] if attempt.market == "spot" else SERIES[4]
                (bar,) = axes.barh([lane], [length], left=[began], height=thick, color=colour, edgecolor=CARD)
                interrupted = attempt.is_interrupted
                end = f"ended by {attempt.ended_by}" if attempt.ended_by else "still running"
                lost = f", {attempt.steps_lost} steps lost" if attempt.steps_lost else ""
                canvas.tip(
                    bar,
                    f"{run.run}, attempt {attempt.number}: {attempt.instance_type} in {attempt.zone}, "
                    f"{span(ended_at - attempt.started_at)}, steps {attempt.first_step} to {attempt.last_step}{lost}, "
                    f"{end}, ${money(attempt.billed_usd)}",
                )
                if interrupted:
                    axes.plot([began + length], [lane], "X", color=BAD, markersize=9, markeredgecolor=CARD, zorder=4)
                if attempt.steps_lost:
                    axes.annotate(
                        f"-{attempt.steps_lost} steps", (began + length, lane), (0, 9), textcoords="offset points",
                        ha="center", color=BAD, fontsize="small",
                    )  # fmt: skip
        axes.set_yticks(range(len(runs)), [_short(run.run, canvas) for run in runs])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(runs) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{unit} since the start of the run")
        _legend_of_attempts(canvas, runs)

    interruptions = sum(run.interruptions for run in runs)
    lost = sum(run.steps_lost for run in runs)
    height = 1.15 + 0.38 * len(runs)
    return picture(
        key,
        "Attempts",
        "Each bar is an instance from its start to its end. A cross marks an interruption by AWS; the number is the "
        "count of steps that were trained again." + _part(len(runs), len(known), "newest", "runs"),
        f"Timeline of the attempts of {counted(len(runs), 'run')}: {counted(interruptions, 'interruption')} by AWS, "
        f"{counted(lost, 'step')} lost. "
        "The table of attempts below holds every figure.",
        draw,
        heights=(height, height + 0.25),
    )


def learning(curves: Sequence[Curve], key: str, of: int) -> Picture | None:
    """Draw bits/dim over the steps for the newest of `of` runs."""
    known = [c for c in curves if len(c.train) > 1 or c.valid]
    curves = known[-MOST_CURVES:]
    left_out = _part(len(curves), of, "newest", "runs")
    if len(known) == len(curves) < of:
        left_out = f" {len(curves)} of {of} runs; the others have no losses."
    if not curves:
        return None

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes
        for colour, one in zip(SERIES, curves, strict=False):
            if one.train:
                steps, values = zip(*one.train, strict=True)
                (line,) = axes.plot(steps, values, color=colour, linewidth=1.3, alpha=0.6)
                canvas.tip(line, f"{one.run}: training, {values[-1]:.3f} bits/dim at step {steps[-1]}")
            if one.valid:
                steps, values = zip(*one.valid, strict=True)
                (line,) = axes.plot(
                    steps, values, "o-", color=colour, markersize=4.5, linewidth=1.6, label=_short(one.run, canvas)
                )
                canvas.tip(line, f"{one.run}: validation, {values[-1]:.3f} bits/dim at step {steps[-1]}")
            else:
                axes.plot([], [], color=colour, label=_short(one.run, canvas))
        axes.set_xlabel("step")
        axes.set_ylabel("bits/dim")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="x", nbins=6 if canvas.is_wide else 4)
        all_values = sorted(value for one in curves for _, value in (*one.train[1:], *one.valid))
        if all_values:
            low, high = all_values[0], all_values[int(0.98 * (len(all_values) - 1))]
            axes.set_ylim(low - 0.06 * (high - low or 1), high + 0.06 * (high - low or 1))
        _legend(canvas, len(curves))

    ends = "; ".join(f"{c.run} {(c.valid or c.train)[-1][1]:.3f} at step {(c.valid or c.train)[-1][0]}" for c in curves)
    return picture(
        key,
        "Learning curves",
        f"Bits/dim; lower is better. Thin line: training. Line with dots: validation.{left_out}",
        f"Line chart of bits per dimension over the steps. At the end: {ends}.",
        draw,
    )


# -- small parts


def _part(shown: int, known: int, which: str, what: str) -> str:
    """Return a sentence on what a chart leaves out, "" if it shows everything."""
    return f" The {which} {shown} of {known} {what}." if shown < known else ""


def _days(at: float) -> float:
    return at / 86400.0  # matplotlib counts days since 1970


def _ends(run: Any, now: float) -> float:
    return max(a.ended_at if a.ended_at is not None else now for a in run.attempts)


def _short(name: str, canvas: Canvas) -> str:
    """Return a name that fits: shortened in the middle, because generated names differ only at their end."""
    most = 30 if canvas.is_wide else 14
    tail = most // 2
    return name if len(name) <= most else f"{name[: most - tail - 1]}…{name[-tail:]}"


def _money_axis(axis: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(lambda value, _: f"${value:g}")
    axis.set_minor_formatter(NullFormatter())


def _number_axis(axis: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_formatter(NullFormatter())


KIND_WORDS = {"measured": "measured", "predicted": "predicted", "embedded": "this machine's CPU"}


def _legend_of_kinds(canvas: Canvas, kinds: set[str], *, bars: bool = False) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for kind in [kind for kind in KIND_WORDS if kind in kinds]:
        colour, marker, fill = STYLE[kind]
        if bars:
            is_solid = kind == "measured"
            face = colour if is_solid else "none"
            handles.append(
                Patch(facecolor=face, edgecolor=colour, hatch=None if is_solid else "////", label=KIND_WORDS[kind])
            )
        else:
            handles.append(
                Line2D([], [], color=colour, marker=marker, fillstyle=fill, linestyle="", label=KIND_WORDS[kind])
            )
    _legend(canvas, len(handles), handles)


def _legend_of_attempts(canvas: Canvas, runs: Sequence[Any]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    attempts = [a for run in runs for a in run.attempts]
    handles: list[Any] = []
    if any(a.market == "spot" for a in attempts):
        handles.append(Patch(facecolor=SERIES[0], label="spot"))
    if any(a.market != "spot" for a in attempts):
        handles.append(Patch(facecolor=SERIES[4], label="on-demand"))
    if any(a.is_interrupted for a in attempts):
        handles.append(Line2D([], [], color=BAD, marker="X", linestyle="", label="interrupted by AWS"))
    _legend(canvas, len(handles), handles)


def _legend(canvas: Canvas, count: int, handles: list[Any] | None = None) -> None:
    """Place the legend above the chart, where it covers no mark."""
    columns = count if canvas.is_wide and count <= 3 else 3 if canvas.is_wide else 1 if count > 3 else 2
    texts = [h.get_label() for h in handles or canvas.axes.get_legend_handles_labels()[0]]
    longest = max(map(len, texts), default=0)
    if longest > (22 if canvas.is_wide else 16):
        columns = min(columns, 2 if canvas.is_wide else 1)
    given = {} if handles is None else {"handles": handles}
    canvas.figure.legend(
        loc="outside upper left", ncols=max(1, columns), labelcolor=INK, handletextpad=0.5, columnspacing=1.2, **given
    )


def _labels(canvas: Canvas, points: Sequence[tuple[float, float, str]]) -> None:
    """Place the label of each point where it overlaps no other label and no point."""
    figure, axes = canvas.figure, canvas.axes
    figure.canvas.draw()
    size = 10.5 if canvas.is_wide else 8.0
    places = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py in places]
    frame = axes.get_window_extent()
    for (px, py), (x, y, text) in sorted(zip(places, points, strict=True), key=lambda one: -one[0][1]):
        width, height = len(text) * size * 0.58, size * 1.25
        tries = [
            (dx, dy, align)
            for reach in (0, 12, 24, 36, 50, 64)
            for dx, dy, align in (
                (9, -height / 2 + 2 + reach, "left"), (9, -height / 2 + 2 - reach, "left"),
                (-9, -height / 2 + 2 + reach, "right"), (-9, -height / 2 + 2 - reach, "right"),
                (0, 9 + reach, "center"), (0, -height - 7 - reach, "center"),
            )
        ]  # fmt: skip
        for dx, dy, align in tries:
            left = px + dx - {"left": 0.0, "right": width, "center": width / 2}[align]
            box = (left, py + dy, left + width, py + dy + height)
            is_inside = box[0] >= frame.x0 and box[2] <= frame.x1 + 4 and box[1] >= frame.y0 and box[3] <= frame.y1
            if is_inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                arrow = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7} if abs(dy) > 20 else None
                axes.annotate(
                    text, (x, y), (dx, dy), textcoords="offset points", ha=align, va="bottom", fontsize=size,
                    color=INK, arrowprops=arrow,
                )  # fmt: skip
                break


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


__all__ = [
    "Curve",
    "History",
    "Spot",
    "cost_per_epoch",
    "front",
    "learning",
    "price_and_speed",
    "price_history",
    "spots",
    "timeline",
]
