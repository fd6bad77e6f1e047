"""`--deadline` as people write it, and what they are told before anything is rented."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model.config import TrainConfig
from orchestrator.clock import SystemClock
from orchestrator.errors import SpecError
from orchestrator.market.pools import Offer, Pool
from orchestrator.plan.deadline import (
    check_budget,
    check_deadline,
    moment,
    outlook_lines,
    prior_of,
    with_estimate,
    with_spot_range,
)
from orchestrator.plan.requests import Plan
from orchestrator.plan.settings import resumed_spec, spec_from
from orchestrator.plan.settings_file import FileSettings
from orchestrator.runs.spec import Deadline, ProgramSpec, RunSpec

NOW = 1_795_960_800.0  # 2026-11-29 14:00 UTC


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Live in another time zone than UTC, at a fixed time."""
    monkeypatch.setattr(SystemClock, "now", lambda self: NOW)
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "ahead_h"),
    [("18:00", 3.0), ("15:01", 1 / 60), ("15:00", 24.0), ("8:30", 17.5), ("12h", 12.0), ("90m", 1.5), ("3600", 1.0),
     ("2026-11-30 15:00", 24.0), ("2026-12-01T03:00", 36.0), ("2d", 48.0)],
)  # fmt: skip
def test_a_time_of_day_a_duration_and_a_date_are_understood(text: str, ahead_h: float) -> None:
    assert moment(text, NOW) == pytest.approx(NOW + ahead_h * 3600)


@pytest.mark.parametrize(
    "text",
    ["25:00", "18:60", "2026-02-30 10:00", "2026-11-29 14:59", "2020-01-01 00:00", "soon", "0h", "-1h", "", "1e99h"],
)
def test_what_is_no_deadline_is_one_line(text: str) -> None:
    with pytest.raises(SpecError, match="--deadline") as error:
        moment(text, NOW)
    assert "\n" not in str(error.value)


def spec_of(**flags: Any) -> RunSpec:
    given = {"instance": "g4dn.xlarge", "cloud": "aws", "region": ["us-east-1"], "steps": 100, **flags}
    return spec_from(given, (), FileSettings({}))


def test_a_deadline_takes_both_markets_and_needs_neither_flag() -> None:
    spec = spec_of(deadline="12h", work="3h")
    assert spec.market == "spot"
    assert spec.deadline == Deadline(at=NOW + 12 * 3600, policy="planned", work_s=3 * 3600)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"deadline": "12h", "on_demand": True}, "takes both markets"),
        ({"deadline": "12h", "policy": "planed"}, "did you mean planned"),
        ({"policy": "greedy", "spot": True}, "goes with --deadline"),
        ({"work": "3h", "spot": True}, "goes with --deadline"),
        ({"deadline": "12h", "work": "0h"}, "--work"),
    ],
)
def test_what_does_not_go_together_is_named(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        spec_of(**flags)


def test_work_that_nobody_knows_is_asked_for_and_work_that_does_not_fit_is_refused(home: Path) -> None:
    with pytest.raises(SpecError, match="--work TIME"):
        with_estimate(spec_of(deadline="12h"), home, is_resumed=False)
    with pytest.raises(SpecError, match="do not fit into 12h"):
        with_estimate(spec_of(deadline="12h", work="13h"), home, is_resumed=False)
    assert with_estimate(spec_of(deadline="12h", work="3h"), home, is_resumed=False).deadline is not None


def test_a_run_that_is_resumed_keeps_a_deadline_that_lies_ahead_and_needs_a_new_one_after_it() -> None:
    old = spec_of(deadline="12h", work="3h")
    assert resumed_spec({}, (), old).deadline == old.deadline
    new = resumed_spec({"deadline": "20h"}, (), old).deadline
    assert new == Deadline(at=NOW + 20 * 3600, policy="planned", work_s=3 * 3600)
    past = old.model_copy(update={"program": ProgramSpec(deadline=Deadline(at=NOW - 1, work_s=60.0))})
    with pytest.raises(SpecError, match="give a new --deadline"):
        resumed_spec({}, (), past)


def test_a_run_without_a_deadline_that_is_resumed_with_one_takes_both_markets() -> None:
    old = spec_from(
        {"instance": "g4dn.xlarge", "cloud": "aws", "region": ["us-east-1"], "steps": 100, "on_demand": True},
        (), FileSettings({}),
    )  # fmt: skip
    assert old.market == "on-demand"
    new = resumed_spec({"deadline": "12h", "work": "3h"}, (), old)
    assert (new.market, new.deadline) == ("spot", Deadline(at=NOW + 12 * 3600, policy="planned", work_s=3 * 3600))
    assert resumed_spec({}, (), old).market == "on-demand"


def test_a_resume_changes_policy_and_work_of_the_deadline_that_it_keeps() -> None:
    old = spec_of(deadline="12h", work="3h")
    kept = resumed_spec({"policy": "greedy"}, (), old).deadline
    assert kept == Deadline(at=NOW + 12 * 3600, policy="greedy", work_s=3 * 3600)
    assert resumed_spec({"work": "5h"}, (), old).deadline == Deadline(at=NOW + 12 * 3600, work_s=5 * 3600)
    with pytest.raises(SpecError, match="takes both markets"):
        resumed_spec({"on_demand": True}, (), old)
    plain = spec_from(
        {"instance": "g4dn.xlarge", "cloud": "aws", "region": ["us-east-1"], "steps": 100, "spot": True},
        (), FileSettings({}),
    )  # fmt: skip
    with pytest.raises(SpecError, match="goes with --deadline"):
        resumed_spec({"policy": "greedy"}, (), plain)


def test_the_outlook_names_the_moment_the_money_and_what_it_rests_on(home: Path) -> None:
    pool = Pool("g4dn.xlarge", "us-east-1b", "us-east-1")
    spec = RunSpec(
        run="x", cloud="aws", instances=("g4dn.xlarge",), market="spot", regions=("us-east-1",),
        trainer=TrainConfig(steps=100), program=ProgramSpec(deadline=Deadline(at=NOW + 6 * 3600, work_s=4 * 3600.0)),
    )  # fmt: skip
    plan = Plan(spec, (Offer(pool, "spot", 0.2, ""),), {}, NOW, "home", on_demand=(Offer(pool, "on-demand", 0.5, ""),))
    text = " ".join(outlook_lines(plan, home))
    assert "Sun 2026-11-29 21:00 CET (6h00m from now), 4h00m of work" in text
    assert "at most $3.000" in text
    assert "estimates" in text
    assert "there is no history of these pools" in text
    assert "16m00s (assumed: none was measured here)" in text
    assert outlook_lines(replace(plan, spec=spec.model_copy(update={"program": ProgramSpec()})), home) == []


def test_a_budget_that_does_not_pay_for_the_work_is_refused_before_anything_is_rented() -> None:
    pool = Pool("g4dn.xlarge", "us-east-1b", "us-east-1")
    spec = spec_of(deadline="12h", work="10h", budget="1")
    plan = Plan(spec, (Offer(pool, "spot", 0.2, ""),), {}, NOW, "home", on_demand=(Offer(pool, "on-demand", 0.5, ""),))
    with pytest.raises(SpecError, match=r"--budget: \$1 do not pay for 10h00m of work.*\$2.000"):
        check_budget(plan)
    check_budget(replace(plan, spec=spec_of(deadline="12h", work="10h", budget="2.5")))


def test_the_spot_advisor_is_named_and_needs_a_deadline(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "advisor.json"
    path.write_text('{"spot_advisor": {"us-east-1": {"Linux": {"g4dn.xlarge": {"s": 70, "r": 4}}}}}')
    with pytest.raises(SpecError, match="goes with --deadline"):
        with_spot_range(spec_of(spot=True), str(path))
    spec = with_spot_range(spec_of(deadline="12h", work="3h"), str(path))
    assert spec.deadline is not None
    assert spec.deadline.spot_range == 4
    assert "over 20 % a month" in prior_of(spec.deadline).source


def test_without_a_deadline_nothing_is_there() -> None:
    assert check_deadline(None, None, None) is None


@pytest.mark.parametrize(
    "values", [{"at": float("inf")}, {"at": -1}, {"at": NOW, "work_s": float("nan")}, {"at": NOW, "work_s": 0},
               {"at": NOW, "spot_range": 9}],
)  # fmt: skip
def test_a_stored_deadline_that_makes_no_sense_is_not_read(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Deadline(**values)
