"""What the tests of the instance's scripts share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bare_machine import make_machine


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Give a bare machine: its home with our files, and a folder for its programs."""
    return make_machine(tmp_path)
