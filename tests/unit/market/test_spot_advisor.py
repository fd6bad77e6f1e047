"""AWS's Spot Advisor: a file that is read, and what it changes in the counts that stand for a market."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.market.spot_advisor import FACTORS, read_range
from orchestrator.policy.cells import IS_UP, Chain, Counts
from orchestrator.policy.forecast import Prior


def told(**ranges: Any) -> dict[str, Any]:
    types = {name.replace("_", "."): {"s": 70, "r": place} for name, place in ranges.items()}
    return {"ranges": [], "spot_advisor": {"us-east-1": {"Linux": types, "Windows": {"g5.xlarge": {"s": 1, "r": 0}}}}}


def file_of(folder: Path, value: Any) -> Path:
    path = folder / "spot-advisor-data.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_the_best_type_and_region_of_a_run_counts(tmp_path: Path) -> None:
    path = file_of(tmp_path, told(g4dn_xlarge=3, g5_xlarge=1))
    assert read_range(path, ["g4dn.xlarge", "g5.xlarge"], ["us-east-1", "us-west-2"], flag="--spot-advisor") == 1
    assert read_range(path, ["g4dn.xlarge"], ["us-east-1"], flag="--spot-advisor") == 3


@pytest.mark.parametrize(
    "value",
    ["{", "[]", {"spot_advisor": []}, {"spot_advisor": {"us-east-1": 3}}, told(), told(g4dn_xlarge=9),
     told(g4dn_xlarge=True), told(g4dn_xlarge="1"), "[" * 100_000],
)  # fmt: skip
def test_what_does_not_have_the_type_is_one_line(tmp_path: Path, value: Any) -> None:
    with pytest.raises(SpecError, match="--spot-advisor") as error:
        read_range(file_of(tmp_path, value), ["g4dn.xlarge"], ["us-east-1"], flag="--spot-advisor")
    assert "\n" not in str(error.value)
    with pytest.raises(SpecError, match="cannot read"):
        read_range(tmp_path / "none", ["g4dn.xlarge"], ["us-east-1"], flag="--spot-advisor")


def test_the_more_often_instances_are_interrupted_the_shorter_they_live() -> None:
    shipped = Prior.shipped()
    lives = []
    for factor in FACTORS:
        prior = shipped.with_losses(factor, "x")
        for counts in (prior.one, prior.several):
            chain = Chain.of(Counts.none(), counts, 100.0)
            assert chain.moves.sum(axis=1) == pytest.approx(1)
            assert (counts.moves >= -1e-9).all()
        lives.append(Chain.of(Counts.none(), prior.one, 100.0).life_s()[IS_UP].mean())
    assert lives == sorted(lives, reverse=True)
    assert lives[2] == pytest.approx(Chain.of(Counts.none(), shipped.one, 100.0).life_s()[IS_UP].mean())
