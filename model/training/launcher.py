"""Starts one process for each GPU of this machine, passes signals on, and ends with the code of the one at fault.

Only the standard library is used, and torch is not imported: this process stays small and answers a signal at once.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

from model.errors import RANK_LOST, SetupError
from model.training.stop import StopFlag
from model.world import whole

GRACE_S = 10.0  # for the other ranks to end, and rank 0 to write its checkpoint, once one has failed
LOOK_S = 0.05  # between two looks at the processes
PARENT = "PIXEL_ORCH_LAUNCHER_PID"
LOOPBACK = "127.0.0.1"
STOPS = (128 + signal.SIGTERM, 128 + signal.SIGINT)
LAST_LINES = 20
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Plan:
    """The processes that this machine starts, among those of the whole training."""

    processes: int = 1  # on this machine
    nodes: int = 1
    node_rank: int = 0
    address: str = LOOPBACK  # of the machine of rank 0
    port: int = 0  # 0: any that is free, on one machine

    @property
    def world_size(self) -> int:
        """Processes over all machines."""
        return self.nodes * self.processes

    def environment(self, local_rank: int, *, port: int, threads: int) -> dict[str, str]:
        """Return the variables of one process, as torchrun names them."""
        return {
            "RANK": str(self.node_rank * self.processes + local_rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": str(self.processes),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": str(threads),  # the number of threads changes the last bits of results
            PARENT: str(os.getpid()),
        }


def is_a_rank(env: Mapping[str, str]) -> bool:
    """Return whether an outer launcher, such as this one or torchrun, has started this process as a rank."""
    return "RANK" in env and "WORLD_SIZE" in env


def plan_of(env: Mapping[str, str], processes: int | None) -> Plan:
    """Read what this machine starts.

    Args:
        env: PIXEL_ORCH_NODES, _NODE_RANK, _MASTER_ADDR and _MASTER_PORT for several machines, and _GPUS_PER_NODE.
        processes: of this machine, as the command line says; None means one for each of _GPUS_PER_NODE, else one.

    Raises:
        SetupError: a variable is missing, is not a number, or contradicts another one.
    """
    if processes is None:
        processes = max(1, whole(env, "PIXEL_ORCH_GPUS_PER_NODE", default=1))
    nodes = whole(env, "PIXEL_ORCH_NODES", least=1, default=1)
    if nodes == 1:
        return Plan(processes, port=whole(env, "PIXEL_ORCH_MASTER_PORT", most=65535, default=0))
    rank = whole(env, "PIXEL_ORCH_NODE_RANK")
    if rank >= nodes:
        raise SetupError(f"PIXEL_ORCH_NODE_RANK={rank} of PIXEL_ORCH_NODES={nodes} machines; ranks count from 0")
    address = env.get("PIXEL_ORCH_MASTER_ADDR")
    if not address:
        raise SetupError(f"PIXEL_ORCH_NODES is {nodes}, but PIXEL_ORCH_MASTER_ADDR is not set; give rank 0's address")
    return Plan(processes, nodes, rank, address, whole(env, "PIXEL_ORCH_MASTER_PORT", least=1, most=65535))


@dataclass
class Rank:
    """One process that was started, and the newest lines that it has written to stderr."""

    number: int
    process: subprocess.Popen[bytes]
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    rest: dict[int, bytes] = field(default_factory=dict)  # of each pipe: a line that is not yet complete
    ended_s: float | None = None
    killed: bool = False  # by this launcher

    @property
    def code(self) -> int | None:
        """The exit code as a shell reports it, None while the process runs."""
        code = self.process.returncode
        return code if code is None or code >= 0 else 128 - code


def command_of(words: Sequence[str]) -> list[str]:
    """Return the command of one rank: this package with the same command line."""
    root = str(Path(__file__).parents[2])  # not a `model.py` in the user's folder
    code = f"import runpy, sys; sys.path[0] = {root!r}; runpy.run_module('model', run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", code, *words]


def launch(command: Sequence[str], plan: Plan, stop: StopFlag, *, threads: int, prog: str) -> int:
    """Start the ranks of this machine, each with the same command, and wait for their end.

    Args:
        command: of a rank.
        plan: the processes.
        stop: the stop request of this process, which is passed on.
        threads: CPU threads of each process.
        prog: for messages.

    Returns:
        0 if all ranks are done; the code of the first rank that failed by its own fault; 143 or 130 if they were
        stopped; `RANK_LOST` if the ranks here ended only because one on another machine was lost.
    """
    port = plan.port or _free_port()
    began = [_start(command, plan, local, port=port, threads=threads) for local in range(plan.processes)]
    with _Reader(began, prog) as reader:
        passed = False
        while any(rank.code is None for rank in began):
            reader.read(LOOK_S)
            if stop and not passed:
                passed = True
                _signal(began, stop.signum or signal.SIGTERM)
            _look(began)
        reader.drain()
        return _conclude(began, reader, stop, prog=prog)


def _start(command: Sequence[str], plan: Plan, local: int, *, port: int, threads: int) -> Rank:
    """Start one rank. Rank 0 keeps the terminal, where its progress moves."""
    env = {**os.environ, **plan.environment(local, port=port, threads=threads)}
    number = int(env["RANK"])
    stdout = subprocess.PIPE if number else None
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE)
    return Rank(number, process)


def _look(ranks: Sequence[Rank]) -> None:
    """Note who has ended, and kill those that outlive a failure."""
    now = time.monotonic()
    for rank in ranks:
        if rank.ended_s is None and rank.process.poll() is not None:
            rank.ended_s = now
    failures = [rank.ended_s for rank in ranks if rank.ended_s is not None and rank.code not in (0, *STOPS)]
    if failures and now - min(failures) >= GRACE_S:  # a rank that waits inside torch cannot answer a signal
        for rank in ranks:
            if rank.code is None and not rank.killed:
                rank.killed = True
                rank.process.kill()


def _signal(ranks: Sequence[Rank], signum: int) -> None:
    for rank in ranks:
        if rank.process.poll() is None:
            rank.process.send_signal(signum)


def _conclude(ranks: Sequence[Rank], reader: _Reader, stop: StopFlag, *, prog: str) -> int:
    """Return the exit code of the whole, with the words of the rank at fault as the last ones."""
    ended = sorted((rank for rank in ranks if not rank.killed), key=lambda rank: rank.ended_s or 0.0)
    codes = [rank.code or 0 for rank in ended]
    fault = next(
        (rank for rank in ended if rank.code not in (0, RANK_LOST, *STOPS) and not _follows(rank, ended)), None
    )
    if fault is not None:
        code = fault.code or 1
        if fault.process.returncode < 0:
            reader.say(fault, f"{prog}: error: rank {fault.number} was ended by {_name(-fault.process.returncode)}")
        elif fault.last and reader.newest is not fault:
            reader.say(fault, fault.last[-1])
        return code
    if stop.signum is not None and any(code for code in codes):
        return stop.exit_code
    if all(code == 0 for code in codes) and len(ended) == len(ranks):
        return 0
    return next((code for code in STOPS if code in codes), RANK_LOST)


def _follows(rank: Rank, ended: Sequence[Rank]) -> bool:
    """Return whether a rank was ended by NCCL, which aborts the process, after another had noticed a lost rank."""
    lost = any(other.code == RANK_LOST for other in ended[: ended.index(rank)])
    return lost and rank.process.returncode == -signal.SIGABRT


def _name(signum: int) -> str:
    try:
        name = signal.Signals(signum).name
    except ValueError:
        name = f"signal {signum}"
    return f"{name} (out of memory, or killed by hand)" if signum == signal.SIGKILL else name


class _Reader:
    """Passes on what the ranks write, line by line, each with its rank, except those of rank 0.

    Args:
        ranks: who writes.
        prog: begins an error line; one that every rank says in the same words is shown once.
    """

    def __init__(self, ranks: Sequence[Rank], prog: str) -> None:
        self._prog, self._said = prog, set[str]()
        self.newest: Rank | None = None  # who wrote the newest line to stderr
        self._selector = selectors.DefaultSelector()
        for rank in ranks:
            for pipe in (rank.process.stdout, rank.process.stderr):
                if pipe is not None:
                    os.set_blocking(pipe.fileno(), False)
                    self._selector.register(pipe, selectors.EVENT_READ, (rank, pipe is rank.process.stderr))

    def read(self, timeout_s: float) -> None:
        """Pass on what is there, and wait for it up to `timeout_s`."""
        if not self._selector.get_map():
            time.sleep(timeout_s)
            return
        for key, _ in self._selector.select(timeout_s):
            rank, is_error = key.data
            pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]  # registered above
            self._take(rank, pipe, is_error)

    def drain(self) -> None:
        """Pass on the rest, once the processes have ended. A pipe that a grandchild holds open is not waited for."""
        for key in list(self._selector.get_map().values()):
            rank, is_error = key.data
            pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]  # registered above
            while self._take(rank, pipe, is_error):
                pass
            left = rank.rest.pop(pipe.fileno(), b"") if not pipe.closed else b""
            if left:
                self._line(rank, left, is_error)

    def say(self, rank: Rank, text: str) -> None:
        """Write a line of a rank to stderr, also one that was shown before."""
        self._said.discard(text)
        self._line(rank, text.encode(), True)

    def _take(self, rank: Rank, pipe: IO[bytes], is_error: bool) -> bool:
        try:
            data = os.read(pipe.fileno(), 1 << 16)
        except BlockingIOError:
            return False
        number = pipe.fileno()
        if not data:
            self._selector.unregister(pipe)
            left = rank.rest.pop(number, b"")
            pipe.close()
            if left:
                self._line(rank, left, is_error)
            return False
        *lines, rest = (rank.rest.get(number, b"") + data).split(b"\n")
        rank.rest[number] = rest
        for line in lines:
            self._line(rank, line, is_error)
        return True

    def _line(self, rank: Rank, line: bytes, is_error: bool) -> None:
        text = line.decode("utf-8", errors="replace").rstrip("\r")
        if is_error:
            self.newest = rank
            rank.last.append(text)
            if text in self._said:
                return
            if text.startswith(f"{self._prog}: error: "):
                self._said.add(text)
        stream = sys.stderr if is_error else sys.stdout
        prefix = f"[rank {rank.number}] " if rank.number and not text.startswith("[rank ") else ""
        stream.write(f"{prefix}{text}\n")
        stream.flush()

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


# In a rank


def end_with_the_launcher() -> None:
    """End this process when its launcher ends, also by SIGKILL: a rank that is left behind would hold its GPU."""
    parent = os.environ.get(PARENT, "")
    if not parent.isdigit():
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True, name="launcher").start()
    if os.getppid() != int(parent):  # it has ended before the call
        os._exit(128 + signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(128 + signal.SIGKILL)


def prefix(env: Mapping[str, str]) -> str:
    """Return what precedes an error of this process: its rank, unless rank 0 or a launcher that adds it."""
    rank = env.get("RANK", "0")
    return f"[rank {rank}] " if is_a_rank(env) and PARENT not in env and rank != "0" else ""


def leave(code: int) -> NoReturn:
    """End a rank at once: torch's threads may still wait for a rank that is lost, and would hold the process."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)
