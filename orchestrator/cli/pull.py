"""`pull`: downloads the checkpoints, samples and outputs of a run that are not on this machine yet."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from orchestrator.clock import SystemClock
from orchestrator.cloud.base import Cloud, Instance
from orchestrator.cloud.connect import cloud_of
from orchestrator.engine.allowance import Allowance
from orchestrator.engine.journal import Journal
from orchestrator.engine.pull_outputs import outputs_from_host, outputs_from_s3
from orchestrator.errors import CloudError, HostError, SpecError
from orchestrator.formatting import counted, megabytes
from orchestrator.host.base import NOTHING_NEW, Host
from orchestrator.host.connect import connector
from orchestrator.plan.storage import remote_store_of
from orchestrator.report.summary import newest_checkpoint, newest_samples
from orchestrator.runs.events import CheckpointPulled
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.lock import Holder, RunBusyError
from orchestrator.runs.outputs import path_below
from orchestrator.runs.state import Attempt
from orchestrator.runs.store import RunStore


def check_node(store: RunStore, node: int) -> None:
    """Raise SpecError if no machine of the run has that number in its group."""
    last = max((attempt.rank for attempt in store.state().attempts), default=0)
    if not 0 <= node <= last:
        there = "one machine at a time, node 0" if last == 0 else f"nodes 0 to {last}"
        raise SpecError(f"--node: there is no node {node}; {store.run} has {there}")


def live_instance(store: RunStore, cloud: Cloud, *, node: int = 0) -> tuple[Attempt, Instance] | None:
    """Return the last attempt whose instance is running now, None if there is none; of a group that of one node."""
    open_attempts = [a for a in store.state().open_attempts() if not a.is_lost and a.rank == node]
    known = {i.instance_id: i for i in cloud.instances(store.run)}
    for attempt in reversed(open_attempts):
        instance = known.get(attempt.instance_id)
        if instance is not None and instance.state == "running":
            return attempt, instance
    return None


def _host(store: RunStore, attempt: Attempt, instance: Instance) -> Host:
    host_key = store.host_key_path(attempt.number).read_text()
    return connector(store, store.spec())(instance, attempt.login_user, host_key)


@dataclass(frozen=True)
class _Outputs:
    """What became of the outputs.

    is_led: another process leads the run, and downloads them.
    leader: that process, None if it cannot be told.
    problem: why the newest could not be downloaded, "" if they are here.
    """

    is_led: bool = False
    leader: int | None = None
    problem: str = ""


def pull(args: argparse.Namespace) -> int:
    """Do `pixel-orch pull`: download what is missing here; --out copies the newest to a folder."""
    home = home_from_environment()
    store = RunStore.open(home, args.run)
    spec = store.spec()
    fetched, outputs = 0, _Outputs()
    if store.state().open_attempts() or spec.bucket:
        with cloud_of(spec, home) as cloud:
            live = live_instance(store, cloud)
            fetched = _fetch_all(store, *live) if live else _fetch_from_s3(store, home)
            outputs = _fetch_outputs(store, home, live)
    checkpoint, samples = newest_checkpoint(store), newest_samples(store)
    folder = store.outputs if store.outputs.is_dir() and any(store.outputs.iterdir()) else None
    if args.out:
        checkpoint, samples = (_copied(path, Path(args.out)) for path in (checkpoint, samples))
        folder = None if outputs.is_led else _copied_outputs(folder, Path(args.out))
    answer = {
        "run": store.run,
        "fetched": fetched,
        "checkpoint": str(checkpoint) if checkpoint else None,
        "samples": str(samples) if samples else None,
        "checkpoints": sorted(p.name for p in store.checkpoints.glob("checkpoint-*")),
        "outputs": str(folder) if folder else None,
        "outputs_problem": outputs.problem,
        "led_by": outputs.leader,
    }
    if args.output == "json":
        print(json.dumps(answer))
        return 0
    if checkpoint is not None:
        print(f"{store.run}: {fetched} downloaded; the newest checkpoint:\n{checkpoint}")
    elif folder is None:
        print(f"{store.run}: there is no checkpoint yet")
    _tell_outputs(store, folder, outputs, is_copied=bool(args.out))
    return 0


def _tell_outputs(store: RunStore, folder: Path | None, outputs: _Outputs, *, is_copied: bool) -> None:
    if outputs.is_led:
        copied = "; they are not copied meanwhile" if is_copied else ""
        print(f"{store.run}: process {outputs.leader or '?'} leads the run, and downloads its outputs itself{copied}")
    if outputs.problem:
        print(f"{store.run}: the newest outputs are not here: {outputs.problem}")
    known = store.state().outputs
    if folder is not None and known is not None:
        size = f"{counted(known.all_files, 'file')}, {megabytes(known.all_bytes)}"
        print(f"{store.run}: the outputs that are here, {size}:\n{folder}")


def _fetch_outputs(store: RunStore, home: Path, live: tuple[Attempt, Instance] | None) -> _Outputs:
    """Download the newest outputs, unless a process leads the run: only one may write them."""
    spec = store.spec()
    try:
        with store.owned():
            journal = Journal(store, SystemClock())
            if live is not None:
                host = _host(store, *live)
                try:
                    outputs_from_host(journal, spec, host, live[0].number, _alone_s(store, live[0]))
                finally:
                    host.close()
                return _Outputs()
            place = remote_store_of(spec, home)
            return _Outputs(problem=outputs_from_s3(journal, place) if place is not None else "")
    except RunBusyError:
        return _Outputs(is_led=True, leader=Holder.of(store.folder).pid)
    except (HostError, CloudError) as error:
        return _Outputs(problem=str(error))
    except OSError as error:
        return _Outputs(problem=f"{error.filename or store.folder}: {error.strerror or error}")


def _alone_s(store: RunStore, attempt: Attempt) -> float | None:
    """Return how long the machine may go on without a further poll: ours must not lift the budget."""
    return Allowance(store.spec(), SystemClock(), store.state).alone_s(attempt)


def _fetch_all(store: RunStore, attempt: Attempt, instance: Instance) -> int:
    host = _host(store, attempt, instance)
    have = {pulled.sha256 for pulled in store.state().checkpoints.values()}
    root, count = f"pixel-orch/{store.run}", 0
    try:
        for output in host.poll(root, NOTHING_NEW, _alone_s(store, attempt)).outputs:
            folder = store.checkpoints if output.is_checkpoint else store.folder
            if output.sha256 in have or not host.fetch(root, output, path_below(folder, output.name)):
                continue
            count += 1
            if output.is_checkpoint:
                store.append(CheckpointPulled.of(output, attempt.number, SystemClock().now()))
    finally:
        host.close()
    return count


def _fetch_from_s3(store: RunStore, home: Path) -> int:
    """Download the newest checkpoint of the remote store, if it has one; return how many were downloaded."""
    place, state = remote_store_of(store.spec(), home), store.state()
    have = {pulled.sha256 for pulled in state.checkpoints.values()}
    newest = place.checkpoints(state.instance_ids, most=1) if place is not None else []
    if place is None or not newest or newest[0].sha256 in have:
        return 0
    output = newest[0]
    if not place.fetch(output, path_below(store.checkpoints, output.name)):
        return 0
    number = state.lead.number if state.lead is not None else 0
    store.append(CheckpointPulled.of(output, number, SystemClock().now()))
    return 1


def _copied(path: Path | None, folder: Path) -> Path | None:
    if path is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy2(path, folder / path.name))
    except OSError as error:
        raise SpecError(f"--out: cannot write to {folder} ({error.strerror}); name another folder") from None


def _copied_outputs(outputs: Path | None, folder: Path) -> Path | None:
    """Copy the outputs to a folder `outputs` in there."""
    if outputs is None:
        return None
    target = folder / outputs.name
    try:
        return Path(shutil.copytree(outputs, target, symlinks=True, dirs_exist_ok=True))
    except shutil.Error as error:
        raise SpecError(f"--out: cannot copy to {target} ({error.args[0][0][2]}); name another folder") from None
    except OSError as error:
        raise SpecError(f"--out: cannot write to {target} ({error.strerror}); name another folder") from None
