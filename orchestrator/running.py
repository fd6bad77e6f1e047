"""What one does with runs that exist: status, logs, pull, ssh, down, sweep, report, check."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator import world
from orchestrator.clock import SystemClock, iso
from orchestrator.cloud import OWNER_TAG, RUN_TAG, Cloud, Cursor, Host, Instance
from orchestrator.errors import CloudError, HostError, PixelOrchError, SpecError, UnreachableError
from orchestrator.events import Attempt, CheckpointPulled, RunState, StateChanged
from orchestrator.launching import newest_checkpoint, newest_samples, row_of, summary_json, summary_text
from orchestrator.reaper import Reaper
from orchestrator.report import as_json, as_text, build
from orchestrator.spec import check_name
from orchestrator.store import RunBusyError, RunStore, home_from_environment, make_home, wait_until_gone
from orchestrator.terminal import money, span, table

DOWN_TIMEOUT_S = 300.0


# -- looking


def status(args: argparse.Namespace) -> int:
    """Do `pixel-orch status`: all runs, or one in full."""
    home, now = home_from_environment(), SystemClock().now()
    if args.run:
        store = RunStore.open(home, args.run)
        if args.output == "json":
            print(json.dumps({**summary_json(store, now), "owner_pid": store.owner_pid()}))
        else:
            print(summary_text(store, now).lstrip("\n"))
            print(f"looked after by  {_owner_words(store, store.state())}")
        return 0
    rows = [(store, store.state()) for store in RunStore.all(home)]
    if args.output == "json":
        print(json.dumps([_status_json(store, state, now) for store, state in rows]))
    elif not rows:
        print("no runs yet; begin with: pixel-orch launch --cloud local --instance p2.xlarge --spot")
    else:
        head = ["RUN", "STATE", "CLOUD", "TYPE", "STEP", "$", "AGE", "OWNER"]
        cells = [_status_row(*r, now) for r in rows]
        if all(row[-1] == "-" for row in cells):  # nothing runs: nobody owns anything
            head, cells = head[:-1], [row[:-1] for row in cells]
        print(table(head, cells, "STEP $ AGE"))
    return 0


def _status_json(store: RunStore, state: RunState, now: float) -> dict[str, Any]:
    row = row_of(store, now)
    return {
        "run": store.run,
        "state": state.state,
        "reason": state.reason,
        "cloud": state.cloud,
        "step": row.steps,
        "attempts": len(row.attempts),
        "interruptions": row.interruptions,
        "cost_usd": row.cost_usd,
        "created_at": iso(state.created_at),
        "owner_pid": store.owner_pid(),
    }


def _status_row(store: RunStore, state: RunState, now: float) -> list[str]:
    row = row_of(store, now)
    kind = row.attempts[-1].instance_type if row.attempts else "-"
    cloud = "embedded" if state.cloud == world.EMBEDDED_TITLE else state.cloud
    cost = ("~" if row.is_estimate else "") + money(row.cost_usd)
    return [
        store.run,
        state.state,
        cloud,
        kind,
        str(row.steps),
        cost,
        span(now - state.created_at),
        _owner_words(store, state),
    ]


def _owner_words(store: RunStore, state: RunState) -> str:
    if state.is_final:
        return "-"
    pid = store.owner_pid()
    return f"process {pid}" if pid else "nobody: pixel-orch attach"


def logs(args: argparse.Namespace) -> int:
    """Do `pixel-orch logs`: the trainer's output of all attempts; with -f also what is still to come."""
    store = RunStore.open(home_from_environment(), args.run)
    clock = SystemClock()
    sent: dict[Path, int] = {}
    try:
        while True:
            is_over = store.state().is_final or store.owner_pid() is None
            for attempt in store.state().attempts:
                path = store.attempt_folder(attempt.number) / "trainer.log"
                sent[path] = _print_from(path, sent.get(path, 0))
            if not args.follow or is_over:
                return 0
            clock.sleep(0.3)
    except KeyboardInterrupt:
        return 130


def _print_from(path: Path, offset: int) -> int:
    if not path.exists():
        return offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return offset + len(data)


def report(args: argparse.Namespace) -> int:
    """Do `pixel-orch report`: cost and performance, by measurement."""
    home, now = home_from_environment(), SystemClock().now()
    stores = [RunStore.open(home, run) for run in args.runs] if args.runs else RunStore.all(home)
    built = build([row_of(store, now) for store in stores], now)
    text = json.dumps(as_json(built)) if args.output == "json" else as_text(built)
    if args.out:
        _write_out(Path(args.out), text + "\n")
    else:
        print(text)
    return 0


def _write_out(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise SpecError(f"--out: cannot write {path} ({error.strerror}); name a file in a folder of yours") from None


# -- reaching a run's machine


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
    return world.connector(store, store.spec().recovery)(instance, "ubuntu", host_key)


def pull(args: argparse.Namespace) -> int:
    """Do `pixel-orch pull`: bring home what is not there yet; with --out copy the newest to a folder of one's own."""
    home = home_from_environment()
    store = RunStore.open(home, args.run)
    spec = store.spec()
    fetched = 0
    if store.state().open_attempts():
        with world.open_cloud(spec.cloud, spec.regions, home) as cloud:
            live = _live(store, cloud)
            fetched = _fetch_all(store, *live) if live else 0
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
                store.append(
                    CheckpointPulled(
                        at=SystemClock().now(),
                        attempt=attempt.number,
                        step=output.step,
                        name=output.name,
                        sha256=output.sha256,
                        size_bytes=output.size_bytes,
                    )
                )
    finally:
        host.close()
    return count


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
    from orchestrator.ssh import known_hosts_line

    home = home_from_environment()
    store = RunStore.open(home, args.run)
    spec = store.spec()
    if shutil.which("ssh") is None:
        raise SpecError("ssh: there is no `ssh` program on this machine; install OpenSSH's client")
    nobody = SpecError(f"RUN: no instance of {store.run} is running now; pixel-orch status {store.run} says more")
    if not store.state().open_attempts():
        raise nobody
    with world.open_cloud(spec.cloud, spec.regions, home) as cloud:
        live = _live(store, cloud)
        if live is None:
            raise nobody
        attempt, instance = live
        host_key = (store.attempt_folder(attempt.number) / "host_key.pub").read_text()
        store.known_hosts.write_text(known_hosts_line(instance.address, instance.ssh_port, host_key) + "\n")
        words = [
            "ssh",
            "-F",
            "none",
            "-i",
            str(store.key_path),
            "-p",
            str(instance.ssh_port),
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            f"UserKnownHostsFile={_quoted(store.known_hosts)}",
            "-o",
            "LogLevel=ERROR",
            f"ubuntu@{instance.address}",
            *command,
        ]
        return _run_in_foreground(words)


def _quoted(path: Path) -> str:
    return '"' + str(path) + '"'  # ssh splits an option's value at blanks


def _run_in_foreground(words: list[str]) -> int:
    import subprocess

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program over there
    try:
        return subprocess.run(words, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)


# -- ending


def down(args: argparse.Namespace) -> int:
    """Do `pixel-orch down`: end runs by name or glob, and wait until EC2 says that their machines are gone."""
    home = home_from_environment()
    stores = _chosen(home, args)
    running = [store for store in stores if not store.state().is_final]
    if not running:
        named = (
            "no run is running"
            if args.all or len(stores) != 1
            else f"{stores[0].run} is {stores[0].state().state} already"
        )
        return _say_down(args, [], f"nothing to end: {named}")
    if not args.yes and not _confirmed(f"End {', '.join(store.run for store in running)}?"):
        return _say_down(args, [], "nothing was ended") or 1
    problems, ended = [], []
    for store in running:
        try:
            _end_run(store, home)
            ended.append(store.run)
        except PixelOrchError as error:
            problems.append(f"{store.run}: {error}")
    for problem in problems:
        print(f"pixel-orch down: error: {problem}", file=sys.stderr)
    _say_down(args, ended, "ended: " + (", ".join(ended) or "none"))
    return 1 if problems else 0


def _say_down(args: argparse.Namespace, ended: list[str], words: str) -> int:
    print(json.dumps({"ended": ended}) if args.output == "json" else words)
    return 0


def _chosen(home: Path, args: argparse.Namespace) -> list[RunStore]:
    stores = RunStore.all(home)
    if args.all:
        return stores
    if not args.runs:
        raise SpecError("down: name a run, a glob such as 'mnist-*', or -a for all of them")
    chosen: dict[str, RunStore] = {}
    for pattern in args.runs:
        if any(mark in pattern for mark in "*?["):
            found = [store for store in stores if fnmatch.fnmatchcase(store.run, pattern)]
            if not found:
                raise SpecError(f"RUN: no run matches {pattern!r}; pixel-orch status lists them")
        else:
            check_name(pattern, flag="RUN")
            found = [RunStore.open(home, pattern)]
        chosen.update({store.run: store for store in found})
    return list(chosen.values())


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise SpecError("here is no terminal to ask on; add -y to go on without being asked")
    try:
        return input(f"{question} [Y/n] ").strip().lower() in ("", "y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False


def _end_run(store: RunStore, home: Path) -> None:
    """Let the owner end it, if there is one; else take it over and end it."""
    clock = SystemClock()
    give_up_at = clock.now() + DOWN_TIMEOUT_S
    pid = store.owner_pid()
    if pid is not None:
        _signal(pid)
    while clock.now() < give_up_at:
        if store.state().is_final:
            if pid is not None:
                wait_until_gone(pid)  # it still ends the embedded cloud
            return
        try:
            with store.owned():
                _end_unowned(store, home)
            return
        except RunBusyError:
            clock.sleep(0.2)
    raise HostError(
        f"process {pid} did not end the run within {DOWN_TIMEOUT_S:.0f} s; end that process, then say down again"
    )


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise HostError(f"process {pid} looks after the run and belongs to another user") from None


def _end_unowned(store: RunStore, home: Path) -> None:
    if store.state().is_final:
        return
    spec, clock = store.spec(), SystemClock()
    if spec.is_embedded and not _embedded_runs(home):
        _write_off(store, clock.now(), "the embedded cloud is gone, and its instances with it")
        return
    with world.open_cloud(spec.cloud, spec.regions, home) as cloud:
        reaper = Reaper(
            run=store.run,
            cloud=cloud,
            clock=clock,
            state=store.state,
            emit=store.append,
            outlives_notice_s=spec.recovery.outlives_notice_s,
            look_every_s=spec.recovery.poll_s,
        )
        left = reaper.end_all("pixel-orch down")
        if left:
            raise CloudError(f"EC2 has not yet ended {', '.join(left)}; say down again in a minute")
        reaper.close_doors(set(spec.regions))
        store.append(StateChanged(at=clock.now(), state="CANCELLED", reason="ended by down or sweep"))


def _embedded_runs(home: Path) -> bool:
    from infra.local import EmbeddedCloud

    return EmbeddedCloud.find(home) is not None


def _write_off(store: RunStore, now: float, reason: str) -> None:
    """Note the end of instances that went with the embedded cloud's process."""
    from orchestrator.events import InstanceEnded

    for attempt in store.state().open_attempts():
        store.append(
            InstanceEnded(
                at=now,
                attempt=attempt.number,
                instance_id=attempt.instance_id,
                ended_at=now,
                ended_by="other",
                reason=reason,
            )
        )
    store.append(StateChanged(at=now, state="CANCELLED", reason=reason))


def sweep(args: argparse.Namespace) -> int:
    """Do `pixel-orch sweep`: find by tag what is still billed and belongs to no run that is being led; end it."""
    home = home_from_environment()
    cloud_name = args.cloud or "aws"
    if cloud_name not in ("aws", "local"):
        raise SpecError(f"--cloud: unknown cloud {cloud_name!r}; use aws, or local for the embedded cloud")
    regions = world.regions_for(cloud_name, tuple(args.region or ()))
    orphans = _orphans(home, cloud_name)
    if cloud_name == "local" and not _embedded_runs(home):
        for store in orphans:
            with store.owned():
                _end_unowned(store, home)
        return _say_swept(args, [], [store.run for store in orphans], [])
    make_home(home)
    regions = tuple(dict.fromkeys([*regions, *(r for store in orphans for r in store.spec().regions)]))
    with world.open_cloud(cloud_name, regions, home) as cloud:
        ours, foreign = _found(cloud, home)
        if (ours or orphans) and not args.yes and not _confirmed(_sweep_question(ours, orphans)):
            return 1
        problems = []
        for store in orphans:
            try:
                with store.owned():
                    _end_unowned(store, home)
            except PixelOrchError as error:
                problems.append(f"{store.run}: {error}")
        left = [i for i in ours if i.tags.get(RUN_TAG, "") not in {store.run for store in orphans}]
        _terminate_and_wait(cloud, left)
    for problem in problems:
        print(f"pixel-orch sweep: error: {problem}", file=sys.stderr)
    _say_swept(args, [i.instance_id for i in ours], [store.run for store in orphans], foreign)
    return 1 if problems else 0


def _orphans(home: Path, cloud_name: str) -> list[RunStore]:
    return [
        store
        for store in RunStore.all(home)
        if not store.state().is_final and store.owner_pid() is None and store.spec().cloud == cloud_name
    ]


def _found(cloud: Cloud, home: Path) -> tuple[list[Instance], list[Instance]]:
    """Return (ours that nobody leads, those that were launched from another home)."""
    mine = world.home_id(home, write=False)
    alive = [i for i in cloud.instances() if not i.is_gone and i.state != "shutting-down"]
    led = {store.run for store in RunStore.all(home) if store.owner_pid() is not None}
    ours = [i for i in alive if i.tags.get(OWNER_TAG) == mine and i.tags.get(RUN_TAG, "") not in led]
    return ours, [i for i in alive if i.tags.get(OWNER_TAG) != mine]


def _sweep_question(ours: list[Instance], orphans: list[RunStore]) -> str:
    what = [i.instance_id for i in ours] + [f"run {store.run}" for store in orphans]
    return f"End {', '.join(what)}?"


def _terminate_and_wait(cloud: Cloud, instances: list[Instance]) -> None:
    clock = SystemClock()
    for instance in instances:
        cloud.terminate(instance.region, [instance.instance_id])
    ids = {i.instance_id for i in instances}
    give_up_at = clock.now() + DOWN_TIMEOUT_S
    while ids and any(i.instance_id in ids and not i.is_gone for i in cloud.instances()) and clock.now() < give_up_at:
        clock.sleep(0.5)
    for region, run in {(i.region, i.tags.get(RUN_TAG, "")) for i in instances}:
        if run:
            cloud.close_door(region, run)


def _say_swept(args: argparse.Namespace, ended: list[str], runs: list[str], foreign: Sequence[Instance]) -> int:
    if args.output == "json":
        print(json.dumps({"ended": ended, "runs": runs, "of_other_homes": [i.instance_id for i in foreign]}))
        return 0
    if not ended and not runs:
        print("nothing to do: no instance of ours is left" + (" without somebody who leads it" if foreign else ""))
    else:
        print(f"ended {', '.join(ended) or 'no instance'}; closed {', '.join(runs) or 'no run'}")
    for instance in foreign:
        print(f"left alone: {instance.instance_id} of {instance.tags.get(RUN_TAG)}, of another PIXEL_ORCH_HOME")
    return 0


# -- checking


def check(args: argparse.Namespace) -> int:
    """Do `pixel-orch check`: what is there, what is missing, what to do about it. Nothing is created."""
    home = home_from_environment()
    cloud_name = args.cloud or "aws"
    if cloud_name not in ("aws", "local"):
        raise SpecError(f"--cloud: unknown cloud {cloud_name!r}; use aws, or local for the embedded cloud")
    asked = tuple(args.region or ())
    lines = [_try_out("home", lambda: f"{make_home(home)} can be written")]
    lines.append(("training here", *_extra("torch", "train", "train, evaluate and sample work on this machine")))
    lines.append(("embedded cloud", *_extra("moto", "local", "--cloud local works")))
    if cloud_name == "aws":
        lines.append(_try_out("AWS credentials", lambda: _who(asked)))
        lines.append(_try_out("AWS region", lambda: ", ".join(world.regions_for("aws", asked))))
    needed = {"home", "AWS credentials", "AWS region"} if cloud_name == "aws" else {"home", "embedded cloud"}
    ok = all(good for name, good, _ in lines if name in needed)
    if args.output == "json":
        print(
            json.dumps(
                {"cloud": cloud_name, "ok": ok, "checks": [{"name": n, "ok": g, "says": s} for n, g, s in lines]}
            )
        )
    else:
        for name, good, says in lines:
            print(f"{'ok     ' if good else 'MISSING'}  {name:15}  {says}")
        print("ready" if ok else f"not ready for --cloud {cloud_name}")
    return 0 if ok else 1


def _who(asked: tuple[str, ...]) -> str:
    from orchestrator.aws import AwsCloud

    return AwsCloud(asked or ("us-east-1",)).who()


def _try_out(name: str, ask: Any) -> tuple[str, bool, str]:
    try:
        return name, True, str(ask())
    except PixelOrchError as error:
        return name, False, str(error)


def _extra(package: str, extra: str, words: str) -> tuple[bool, str]:
    from importlib.util import find_spec

    if find_spec(package) is not None:
        return True, words
    return False, f"needs the extra {extra}: pip install 'pixel-orch[{extra}]'"


__all__ = ["UnreachableError", "check", "down", "logs", "pull", "report", "ssh", "status", "sweep"]
