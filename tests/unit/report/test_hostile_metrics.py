"""Metrics that a stranger wrote: what makes no sense is left out and counted; fast path and slow path agree."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.report import metrics
from orchestrator.report.metrics import Digest, digest, parse, read
from orchestrator.report.records import record_of
from orchestrator.report.summary import steps_done
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, Had, write_run

OFTEN = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FINE = [json.dumps({"step": step, "images_per_s": 100.0, "wall_s": float(step), "bits_per_dim": 2.0}) for step in
        range(1, 11)]  # fmt: skip
UNREADABLE = {
    "nested": "[" * 100_000,
    "nested in a line": '{"step": 3, "x": ' + "[" * 200 + "]" * 200 + "}",
    "a speed of 400 digits": '{"step": 3, "images_per_s": ' + "1" * 400 + "}",
    "a step of 4,000 digits": '{"step": ' + "7" * 4000 + "}",
    "a step of 5,000 digits": '{"step": ' + "7" * 5000 + "}",
    "2 MiB": '{"step": 3, "x": "' + "a" * (2 << 20) + '"}',
    "binary": "\x00\x01\x02",
    "a list": '[{"step": 3}]',
}
WRONG = {
    "negative step": '{"step": -5, "images_per_s": 5}',
    "huge step": '{"step": 1000000000000001, "images_per_s": 5}',
    "step of text": '{"step": "12", "images_per_s": 5}',
    "step that is true": '{"step": true, "images_per_s": 5}',
    "step with a point": '{"step": 1.5, "images_per_s": 5}',
    "negative speed": '{"step": 4, "images_per_s": -5}',
    "speed of text": '{"step": 4, "images_per_s": "fast"}',
    "huge speed": '{"step": 4, "images_per_s": 1e300}',
    "speed that is a list": '{"step": 4, "images_per_s": [5]}',
    "loss that is true": '{"step": 4, "nats": true}',
    "huge loss": '{"step": 4, "bits_per_dim": -1e200}',
    "time of text": '{"step": 4, "images_per_s": 100.0, "wall_s": "now"}',
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_line_that_cannot_be_read_is_counted(tmp_path: Path, what: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join([*FINE[:5], UNREADABLE[what], *FINE[5:]]) + "\n")
    found = read(path)
    assert (found.torn, found.lines, found.measured) == (1, 10, 9)
    assert found.problems == ("1 line of the metrics unreadable and left out",)


@pytest.mark.parametrize("what", WRONG)
def test_a_value_that_makes_no_sense_is_counted_and_left_out(tmp_path: Path, what: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join([*FINE[:5], WRONG[what], *FINE[5:]]) + "\n")
    found = read(path)
    assert (found.wrong, found.torn, found.images_per_s) == (1, 0, pytest.approx(100))
    assert "1 value of the metrics out of range and left out" in found.problems
    assert {bits for _, bits in found.train_curve} == {2.0}


def test_the_run_and_its_home_live_with_all_of_it_at_once(home: Path) -> None:
    lines = [*FINE, *UNREADABLE.values(), *WRONG.values(), '{"step": 170, "nats": NaN}', '{"step": 1e400}']
    lines += ['{"event": "start", "device": {"a": 1}, "batch_size": 1e400, "images_per_epoch": "x"}']
    store = write_run(home, "one", [Had(ended_by=None, lines=lines)])
    row = record_of(store, BORN + 10**4).row
    assert row.images_per_s == pytest.approx(100)
    assert steps_done(store, store.state()) == 170
    assert row.cost_usd > 0


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.integers(0, 50),
    st.floats(),
    st.sampled_from(["valid", "start", "end", "x{y", "[", "\u2028", "a" * 30]),
)
KEYS = st.sampled_from(
    ["step", "images_per_s", "wall_s", "nats", "bits_per_dim", "split", "event", "batch_size", "images_per_epoch",
     "device", "x"]
)  # fmt: skip
LINES = st.one_of(
    st.dictionaries(KEYS, st.one_of(SCALARS, st.lists(SCALARS, max_size=2)), max_size=6).map(json.dumps),
    st.sampled_from(
        ['{"a": 1', '"b": 2}', '{"a": 1}, {"b": 2', '{"a": "x}', '{","b": "}', "{}", "[]", " {} ", '{"a": "\\ud800"}',
         "\u00e9", '{"step": 1, "images_per_s": 1e400}', '{"step": -0}', '{"step": 01}', '{"a": 1, "a": 2}', "1", "}",
         '{"step": 5, "images_per_s": 0.000012345678901234567890123}', '{"step": -123456789012345678}', "\ufeff{}"]
    ),
    st.text(max_size=12).filter(lambda text: "\n" not in text),
)  # fmt: skip


def _one_by_one(raw: bytes) -> tuple[list[dict[str, Any]], int]:
    """Parse in the slow way alone."""
    found: list[dict[str, Any]] = []
    lines = [line for line in raw.split(b"\n") if line and not line.isspace()]
    for line in lines:
        metrics._one(line, found)
    return found, len(lines) - len(found)


@OFTEN
@given(st.lists(LINES, max_size=20))
@pytest.mark.parametrize("library", ["orjson", "json"])
def test_both_ways_give_the_same_digest(monkeypatch: pytest.MonkeyPatch, library: str, lines: list[str]) -> None:
    if library == "json":
        monkeypatch.setattr(metrics, "_loads", lambda text: json.loads(text.decode()))
    monkeypatch.setattr(metrics, "FEW_LINES", 1)
    raw = "\n".join(lines).encode("utf-8", "surrogatepass")
    found, torn = parse(raw)
    slow, slow_torn = _one_by_one(raw)
    assert torn == slow_torn
    assert repr(digest(found, torn=torn)) == repr(digest(slow, torn=torn))
    if "NaN" not in repr(found) and "nan" not in repr(found):
        assert found == slow


def test_a_digest_survives_being_kept() -> None:
    found = digest([json.loads(line) for line in FINE])
    assert metrics.from_json(json.loads(json.dumps(metrics.to_json(found)))) == found


@OFTEN
@given(st.one_of(SCALARS, st.dictionaries(st.sampled_from(sorted(metrics.to_json(Digest()))), SCALARS)))
def test_a_kept_digest_that_is_hostile_is_refused(raw: object) -> None:
    if isinstance(raw, dict):
        raw = {**metrics.to_json(Digest()), "train_curve": [], "valid_curve": [], **raw}
    try:
        found = metrics.from_json(raw)
    except ValueError:
        return
    assert isinstance(found.problems, tuple)
    json.dumps(metrics.to_json(found), allow_nan=False)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "{}", '{"key": 1}', "\x00", '{"digest": {}}', "7" * 5000])
def test_a_damaged_kept_digest_is_made_again(home: Path, text: str) -> None:
    store = write_run(home, "one", [Had()])
    before = record_of(store, BORN + 10**4)
    kept = store.metrics_path(1).with_name("digest.json")
    whole = kept.read_bytes()
    for damaged in (text.encode(), whole[:-20], whole.replace(b'"images_per_s":', b'"images_per_s":"fast","x":')):
        kept.write_bytes(damaged)
        assert record_of(RunStore(home, "one"), BORN + 10**4) == before
        assert kept.read_bytes() == whole, "it is made again"


@pytest.mark.slow
def test_an_endless_line_fills_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with path.open("wb") as file:
        file.write("\n".join(FINE).encode() + b'\n{"step": 11, "x": "')
        file.truncate(200 << 20)  # a hole of zeros
    with path.open("ab") as file:
        file.write(b'"}\n' + "\n".join(FINE).encode() + b"\n")
    tracemalloc.start()
    found = read(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.lines, found.torn) == (20, 1)
    assert most < 40 << 20
    path.write_bytes(b"")
    with path.open("ab") as file:
        file.truncate(4 << 30)
    assert "the metrics are longer than 512 MiB; the rest is not read" in read(path).problems
