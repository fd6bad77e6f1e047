"""The chart that leads a workload: price against speed; where all speeds are equal, price alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from orchestrator.formatting import counted, cut, money, number
from orchestrator.report.html.axes import STYLE, legend, legend_of_kinds, log_money, log_numbers, part
from orchestrator.report.html.labels import Label, place
from orchestrator.report.html.svg import GOOD, GRID, INK, NARROW, SERIES, WIDE, Canvas, Picture, picture
from orchestrator.report.html.units import three_digits
from orchestrator.report.rows import PredictedRow, Report, TypeRow

EQUAL_WITHIN = 0.05  # speeds that differ by less say nothing about the types
PRICE_ALONE = "Price of each type"  # the title where speed says nothing
MOST_PRICES = 24  # types in the chart of prices alone
MANY = 7  # types; with more, a label may find no room
LONGEST_LABEL = 24  # of what a machine's words may be


@dataclass(frozen=True)
class Spot:
    """One point in the chart of price against speed."""

    label: str
    price_usd_h: float
    images_per_s: float
    low: float
    high: float
    kind: str  # measured, predicted, embedded


@dataclass(frozen=True)
class Priced:
    """The prices of one type, in dollars per hour; None: it is not offered, or not known."""

    label: str
    spot_usd_h: float | None
    on_demand_usd_h: float | None

    @property
    def lowest(self) -> float:
        """The lower of its prices."""
        return min(usd_h for usd_h in (self.spot_usd_h, self.on_demand_usd_h) if usd_h is not None)


def spots(report: Report, workload: str) -> list[Spot]:
    """Return the points of one workload, measured and predicted."""
    found = []
    for row in report.types:
        if row.workload == workload and row.images_per_s:
            kind = "embedded" if row.is_embedded else "measured"
            low, high = row.slow_images_per_s or row.images_per_s, row.fast_images_per_s or row.images_per_s
            label = cut(row.label, LONGEST_LABEL) + (" (this CPU)" if row.is_embedded else "")
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


def of_gpus(points: Sequence[Spot]) -> list[Spot]:
    """Return the points whose speed is that of a type, and not of this machine's CPU."""
    return [point for point in points if point.kind != "embedded"]


def speed_says_nothing(points: Sequence[Spot]) -> bool:
    """Return whether the types cannot be told apart by their speed: all are (nearly) equal, or of this CPU."""
    speeds = [point.images_per_s for point in of_gpus(points)]
    return not speeds or max(speeds) <= (1 + EQUAL_WITHIN) * min(speeds)


def priced(report: Report, workload: str) -> list[Priced]:
    """Return the prices of all types of a workload, the cheapest first.

    A price that was paid goes before one that is quoted. The embedded cloud's price stands for a type without another.
    """
    spot: dict[str, Decimal | None] = {}
    on_demand: dict[str, Decimal | None] = {}
    types: list[TypeRow | PredictedRow] = [*report.types, *report.predicted]
    types.sort(key=lambda row: isinstance(row, TypeRow) and row.is_embedded)
    for row in types:
        if row.workload != workload:
            continue
        is_spot = row.market == "spot" if isinstance(row, TypeRow) else row.price_source.startswith("spot")
        name = row.machines if isinstance(row, TypeRow) else row.instance_type
        if is_spot and row.price_usd_h:
            spot.setdefault(name, row.price_usd_h)
        if row.on_demand_usd_h:
            on_demand.setdefault(name, row.on_demand_usd_h)
    found = [
        Priced(cut(name, LONGEST_LABEL), _float(spot.get(name)), _float(on_demand.get(name)))
        for name in dict.fromkeys([*spot, *on_demand])
    ]
    return sorted(found, key=lambda one: (one.lowest, one.label))


def _float(usd: Decimal | None) -> float | None:
    return None if usd is None else float(usd)


def lead(report: Report, workload: str, key: str, heights: tuple[float, float]) -> Picture | None:
    """Draw the chart that leads a workload (heights in inches, wide and narrow); None where no speed is known."""
    points = spots(report, workload)
    if not points:
        return None
    if speed_says_nothing(points):
        rows = priced(report, workload)
        return _price_alone(rows, _why_alone(report, workload, points), workload, key, heights) if rows else None
    return _price_and_speed(points, workload, key, heights)


def origin_of(report: Report, workload: str) -> str:
    """Return where the prices of the types come from: paid, live, cached, recorded."""
    kinds = ["paid"] if any(row.workload == workload and row.is_ranked for row in report.types) else []
    quoted = [row.price_source for row in report.predicted if row.workload == workload]
    kinds += dict.fromkeys(one.split(", ")[1] for one in quoted if ", " in one)
    return f"{', '.join(kinds)} prices" if kinds else "prices"


def heights_of(report: Report, workload: str) -> tuple[float, float]:
    """Return the heights in inches that the chart needs, wide and narrow; 0 where there is none."""
    points = spots(report, workload)
    if not points:
        return 0.0, 0.0
    if speed_says_nothing(points):
        height = 1.25 + 0.3 * min(len(priced(report, workload)), MOST_PRICES)
        return height, height
    return WIDE[1], NARROW[1] + 0.07 * max(0, len(points) - MANY)


def _why_alone(report: Report, workload: str, points: Sequence[Spot]) -> str:
    """Return the sentence that says why the speed is not drawn."""
    known = of_gpus(points)
    if not known:
        return "Every instance of the embedded cloud is this machine's CPU, so its speed says nothing about a type."
    speed = number(known[0].images_per_s)
    if len(known) == 1:
        return f"Only {known[0].label} has a speed ({speed} images/s, {known[0].kind}): there is nothing to compare."
    kinds = " or ".join(dict.fromkeys(point.kind for point in known))
    same = f"All {len(known)} types are {kinds} at about {speed} images/s, so price alone tells them apart."
    if all(row.is_bound_by_kernels for row in report.predicted if row.workload == workload):
        return f"{same} A network this small is bound by kernel starts, which take the same time on any type."
    return same


def _price_alone(rows: Sequence[Priced], why: str, workload: str, key: str, heights: tuple[float, float]) -> Picture:
    """Draw the spot and the on-demand price of each type, the cheapest first."""
    shown = rows[:MOST_PRICES]

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes
        axes.set_xscale("log")
        axes.grid(visible=False, axis="y")
        for lane, one in enumerate(shown):
            if one.spot_usd_h is not None and one.on_demand_usd_h is not None:
                axes.plot([one.spot_usd_h, one.on_demand_usd_h], [lane, lane], color=GRID, linewidth=3.5, zorder=1)
            for usd_h, colour, fill, market in (
                (one.on_demand_usd_h, SERIES[4], "none", "on demand"), (one.spot_usd_h, SERIES[0], "full", "spot"),
            ):  # fmt: skip
                if usd_h is not None:
                    (mark,) = axes.plot(
                        [usd_h], [lane], "o", color=colour, fillstyle=fill, markersize=8, markeredgewidth=1.8, zorder=3
                    )
                    canvas.tip(mark, f"{one.label}: ${money(usd_h)} per hour, {market}")
        _price_columns(canvas, shown)
        axes.set_yticks(range(len(shown)), [one.label for one in shown])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.margins(x=0.08)
        log_money(canvas, axes.xaxis)
        axes.set_xlabel("dollars per hour")
        _legend_of_markets(canvas)

    best = shown[0]
    words = "; ".join(
        f"{one.label} {_usd(one.spot_usd_h)} spot, {_usd(one.on_demand_usd_h)} on demand" for one in shown[:6]
    )
    return picture(
        key,
        PRICE_ALONE,
        f"{why} The lowest price is that of {best.label}: ${money(best.lowest)} per hour."
        + part(len(shown), len(rows), "cheapest", "types"),
        f"Chart of the spot and the on-demand price of {counted(len(shown), 'type')} for {workload}, the cheapest "
        f"first: {words}. {why}",
        draw,
        heights=heights,
    )


def _usd(usd_h: float | None) -> str:
    return "-" if usd_h is None else f"${three_digits(usd_h, keeps_zeros=True)}"


def _price_columns(canvas: Canvas, rows: Sequence[Priced]) -> None:
    """Write the figures to the right of the chart, in the order of the marks."""
    spot_pt, on_demand_pt = (52, 104) if canvas.is_wide else (40, 80)
    edge = canvas.axes.get_yaxis_transform()
    for lane, one in enumerate(rows):
        for pt, usd_h, colour in ((spot_pt, one.spot_usd_h, SERIES[0]), (on_demand_pt, one.on_demand_usd_h, SERIES[4])):
            canvas.axes.annotate(
                _usd(usd_h), (1, lane), (pt, 0), xycoords=edge, textcoords="offset points", color=colour, ha="right",
                va="center", annotation_clip=False,
            )  # fmt: skip


def _legend_of_markets(canvas: Canvas) -> None:
    from matplotlib.lines import Line2D

    legend(
        canvas,
        [
            Line2D([], [], color=SERIES[0], marker="o", linestyle="", label="spot"),
            Line2D([], [], color=SERIES[4], marker="o", fillstyle="none", linestyle="", label="on demand"),
        ],
    )


def _price_and_speed(points: Sequence[Spot], workload: str, key: str, heights: tuple[float, float]) -> Picture:
    """Draw price per hour against images/s, with the Pareto front."""
    measured = [p for p in points if p.kind == "measured"]
    on_front = front(measured if len(measured) > 1 else of_gpus(points))

    def draw(canvas: Canvas) -> None:
        scatter(canvas, points, on_front)

    is_measured = len(measured) > 1
    whose = "measured types" if is_measured else "measured and predicted types"
    names = ", ".join(p.label for p in on_front) or "none"
    nothing = "no measured type" if is_measured else "no type"
    line = f"; {nothing} lies above and left of the line" if len(on_front) > 1 else ""
    return picture(
        key,
        "Price against speed",
        f"Up is faster, left is cheaper{line}.{_interval_words(points)}"
        + (" A mark without a name has it in its tooltip." if len(points) > MANY else ""),
        f"Chart of price per hour against images per second for {workload}. On the Pareto front of {whose}: {names}. "
        "The tables below hold every figure.",
        draw,
        heights=heights,
    )


def _interval_words(points: Sequence[Spot]) -> str:
    """Return what the bars are, and how far a prediction may be off: drawn, that would hide everything else."""
    predicted = [p for p in points if p.kind == "predicted" and p.low]
    bars = " Bars: 10 to 90 % of the measurements." if len(predicted) < len(points) else ""
    if not predicted:
        return bars
    factor = max(max(p.high / p.images_per_s, p.images_per_s / p.low) for p in predicted)
    return f"{bars} A prediction may be off by a factor of {three_digits(factor)} either way (90 % interval)."


def scatter(canvas: Canvas, points: Sequence[Spot], on_front: Sequence[Spot]) -> list[str]:
    """Draw the points, their front and their names; return the names for which there is no room."""
    axes = canvas.axes
    axes.set_xscale("log")
    axes.set_yscale("log")
    lines: list[tuple[list[float], list[float]]] = []
    if len(on_front) > 1:
        xs, ys = [p.price_usd_h for p in on_front], [p.images_per_s for p in on_front]
        dashed = any(p.kind == "predicted" for p in on_front)
        axes.plot(xs, ys, color=GOOD, linewidth=6, alpha=0.25, solid_capstyle="round", zorder=1)
        axes.plot(xs, ys, color=GOOD, linewidth=1.5, linestyle="--" if dashed else "-", zorder=1)
        lines.append((xs, ys))
    for point in points:
        colour, marker, fill = STYLE[point.kind]
        if point.kind != "predicted" and point.high > point.low:
            bar = ([point.price_usd_h] * 2, [point.low, point.high])
            axes.plot(*bar, color=colour, linewidth=1.2, alpha=0.6)
            lines.append(bar)
        (mark,) = axes.plot(
            [point.price_usd_h], [point.images_per_s], marker, color=colour, fillstyle=fill, markersize=8,
            markeredgewidth=1.8, zorder=3,
        )  # fmt: skip
        canvas.tip(
            mark,
            f"{point.label}: {number(point.images_per_s)} images/s ({number(point.low)} to {number(point.high)}), "
            f"${money(point.price_usd_h)} per hour, {point.kind}",
        )
    axes.margins(x=0.14, y=0.16)
    log_money(canvas, axes.xaxis)
    log_numbers(canvas, axes.yaxis)
    axes.set_xlabel("dollars per hour")
    axes.set_ylabel("images per second")
    legend_of_kinds(canvas, {p.kind for p in points})
    first = {id(p) for p in on_front}
    ranked = sorted(points, key=lambda p: (id(p) not in first, p.kind != "measured", p.price_usd_h))
    return place(canvas, [Label(p.price_usd_h, p.images_per_s, p.label) for p in ranked], lines)
