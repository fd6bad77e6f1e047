"""What the live view of a run shows below its events: rows of text and bars, from the events and the time; pure."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

from orchestrator.cli.group_rows import group_phase, node_cells
from orchestrator.formatting import counted, figure, money, number, one_line, price, span, uncoloured
from orchestrator.market.billing import total_usd
from orchestrator.report.series import main_keys
from orchestrator.runs import events as ev
from orchestrator.runs.checked import is_figure
from orchestrator.runs.deadline_events import DeadlineDecided, DeadlineEndangered
from orchestrator.runs.generations import Generation, generations_of
from orchestrator.runs.output_events import OutputsPulled
from orchestrator.runs.state import Attempt, RunState, extend

MOST_POINTS = 400  # of a sparkline's values that are kept
SPARK_COLUMNS = 24
LEAST_ETA_S = 3.0  # of training before the rest is estimated
BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.,-=+*#"


@dataclass(frozen=True)
class Row:
    """One line of the view.

    label: what it is about, at most seven letters.
    text: its words.
    done: 0 to 1, drawn as a bar after the words; None: no bar.
    tail: words after the bar.
    style: "", "notice", "quiet", or the state of a run.
    """

    label: str
    text: str
    done: float | None = None
    tail: str = ""
    style: str = ""


class RunPanel:
    """The rows of one run. It may be asked from another thread than the one that adds events.

    Args:
        run: its name.
        steps: how many it has, None if only the program knows.
        budget_usd: its budget, None without one.
        past: the events of before.
        log_line: returns the last line of an attempt's log, "" if there is none.
    """

    def __init__(
        self,
        run: str,
        steps: int | None,
        budget_usd: Decimal | None,
        past: Sequence[ev.Event] = (),
        log_line: Callable[[int], str] = lambda number: "",
    ) -> None:
        self.run = run
        self.steps = steps
        self.budget_usd = budget_usd
        self.is_stopping = False
        self._events = list(past)
        self._log_line = log_line
        self._newest: ev.Progress | None = None
        self._images_per_s: float | None = None
        self._setup_words = ""
        self._state, self._read = RunState(), 0  # the fold of the first so many events
        self._course: deque[dict[str, Any]] = deque(maxlen=MOST_POINTS)  # the values so far
        self._kept: ev.CheckpointPulled | OutputsPulled | None = None
        self._changed_at: float | None = None  # when the run's state last changed
        self._last_log = (float("-inf"), "")
        self._decided: DeadlineDecided | None = None
        self._endangered: DeadlineEndangered | None = None

    def event(self, event: ev.Event) -> None:
        """Take note of an event."""
        if isinstance(event, ev.SetupProgress):
            self._setup_words = event.words
            return
        if isinstance(event, ev.InstanceStarted):
            self._setup_words, self._newest = "", None
        self._events.append(event)

    def tick(self, newest: ev.Progress | None, images_per_s: float | None) -> None:
        """Take note of the newest progress, which may not be written down yet."""
        self._newest, self._images_per_s = newest, images_per_s

    def state(self) -> RunState:
        """Return the fold of the events. Each one is read once: a long run has many."""
        new = self._events[self._read :]
        self._read += len(new)
        extend(self._state, new)
        for event in new:
            if isinstance(event, ev.Progress) and event.values:
                self._course.append(event.values)
            elif isinstance(event, (ev.CheckpointPulled, OutputsPulled)):
                self._kept = event
            elif isinstance(event, ev.StateChanged):
                self._changed_at = event.at
            elif isinstance(event, DeadlineDecided):
                self._decided = event
            elif isinstance(event, DeadlineEndangered):
                self._endangered = event
        return self._state

    def rows(self, now: float, *, is_unicode: bool = True) -> list[Row]:
        """Return what is shown at a time (unix seconds)."""
        state = self.state()
        newest = next(iter(generations_of(state)[-1:]), None)
        attempt = newest.lead if newest is not None else None
        rows = [self._title(state, now)]
        if newest is not None:
            rows.append(_machine(newest, state.cloud))
            rows += _notices(newest, now)
            rows += [Row(*cell[:2], style=cell[2]) for cell in node_cells(newest, now)] if newest.is_group else []
        rows.append(self._work(state, newest, now))
        rows += _deadline(self._decided, self._endangered, now)
        rows.append(self._cost(state, now))
        rows += self._values(is_unicode=is_unicode)
        rows += self._saved(now)
        return rows + self._log(attempt, now)

    def _title(self, state: RunState, now: float) -> Row:
        counts = [counted(len(state.attempts), "machine")] if len(state.attempts) > 1 else []
        if any(one.is_group for one in generations_of(state)[-1:]):
            counts = [f"attempt {state.generation}"] if state.generation > 1 else []
        counts += [counted(state.interruptions, "interruption")] if state.interruptions else []
        words = "STOPPING" if self.is_stopping else state.state
        tail = ", ".join([span(now - (state.led_since or state.created_at or now)), *counts])
        return Row("run", f"{self.run}  {words}  {tail}", style=words)

    def _work(self, state: RunState, one: Generation | None, now: float) -> Row:
        attempt = one.lead if one is not None else None
        is_stopped = one is not None and one.is_group and one.stopped_at is not None
        is_training = attempt is not None and attempt.first_step_at is not None and attempt.trainer_exit is None
        if attempt is None or attempt.is_over or not is_training or is_stopped:
            words, since = self._phase(state, attempt, one)
            return Row("phase", f"{words}  {span(now - since)}")
        newest = self._newest or attempt.newest
        step = newest.step if newest is not None else attempt.last_step
        unit = newest.unit if newest is not None else "step"
        total = self.steps or (newest.total if newest is not None else None)
        text = f"{step:,}" + (f"/{total:,}" if total else "")
        done = min(1.0, step / total) if total else None
        return Row(unit, text, done, self._speed(attempt, newest, step, total, now))

    def _speed(self, attempt: Attempt, newest: ev.Progress | None, step: int, total: int | None, now: float) -> str:
        words, rate = "", newest.steps_per_s if newest is not None else None
        trained_s = now - (attempt.first_step_at or now)
        if not rate and trained_s >= LEAST_ETA_S and step > attempt.first_step:
            rate = (step - attempt.first_step) / trained_s
        images_per_s = self._images_per_s or (newest.images_per_s if newest is not None else None)
        if images_per_s:
            words = f"{number(images_per_s)} images/s"
        elif rate and newest is not None:
            words = f"{number(rate)} {newest.unit}s/s" if rate >= 1 else f"{number(1 / rate)} s/{newest.unit}"
        if rate and total and step < total and trained_s >= LEAST_ETA_S:
            words += f"  ~{span((total - step) / rate)} left"
        return words.strip()

    def _phase(self, state: RunState, attempt: Attempt | None, one: Generation | None) -> tuple[str, float]:
        """Return what a run does while it does not train, and since when."""
        changed_at = state.created_at if self._changed_at is None else self._changed_at
        awaited = self._events[-1] if self._events and isinstance(self._events[-1], ev.CapacityAwaited) else None
        if awaited is not None:
            waiting = sum(not one.is_lost for one in state.open_attempts())
            billed = f"{counted(waiting, 'machine')} billed" if waiting else "nothing is billed"
            return f"waits for capacity; {billed}", awaited.at
        found = group_phase(state, one) if one is not None and one.is_group else None
        if found is not None:
            return found
        if state.is_final or attempt is None or attempt.is_over:
            return "over" if state.is_final else "asks for a machine", changed_at
        if attempt.terminate_requested or attempt.trainer_exit is not None:
            is_one = one is None or not one.is_group
            return "ends the machine" if is_one else "ends the machines", state.updated_at
        return self._start_phase(attempt)

    def _start_phase(self, attempt: Attempt) -> tuple[str, float]:
        """Return what a machine does before its first step, and since when."""
        if attempt.ran_at is None and not attempt.setup_s and not self._setup_words:
            return "the machine boots" if not attempt.generation else "the machines boot", attempt.started_at
        if attempt.trainer_started_at is None:
            words = f"set-up: {self._setup_words}" if self._setup_words else "set-up"
            return words, attempt.ran_at or attempt.started_at
        words = "until the first step" if self.steps else "the program runs; no measurement yet"
        return words, attempt.trainer_started_at

    def _cost(self, state: RunState, now: float) -> Row:
        usd = total_usd(state.attempts, now)
        if self.budget_usd is None:
            return Row("cost", f"~${money(usd)} so far")
        share = float(usd / self.budget_usd) if self.budget_usd else 1.0
        style = "notice" if share >= 0.8 else ""
        return Row("cost", f"~${money(usd)} of ${money(self.budget_usd)}", min(1.0, share), f"{share:.0%}", style)

    def _values(self, *, is_unicode: bool) -> list[Row]:
        """Return the newest loss, or what stands for it, with its course, and the values beside it."""
        told = list(self._course)
        told += [self._newest.values] if self._newest is not None and self._newest.values else []
        if not told:
            return []
        newest = told[-1]
        keys = [key for key in main_keys(newest) if is_figure(newest[key], -1e15) and key != "images_per_s"]
        keys.sort(key=lambda key: key.startswith(("valid", "val", "eval", "test")))  # what moves at each step first
        if not keys:
            return []
        course = [values[keys[0]] for values in told if is_figure(values.get(keys[0]), -1e15)]
        text = f"{figure(newest[keys[0]])}  {sparkline(course, SPARK_COLUMNS, is_unicode=is_unicode)}"
        beside = "".join(f"  {one_line(key)[:20]} {figure(newest[key])}" for key in keys[1:3])
        return [Row(short(one_line(keys[0])), (text + beside).rstrip())]

    def _saved(self, now: float) -> list[Row]:
        newest = self._kept
        if newest is None:
            return []
        what = newest.name if isinstance(newest, ev.CheckpointPulled) else counted(newest.all_files, "output")
        return [Row("saved", f"{one_line(what)} here, {span(now - newest.at)} ago")]

    def _log(self, attempt: Attempt | None, now: float) -> list[Row]:
        """Return the last line of the program's log, which is read once a second."""
        if attempt is None or attempt.trainer_started_at is None:
            return []
        if not 0 <= now - self._last_log[0] < 1:
            self._last_log = (now, self._log_line(attempt.number))
        return [Row("log", one_line(uncoloured(self._last_log[1])), style="quiet")] if self._last_log[1] else []


def _machine(one: Generation, cloud: str) -> Row:
    attempt, count = one.lead, f"{one.nodes} x " if one.nodes > 1 else ""
    each = " each" if one.nodes > 1 else ""
    at = f"{count}{attempt.instance_type} {attempt.market} in {attempt.zone}"
    words = f"{at} at ${price(attempt.price_usd_h)}/h{each}"
    return Row("machine", words, tail="" if cloud == "AWS" else one_line(cloud))


def _deadline(decided: DeadlineDecided | None, endangered: DeadlineEndangered | None, now: float) -> list[Row]:
    if decided is None:
        return []
    due_at = decided.at + decided.left_s
    left_s = due_at - now
    words = f"{time.strftime('%a %H:%M', time.localtime(due_at))}  " + (
        f"in {span(left_s)}" if left_s > 0 else f"{span(-left_s)} ago"
    )
    if endangered is not None:
        return [Row("due", f"{words}  in danger", style="notice")]
    where = {"wait": "waits for spot", "spot": "on spot", "on-demand": "on on-demand"}[decided.mode]
    return [Row("due", f"{words}  {where}")]


def _notices(one: Generation, now: float) -> list[Row]:
    rows = []
    for attempt in one.members:
        if attempt.noticed_ends_at is None or attempt.is_over:
            continue
        left_s = attempt.noticed_ends_at - now
        which = f"node {attempt.rank}" if one.is_group else "this machine"
        words = f"AWS ends {which} in {span(left_s)}" if left_s > 0 else f"AWS ends {which} now"
        rows.append(Row("notice", words, max(0.0, min(1.0, left_s / 120)), style="notice"))
    return rows


def short(key: str) -> str:
    """Return a name of at most seven letters: the last part of `valid/accuracy`, cut."""
    return key.rsplit("/", 1)[-1][:7]


def sparkline(values: Sequence[float], columns: int, *, is_unicode: bool = True) -> str:
    """Return the course of some values, each letter the mean of its share of them; "" for fewer than two."""
    if len(values) < 2:
        return ""
    count = min(columns, len(values))
    edges = [len(values) * i // count for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    blocks = BLOCKS if is_unicode else PLAIN_BLOCKS
    top = len(blocks) - 1
    return "".join(blocks[round(top * (mean - low) / (high - low)) if high > low else 0] for mean in means)
