"""A program that leaves processes in sessions of their own: they are gone when it is, and when the machine ends."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from infra.instance.descendants import processes
from tests.scenarios.test_agent import Machine, machine, metadata, until

__all__ = ["machine", "metadata"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc"),
]

PROGRAM = """
import os, signal, sys, time

def leave(name):
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.setsid()
    os.environ.clear()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(out + "/" + name + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(out + "/" + name + ".part", out + "/" + name)
    while True:
        time.sleep(60)

out = os.environ["PIXEL_ORCH_OUT"]
leave("left-1.pid")
worker = os.fork()  # as torchrun: a worker in a session of its own, whose launcher is killed
if worker == 0:
    os.setsid()
    leave("left-2.pid")
    with open(out + "/worker.pid", "w") as file:
        file.write(str(os.getpid()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)
while not os.path.exists(out + "/worker.pid") or not os.path.exists(out + "/left-1.pid"):
    time.sleep(0.01)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in sys.argv else lambda *_: sys.exit(143))
open(out + "/ready", "w").close()
while "short" not in sys.argv:
    time.sleep(0.05)
"""
NAMES = ("left-1.pid", "left-2.pid", "worker.pid")


def start(machine: Machine, how: str, **job: object) -> list[int]:
    """Start the program; return the pids of what it leaves."""
    (machine.code / "t.py").write_text(PROGRAM)
    machine.start(command=["python3", "t.py", how], **job)
    until(lambda: all((machine.root / "out" / name).exists() for name in NAMES))
    return [int((machine.root / "out" / name).read_text()) for name in NAMES]


def running(pids: list[int]) -> list[int]:
    """Return those that run."""
    table = processes()
    return [pid for pid in pids if pid in table and not table[pid].is_zombie]


def has_exited(machine: Machine) -> bool:
    """Return whether the owner is told that the program has."""
    return bool(machine.status()["trainer"]["state"] == "exited")


def test_they_are_gone_when_the_program_has_ended(machine: Machine) -> None:
    pids = start(machine, "short")
    until(lambda: has_exited(machine))
    assert running(pids) == []
    trainer = machine.status()["trainer"]
    assert (trainer["exit_code"], trainer["asked"]) == (0, False)
    assert machine.status()["agent_alive"]


def test_they_are_gone_after_a_stop(machine: Machine) -> None:
    pids = start(machine, "long")
    assert sorted(running(pids)) == sorted(pids)
    machine.agent("stop")
    until(lambda: has_exited(machine))
    assert running(pids) == []
    assert machine.status()["trainer"]["exit_code"] == 143


def test_they_are_gone_before_the_machine_shuts_down(machine: Machine) -> None:
    """The program itself ignores SIGTERM too; the power-off of the test ends nothing but the agent."""
    pids = start(machine, "deaf", time_limit_s=1.0, stop_timeout_s=0.5)
    until(machine.is_down.exists)
    until(lambda: running(pids) == [], 5)
    assert "processes of the trainer do not end" not in (machine.root / "agent" / "agent.log").read_text()


def test_they_are_gone_when_another_generation_begins(machine: Machine) -> None:
    pids = start(machine, "deaf", generation=1)
    assert machine.agent("renew", "2") == {"renewed": True}
    assert running(pids) == []


def test_the_measurements_of_a_program_that_leaves_processes_are_read_to_their_end(machine: Machine) -> None:
    """The process that collects them is no part of the program: it ends when it has written the last line."""
    (machine.code / "more.py").write_text(
        PROGRAM.replace('open(out + "/ready"', 'print("epoch 3/3 loss 0.25", flush=True); open(out + "/ready"')
    )
    machine.start(command=["python3", "more.py", "short"], metrics={"patterns": {}})
    until(lambda: has_exited(machine))
    assert "0.25" in str(machine.status()["metrics"])


WORKER = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
out, rank = os.environ["PIXEL_ORCH_OUT"], os.environ["RANK"]
with open(out + "/" + rank + ".part", "w") as file:
    file.write(str(os.getpid()))
os.rename(out + "/" + rank + ".part", out + "/worker-" + rank)
if rank == "0":
    open(out + "/ready", "w").close()
time.sleep(60)
"""


def test_the_workers_of_a_torchrun_that_was_killed_are_gone(machine: Machine) -> None:
    """torchrun starts each worker in a session of its own, and SIGKILL gives it no time to end them."""
    pytest.importorskip("torch")
    (machine.code / "worker.py").write_text(WORKER)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "worker.py"]
    machine.start(command=words)
    marks = [machine.root / "out" / f"worker-{rank}" for rank in (0, 1)]
    until(lambda: all(mark.exists() for mark in marks), 30)
    workers = [int(mark.read_text()) for mark in marks]
    launcher = int(machine.status()["trainer"]["pid"])
    assert {os.getsid(pid) for pid in workers}.isdisjoint({os.getsid(launcher)}), "they are in other sessions"
    os.kill(launcher, signal.SIGKILL)
    until(lambda: has_exited(machine))
    assert running(workers) == []
