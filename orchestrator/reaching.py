"""Reaching a run's machine: pull, ssh, and an entry for one's own ssh."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from orchestrator import world
from orchestrator.clock import SystemClock
from orchestrator.cloud import Cloud, Cursor, Host, Instance, Output
from orchestrator.errors import SpecError
from orchestrator.events import Attempt, CheckpointPulled
from orchestrator.host_key import known_hosts_lines
from orchestrator.store import RunStore, home_from_environment, write_atomically
from orchestrator.summary import newest_checkpoint, newest_samples


def _live(store: RunStore, cloud: Cloud) -> tuple[Attempt, Instance] | None:
    open_attempts = [a for a in store.state().open_attempts() if not a.lost_because]
    known = {i.instance_id: i for i in cloud.instances(store.run)}
    for attempt in reversed(open_attempts):
        instance = known.get(attempt.instance_id)
        if instance is not None and instance.state == "running":
            return attempt, instance
    return None


def _host(store: RunStore, attempt: Attempt, instance: Instance) -> Host:
    host_key = (store.attempt_folder(attempt.number) / "host_key.pub").read_text()
    return world.connector(store, store.spec())(instance, attempt.login_user, host_key)


def pull(args: argparse.Namespace) -> int:
    """Do `pixel-orch pull`: bring home what is not there yet; with --out copy the newest to a folder of one's own."""
    home = home_from_environment()
    store = RunStore.open(home, args.run)
    spec = store.spec()
    fetched = 0
    if store.state().open_attempts() or spec.bucket:
        with world.cloud_of(spec, home) as cloud:
            live = _live(store, cloud)
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
        print(f"{store.run}: no checkpoint has been written yet")
    else:
        print(f"{store.run}: {fetched} new; the newest whole one at home:\n{checkpoint}")
    return 0


def _fetch_all(store: RunStore, attempt: Attempt, instance: Instance) -> int:
    host = _host(store, attempt, instance)
    have = {pulled.sha256 for pulled in store.state().checkpoints.values()}
    root, count = f"pixel-orch/{store.run}", 0
    try:
        for output in host.look(root, Cursor(1 << 60, 1 << 60)).outputs:
            folder = store.checkpoints if output.is_checkpoint else store.folder
            if output.sha256 in have or not host.fetch(root, output, folder / output.name):
                continue
            count += 1
            if output.is_checkpoint:
                store.append(_pulled(output, attempt.number))
    finally:
        host.close()
    return count


def _fetch_from_s3(store: RunStore, home: Path) -> int:
    """Bring home the newest checkpoint of the second home, where there is one; return how many came."""
    place, state = world.second_home(store.spec(), home), store.state()
    have = {pulled.sha256 for pulled in state.checkpoints.values()}
    newest = place.checkpoints(most=1) if place is not None else []
    if place is None or not newest or newest[0].sha256 in have:
        return 0
    output = newest[0]
    if not place.fetch(output, store.checkpoints / output.name):
        return 0
    number = state.attempts[-1].number if state.attempts else 0
    store.append(_pulled(output, number))
    return 1


def _pulled(output: Output, number: int) -> CheckpointPulled:
    return CheckpointPulled(
        at=SystemClock().now(),
        attempt=number,
        step=output.step,
        name=output.name,
        sha256=output.sha256,
        size_bytes=output.size_bytes,
    )


def _copied(path: Path | None, folder: Path) -> Path | None:
    if path is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy2(path, folder / path.name))
    except OSError as error:
        raise SpecError(f"--out: cannot write to {folder} ({error.strerror}); name a folder of yours") from None


def ssh(args: argparse.Namespace, command: Sequence[str]) -> int:
    """Do `pixel-orch ssh`: OpenSSH with the run's key and the pinned host key."""
    home = home_from_environment()
    if args.add_include:
        return _add_include(home)
    if not args.run:
        raise SpecError("ssh: name a run; pixel-orch status lists them")
    store = RunStore.open(home, args.run)
    spec = store.spec()
    if shutil.which("ssh") is None:
        raise SpecError("ssh: there is no `ssh` program on this machine; install OpenSSH's client")
    nobody = SpecError(f"RUN: no instance of {store.run} is running now; pixel-orch status {store.run} says more")
    if not store.state().open_attempts():
        raise nobody
    with world.cloud_of(spec, home) as cloud:
        live = _live(store, cloud)
        if live is None:
            raise nobody
        attempt, instance = live
        host_key = (store.attempt_folder(attempt.number) / "host_key.pub").read_text()
        address, proxy = world.address_of(instance, spec), world.proxy_of(instance, spec)
        store.known_hosts.write_text("\n".join(known_hosts_lines(address, instance.ssh_port, host_key)) + "\n")
        options = {
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": _quoted(store.known_hosts),
            "LogLevel": "ERROR",
            **({"ProxyCommand": proxy} if proxy else {}),
        }
        words = ["ssh", "-F", "none", "-i", str(store.key_path), "-p", str(instance.ssh_port)]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        return _run_in_foreground([*words, f"{attempt.login_user}@{address}", *command])


def _quoted(path: Path) -> str:
    return '"' + str(path) + '"'  # ssh splits an option's value at blanks


def _run_in_foreground(words: list[str]) -> int:
    import subprocess

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program over there
    try:
        return subprocess.run(words, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def _add_include(home: Path) -> int:
    """Let the user's own `ssh`, `scp` and editors know `pixel-orch-RUN`: one Include line in ~/.ssh/config, once."""
    config = Path("~/.ssh/config").expanduser()
    line = f'Include "{world.ssh_config_folder(home)}/*"'
    before = config.read_text() if config.exists() else ""
    if line in before.splitlines():
        print(f"{config} has it already: {line}")
        return 0
    config.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomically(config, f"{line}\n\n{before}".encode(), mode=0o600)  # before the first Host, or it would be within
    print(f"added to {config}: {line}\nNow: ssh pixel-orch-RUN, for any run that is running.")
    return 0
