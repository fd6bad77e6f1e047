"""What a notebook gets of runs and prices; what a machine wrote is text there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import orchestrator
from orchestrator.cli.main import main
from orchestrator.errors import SpecError
from tests.support.report_runs import Had, write_run

PNG = b"\x89PNG\r\n\x1a\n rest"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home with a run of two machines."""
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(tmp_path))
    store = write_run(
        tmp_path, "digits", [Had(ended_by="aws", seconds=600), Had(ended_by="pixel-orch", first_step=101)]
    )
    for number in (1, 2):
        store.metrics_path(number).parent.mkdir(parents=True, exist_ok=True)
        lines = [{"step": 100 * number + n, "nats": 80.0 - n} for n in range(3)]
        store.metrics_path(number).write_text("".join(json.dumps(line) + "\n" for line in lines) + "half a li")
        store.log_path(number).write_text(f"machine {number}\nlast line\n")
    (store.folder / "samples-100.png").write_bytes(PNG)
    return tmp_path


@pytest.mark.usefixtures("home")
def test_a_result_has_logs_metrics_bill_and_samples() -> None:
    run = orchestrator.result("digits")
    assert run.logs(2) == "machine 2\nlast line"
    assert [(line["attempt"], line["step"]) for line in run.metrics] == [
        (n, 100 * n + k) for n in (1, 2) for k in range(3)
    ]
    bill = run.bill
    assert bill["total"] == pytest.approx(run.cost_usd)
    parts = [bill[part] for part in ("instance", "disk", "address", "data_out")]
    assert sum(float(part or 0) for part in parts) == pytest.approx(run.cost_usd)
    assert bill["is_estimate"] is False
    assert [path.name for path in run.samples] == ["samples-100.png"]
    assert run.wait() == run.refresh() == run, "it is over"
    assert run.stop() == run


def test_a_run_is_shown_as_html_in_which_nothing_of_a_machine_is_markup(home: Path) -> None:
    text = orchestrator.result("digits")._repr_html_()
    assert "<strong>digits</strong>" in text
    assert "data:image/png;base64,iVBORw0K" in text
    write_run(home, "hostile", [Had(zone="<script>alert(1)</script>\x1b[2J")])
    text = orchestrator.result("hostile")._repr_html_()
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    assert "\x1b" not in text


def test_all_runs_are_listed_and_a_broken_one_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(home, "second", [Had()])
    (home / "runs" / "broken").mkdir()
    (home / "runs" / "broken" / "events.jsonl").mkdir()
    assert [run.run for run in orchestrator.list_runs()] == ["digits", "second"]
    assert "broken" in capsys.readouterr().err


@pytest.mark.usefixtures("home")
def test_a_run_that_nobody_leads_cannot_be_stopped_from_here(home: Path) -> None:
    write_run(home, "open", [Had(ended_by=None)])
    with pytest.raises(SpecError, match="no process leads it"):
        orchestrator.result("open").stop()


@pytest.mark.usefixtures("home")
def test_metrics_are_a_frame_where_pandas_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SpecError, match="needs pandas: pip install pandas"):
        orchestrator.result("digits").metrics.dataframe()


@pytest.mark.usefixtures("home")
def test_types_and_prices_are_what_the_commands_print(capsys: pytest.CaptureFixture[str]) -> None:
    compared = orchestrator.compare_types("g2.2xlarge", "p2.xlarge")
    assert main(["compare", "g2.2xlarge", "p2.xlarge", "-o", "json"]) == 0
    assert compared == json.loads(capsys.readouterr().out)
    assert [one["instance_type"] for one in compared["types"]] == ["g2.2xlarge", "p2.xlarge"]
    prices = orchestrator.get_prices("g4dn.xlarge", offline=True)
    assert prices["lowest"]["g4dn.xlarge"]["instance_type"] == "g4dn.xlarge"
    for wrong, words in (
        (lambda: orchestrator.compare_types(), "no instance type is given"),
        (lambda: orchestrator.compare_types("g4dn.xlrage"), "g4dn.xlarge"),
        (lambda: orchestrator.get_prices("g4dn.xlarge", days=0), "days: 0 is not from 1 to 90"),
        (lambda: orchestrator.get_prices("g4dn.xlarge", region="nowhere"), "nowhere"),
    ):
        with pytest.raises(SpecError, match=words):
            wrong()


def test_only_the_public_names_are_shown() -> None:
    assert dir(orchestrator) == sorted(orchestrator.__all__)
    assert all(hasattr(orchestrator, name) for name in dir(orchestrator))
