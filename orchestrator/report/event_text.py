"""The line that the terminal and the dashboard show for an event."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from orchestrator.formatting import counted, figure, megabytes, money, number, one_line, price, span
from orchestrator.runs import events as ev
from orchestrator.runs import output_events as out
from orchestrator.runs.checked import is_figure
from orchestrator.runs.deadline_events import DeadlineDecided, DeadlineEndangered
from orchestrator.runs.program_events import ExportFinished, ExportStarted, MetricsFound, NotificationLost, WorkUnsaved

_ENDED_BY = {"aws": "AWS", "pixel-orch": "pixel-orch", "instance": "itself", "other": "someone else"}


def event_words(event: ev.Event, now: float) -> str:
    """Return the text for an event at `now` (unix seconds), "" for an event that is not shown."""
    event = _spelled(event)
    for words in WORDS:
        text = words(event, now)
        if text:
            return text
    return ""


def _spelled(event: ev.Event) -> ev.Event:
    """Return the event with texts of one line each: a name or reason of a machine makes no line of its own."""
    texts = {name: one_line(value) for name, value in vars(event).items() if type(value) is str}
    changed: dict[str, Any] = {name: text for name, text in texts.items() if text != getattr(event, name)}
    return dataclasses.replace(event, **changed) if changed else event


def _request_words(event: ev.Event, _now: float) -> str:
    """Requests for capacity and their answers."""
    match event:
        case ev.LaunchRequested():
            return _launch_words(event)
        case ev.LaunchFailed():
            return f"  refused: {event.code} in {'all zones' if event.zone == 'any' else event.zone}"
        case ev.CapacityAwaited():
            again_at = time.strftime("%H:%M:%S", time.localtime(event.again_at))
            return f"  no capacity in {counted(event.pools, 'pool')}; next request at {again_at}"
        case ev.StateChanged(state="RECOVERING"):
            return "RECOVERING: trying the next pool"
        case _:
            return ""


def _launch_words(event: ev.LaunchRequested) -> str:
    usd_h = price(event.price_usd_h)
    if event.count > 1:
        where = "one of all zones" if event.zone == "any" else event.zone
        what = f"{event.count} machines {event.instance_type}"
        return f"requesting {what} ({event.market}) in {where} at ${usd_h}/h each"
    if event.zone == "any":
        return f"requesting any of {event.instance_type} ({event.market}) at up to ${usd_h}/h"
    return f"requesting {event.instance_type} ({event.market}) in {event.zone} at ${usd_h}/h"


def _instance_words(event: ev.Event, _now: float) -> str:
    """The life of an instance."""
    match event:
        case ev.InstanceStarted():
            return f"  {event.instance_id} started, attempt {event.attempt}"
        case ev.RebalanceRecommended():
            return f"  EC2 rebalance recommendation: {event.instance_id} may be interrupted"
        case ev.TerminateRequested():
            return f"  terminating {event.instance_id}"
        case ev.InstanceEnded():
            return f"  {event.instance_id} terminated (by {_ENDED_BY[event.ended_by]})"
        case _:
            return ""


def _set_up_words(event: ev.Event, _now: float) -> str:
    """The set-up of an instance."""
    match event:
        case ev.SetupProgress():
            return f"  set-up: {event.words}"
        case ev.HostReady():
            data = f", data {event.data_how or 'ready'} after {event.data_s:.1f} s" if event.data_s else ""
            own = f"; {event.user_setup_how} in {event.user_setup_s:.1f} s" if event.user_setup_how else ""
            return f"  host ready after {event.setup_s:.1f} s of set-up, code synced{data}{own}"
        case _:
            return ""


def _training_words(event: ev.Event, _now: float) -> str:
    """The trainer, from its start to its exit or its loss."""
    match event:
        case ev.TrainerStarted() if event.is_own and not event.resumed_from:
            return "  program started"
        case ev.TrainerStarted():
            return f"  training from step {event.resumed_from + 1}" + (" (resumed)" if event.resumed_from else "")
        case ev.TrainerExited():
            how = "stopped on request" if event.asked else "finished" if event.exit_code == 0 else "failed"
            at = f" at step {event.last_step}" if event.last_step else ""
            return f"  trainer {how}{at} (exit code {event.exit_code})"
        case ev.AttemptLost():
            return f"  attempt {event.attempt} lost: {event.reason}"
        case _:
            return ""


def _program_words(event: ev.Event, _now: float) -> str:
    """What was found out about a program of the user's own."""
    match event:
        case MetricsFound(problem=problem) if problem:
            return f"  METRICS: {problem}"
        case MetricsFound():
            return f"  metrics from {event.source}"
        case DeadlineDecided():
            return deadline_words(event)
        case DeadlineEndangered():
            return f"the deadline is in danger: {event.reason}; {event.remedy} would help"
        case WorkUnsaved():
            return f"  The program does not handle {event.signal}: {unsaved_words(event)}"
        case _:
            return ""


def _notification_words(event: ev.Event, _now: float) -> str:
    """What does not arrive at the address of `--notify`, and what came of `--export`."""
    match event:
        case NotificationLost():
            return f"  A notification did not arrive ({event.reason}); the run goes on, and this is not said again."
        case ExportStarted():
            return f"exporting to {event.trackers}"
        case ExportFinished() if event.problem:
            again = f"pixel-orch export {event.run} --to {event.tracker}"
            return f"  Not exported to {event.tracker} ({one_line(event.problem)}); the run is as it is. Later: {again}"
        case ExportFinished():
            return f"  Exported to {event.tracker}: {one_line(event.place)}"
        case _:
            return ""


def progress_words(event: ev.Progress, most: int = 2) -> str:
    """Return the speed and the first values of a program that tells no images: `  4.2 steps/s  loss 0.53`."""
    text = ""
    if event.images_per_s is None and event.steps_per_s:
        rate = event.steps_per_s
        slow = f"  {number(1 / rate)} s/{event.unit}"
        text = f"  {number(rate)} {event.unit}s/s" if rate >= 1 else slow
    shown = list(event.values.items())[:most]
    return text + "".join(f"  {one_line(key)[:30]} {figure(value)}" for key, value in shown if is_figure(value, -1e15))


def deadline_words(event: DeadlineDecided) -> str:
    """Return what a run with a deadline has decided, why, and what it compared."""
    does = {"wait": "waits for spot", "spot": "goes on spot", "on-demand": "goes on on-demand"}[event.mode]
    time_left = f"{span(event.work_s)} of work, {span(max(0.0, event.left_s))} of time"
    why = "another way could be late" if event.is_forced else f"policy {event.policy}"
    costs = ", ".join(f"{name} ${money(usd)}" for name, usd in sorted(event.costs.items(), key=lambda one: one[1]))
    compared = f"; expected {costs}" if costs and not event.is_forced else ""
    return f"{does} ({time_left}; {why}{compared})"


def unsaved_words(event: WorkUnsaved) -> str:
    """Return how much an interruption loses."""
    lost = f"an interruption loses {span(event.loses_s)} of its work on average"
    if not event.saves:
        return f"an interruption loses all of its work so far ({span(event.loses_s)}); it has saved nothing yet"
    if not event.every_s:
        return f"{lost}; it has saved once so far"
    return f"{lost}, half of the {span(event.every_s)} between two saves"


def _output_words(event: ev.Event, _now: float) -> str:
    """Checkpoints and other outputs, as they are downloaded or stored."""
    match event:
        case ev.CheckpointPulled():
            return f"  {event.name} downloaded ({megabytes(event.size_bytes)}, sha256 {event.sha256[:8]})"
        case out.ExtraOutputsPulled():
            size = f"{megabytes(event.size_bytes)}, in outputs/"
            text = f"  {counted(event.files, 'other file')} downloaded ({size})"
            return f"{text}; not downloaded: {event.left}" if event.left else text
        case ev.CheckpointStored():
            return f"  {event.name} stored in S3"
        case ev.CheckpointRefused():
            return f"  {event.name} is not used: {event.reason}"
        case ev.CheckpointTakenBack():
            return f"  {event.name} is used again: the trainer failed after an older one too"
        case _:
            return ""


def _tree_words(event: ev.Event, _now: float) -> str:
    """States of the outputs: downloaded, restored, waited for, left."""
    match event:
        case out.OutputsPulled():
            what = f"{counted(event.files, 'output')} downloaded ({megabytes(event.size_bytes)})"
            gone = f", {event.deleted} removed" if event.deleted else ""
            return f"  {what}{gone}; in outputs/: {counted(event.all_files, 'file')}, {megabytes(event.all_bytes)}"
        case out.OutputsRestored():
            source = f" from {event.source}" if event.source else ""
            return f"  {counted(event.files, 'output')} restored{source} ({megabytes(event.size_bytes)})"
        case out.OutputsRefused():
            return f"  these outputs are not used: {event.reason}"
        case out.OutputsUnmatched() | out.OutputsLeft():
            return _left_outputs_words(event)
        case out.OutputsWaiting():
            size = f"{counted(event.files, 'output')} ({megabytes(event.size_bytes)})"
            until = time.strftime("%H:%M:%S", time.localtime(event.until))
            return f"  OUTPUTS WAITING: {size}: {event.reason}; the machine is kept until {until}"
        case _:
            return ""


def _left_outputs_words(event: out.OutputsLeft | out.OutputsUnmatched) -> str:
    if isinstance(event, out.OutputsUnmatched):
        instead = "; all outputs are downloaded instead" if event.is_all else ""
        return f"  --outputs {event.patterns} has matched no file{instead}"
    files = counted(event.files, "output")
    size = f" ({megabytes(event.size_bytes)})" if event.size_bytes else ""
    names = f": {event.names}" if event.names else ""
    if not event.is_loss and not event.size_bytes:
        return f"  not taken{', ' if event.reason else ''}{event.reason}{names}"
    return f"  NOT DOWNLOADED: {files}{size}, because {event.reason}{names}"


def _clock_words(event: ev.Event, _now: float) -> str:
    """A clock that is wrong."""
    if not isinstance(event, ev.ClockDiffers):
        return ""
    if event.of == "events":
        return f"  Events of this run are {span(event.ahead_s)} ahead of this machine's clock. Is it right?"
    how = f"{span(abs(event.ahead_s))} {'ahead of' if event.ahead_s > 0 else 'behind'}"
    return f"  This machine's clock is {how} AWS's. AWS's time is used; set the clock."


def _left_words(event: ev.Event, _now: float) -> str:
    """What was not downloaded."""
    match event:
        case ev.LogLeft():
            names = (("log", event.log_bytes), ("metrics", event.metrics_bytes))
            left = " and ".join(f"{megabytes(size)} of the {name}" for name, size in names if size)
            return f"  Not downloaded, and gone with the machine: at least {left}"
        case _:
            return ""


def _warning_words(event: ev.Event, now: float) -> str:
    """Warnings that the user may have to act on."""
    match event:
        case ev.InterruptionNoticed():
            left_s = max(0.0, event.ends_at - now)
            return f"INTERRUPTION NOTICE: {left_s:.0f} s left for {event.instance_id}; saving a checkpoint"
        case ev.DiskFull():
            left_s = max(0.0, event.gives_up_at - now)
            return (
                f"THE DISK OF THIS MACHINE IS FULL ({event.folder}): downloads have stopped; the training continues. "
                f"Free some space within {span(left_s)}"
            )
        case ev.CredentialsExpiring():
            left_min = max(0.0, event.ends_at - now) / 60
            return (
                f"AWS CREDENTIALS EXPIRE in {left_min:.0f} min: log in again (aws sso login).\n"
                "  The training continues. Without valid credentials pixel-orch cannot\n"
                "  terminate the instance; the instance then ends itself by its own limits."
            )
        case ev.RemoteStoreTroubled():
            return (
                f"  S3 UPLOAD FAILED: {event.reason}\n"
                "  The training continues; checkpoints and outputs are downloaded to this machine only."
            )
        case _:
            return _out_of_reach_words(event)


def _out_of_reach_words(event: ev.Event) -> str:
    """Warnings that something which should answer does not."""
    match event:
        case ev.MetadataSilent():
            return (
                f"  NO INTERRUPTION NOTICE CAN BE SEEN: the instance metadata does not answer ({event.reason}).\n"
                "  The training continues; an interruption comes without a last checkpoint."
            )
        case ev.CloudOutOfReach():
            return (
                f"  AWS CANNOT BE ASKED: {event.reason}\n"
                "  Trying again. What runs on AWS goes on, and ends itself by its own limits."
            )
        case _:
            return ""


WORDS = (
    _request_words,
    _instance_words,
    _set_up_words,
    _training_words,
    _program_words,
    _notification_words,
    _output_words,
    _tree_words,
    _left_words,
    _clock_words,
    _warning_words,
)
