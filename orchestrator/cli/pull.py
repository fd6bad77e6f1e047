"""`pull`: downloads the checkpoints and samples of a run that are not on this machine yet."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from orchestrator.clock import SystemClock
from orchestrator.cloud.base import Cloud, Instance
from orchestrator.cloud.connect import cloud_of
from orchestrator.errors import SpecError
from orchestrator.host.base import NOTHING_NEW, Host
from orchestrator.host.connect import connector
from orchestrator.plan.storage import remote_store_of
from orchestrator.report.summary import newest_checkpoint, newest_samples
from orchestrator.runs.events import CheckpointPulled
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.outputs import path_below
from orchestrator.runs.state import Attempt
from orchestrator.runs.store import RunStore


def live_instance(store: RunStore, cloud: Cloud) -> tuple[Attempt, Instance] | None:
    """Return the last attempt whose instance is running now, None if there is none."""
    open_attempts = [a for a in store.state().open_attempts() if not a.is_lost]
    known = {i.instance_id: i for i in cloud.instances(store.run)}
    for attempt in reversed(open_attempts):
        instance = known.get(attempt.instance_id)
        if instance is not None and instance.state == "running":
            return attempt, instance
    return None


def _host(store: RunStore, attempt: Attempt, instance: Instance) -> Host:
    host_key = store.host_key_path(attempt.number).read_text()
    return connector(store, store.spec())(instance, attempt.login_user, host_key)


def pull(args: argparse.Namespace) -> int:
    """Do `pixel-orch pull`: download what is missing here; --out copies the newest to a folder."""
    home = home_from_environment()
    store = RunStore.open(home, args.run)
    spec = store.spec()
    fetched = 0
    if store.state().open_attempts() or spec.bucket:
        with cloud_of(spec, home) as cloud:
            live = live_instance(store, cloud)
            fetched = _fetch_all(store, *live) if live else _fetch_from_s3(store, home)
    checkpoint, samples = newest_checkpoint(store), newest_samples(store)
    if args.out:
        checkpoint, samples = (_copied(path, Path(args.out)) for path in (checkpoint, samples))
    answer = {
        "run": store.run,
        "fetched": fetched,
        "checkpoint": str(checkpoint) if checkpoint else None,
        "samples": str(samples) if samples else None,
        "checkpoints": sorted(p.name for p in store.checkpoints.glob("checkpoint-*")),
    }
    if args.output == "json":
        print(json.dumps(answer))
    elif checkpoint is None:
        print(f"{store.run}: there is no checkpoint yet")
    else:
        print(f"{store.run}: {fetched} downloaded; the newest checkpoint:\n{checkpoint}")
    return 0


def _fetch_all(store: RunStore, attempt: Attempt, instance: Instance) -> int:
    host = _host(store, attempt, instance)
    have = {pulled.sha256 for pulled in store.state().checkpoints.values()}
    root, count = f"pixel-orch/{store.run}", 0
    try:
        for output in host.poll(root, NOTHING_NEW).outputs:
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
    number = state.attempts[-1].number if state.attempts else 0
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
