"""The forms of the report: terminal, JSON, CSV, Markdown."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.report import report_of
from orchestrator.report import as_csv, as_json, as_markdown, as_text, build
from orchestrator.report.records import records_of
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, Had, write_run

NOW = BORN + 10**6


@pytest.fixture
def built(home: Path) -> Any:
    write_run(
        home, "first", [Had(last_step=60, ended_by="aws"), Had(first_step=51, market="on-demand", price_usd_h=0.526)]
    )
    write_run(home, "mute", [Had("g5.xlarge", lines=[])])
    write_run(home, "own", [Had("p2.xlarge", images_per_s=70)], cloud="embedded cloud", trainer=None,
              command=("python3", "train|it.py"), workdir=str(home))  # fmt: skip
    write_run(home, "unborn", [])
    return report_of(records_of(RunStore.all(home), NOW), home, NOW, "hour-start")


def test_the_terminal_form_fits_80_columns_and_lists_the_problems(built: Any) -> None:
    shown = as_text(built)
    assert max(map(len, shown.splitlines())) <= 80, shown
    assert "mute: attempt 1: no metrics" in shown
    assert "unborn: no instance was started" in shown
    assert "Predicted: pixelcnn digits" in shown
    assert "On-demand price of the same time" in shown


def test_the_terminal_form_fits_40_columns_and_cuts_no_figure(built: Any) -> None:
    lines = as_text(built, 40).splitlines()
    assert max(map(len, lines)) <= 40, "\n".join(lines)
    assert not [line for line in lines if re.search(r"\d…|…$", line)], "half a figure is another figure"


def test_the_json_form_has_plain_numbers_and_no_nan(built: Any) -> None:
    raw = json.loads(json.dumps(as_json(built), allow_nan=False))
    run = raw["runs"][0]
    parts = ("instance_usd", "volume_usd", "address_usd", "data_out_usd")
    assert run["cost_usd"] == pytest.approx(sum(run[part] for part in parts))
    assert run["cost_usd"] == pytest.approx(sum(a["billed_usd"] for a in run["attempts"]))
    assert run["attempts"][0]["started_at"].endswith("Z")
    assert {row["origin"] for row in raw["types"]} == {"measured"}
    assert {row["origin"] for row in raw["predicted"]} == {"predicted"}


def test_the_csv_form_has_one_line_per_run(built: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(built))))
    assert [row["run"] for row in rows] == ["first", "mute", "own", "unborn"]
    assert float(rows[0]["cost_usd"]) == pytest.approx(float(built.runs[0].cost_usd))
    assert "no metrics" in rows[1]["problems"]


def test_the_markdown_form_consists_of_tables(built: Any) -> None:
    shown = as_markdown(built)
    assert "| run | state |" in shown
    assert "train\\|it.py" in shown
    assert "## Predicted, not measured" in shown


def test_every_form_reports_an_empty_home(home: Path) -> None:
    nothing = build([], NOW)
    assert "no runs yet" in as_text(nothing)
    assert as_json(nothing)["runs"] == []
    assert as_csv(nothing).startswith("run,")
    assert "No runs" in as_markdown(nothing)
