"""Which files are the trainer's: told by their names and content, never by the clock of the machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from infra.instance.trainer_files import CHECKPOINT, SAMPLES, found_in_code, listed
from orchestrator.runs.outputs import CHECKPOINT_NAME, SAMPLES_NAME


def names(root: Path, state: dict[str, Any]) -> list[str]:
    return sorted(name for name, _, _ in listed(str(root), state))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("out", "code", "agent"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize("stepped_s", [-86400, -3600, 0, 3600])
def test_a_clock_that_is_stepped_hides_no_checkpoint_in_the_working_folder(root: Path, stepped_s: int) -> None:
    """chrony sets the clock of a fresh machine while the trainer runs: its files are then older than its start."""
    (root / "code" / "checkpoint-1.pt").write_bytes(b"sent with the code")
    state = {"started_at": 1_000_000.0, "code_before": found_in_code(str(root))}
    own = root / "code" / "checkpoint-2.pt"
    own.write_bytes(b"of the trainer")
    os.utime(own, (1_000_010.0 + stepped_s,) * 2)
    assert names(root, state) == ["checkpoint-2.pt"]
    (root / "code" / "checkpoint-1.pt").write_bytes(b"written again by the trainer")
    assert names(root, state) == ["checkpoint-1.pt", "checkpoint-2.pt"]


def test_the_state_of_an_agent_of_0_1_0_is_read_too(root: Path) -> None:
    for name, age_s in (("checkpoint-1.pt", -100), ("checkpoint-2.pt", 100)):
        (root / "code" / name).write_bytes(b"w")
        os.utime(root / "code" / name, (1_000_000.0 + age_s,) * 2)
    assert names(root, {"started_at": 1_000_000.0}) == ["checkpoint-2.pt"]


@pytest.mark.parametrize(
    "name",
    ["checkpoint-5.pt", "checkpoint-20261129044139.pt", "checkpoint-٣.pt", f"checkpoint-5.{'a' * 21}",
     "checkpoint-5.p_t", "samples-5.png", "samples-9999999999999.png", "samples-²³.png", "checkpoint-.pt",
     "checkpoint-5", "xcheckpoint-5.pt"],
)  # fmt: skip
def test_agent_and_laptop_agree_on_the_names(name: str) -> None:
    """A name that only the agent took would make its whole answer one that makes no sense."""
    assert bool(CHECKPOINT.fullmatch(name)) == bool(CHECKPOINT_NAME.fullmatch(name))
    assert bool(SAMPLES.fullmatch(name)) == bool(SAMPLES_NAME.fullmatch(name))
