"""The status is answered at once, however large and however many the trainer's files are; one process reads them."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.test_agent import Machine, machine, metadata, until

__all__ = ["machine", "metadata"]
pytestmark = pytest.mark.slow
SIX_GB = 6_000_000_000
ITS_DIGEST = "a20be6ed59ae744e4e4a75d8189334a459090fd6e565469403bcd86eb9f9ff6f"  # of so many zeros
LIMIT_S = 1.0  # of CPU time; other programs run on the machine of the tests
LIMIT_BY_THE_CLOCK_S = 5.0  # reading six gigabytes takes twice as long, or more
LARGE = (
    "import os, time\n"
    "out = os.environ['PIXEL_ORCH_OUT']\n"
    f"with open(out + '/.part', 'wb') as file: file.truncate({SIX_GB})\n"
    "os.rename(out + '/.part', out + '/checkpoint-5.pt')\n"
    "open(out + '/ready', 'w').close()\n"
    "time.sleep(120)\n"
)
MANY = 100_000
WAITS = "import os, time\nopen(os.environ['PIXEL_ORCH_OUT'] + '/ready', 'w').close()\ntime.sleep(120)\n"


def readers(path: Path) -> Iterator[int]:
    """Yield the processes that have a file open; processes come and go meanwhile."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for fd in (process / "fd").iterdir():
                with suppress(OSError):
                    if fd.readlink() == path:
                        yield int(process.name)


def quick(machine: Machine) -> dict[str, Any]:
    """Return a status that took no longer than it may."""
    began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    status = machine.status()
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime < LIMIT_S
    assert time.monotonic() - began < LIMIT_BY_THE_CLOCK_S
    return status


def test_six_gigabytes_wait_for_their_digest_and_the_status_does_not(machine: Machine) -> None:
    (machine.code / "t.py").write_text(LARGE)
    machine.start()
    path = machine.root / "out" / "checkpoint-5.pt"
    until(lambda: list(readers(path)))
    (hasher,) = set(readers(path))
    with ThreadPoolExecutor(3) as pool:  # as each retry of a poll did
        for status in pool.map(lambda _: machine.status(), range(9)):
            assert (status["outputs"], status["waiting_files"], status["waiting_bytes"]) == ([], 1, SIX_GB)
            assert set(readers(path)) <= {hasher}
    quick(machine)
    until(lambda: not machine.status()["waiting_files"], limit_s=90)
    status = quick(machine)
    ((name, size, digest),) = [(one["name"], one["size_bytes"], one["sha256"]) for one in status["outputs"]]
    assert (name, size, digest) == ("checkpoint-5.pt", SIX_GB, ITS_DIGEST)


def test_a_hundred_thousand_files_do_not_slow_the_status_down(machine: Machine) -> None:
    (machine.code / "t.py").write_text(WAITS)
    machine.start()
    out = machine.root / "out"
    (out / "logs").mkdir()
    for number in range(MANY):
        os.close(os.open(out / "logs" / f"event.{number}", os.O_CREAT | os.O_WRONLY))
        if number < MANY // 10:
            os.close(os.open(out / f"samples-{number}.png", os.O_CREAT | os.O_WRONLY))
    (out / "checkpoint-7.pt").write_bytes(b"weights")
    quick(machine)
    until(lambda: machine.status()["waiting_files"] == 0, limit_s=60)
    assert len(quick(machine)["outputs"]) == MANY // 10 + 1
