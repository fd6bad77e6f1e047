"""Runs are read from their folders; the metrics of an attempt that is over are digested once."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.report.records import record_of, records_of
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, Had, write_run

NOW = BORN + 10**6


def test_the_metrics_of_an_ended_attempt_are_digested_once(home: Path) -> None:
    store = write_run(home, "kept", [Had()])
    before = record_of(store, NOW)
    kept = store.attempt_folder(1) / "digest.json"
    assert kept.exists()
    assert record_of(store, NOW).digests == before.digests
    kept.write_text('{"key": 1}')
    assert record_of(store, NOW).digests == before.digests, "a damaged one is made anew"
    with (store.attempt_folder(1) / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 101, "split": "valid", "nats": 1.0, "bits_per_dim": 0.5}) + "\n")
    assert record_of(store, NOW).row.bits_per_dim == 0.5, "a file that has grown is read again"


def test_a_running_attempt_keeps_no_digest(home: Path) -> None:
    store = write_run(home, "going", [Had(ended_by=None)])
    assert record_of(store, NOW).row.is_estimate
    assert not (store.attempt_folder(1) / "digest.json").exists()


def test_many_runs_are_read_in_parallel_and_keep_their_order(home: Path) -> None:
    names = [f"run-{number:03}" for number in range(45)]
    for name in names:
        write_run(home, name, [Had(last_step=3)])
    found = records_of([RunStore(home, name) for name in names], NOW)
    assert [record.row.run for record in found] == names
    assert found[7].row == record_of(RunStore(home, "run-007"), NOW).row
