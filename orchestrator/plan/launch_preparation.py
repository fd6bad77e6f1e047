"""From the settings of a launch to a run that can be led: everything is decided before anything is billed.

`read_request` checks what it can without asking a cloud, `prepare_launch` asks the cloud, `create_run` writes the
run's folder. Nothing here prints or asks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from orchestrator.clock import SystemClock
from orchestrator.cloud.base import Cloud
from orchestrator.cloud.connect import check_credentials, start_embedded
from orchestrator.errors import SpecError
from orchestrator.host import snapshot
from orchestrator.host.connect import make_run_key
from orchestrator.host.sync import Tree
from orchestrator.plan import initial_checkpoint
from orchestrator.plan.deadline import check_budget, with_estimate, with_spot_range
from orchestrator.plan.first_look import FirstLook, look
from orchestrator.plan.group import check_group
from orchestrator.plan.initial_checkpoint import InitialCheckpoint
from orchestrator.plan.job import tree_for
from orchestrator.plan.planner import make_plan, measured_speeds
from orchestrator.plan.preflight import preflight
from orchestrator.plan.requests import Plan
from orchestrator.plan.settings import resumed_spec, spec_from
from orchestrator.plan.settings_file import FileSettings, Source, read_settings
from orchestrator.plan.storage import resolved
from orchestrator.runs.events import RunCreated, StateChanged
from orchestrator.runs.home import home_id, make_home
from orchestrator.runs.lock import RunLock
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore

Verb = Literal["launch", "resume", "attach", "stop"]
"""What a process leads a run for; `OwnerChanged` records it."""


@dataclass(frozen=True)
class LaunchRequest:
    """A launch as it was asked for, checked as far as that is possible without asking a cloud."""

    spec: RunSpec
    tree: Tree
    resumed: RunStore | None  # the run that is resumed, None for a new one
    checkpoint: InitialCheckpoint | None  # of `--from`, if it is on this machine
    checkpoint_place: str | None  # of `--from`, as it was given
    faults: tuple[dict[str, Any], ...]  # of the embedded cloud
    interrupt_after_s: float | None  # of the embedded cloud
    sources: tuple[Source, ...] = ()  # the files of which settings were read
    look: FirstLook | None = None  # at the command and the files, for the user's own program
    is_code_new: bool = True  # False: a run that is resumed sends the files of its launch


@dataclass(frozen=True)
class PreparedLaunch:
    """A launch of which everything is decided; nothing is created or billed yet."""

    request: LaunchRequest
    plan: Plan
    cloud: Cloud
    home: Path
    checkpoint: InitialCheckpoint | None

    def discard(self) -> None:
        """Remove what was fetched for a launch that is not confirmed."""
        initial_checkpoint.discard(self.checkpoint)


@dataclass(frozen=True)
class PreparedRun:
    """A run with a folder of its own, which can be led by this process or by another."""

    store: RunStore
    plan: Plan
    tree: Tree
    cloud: Cloud
    verb: Verb
    lock: RunLock | None = None  # held since the run was created or resumed; None: it is taken by who leads


def read_request(flags: Mapping[str, Any], command: Sequence[str], home: Path) -> LaunchRequest:
    """Return the launch that the settings ask for.

    Args:
        flags: by the names of the command's flags; None, False or an empty list: not given.
        command: of a program of the user's own; empty for the bundled trainer.
        home: where the runs are.

    Raises:
        SpecError: it cannot work as asked.
    """
    place = flags.get("start_from")
    if flags.get("resume") and place:
        raise SpecError("--from begins a new run, --resume continues an old one; give one of them")
    old = _resumable(home, flags["resume"]) if flags.get("resume") else None
    files = FileSettings({}) if old else read_settings(flags.get("file"))
    spec = resumed_spec(flags, command, old.spec()) if old else spec_from(flags, command, files)
    check_group(spec)
    spec = with_spot_range(spec, flags.get("spot_advisor"))
    spec = with_estimate(spec, home, is_resumed=old is not None)
    faults = read_faults(flags.get("faults"), is_embedded=spec.is_embedded)
    interrupt_after_s = _interrupt_after_s(flags, spec)
    checkpoint = initial_checkpoint.find_local(place, spec) if place else None
    tree, is_code_new = _tree_of_now(spec, old)
    seen = look(spec, tree, is_resumed=old is not None)
    return LaunchRequest(
        spec, tree, old, checkpoint, place, faults, interrupt_after_s, files.sources, seen, is_code_new=is_code_new
    )


def _tree_of_now(spec: RunSpec, old: RunStore | None) -> tuple[Tree, bool]:
    """Return what a launch sends, and whether it is to be copied: a resumed run may have outlived its folder."""
    copied = snapshot.stored(old) if old is not None and spec.workdir and not Path(spec.workdir).is_dir() else None
    if copied is None:
        return tree_for(spec), True
    note = f"{spec.workdir} is not there any more: the files of the launch are sent"
    return replace(copied, notes=(note,)), False


def check_account(spec: RunSpec) -> None:
    """Raise AccessError if the run is on AWS and there are no credentials for it. No request is sent."""
    if not spec.is_embedded:
        check_credentials(spec.profile)


def check_home(request: LaunchRequest, home: Path) -> None:
    """Make the home folder if it is missing, and check that the name of a new run is free.

    Raises:
        SpecError: the folder cannot be written, or a run has that name.
    """
    make_home(home)
    if request.resumed is None:
        refuse_taken_name(home, request.spec.run)


def refuse_taken_name(home: Path, run: str) -> None:
    """Raise SpecError if a run has that name."""
    if os.path.lexists(home / "runs" / run):
        raise SpecError(f"--name: there is a run called {run} already; choose another name")


def prepare_launch(request: LaunchRequest, cloud: Cloud, home: Path) -> PreparedLaunch:
    """Ask the cloud for prices, images, quotas and permissions, and decide what will be sent.

    Args:
        request: what is asked for.
        cloud: the open cloud of `request.spec`.
        home: where the runs are; it exists.

    Raises:
        SpecError: it cannot work as asked.
        PixelOrchError: the cloud would refuse it.
    """
    spec, old = request.spec, request.resumed
    for fault in request.faults:  # before the first request: prices, quotas and images may be what is at fault
        start_embedded(home).add_fault(fault)
    born_at = old.state().created_at if old else None
    plan = make_plan(spec, cloud, home_id(home), born_at, images_per_s=measured_speeds(home, spec))
    if old is None:
        check_budget(plan)
    spec = resolved(plan.spec, home)
    plan = preflight(replace(plan, spec=spec), cloud)
    checkpoint = request.checkpoint
    if request.checkpoint_place and checkpoint is None:
        checkpoint = initial_checkpoint.fetch(request.checkpoint_place, spec, home)
    return PreparedLaunch(request, plan, cloud, home, checkpoint)


def create_run(prepared: PreparedLaunch) -> PreparedRun:
    """Make the folder of a new run, or write the changed spec of one that is resumed. This process holds its lock.

    Raises:
        RunBusyError: another process leads the run that is to be resumed.
        SpecError: the folder cannot be made, or the key or the checkpoint cannot be copied.
    """
    request, plan = prepared.request, prepared.plan
    if request.resumed is not None:
        return _resumed(prepared, request.resumed)
    store, lock = RunStore.begin(prepared.home, plan.spec)
    try:
        make_run_key(store, plan.spec.key)
        snapshot.take(store, request.tree)
        store.append(RunCreated(at=SystemClock().now(), run=plan.spec.run, cloud=prepared.cloud.title))
        if prepared.checkpoint is not None:
            initial_checkpoint.adopt(store, prepared.checkpoint)
        store.publish()
    except BaseException:
        store.delete_unborn()
        lock.release()
        raise
    return PreparedRun(store, plan, sent_tree(store, plan.spec), prepared.cloud, "launch", lock)


def _resumed(prepared: PreparedLaunch, store: RunStore) -> PreparedRun:
    """Write the changed spec of a run that is resumed, under its lock: another process may resume it too."""
    lock = store.lock()
    try:
        _resumable(prepared.home, store.run)
        store.request_stop(None)  # of the time before
        if prepared.request.is_code_new:
            snapshot.take(store, prepared.request.tree)
        store.write_spec(prepared.plan.spec)
        store.append(StateChanged(at=SystemClock().now(), state="PENDING", reason="resumed"))
    except BaseException:
        lock.release()
        raise
    tree = sent_tree(store, prepared.plan.spec)
    return PreparedRun(store, prepared.plan, tree, prepared.cloud, "resume", lock)


def sent_tree(store: RunStore, spec: RunSpec) -> Tree:
    """Return what a run sends to each instance: the files of its launch. A run of version 0.1.0 has none of them."""
    return snapshot.stored(store) or tree_for(spec)


def changes_since_launch(request: LaunchRequest) -> str:
    """Return for people what has changed in the folder of a run that is resumed since its launch, "" for nothing."""
    old = request.resumed if request.is_code_new else None
    before = snapshot.stored(old) if old is not None else None
    return "" if before is None else snapshot.changed_words(snapshot.difference(before, request.tree))


def prepare_existing_run(store: RunStore, cloud: Cloud, verb: Verb) -> PreparedRun:
    """Plan a run that exists at the prices of now, so that this process can lead it.

    Raises:
        SpecError: there is nothing to offer.
        CloudError: the cloud does not answer.
    """
    spec, home = store.spec(), store.home
    speeds = measured_speeds(home, spec)
    plan = make_plan(spec, cloud, home_id(home), store.state().created_at, images_per_s=speeds)
    return PreparedRun(store, plan, sent_tree(store, spec), cloud, verb)


def read_faults(path_text: str | None, *, is_embedded: bool) -> tuple[dict[str, Any], ...]:
    """Return the faults that a file asks of the embedded cloud.

    Raises:
        SpecError: it cannot be read, or the cloud is AWS.
    """
    if not path_text:
        return ()
    if not is_embedded:
        raise SpecError("--faults is an option of the embedded cloud; add --cloud local")
    from infra.local import load_faults

    try:
        return tuple(load_faults(Path(path_text)))
    except ValueError as error:
        raise SpecError(f"--faults: {error}") from None


def _interrupt_after_s(flags: Mapping[str, Any], spec: RunSpec) -> float | None:
    after_s = flags.get("interrupt_after")
    if after_s is None:
        return None
    if flags.get("detach"):
        raise SpecError("--interrupt-after needs a launch in the foreground; leave out --detach")
    if not spec.is_embedded:
        raise SpecError("--interrupt-after is an option of the embedded cloud; add --cloud local")
    if spec.market != "spot":
        raise SpecError("--interrupt-after needs --spot: an on-demand instance is not interrupted")
    if not after_s >= 0 or after_s == float("inf"):
        raise SpecError(f"--interrupt-after: {after_s} is not a duration; give seconds, for example 20")
    return float(after_s)


def _resumable(home: Path, run: str) -> RunStore:
    store = RunStore.open(home, run)
    state = store.state()
    if state.state == "SUCCEEDED":
        raise SpecError(f"--resume: {run} has succeeded; there is nothing to resume")
    if not state.is_final:
        raise SpecError(f"--resume: {run} is {state.state}; pixel-orch attach {run} takes it over")
    return store
