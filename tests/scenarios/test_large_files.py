"""The status is answered at once, however large and however many the trainer's files are; one process reads them."""

from __future__ import annotations

import hashlib
import os
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
LIMIT_S = 1.0
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
    """Yield the processes that have a file open."""
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if fd.readlink() == path:
                yield int(fd.parts[2])


def timed(machine: Machine) -> tuple[float, dict[str, Any]]:
    began = time.monotonic()
    status = machine.status()
    return time.monotonic() - began, status


def test_six_gigabytes_wait_for_their_digest_and_the_status_does_not(machine: Machine) -> None:
    (machine.code / "t.py").write_text(LARGE)
    machine.start()
    path = machine.root / "out" / "checkpoint-5.pt"
    until(lambda: list(readers(path)))
    (hasher,) = set(readers(path))
    with ThreadPoolExecutor(4) as pool:  # as each retry of a poll did
        for took_s, status in pool.map(timed, [machine] * 12):
            assert took_s < LIMIT_S
            assert (status["outputs"], status["waiting_files"], status["waiting_bytes"]) == ([], 1, SIX_GB)
            assert set(readers(path)) <= {hasher}
    until(lambda: not machine.status()["waiting_files"], limit_s=90)
    took_s, status = timed(machine)
    assert took_s < LIMIT_S
    ((name, size, digest),) = [(one["name"], one["size_bytes"], one["sha256"]) for one in status["outputs"]]
    zeros = hashlib.sha256()
    for _ in range(SIX_GB // 1_000_000):
        zeros.update(bytes(1_000_000))
    assert (name, size, digest) == ("checkpoint-5.pt", SIX_GB, zeros.hexdigest())


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
    assert timed(machine)[0] < LIMIT_S
    until(lambda: machine.status()["waiting_files"] == 0, limit_s=60)
    took_s, status = timed(machine)
    assert took_s < LIMIT_S
    assert len(status["outputs"]) == MANY // 10 + 1
