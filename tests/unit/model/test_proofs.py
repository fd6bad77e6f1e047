"""The table of proofs in docs/model.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NAMED = re.findall(r"`((?:\w+/)*test_\w+\.py)::(test_\w+)`", (ROOT / "docs" / "model.md").read_text())


def test_the_table_is_found() -> None:
    assert len(NAMED) > 25


@pytest.mark.parametrize(("file", "test"), NAMED, ids=lambda name: name)
def test_a_test_that_the_docs_name_is_there(file: str, test: str) -> None:
    assert f"def {test}(" in (ROOT / "tests" / "unit" / "model" / file).read_text()
