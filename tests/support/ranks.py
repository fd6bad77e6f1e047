"""Trainings of several processes for the tests: ranks are forked from a process that has imported torch."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from model.__main__ import rank_main
from model.config import TrainConfig
from model.data import load as load_data
from model.data.feed import Feed
from model.training import compiled_step, distributed, launcher, loop, state, validation
from model.training.group import Group
from model.training.state import Training, share_state
from model.training.stop import StopFlag
from model.world import ALONE, World

torch.set_num_threads(1)
CPU = torch.device("cpu")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.support.ranks", "tests.support.warm_torch"])


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def worlds(size: int, *, timeout_s: float = 60.0) -> list[World]:
    """Return the places of the ranks of one training on this machine."""
    if size == 1:
        return [ALONE]
    port = free_port()
    return [World(rank, size, rank, size, "127.0.0.1", port, timeout_s) for rank in range(size)]


def in_world(size: int, work: Callable[..., Any], *args: Any, timeout_s: float = 60.0) -> list[Any]:
    """Run `work(group, *args)` on each rank of a world, and return what each returns."""
    ends = []
    for world in worlds(size, timeout_s=timeout_s):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_in_rank, args=(theirs, world, work, args), daemon=True)
        process.start()
        theirs.close()
        ends.append((process, ours))
    results = []
    for process, ours in ends:
        assert ours.poll(60), "a rank does not answer"
        results.append(pickle.loads(ours.recv_bytes()))  # noqa: S301 - of our own process
        process.join(10)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _in_rank(end: Connection, world: World, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    result: Any
    try:
        group = Group() if world.size == 1 else distributed.join(world, StopFlag(), CPU)
        result = work(group, *args)
    except Exception as error:  # noqa: BLE001 - raised in the test
        result = error
    end.send_bytes(pickle.dumps(result))  # by value: tensors would be shared with a process that has ended
    end.close()
    launcher.leave(0)


def trained(
    group: Group, config: TrainConfig, steps: int, begin: dict[str, Any] | None = None, *, dtype: str = "float64"
) -> dict[str, Any]:
    """Train from a state, or from the beginning, and return the state as plain values: run on each rank."""
    torch.set_default_dtype(getattr(torch, dtype))
    run = Training(config, load_data(config.dataset), CPU, group)
    if begin is not None and group.first:
        run.restore(checkpoint_of(begin))
    share_state(run)
    for _ in range(steps):
        run.advance()
    run.check()
    saved = state.plain(run.checkpoint())
    group.close()
    return saved


def validated(group: Group, config: TrainConfig) -> float:
    """Return the nats of a validation of the network at its beginning."""
    data = load_data(config.dataset)
    run = Training(config, data, CPU, group)
    nats = validation.validate(run, data, group.stop_of(StopFlag())).nats
    group.close()
    return nats


def checkpoint_of(saved: dict[str, Any]) -> state.Checkpoint:
    """Return the checkpoint of a state that `trained` has returned."""
    return state.Checkpoint(**saved)


# Whole commands, with something that goes wrong on one rank


class Command:
    """`train` on each rank of a world, as an outer launcher starts it; what each writes goes to a file.

    Args:
        size: ranks.
        words: of the command line, after `train`.
        folder: of `<rank>.err` and `<rank>.out`.
        mishaps: rank to (part of a step counted from 1, what happens then).
        timeout_s: of the group.
        ranks: those that are started; all by default.
        versions: rank to the version of torch that it has.
    """

    def __init__(
        self,
        size: int,
        words: Sequence[str],
        folder: Path,
        *,
        mishaps: dict[int, tuple[int, str]] | None = None,
        timeout_s: int = 60,
        ranks: Sequence[int] | None = None,
        versions: dict[int, str] | None = None,
        port: int = 0,
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.processes = {}
        port = port or free_port()
        for rank in range(size) if ranks is None else ranks:
            env = {
                "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PIXEL_ORCH_GROUP_TIMEOUT_S": str(timeout_s),
            }  # fmt: skip
            more = ((mishaps or {}).get(rank), (versions or {}).get(rank))
            args = (env, list(words), str(folder), *more)
            self.processes[rank] = CONTEXT.Process(target=_command, args=args, daemon=True)
            self.processes[rank].start()

    def codes(self, *, within_s: float = 30.0) -> list[int | None]:
        """Wait for the ranks, end those that are left, and return the exit codes; None for one that did not end."""
        until = time.monotonic() + within_s
        for process in self.processes.values():
            process.join(max(0.0, until - time.monotonic()))
        codes = [process.exitcode for process in self.processes.values()]
        for process in self.processes.values():
            if process.exitcode is None:
                process.kill()
        return codes

    def said(self, rank: int) -> str:
        """Return what a rank wrote to stderr."""
        return (self.folder / f"{rank}.err").read_text()

    def wrote(self, rank: int) -> str:
        """Return what a rank has written to stdout so far."""
        path = self.folder / f"{rank}.out"
        return path.read_text() if path.exists() else ""

    def signal(self, rank: int, signum: int) -> None:
        """Send a signal to a rank."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, signum)


def _command(env: dict[str, str], words: list[str], folder: str, mishap: Any, version: str | None) -> None:
    os.environ.update(env)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{env['RANK']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = ["model", "train", *words]
    if version is not None:
        torch.__version__ = version  # type: ignore[assignment]  # a rank of another version cannot be had here
    if mishap is not None:
        _arrange(*mishap)
    launcher.leave(rank_main())


def _arrange(at: int, what: str) -> None:
    """Let something happen in the n-th part of a step that this rank computes."""
    if what in ("wait", "late"):
        _wait_for_data(at, 3.5 if what == "late" else math.inf)
        return
    if what == "slow samples":
        _draw_slowly()
        return
    if "validation" in what:
        _hold_validation(signal.SIGTERM if what == "SIGTERM in validation" else None)
        return
    count, real = 0, compiled_step.nats_per_image

    def computed(*args: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        nats: torch.Tensor = real(*args)
        if count != at:
            return nats
        if what == "nan":
            return nats * float("nan")
        if what == "fail":
            raise ValueError("the dog ate the batch")
        if what == "memory":
            raise MemoryError
        os.kill(os.getpid(), getattr(signal, what))
        return nats

    compiled_step.nats_per_image = computed


def _wait_for_data(at: int, wait_s: float) -> None:
    """Let the n-th batch come late, or never."""
    count, real = 0, Feed.at

    def late(self: Feed, position: int, check_stop: Callable[[], None] = lambda: None) -> Any:
        nonlocal count, until
        count += 1
        if count == at:
            until = time.monotonic() + wait_s
        while time.monotonic() < until:
            check_stop()
            time.sleep(0.02)
        return real(self, position, check_stop)

    until = 0.0
    Feed.at = late  # type: ignore[method-assign]


def _hold_validation(signum: int | None) -> None:
    """Let this rank get a signal in a validation, or wait there for a while."""
    real, wait_s = validation.nats_of_all, 3.5

    def held(net: torch.nn.Module, images: Any, *, before_batch: Callable[[], None]) -> torch.Tensor:
        nonlocal wait_s
        until, wait_s = time.monotonic() + wait_s, 0.0  # the first one only
        while signum is None and time.monotonic() < until:
            before_batch()
            time.sleep(0.02)
        if signum is not None:
            os.kill(os.getpid(), signum)
        return real(net, images, before_batch=before_batch)

    validation.nats_of_all = held  # type: ignore[assignment]


def _draw_slowly() -> None:
    """Let the samples take twenty seconds."""
    real = loop.draw

    def slow(*args: Any, before_row: Callable[[], None], **more: Any) -> torch.Tensor:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            before_row()
            time.sleep(0.02)
        return real(*args, before_row=before_row, **more)

    loop.draw = slow  # type: ignore[attr-defined]
