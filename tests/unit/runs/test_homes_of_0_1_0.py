"""A home of version 0.1.0: its runs fold, report and prune as they did; 0.1.0 can read what is written now."""

from __future__ import annotations

import dataclasses
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import main
from orchestrator.clock import SystemClock
from orchestrator.formatting import money
from orchestrator.market.billing import total_usd
from orchestrator.runs.event_reader import KINDS
from orchestrator.runs.events import LossReason
from orchestrator.runs.home import make_home, schema_of
from orchestrator.runs.spec import Limits, RecoveryPolicy, RunSpec
from orchestrator.runs.store import RunStore
from tests.support.home_0_1_0 import copied, expected, schema_1

RUNS = {  # state, attempts, interruptions, checkpoints by step
    "finished": ("SUCCEEDED", 1, 0, [30, 60]),
    "interrupted": ("SUCCEEDED", 2, 1, [20, 40, 60]),
    "outputs": ("SUCCEEDED", 1, 0, [10, 20]),
    "stopped": ("STOPPED", 1, 0, [20, 40, 60, 67]),
    "ended-by-limit": ("STOPPED", 1, 0, [40, 67]),
    "cancelled": ("CANCELLED", 1, 0, [40, 65]),
    "killed": ("RUNNING", 1, 0, [20, 40]),
}


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a copy of the home, at the moment at which 0.1.0 was asked about it."""
    home = copied(tmp_path / "old-home")
    at = expected(home)["at"]
    monkeypatch.setattr(SystemClock, "now", lambda self: at)
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    return home


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a command prints."""
    assert main(list(words)) == 0
    return capsys.readouterr().out


def near(value: Any) -> Any:
    """Return the same with each float as an approximation: a sum in another order differs in its last digit."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-12)
    if isinstance(value, list):
        return [near(each) for each in value]
    return {key: near(each) for key, each in value.items()} if isinstance(value, dict) else value


def known_then(value: Any, then: Any) -> Any:
    """Return `value` without the keys that 0.1.0 did not have: a key may be added, never removed or changed."""
    if isinstance(value, list):
        return [known_then(each, old) for each, old in zip(value, then, strict=True)]
    if isinstance(value, dict) and isinstance(then, dict):
        return {key: known_then(value[key], old) for key, old in then.items()}
    return value


@pytest.mark.parametrize("run", RUNS)
def test_a_run_folds_to_its_state(old: Path, run: str) -> None:
    store = RunStore.open(old, run)
    state = store.state()
    assert (state.state, len(state.attempts), state.interruptions, sorted(state.checkpoints)) == RUNS[run]
    assert all(store.is_whole(pulled) for pulled in state.checkpoints.values())
    assert [attempt.number for attempt in state.open_attempts()] == ([1] if run == "killed" else [])
    assert (store.spec().run, store.owner_pid(), store.is_damaged()) == (run, None, False)


def test_every_line_of_the_events_is_read(old: Path) -> None:
    for store in RunStore.all(old):
        lines = [json.loads(line) for line in (store.folder / "events.jsonl").read_text().splitlines()]
        read = [event.to_json() for event in store.events()]
        assert len(read) == len(lines)
        assert [{key: now[key] for key in then} for then, now in zip(lines, read, strict=True)] == lines


def test_the_cause_of_a_loss_is_known_from_the_words_of_then(old: Path) -> None:
    causes = {
        (store.run, attempt.number): attempt.lost_cause
        for store in RunStore.all(old)
        for attempt in store.state().attempts
        if attempt.is_lost
    }
    assert causes[("interrupted", 1)] == LossReason.INTERRUPTED


@pytest.mark.parametrize("run", RUNS)
def test_a_bill_is_the_same_to_the_last_digit(old: Path, run: str) -> None:
    answer = expected(old)
    (row,) = (row for row in answer["status"] if row["run"] == run)
    usd = total_usd(RunStore(old, run).state().attempts, answer["at"])
    assert float(usd) == row["cost_usd"]
    assert usd > 0


def test_status_is_the_same(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = expected(old)
    listed = json.loads(said(capsys, "status", "-o", "json"))
    assert all(row.pop("nodes") == min(row["attempts"], 1) for row in listed), "the field that is new since then"
    assert listed == answer["status"]
    for run in RUNS:
        found = json.loads(said(capsys, "status", run, "-o", "json"))
        assert known_then(found, answer["status_of"][run]) == near(answer["status_of"][run])


def test_an_attempt_of_then_has_one_member_with_its_bill(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in RUNS:
        found = json.loads(said(capsys, "status", run, "-o", "json"))
        members = [attempt["members"] for attempt in found["attempts"]]
        assert [len(one) for one in members] == [1] * len(found["attempts"])
        assert [one["instance_id"] for (one,) in members] == [one["instance_id"] for one in found["attempts"]]
        assert sum(one["billed_usd"] for (one,) in members) == pytest.approx(found["cost_usd"])


def test_status_as_text_has_every_run_with_its_cost(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "status").splitlines()
    for row in expected(old)["status"]:
        (line,) = (line for line in lines if line.startswith(row["run"] + " "))
        assert row["state"] in line.split()
        assert money(Decimal(str(row["cost_usd"]))) in line
        assert row["run"] in said(capsys, "status", row["run"])


def test_the_report_is_the_same(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = expected(old)["report"]
    found = json.loads(said(capsys, "report", "-o", "json"))
    assert found.keys() == answer.keys()
    for part in ("generated_at", "billing_rule", "runs", "types"):
        assert known_then(found[part], answer[part]) == near(answer[part]), part


def test_the_report_as_text_has_every_run_with_its_cost(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "report").splitlines()
    for row in expected(old)["report"]["runs"]:
        line = next(line for line in lines if line.startswith(row["run"] + " "))
        assert row["state"] in line.split()
        assert money(Decimal(str(row["cost_usd"]))) in line


def test_prune_removes_what_is_over_and_keeps_the_run_that_is_open(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = json.loads(said(capsys, "runs", "prune", "-y", "-o", "json", "--older-than", "1h"))
    assert answer["removed"] == [run for run in RUNS if run != "killed"]
    assert [store.run for store in RunStore.all(old)] == ["killed"]


# -- what is written now, read by 0.1.0


def test_the_home_is_schema_1_and_stays_so(old: Path) -> None:
    assert not (old / "schema").exists()
    assert schema_of(old) == 1
    before = sorted(path for path in old.rglob("*"))
    make_home(old)
    assert sorted(path for path in old.rglob("*")) == sorted([*before, old / "schema"])
    assert schema_of(old) == 1, "if this has changed on purpose, the tests below are about the schema before it"


def test_0_1_0_folds_the_events_that_are_written_now() -> None:
    now = {kind: {field.name for field in dataclasses.fields(cls)} for kind, cls in KINDS.items()}
    for kind, fields in schema_1()["events"].items():
        assert set(fields) <= now[kind], f"0.1.0 passes over a {kind} that lacks a field; such a change is a new schema"


def test_0_1_0_reads_the_spec_that_is_written_now() -> None:
    known = schema_1()
    for name, model in (("spec", RunSpec), ("recovery", RecoveryPolicy), ("limits", Limits)):
        written = {field for field, about in model.model_fields.items() if not about.exclude}
        new = written - set(known[name])
        assert not new, f"0.1.0 refuses a spec.json with {new}; such a change is a new schema"
        assert set(known[name]) <= set(model.model_fields), "spec.json of 0.1.0 could not be read"
