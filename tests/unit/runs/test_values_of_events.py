"""Events are read by type and range: what is not right is left out and counted; the fold takes whatever is left."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.market.billing import total_usd
from orchestrator.report.as_of import seen_at
from orchestrator.report.event_text import event_words
from orchestrator.report.records import record_of
from orchestrator.runs.checked import WrongValueError, is_figure, is_step, read
from orchestrator.runs.event_reader import KINDS, from_json
from orchestrator.runs.events import Event, Progress, RunCreated
from orchestrator.runs.state import fold
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, Had, write_run

OFTEN = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
GOOD: dict[str, Any] = {"kind": "progress", "at": 1000.0, "attempt": 1, "step": 5, "images_per_s": 3.5}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=20),
    st.just([]),
    st.just({"a": [1]}),
    st.sampled_from(["spot", "aws", "RUNNING", "FAILED", "interrupted", "checkpoint-5.pt", "../../x", 1, 2, 3, 0]),
)


def events() -> st.SearchStrategy[dict[str, Any]]:
    """Give objects as `events.jsonl` may hold them: any kind, each field right, odd or missing."""

    def fields(kind: str) -> st.SearchStrategy[dict[str, Any]]:
        names = {field.name: _value(str(field.type)) for field in dataclasses.fields(KINDS[kind])}
        right = st.fixed_dictionaries({"kind": st.just(kind), **names})
        return st.one_of(
            right, st.tuples(right, st.sampled_from(sorted(names)), ODD).map(lambda t: {**t[0], t[1]: t[2]})
        )

    return st.sampled_from(sorted(KINDS)).flatmap(fields)


TEXTS = ["", "a", "spot", "us-east-1", "g4dn.xlarge", "x\x1b[2J\n", "checkpoint-5.pt", "Server.Spot"]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "LossReason | None": st.sampled_from([None, "interrupted", "unreachable"]),
    "State": st.sampled_from(["RUNNING", "RECOVERING", "SUCCEEDED", "STOPPED"]),
    "EndedBy": st.sampled_from(["aws", "pixel-orch", "other"]),
    "int": st.sampled_from([0, 1, 1, 2, 3, 10**5]),
    "float": st.sampled_from([0.0, 0.5, 100.0, BORN, BORN + 900, BORN + 4000, 7e9]),
    "bool": st.booleans(),
    "dict[str, Any]": st.dictionaries(st.text(max_size=5), st.one_of(st.floats(), st.text(max_size=5))),
}


def _value(kind: str) -> st.SearchStrategy[Any]:
    """Give values of a field's type."""
    return VALUES.get(kind, VALUES.get(kind.removesuffix(" | None"), st.sampled_from(TEXTS)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("at", "1000"), ("at", True), ("at", None), ("at", -1.0), ("at", 1e12), ("at", float("nan")),
        ("at", float("inf")), ("attempt", 1.5), ("attempt", True), ("attempt", -1), ("attempt", 10**7),
        ("step", 10**13), ("step", -1), ("step", 10**400), ("step", "5"), ("step", [5]), ("images_per_s", -1),
        ("images_per_s", 1e300), ("images_per_s", "fast"), ("device", 5), ("device", {}), ("device", "x" * 200_000),
    ],
)  # fmt: skip
def test_a_value_of_a_wrong_type_or_range_is_an_error_that_names_it(field: str, value: object) -> None:
    with pytest.raises(WrongValueError, match=f"^{field}: "):
        from_json({**GOOD, field: value})


def test_a_missing_value_is_an_error_and_a_missing_one_with_a_default_is_not() -> None:
    assert from_json(GOOD) == Progress(at=1000.0, attempt=1, step=5, images_per_s=3.5)
    assert from_json({**GOOD, "at": 1000}) == from_json(GOOD), "an integer is a number"
    with pytest.raises(WrongValueError, match="step: it is missing"):
        from_json({key: value for key, value in GOOD.items() if key != "step"})
    for kind in (None, 5, [], {}, "nobody"):
        assert from_json({**GOOD, "kind": kind}) is None


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "", "a\0b", "a//b", ".", "x" * 2000])
def test_the_name_of_a_checkpoint_stays_below_its_folder(name: str) -> None:
    raw = {"kind": "checkpoint_pulled", "at": 1, "attempt": 1, "step": 1, "sha256": "a" * 64, "size_bytes": 1}
    with pytest.raises(WrongValueError, match="name: "):
        from_json({**raw, "name": name})
    assert from_json({**raw, "name": "checkpoint-500/model.pt"}) is not None


def test_lines_that_cannot_be_read_are_counted(home: Path) -> None:
    store = write_run(home, "one", [Had()])
    whole = store.events()
    with (store.folder / "events.jsonl").open("a") as file:
        for line in ("[" * 100_000, "\x00\x01", "5", json.dumps({**GOOD, "step": "5"}), '{"step": ' + "9" * 4000 + "}"):
            file.write(line + "\n")
        file.write("x" * (3 << 20) + "\n" + json.dumps({**GOOD, "kind": "of-a-newer-version"}) + "\n")
    assert store.read_events() == (whole, 6)
    assert store.state().unread_lines == 6
    assert store.defects(store.state()) == ["6 lines of events.jsonl left out: unreadable"]
    with (store.folder / "events.jsonl").open("a") as file:
        file.write('{"kind": "progr')
    assert store.read_events() == (whole, 6), "a line that is being written is no damage"


def test_figures_and_steps() -> None:
    assert [is_step(one) for one in (0, 10**12, True, 1.0, -1, 10**13, None)] == [True, True] + [False] * 5
    assert [is_figure(one) for one in (0, 1.5, True, float("nan"), 10**400, "1")] == [True, True] + [False] * 4


def test_any_dataclass_of_plain_fields_is_read() -> None:
    assert read(RunCreated, {"at": 1, "run": "a", "cloud": "AWS", "more": 1}) == RunCreated(
        at=1.0, run="a", cloud="AWS"
    )


@OFTEN
@given(st.lists(events(), max_size=25))
def test_the_fold_takes_whatever_can_be_read_in_any_order(raws: list[dict[str, Any]]) -> None:
    found: list[Event] = []
    for raw in raws:
        try:
            event = from_json(raw)
        except WrongValueError:
            continue
        assert event is not None
        found.append(event)
        assert "\x1b" not in event_words(event, BORN)
    state = fold(found)
    for now in (0.0, BORN + 2000, 7e9):
        seen = seen_at(state, now)
        assert total_usd(seen.state.attempts, now) >= 0
        assert all(a.ended_at is None or a.ended_at <= max(now, a.started_at, a.ended_at) for a in seen.state.attempts)


@OFTEN
@given(st.lists(st.one_of(events().map(json.dumps), st.text(max_size=40)), max_size=15), st.integers(0, 200))
def test_whatever_the_file_holds_and_wherever_it_is_cut_the_run_has_a_row(
    home: Path, lines: list[str], cut: int
) -> None:
    store = RunStore(home, "one") if (home / "runs").exists() else write_run(home, "one", [Had(seconds=60)])
    data = "\n".join(lines).encode("utf-8", "replace")
    (store.folder / "events.jsonl").write_bytes(data[: len(data) - cut])
    row = record_of(store, BORN + 5000).row
    assert row.run == "one"
    assert row.cost_usd >= 0
    assert row.duration_s >= 0


def test_a_fifo_is_never_waited_for_and_a_folder_is_no_file(home: Path) -> None:
    store = write_run(home, "one", [Had()])
    for name in ("events.jsonl", "spec.json"):
        path = store.folder / name
        kept = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        assert store.trouble() == f"{name}: it is a FIFO, not a file"
        path.unlink()
        path.mkdir()
        assert store.trouble() == f"{name}: it is a folder, not a file"
        path.rmdir()
        path.write_bytes(kept)
    assert store.trouble() == ""
