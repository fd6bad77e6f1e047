"""The story of a run that was interrupted, as one picture: losses, steps and machines over the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from orchestrator.formatting import counted, cut, one_line, span
from orchestrator.report.html.axes import legend, time_unit
from orchestrator.report.html.svg import BAD, CARD, GOOD, GREY, GRID, INK, SERIES, WARN, Canvas, Picture, picture
from orchestrator.report.html.units import three_digits
from orchestrator.report.story import Chapter, Moment, Story, time_at

MOST_STORIES = 4  # on a page: of the newest runs that lost an instance
MANY_RUNS, FEW_STORIES = 40, 2  # a picture takes 0.2 s: a page of many runs has fewer
MOST_CHAPTERS = 8  # of a story: the last ones
NARROW_CHAPTERS = 4  # whose names have room side by side in a narrow picture
MOST_MARKS = 24  # checkpoints of an attempt that are marked
LONGEST_NAME = 40
LONGEST_WORD = 24
BOOT, SET_UP, TRAINING, LOST, IDLE = GREY, SERIES[4], SERIES[0], BAD, GRID


@dataclass(frozen=True)
class Part:
    """One part of an attempt's bar."""

    kind: str  # boot, set-up, training, lost, idle
    began_at: float  # unix seconds
    ended_at: float


def parts_of(one: Chapter) -> list[Part]:
    """Return the parts of an attempt in their order; together they are its whole time."""
    trained_at = one.trained_at if one.trained_at is not None else one.ended_at
    set_up_at = min(one.set_up_at if one.set_up_at is not None else trained_at, trained_at)
    stopped_at = max(one.stopped_at if one.stopped_at is not None else one.ended_at, trained_at)
    lost_at = min(max(one.lost_at if one.lost_at is not None else stopped_at, trained_at), stopped_at)
    borders = [one.started_at, set_up_at, trained_at, lost_at, stopped_at, one.ended_at]
    kinds = ["boot", "set-up", "training", "lost", "idle"]
    return [
        Part(kind, began, ended)
        for kind, began, ended in zip(kinds, borders[:-1], borders[1:], strict=True)
        if ended > began
    ]


def story_words(story: Story) -> str:
    """Return the story in words, for those who do not see the picture."""
    lost = sum(one.lost_count for one in story.chapters)
    begin = story.chapters[0].started_at
    told = [f"Run {one_line(story.run)} lost {counted(lost, 'instance')}."]
    for before, one in zip([None, *story.chapters], story.chapters, strict=False):
        gap = "" if before is None else f", {span(one.started_at - before.ended_at)} after the end of the one before"
        told.append(
            f"Attempt {one.number} began {span(one.started_at - begin)} after the start{gap}: {_machine(one)}."
            + (f" It resumed from {story.unit} {one.resumed_from:,}." if one.resumed_from else "")
        )
        lengths = [f"{part.kind} {span(part.ended_at - part.began_at)}" for part in parts_of(one)]
        told.append(f"{', '.join(lengths)}; {_trained(one, story.unit)}.".capitalize())
        told.append(_end_words(one, story.unit))
    return " ".join(filter(None, told))


def _type(one: Chapter) -> str:
    name = cut(one_line(one.instance_type), LONGEST_WORD)
    return f"{one.nodes} x {name}" if one.nodes > 1 else name


def _machine(one: Chapter) -> str:
    where = f"{_type(one)} in {cut(one_line(one.zone), LONGEST_WORD)}"
    return f"{where}, {one.market.replace('-', ' ')}, ${three_digits(one.price_usd_h)} per hour"


def _trained(one: Chapter, unit: str) -> str:
    if one.last_step <= one.resumed_from:
        return f"no {unit} trained"
    return f"{unit}s {one.resumed_from + 1:,} to {one.last_step:,}, {counted(len(one.checkpoints), 'checkpoint')} saved"


def _end_words(one: Chapter, unit: str) -> str:
    if not one.is_over:
        return "It still runs."
    if one.nodes > 1 and one.is_over:
        return _group_end_words(one, unit)
    if not one.is_lost:
        return f"It ended after {span(one.ended_at - one.started_at)}."
    notice = ""
    if one.noticed_at is not None:
        notice = f" with a notice {span(one.ended_at - one.noticed_at)} before"
    how = "AWS interrupted it" if one.is_interrupted else f"It was lost ({cut(one_line(one.lost_because), 80)})"
    again = f"{counted(one.steps_again, unit)} had" if one.steps_again else f"no {unit} had"
    return f"{how} after {span(one.ended_at - one.started_at)}{notice}; {again} to be trained again."


def _group_end_words(one: Chapter, unit: str) -> str:
    """Return how a generation of a group ended: which machines it lost, and how many went on."""
    after = span(one.ended_at - one.started_at)
    if not one.lost_nodes:
        return f"It ended after {after}."
    nodes = [str(rank) for rank in one.lost_nodes]
    which = f"node {nodes[0]}" if len(nodes) == 1 else f"nodes {', '.join(nodes)}"
    how = (
        f"AWS interrupted {which}" if one.is_interrupted else f"It lost {which} ({cut(one_line(one.lost_because), 80)})"
    )
    left = one.nodes - len(nodes)
    well = f"{counted(left, 'machine')} {'was' if left == 1 else 'were'} well" if left else "none was left"
    again = f"{counted(one.steps_again, unit)} had" if one.steps_again else f"no {unit} had"
    return f"{how}; {well}. The next group was formed {after} after the start; {again} to be trained again."


def story_picture(story: Story, key: str) -> Picture:
    """Draw the story: above the losses and the steps, below the machines, over the time since the run's first one."""
    shown = story.chapters[-MOST_CHAPTERS:]
    has_losses = any(len(one.losses) > 1 for one in shown)
    begin = shown[0].started_at
    unit_s, unit = time_unit(max(one.ended_at for one in shown) - begin)
    scale = _Scale(begin, unit_s)

    def draw(canvas: Canvas) -> None:
        panels = list(canvas.panels)
        if has_losses:
            _draw_losses(canvas, panels.pop(0), shown, scale, story.loss_name)
        _draw_steps(canvas, panels[0], shown, scale, story.unit)
        _draw_machines(canvas, panels[1], shown, scale)
        for panel in canvas.panels:
            _draw_ends(panel, shown, scale)
            panel.margins(x=0.02)
            panel.label_outer()
        since = "the run" if shown == story.chapters else f"attempt {shown[0].number}"
        panels[1].set_xlabel(f"{unit} since the start of {since}")
        legend(canvas, _handles(shown))

    lanes = 0.55 + 0.42 * len(shown)
    ratios = (*((1.1,) if has_losses else ()), 1.7, lanes)
    height = sum(ratios) + 1.1
    narrow_lanes = 0.5 + 0.55 * len(shown)
    left = "" if shown == story.chapters else f" The last {len(shown)} of {len(story.chapters)} attempts."
    lost = sum(one.lost_count for one in story.chapters)
    again = sum(one.steps_again for one in story.chapters)
    resumed = " The dotted line leads from the checkpoint to the attempt that resumed from it."
    if not any(one.resumed_from and one.trained_at is not None for one in shown[1:]):
        resumed = ""
    again_words = counted(again, story.unit) if again else f"no {story.unit}"
    return picture(
        key,
        f"How {cut(one_line(story.run), LONGEST_NAME)} {'went on' if len(story.chapters) > 1 else 'ended'}",
        f"{counted(lost, 'instance')} lost, {again_words} trained again.{resumed}{left}",
        story_words(story),
        draw,
        heights=(height, sum(ratios[:-1]) + narrow_lanes + 1.5),
        is_full=True,
        panels=ratios,
    )


@dataclass(frozen=True)
class _Scale:
    begin: float  # unix seconds
    unit_s: float

    def __call__(self, at: float) -> float:
        return (at - self.begin) / self.unit_s

    def points(self, moments: Sequence[Moment]) -> tuple[list[float], list[float]]:
        return [self(at) for at, _ in moments], [value for _, value in moments]


def _halves(moments: Sequence[Moment], at: float | None) -> tuple[list[Moment], list[Moment]]:
    """Return the moments until a time, and those from the last of these on."""
    if at is None:
        return list(moments), []
    kept = [one for one in moments if one[0] <= at]
    return kept, [*kept[-1:], *(one for one in moments if one[0] > at)]


def _draw_losses(canvas: Canvas, axes: Any, chapters: Sequence[Chapter], scale: _Scale, name: str) -> None:
    for one in chapters:
        kept, lost = _halves(one.losses, one.lost_at)
        if kept:
            (line,) = axes.plot(*scale.points(kept), color=TRAINING, linewidth=1.5)
            canvas.tip(line, f"attempt {one.number}: {cut(name, 30)} {three_digits(kept[-1][1])} at the end")
        if len(lost) > 1:
            axes.plot(*scale.points(lost), color=LOST, linewidth=1.5)
    values = sorted(value for one in chapters for _, value in one.losses[1:])
    if values:
        low, high = values[0], values[int(0.98 * (len(values) - 1))]
        axes.set_ylim(low - 0.08 * (high - low or 1), high + 0.12 * (high - low or 1))
    axes.set_ylabel(cut(name, 20))
    axes.locator_params(axis="y", nbins=4)


def _draw_steps(canvas: Canvas, axes: Any, chapters: Sequence[Chapter], scale: _Scale, unit: str) -> None:
    reached = 0.0
    for place, one in enumerate(chapters):
        kept, lost = _halves(_with_point(one.steps, one.lost_at), one.lost_at)
        again_until = time_at(one.steps, min(reached, float(one.last_step))) if reached > one.resumed_from else None
        again, new = _halves(_with_point(kept, again_until), again_until) if again_until else ([], kept)
        for moments, colour, what in ((again, WARN, "trained again"), (new, TRAINING, "trained"), (lost, LOST, "lost")):
            if len(moments) > 1:
                (line,) = axes.plot(*scale.points(moments), color=colour, linewidth=2.2, solid_capstyle="round")
                words = f"{unit}s {moments[0][1]:,.0f} to {moments[-1][1]:,.0f} {what}"
                canvas.tip(line, f"attempt {one.number}: {words}")
        _draw_checkpoints(canvas, axes, one, scale, unit)
        if place and one.resumed_from and one.trained_at is not None:
            is_named = canvas.is_wide or len(chapters) <= NARROW_CHAPTERS or one is chapters[-1]
            resumed = (one.trained_at, float(one.resumed_from))
            _draw_resume(canvas, axes, chapters[:place], resumed, scale, is_named=is_named)
        reached = max(reached, one.last_step)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.12)
    axes.set_ylabel(f"{unit}s")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params(axis="y", nbins=5, integer=True)


def _with_point(moments: Sequence[Moment], at: float | None) -> list[Moment]:
    """Return the moments with one more at a time between two of them."""
    found = list(moments)
    for place, (before, after) in enumerate(pairwise(found)):
        if at is not None and before[0] < at < after[0]:
            step = before[1] + (after[1] - before[1]) * (at - before[0]) / (after[0] - before[0])
            found.insert(place + 1, (at, step))
            break
    return found


def _draw_checkpoints(canvas: Canvas, axes: Any, one: Chapter, scale: _Scale, unit: str) -> None:
    """Mark the checkpoints of an attempt, the last one always."""
    size = -(-len(one.checkpoints) // MOST_MARKS) or 1
    shown = one.checkpoints[::-size]
    if shown:
        (marks,) = axes.plot(
            *scale.points(shown),
            "o",
            color=GOOD,
            markersize=6.5 if canvas.is_wide else 4,
            markeredgecolor=CARD,
            zorder=5,
        )
        newest = f"the newest of {unit} {shown[0][1]:,.0f}"
        canvas.tip(marks, f"attempt {one.number}: {counted(len(one.checkpoints), 'checkpoint')}, {newest}")


def _draw_resume(
    canvas: Canvas, axes: Any, before: Sequence[Chapter], resumed: Moment, scale: _Scale, *, is_named: bool
) -> None:
    """Draw the way from the checkpoint to the attempt that resumes from it."""
    at, step = resumed
    saved = [since for earlier in before for since, saved_step in earlier.checkpoints if saved_step == step]
    since = saved[-1] if saved else before[-1].ended_at
    axes.plot([scale(since), scale(at)], [step] * 2, color=GOOD, linewidth=1.4, linestyle=":", zorder=3)
    if not is_named:
        return
    axes.annotate(
        f"resumes at {step:,.0f}", (scale(at), step), (4, -4), textcoords="offset points", va="top", color=INK,
        fontsize="small" if canvas.is_wide else "x-small",
    )  # fmt: skip


def _draw_machines(canvas: Canvas, axes: Any, chapters: Sequence[Chapter], scale: _Scale) -> None:
    colours = {"boot": BOOT, "set-up": SET_UP, "training": TRAINING, "lost": LOST, "idle": IDLE}
    axes.grid(visible=False, axis="y")
    for lane, one in enumerate(chapters):
        for part in parts_of(one):
            (bar,) = axes.barh(
                [lane], [scale(part.ended_at) - scale(part.began_at)], left=[scale(part.began_at)],
                height=0.5 if canvas.is_wide else 0.36, color=colours[part.kind], edgecolor=CARD, linewidth=0.8,
                hatch="////" if part.kind == "lost" else None,
            )  # fmt: skip
            canvas.tip(bar, f"attempt {one.number}, {part.kind}: {span(part.ended_at - part.began_at)}")
        if not canvas.is_wide:
            is_late = scale(one.started_at) > 0.5 * scale(max(other.ended_at for other in chapters))
            axes.annotate(
                _short_machine(one), (scale(one.ended_at if is_late else one.started_at), lane - 0.24), (0, 1),
                textcoords="offset points", ha="right" if is_late else "left", va="bottom", color=INK, fontsize=7.5,
                bbox={"facecolor": CARD, "edgecolor": "none", "pad": 0.8},
            )  # fmt: skip
    colon = ":" if any(one.nodes > 1 for one in chapters) else ""  # else a lane would begin with two numbers
    labels = [f"{one.number}{colon}   {_short_machine(one)}" if canvas.is_wide else str(one.number) for one in chapters]
    axes.set_yticks(range(len(chapters)), labels)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(chapters) - 0.45, -0.55 if canvas.is_wide else -0.85)


def _short_machine(one: Chapter) -> str:
    where = f"{_type(one)}, {cut(one_line(one.zone), LONGEST_WORD)}"
    return f"{where}, ${three_digits(one.price_usd_h)}/h{'' if one.market == 'spot' else ' on demand'}"


def _draw_ends(axes: Any, chapters: Sequence[Chapter], scale: _Scale) -> None:
    """Draw the notices and the losses through all panels."""
    for one in chapters:
        if one.noticed_at is not None:
            axes.axvline(scale(one.noticed_at), color=WARN, linewidth=1.2, linestyle="--", zorder=1)
        if one.is_lost:
            axes.axvline(scale(one.ended_at), color=BAD, linewidth=1.4, zorder=1)


def _handles(chapters: Sequence[Chapter]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    kinds = {part.kind for one in chapters for part in parts_of(one)}
    handles: list[Any] = [
        Patch(facecolor=colour, edgecolor=CARD, hatch=hatch, label=label)
        for kind, colour, hatch, label in (
            ("boot", BOOT, None, "boot"), ("set-up", SET_UP, None, "set-up"), ("training", TRAINING, None, "training"),
            ("lost", LOST, "////", "lost training"), ("idle", IDLE, None, "after its program"),
        )
        if kind in kinds
    ]  # fmt: skip
    if any(one.steps_again for one in chapters):
        handles.append(Line2D([], [], color=WARN, linewidth=2.2, label="trained again"))
    if any(one.checkpoints for one in chapters):
        handles.append(Line2D([], [], color=GOOD, marker="o", linestyle=":", label="checkpoint"))
    if any(one.noticed_at is not None for one in chapters):
        handles.append(Line2D([], [], color=WARN, linewidth=1.2, linestyle="--", label="notice"))
    if any(one.is_lost for one in chapters):
        handles.append(Line2D([], [], color=BAD, linewidth=1.4, label="instance lost"))
    return handles


__all__ = ["FEW_STORIES", "MANY_RUNS", "MOST_STORIES", "Part", "parts_of", "story_picture", "story_words"]
