"""The charts over the runs: their attempts and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.formatting import counted, span
from orchestrator.report.html.axes import legend, part, time_unit
from orchestrator.report.html.price_history import History
from orchestrator.report.html.svg import BAD, CARD, INK, SERIES, Canvas, Picture, picture
from orchestrator.report.html.units import usd_words
from orchestrator.report.names import short_names
from orchestrator.report.rows import AttemptRow, Report, RunRow

MOST_RUNS_ON_A_TIMELINE = 12
MOST_CURVES = len(SERIES)
MOST_WORKLOADS = 3
WIDE_NAME, NARROW_NAME = 34, 16


@dataclass(frozen=True)
class Curve:
    """The learning curves of a run, in bits/dim."""

    run: str
    train: tuple[tuple[int, float], ...]
    valid: tuple[tuple[int, float], ...]


def timeline(report: Report, key: str) -> Picture | None:
    """Draw the attempts of the newest runs, with interruptions and lost steps."""
    known = [run for run in report.runs if run.attempts]
    runs = known[-MOST_RUNS_ON_A_TIMELINE:][::-1]
    if not runs:
        return None

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes
        axes.grid(visible=False, axis="y")
        unit_s, unit = time_unit(max(_ends(run, report.generated_at) - run.created_at for run in runs))
        longest = max(_ends(run, report.generated_at) - run.created_at for run in runs) / unit_s
        for place, run in enumerate(runs):
            for attempt in run.attempts:
                _attempt(canvas, run, attempt, _Lane(place, len(run.attempts), longest, unit_s, report.generated_at))
        axes.set_yticks(range(len(runs)), _names([run.run for run in runs], canvas))
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
        "Each bar is an instance, or a group of them, from its start to its end. A cross marks an interruption by AWS; "
        "the number is the count of steps that were trained again, where it has room."
        + part(len(runs), len(known), "newest", "runs"),
        f"Timeline of the attempts of {counted(len(runs), 'run')}: {counted(interruptions, 'interruption')} by AWS, "
        f"{counted(lost, 'step')} lost. "
        "The table of attempts below holds every figure.",
        draw,
        heights=(height, height + 0.25),
        is_full=True,
    )


@dataclass(frozen=True)
class _Lane:
    place: int
    attempts: int  # of the run
    longest: float  # of all runs, in units
    unit_s: float
    now: float


def _attempt(canvas: Canvas, run: RunRow, attempt: AttemptRow, lane: _Lane) -> None:
    is_alone = lane.attempts == 1
    at = lane.place + (0.0 if is_alone else 0.15 if attempt.number % 2 == 0 else -0.15)
    thick = 0.5 if is_alone else 0.28  # two lanes: attempts may overlap in time
    began = (attempt.started_at - run.created_at) / lane.unit_s
    ended_at = attempt.ended_at if attempt.ended_at is not None else lane.now
    length = max((ended_at - attempt.started_at) / lane.unit_s, lane.longest * 0.004)
    colour = SERIES[0] if attempt.market == "spot" else SERIES[4]
    (bar,) = canvas.axes.barh([at], [length], left=[began], height=thick, color=colour, edgecolor=CARD)
    end = f"ended by {attempt.ended_by}" if attempt.ended_by else "still running"
    lost = f", {attempt.steps_lost} steps lost" if attempt.steps_lost else ""
    canvas.tip(
        bar,
        f"{run.run}, attempt {attempt.number}: {attempt.machines} in {attempt.zone}, "
        f"{span(ended_at - attempt.started_at)}, steps {attempt.first_step} to {attempt.last_step}{lost}, "
        f"{end}, {usd_words(attempt.billed_usd)}",
    )
    if attempt.is_interrupted:
        canvas.axes.plot([began + length], [at], "X", color=BAD, markersize=9, markeredgecolor=CARD, zorder=4)
    if attempt.steps_lost and _has_room(canvas, run, attempt, lane):
        canvas.axes.annotate(
            f"-{attempt.steps_lost:,} steps", (began + length, at), (8, 0), textcoords="offset points", va="center",
            color=BAD, fontsize="small",
        )  # fmt: skip


def _has_room(canvas: Canvas, run: RunRow, attempt: AttemptRow, lane: _Lane) -> bool:
    """Return whether a label behind an attempt covers none of those that come later in its lane."""
    until = (attempt.ended_at or lane.now) + (0.1 if canvas.is_wide else 0.3) * lane.longest * lane.unit_s
    later = [one.started_at for one in run.attempts if one.number > attempt.number]
    return all(started_at > until for started_at in later[1::2])


def learning(curves: Sequence[Curve], key: str, of: int) -> Picture | None:
    """Draw bits/dim over the steps for the newest of `of` runs."""
    known = [c for c in curves if len(c.train) > 1 or c.valid]
    curves = known[-MOST_CURVES:]
    left_out = part(len(curves), of, "newest", "runs")
    if len(known) == len(curves) < of:
        left_out = f" {len(curves)} of {of} runs; the others do not measure it."
    if not curves:
        return None

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes
        names = _names([one.run for one in curves], canvas)
        for colour, one, name in zip(SERIES, curves, names, strict=False):
            if one.train:
                steps, values = zip(*one.train, strict=True)
                (line,) = axes.plot(steps, values, color=colour, linewidth=1.3, alpha=0.6)
                canvas.tip(line, f"{one.run}: training, {values[-1]:.3f} bits/dim at step {steps[-1]}")
            if one.valid:
                steps, values = zip(*one.valid, strict=True)
                (line,) = axes.plot(steps, values, "o-", color=colour, markersize=4.5, linewidth=1.6, label=name)
                canvas.tip(line, f"{one.run}: validation, {values[-1]:.3f} bits/dim at step {steps[-1]}")
            else:
                axes.plot([], [], color=colour, label=name)
        axes.set_xlabel("step")
        axes.set_ylabel("bits/dim")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="x", nbins=6 if canvas.is_wide else 4, integer=True)
        all_values = sorted(value for one in curves for _, value in (*one.train[1:], *one.valid))
        if all_values:
            low, high = all_values[0], all_values[int(0.98 * (len(all_values) - 1))]
            axes.set_ylim(low - 0.06 * (high - low or 1), high + 0.06 * (high - low or 1))
        legend(canvas)

    ends = "; ".join(f"{c.run} {(c.valid or c.train)[-1][1]:.3f} at step {(c.valid or c.train)[-1][0]}" for c in curves)
    return picture(
        key,
        "Learning curves",
        f"Bits/dim; lower is better. Thin line: training. Line with dots: validation.{left_out}",
        f"Line chart of bits per dimension over the steps. At the end: {ends}.",
        draw,
    )


# -- small parts


def _ends(run: RunRow, now: float) -> float:
    return max(a.ended_at if a.ended_at is not None else now for a in run.attempts)


def _names(names: Sequence[str], canvas: Canvas) -> list[str]:
    return short_names(names, WIDE_NAME if canvas.is_wide else NARROW_NAME)


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
    legend(canvas, handles)


__all__ = ["Curve", "History", "learning", "timeline"]
