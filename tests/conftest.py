"""Fixtures that everything shares."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a shell; what the tests start inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side; torch must not take every core for each


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the scenarios first, then the other files with slow tests: one that begins last would be waited for alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.parent.name != "scenarios", item.path not in slow))


@pytest.fixture(autouse=True, scope="session")
def disk_without_waits() -> Iterator[None]:
    """Let no test wait for the disk: on a busy one that is a third of their time.

    What `fsync` is for, a loss of power, no test makes. The processes that the slow tests start do call it.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give an empty PIXEL_ORCH_HOME."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def trainers_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give pytest its signal handlers back after a training; keep the caller's environment out of it."""
    for name in ("PIXEL_ORCH_OUT", "PIXEL_ORCH_CONFIG", "PIXEL_ORCH_PROG"):
        monkeypatch.delenv(name, raising=False)
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)
