"""A training of several processes, one for each GPU: they share each batch and hold the same weights, bit for bit.

Each rank computes its slice of the batch. One all-reduce per step sums everything that the ranks must agree on, in a
fixed order: gradients, nats, stop requests, and whether a rank's numbers are finite. `DistributedDataParallel` is not
used: it rebuilds its buckets after the first step, so that a resumed training sums in another order from three ranks
on. Plain values go over gloo, gradients over gloo on a CPU and over NCCL on GPUs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from model.errors import RankLostError, SetupError
from model.training.group import Group
from model.training.stop import StopFlag, Stopped
from model.world import World

T = TypeVar("T")
LOOK_S = 0.1  # between two looks at a signal or at the store while this process waits
ASK_S = 0.5  # between two questions to the store while this process works
STOPS = (int(signal.SIGTERM), int(signal.SIGINT))  # the store counts `stop-<signal>`; torch 2.0 can only count
SOURCE = re.compile(r"^\[[^\]]*\.(?:cc|cpp|hpp|h):\d+\] ")
VOTES = 3  # of the end of the summed vector: rows, SIGTERM, SIGINT


def join(world: World, flag: StopFlag, device: torch.device) -> Group:
    """Meet the other processes of the training. A stop signal ends a process that waits for them.

    Raises:
        Stopped: a stop was requested before.
        SetupError: the port is in use.
        RankLostError: not all processes came in time.
    """
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        found = interface_to(world.address)
        if found and name not in os.environ:
            os.environ[name] = found
    taken = SetupError(
        f"port {world.port} of {world.address} is in use, perhaps by another training; give another MASTER_PORT"
    )
    if world.rank == 0 and not _has_agent() and not _is_free(world.port):  # torch would say it in ten lines
        raise taken
    try:
        with _mortal():
            flag.check()
            made = Members(world, flag, device)
    except RuntimeError as error:
        text = str(error)
        if "EADDRINUSE" in text or "address already in use" in text.lower():
            raise taken from None
        place = f"{world.address}:{world.port}"
        raise RankLostError(f"the {world.size} ranks did not all meet at {place}: {_first_line(text)}") from None
    made.listen()
    return made


def _has_agent() -> bool:
    """Return whether torchrun has a store at the port already, which it shares with its ranks."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _mortal() -> Iterator[None]:
    """Let a stop signal end this process at once: while torch waits for the others, no handler of Python runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, signal.SIG_DFL) for signum in STOPS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class Members(Group):
    """One of several processes that train together.

    Args:
        world: the place of this process.
        flag: the stop request of this process.
        device: of the gradients.
    """

    def __init__(self, world: World, flag: StopFlag, device: torch.device) -> None:
        self.world = world
        self._device = device
        self._timeout = timedelta(seconds=world.timeout_s)
        theirs = _has_agent()
        self._store: Any = dist.TCPStore(  # type: ignore[attr-defined]  # torch does not list it
            world.address, world.port, world.size, is_master=world.rank == 0 and not theirs, timeout=self._timeout
        )
        if theirs:  # it outlives its ranks
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            self._store = dist.PrefixStore(f"pixel-orch-{attempt}", self._store)  # type: ignore[attr-defined]
        # gloo's group is the default one: a GPU that fails cannot keep the ranks from telling each other.
        dist.init_process_group(
            "gloo", store=self._store, rank=world.rank, world_size=world.size, timeout=self._timeout
        )
        self._stop = AgreedStop(flag, self._store)
        self._gradients: Any = None  # the default group
        self._not_finite = torch.zeros(world.size, device=device)
        self.patience_s = world.timeout_s / 4
        self._heard_s = time.monotonic()  # of all others
        self._works = 0  # of `first_does`
        self._wakes: socket.socket | None = None

    def listen(self) -> None:
        """Tell the others of a signal at once, also while this process waits inside torch, where no handler runs."""
        if threading.current_thread() is not threading.main_thread():
            return
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._wakes = theirs  # open as long as this object lives
        threading.Thread(target=self._stop.tell_of, args=(ours,), daemon=True, name="signals").start()

    def stop_of(self, flag: StopFlag) -> StopFlag:
        """Return the stop request that all ranks have agreed on."""
        return self._stop

    def agree(self, **facts: Any) -> None:
        """Check that all processes have the same facts, then let the GPUs meet."""
        for name, fact in facts.items():
            values = self.of_all(fact)
            for rank, value in enumerate(values):
                if value != values[0]:
                    mine, theirs = _difference(values[0], value)
                    raise SetupError(f"the processes differ in {name}: rank 0 has {mine}, rank {rank} has {theirs}")
        if self._device.type == "cuda":
            with _talking():
                self._gradients = dist.new_group(backend="nccl", timeout=self._timeout)

    def from_first(self, value: T) -> T:
        """Return rank 0's value on each rank."""
        carried = [value if self.first else None]
        with _talking():
            dist.broadcast_object_list(carried, src=0)
        return carried[0]  # type: ignore[return-value]  # rank 0's

    def of_all(self, value: T) -> list[T]:
        """Return the values of all ranks, by rank."""
        values: list[Any] = [None] * self.world.size
        with _talking():
            dist.all_gather_object(values, value)
        return values

    def of_all_or_stop(self, value: T | None) -> list[T]:
        """Return the values of all ranks, or stop on all of them."""
        while not self._all_are_ready(ready=True):
            pass
        values = self.of_all((value, self._stop.asked))
        if any(one is None for one, _ in values):
            self._stop.settle(max(asked or 0 for _, asked in values) or signal.SIGTERM)
            raise Stopped
        return [one for one, _ in values if one is not None]

    def keep_waiting(self) -> None:
        """Tell the others that this rank's value is still to come, a few times in each timeout."""
        if time.monotonic() - self._heard_s > self.patience_s:
            self._all_are_ready(ready=False)

    def _all_are_ready(self, *, ready: bool) -> bool:
        count = torch.tensor(float(ready))
        with _talking():
            dist.all_reduce(count)
        self._heard_s = time.monotonic()
        return count.item() == self.world.size

    def first_does(self, work: Callable[[], None]) -> None:
        """Let rank 0 do the work; the others ask the store, which has no timeout as long as rank 0 lives."""
        self._works += 1
        key = f"work-{self._works}"
        if self.first:
            try:
                work()
                done = 0
            except Stopped:
                done = int(self._stop.asked or signal.SIGTERM)
            with _talking():
                self._store.add(key, 1 + done)
        else:
            with _talking():
                while not (answer := self._store.add(key, 0)):
                    time.sleep(LOOK_S)
                    self._stop.tell()
                done = answer - 1
        with _talking():
            dist.barrier()
        if done:
            self._stop.settle(done)
            raise Stopped

    def sum_step(self, parameters: Sequence[Tensor], nats: Tensor, rows: int, batch: int) -> Tensor | None:
        """Sum gradients, nats, finite flags and votes over the ranks in one all-reduce.

        On GPUs the votes go over gloo beside it: the ranks then know them without waiting for their GPUs.
        """
        grads = [torch.zeros_like(some) if some.grad is None else some.grad for some in parameters]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        votes = [float(rows), float(self._stop.asked == signal.SIGTERM), float(self._stop.asked == signal.SIGINT)]
        own = torch.zeros(self.world.size, dtype=flat.dtype, device=flat.device)
        own[self.world.rank] = (~(torch.isfinite(flat).all() & torch.isfinite(nats.detach()))).to(flat.dtype)
        parts = [flat, own, nats.detach().to(flat.dtype).reshape(1)]
        votes_now = torch.tensor(votes, dtype=flat.dtype)
        with _talking():
            if self._gradients is None:
                parts.append(votes_now.to(flat.device))
                total = torch.cat(parts)
                dist.all_reduce(total)
                total, summed = total[:-VOTES], total[-VOTES:]
            else:
                dist.all_reduce(votes_now)
                total, summed = torch.cat(parts), votes_now
                dist.all_reduce(total, group=self._gradients)
        self._heard_s = time.monotonic()
        if not self._is_complete(summed.tolist(), batch):
            return None
        self._not_finite += total[len(flat) : -1] * (self._not_finite.sum() == 0)  # the first to be so is at fault
        begin = 0
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = total[begin : begin + parameter.numel()].view_as(parameter)
            begin += parameter.numel()
        return total[-1]

    def blame(self, error: Exception) -> Exception:
        """Return `error` on the ranks whose own numbers are not finite, else that another rank is at fault."""
        bad = [rank for rank, count in enumerate(self._not_finite.tolist()) if count] or [0]
        if self.world.rank in bad:
            return error
        return RankLostError(f"rank {bad[0]} ended this training: its loss or gradient is not finite")

    def close(self) -> None:
        """Leave together, so that nobody takes an early leave for a loss."""
        if self._wakes is not None:
            signal.set_wakeup_fd(-1)
        with contextlib.suppress(RuntimeError, RankLostError):  # the work is done
            dist.barrier()
            dist.destroy_process_group()

    def _is_complete(self, votes: list[float], batch: int) -> bool:
        """Settle a stop that any rank wishes, and return whether every image of the batch was computed."""
        rows, term, interrupt = votes
        if term or interrupt:
            self._stop.settle(signal.SIGTERM if term else signal.SIGINT)
            if rows != batch:
                raise Stopped
        return rows == batch


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    """Turn any error of a conversation into the loss of another rank."""
    try:
        yield
    except RankLostError:
        raise
    except RuntimeError as error:
        raise RankLostError(f"another rank was lost ({_first_line(str(error))}); its own log says why") from None


class AgreedStop(StopFlag):
    """The stop request that all ranks have agreed on. One rank's signal is a wish until the next sum.

    Args:
        flag: the stop request of this process.
        store: what the processes have in common.
    """

    def __init__(self, flag: StopFlag, store: Any) -> None:
        super().__init__()
        self._flag, self._store = flag, store
        self._told = False
        self._asked_at = 0.0
        self.heard: int | None = None  # the signal of another rank

    @property
    def asked(self) -> int | None:
        """The signal that this rank wishes to stop for: its own, else one that another rank has told."""
        return self._flag.signum or self.heard

    def settle(self, signum: int) -> None:
        """Note that all ranks stop."""
        if self.signum is None:
            self.signum = signum

    def tell_of(self, signals: socket.socket) -> None:
        """Tell the others of each signal whose number arrives, for a thread of its own."""
        while number := signals.recv(1):
            if number[0] in STOPS:
                with contextlib.suppress(RuntimeError):  # rank 0 is lost: the main thread learns of it
                    self._store.add(f"stop-{number[0]}", 1)

    def tell(self) -> None:
        """Tell the others of this process's signal."""
        if self._flag.signum is not None and not self._told:
            self._told = True
            with _talking():
                self._store.add(f"stop-{int(self._flag.signum)}", 1)

    def check(self) -> None:
        """Raise `Stopped` if any rank was asked to stop, for work that is given up and agreed on afterwards."""
        now = time.monotonic()
        if self.asked is None and now - self._asked_at >= ASK_S:
            self._asked_at = now
            with _talking():
                told = [signum for signum in STOPS if self._store.add(f"stop-{signum}", 0)]
            self.heard = told[0] if told else None
        if self.asked is not None:
            self.tell()
            raise Stopped


def interface_to(address: str) -> str | None:
    """Return the network interface over which the address is reached, such as "eth0"; None if it is not found.

    gloo would take the address of the host's name, which often is 127.0.0.1, where no other machine reaches it.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing
            own = probe.getsockname()[0]
            if own.startswith("127."):
                own = "127.0.0.1"
            for _, name in socket.if_nameindex():
                with contextlib.suppress(OSError):  # an interface without an address
                    packed = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
                    if socket.inet_ntoa(packed[20:24]) == own:
                        return name
    except OSError:  # no such host, or not Linux
        return None
    return None


def _difference(mine: Any, theirs: Any) -> tuple[str, str]:
    """Return the texts of two values; of two mappings only what differs."""
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return str(mine), str(theirs)
    names = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
    texts = [", ".join(f"{name}={some.get(name)}" for name in names) for some in (mine, theirs)]
    return texts[0], texts[1]


def _first_line(text: str) -> str:
    """Return what went wrong in torch's words, without the place in its source and the advice that follows."""
    lines = text.strip().splitlines()
    line = SOURCE.sub("", lines[0]).split(". ")[0].rstrip(".") if lines else "no reason given"
    return line if len(line) <= 160 else line[:157] + "..."
