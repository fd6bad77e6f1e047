"""Fixtures that everything shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side; torch must not take every core for each


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give an empty PIXEL_ORCH_HOME."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder
