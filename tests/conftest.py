"""Fixtures that everything shares."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give an empty PIXEL_ORCH_HOME."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder
