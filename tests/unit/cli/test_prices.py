"""`pixel-orch prices`: bad input, and the table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from orchestrator.cli import prices as quoting
from orchestrator.errors import SpecError


def prices_args(**changes: object) -> argparse.Namespace:
    given: dict[str, object] = {
        "cloud": None, "instance": "p2.xlarge", "gpu": None, "region": None, "days": 7, "all_zones": False,
        "refresh": False, "offline": True, "profile": None, "output": "table",
    }  # fmt: skip
    return argparse.Namespace(**{"plain": False, **given, **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"days": 0}, "--days"),
        ({"days": 91}, "--days"),
        ({"cloud": "mars"}, "unknown cloud 'mars'"),
        ({"instance": "p2.xlrage"}, "did you mean p2.xlarge"),
        ({"instance": ","}, "names no instance type"),
        ({"region": ["us-eats-1"]}, "did you mean us-east-1"),
    ],
)
def test_bad_input_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], says: str
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    with pytest.raises(SpecError, match=says) as problem:
        quoting.prices(prices_args(**changes))
    assert "\n" not in str(problem.value)


def test_the_table_fits_80_columns_and_names_its_source(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    assert quoting.prices(prices_args(instance=None, region=["all"])) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "recorded" in shown
    assert quoting.prices(prices_args(output="json")) == 0
    raw = json.loads(capsys.readouterr().out)
    assert raw["lowest"]["p2.xlarge"]["low_usd_h"] == 0.271
    assert {one["source"] for one in raw["prices"]} == {"recorded"}
