"""The disk of the tests of data: large enough for the published files that small ones stand in for."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(autouse=True)
def large_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer with 10 TB free: a preparation asks for the published size, which this machine may not have."""
    real = shutil.disk_usage
    monkeypatch.setattr("shutil.disk_usage", lambda path: real(path)._replace(free=10**13))
