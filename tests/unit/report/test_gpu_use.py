"""A GPU that waits is said: the limit is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.dashboard.state import Board
from orchestrator.report.gpu_use import gpu_problem, gpu_words
from orchestrator.report.records import record_of
from orchestrator.report.summary import summary_text
from orchestrator.runs.events import GpuSeen, Progress
from tests.support.report_runs import BORN, Had, write_run

FACTS: dict[str, Any] = {
    "name": "Tesla T4", "utilization_percent": 34.4, "memory_peak_mib": 5222.0, "memory_total_mib": 15360.0,
    "looks": 100, "utilization_now_percent": 41.0, "memory_now_mib": 5120.0, "temperature_c": 61.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "is_said"),
    [({}, True), ({"utilization_percent": 93.0}, False), ({"looks": 3}, False), ({"utilization_percent": None}, False)],
)
def test_a_gpu_that_is_hardly_busy_is_a_problem(more: dict[str, Any], is_said: bool) -> None:
    assert bool(gpu_problem({**FACTS, **more})) is is_said


def test_words_need_a_measured_use() -> None:
    assert gpu_words(FACTS) == "Tesla T4, 34 % busy, at most 5.1 of 15.0 GiB"
    assert gpu_words({}) == ""
    assert gpu_words({"name": "\x1b[2J", "utilization_percent": 5.0}) == "\\x1b[2J, 5 % busy"
    assert gpu_words({"utilization_percent": "5"}) == ""


def test_report_and_dashboard_show_the_use_of_the_gpu(home: Path) -> None:
    told = [
        Progress(at=BORN + 90, attempt=1, step=120),
        GpuSeen(at=BORN + 95, attempt=1, facts=FACTS),
        Progress(at=BORN + 100, attempt=1, step=140),
        GpuSeen(at=BORN + 110, attempt=1, facts={**FACTS, "utilization_now_percent": 43.0, "temperature_c": None}),
    ]
    store = write_run(home, "one", [Had(ended_by=None, extra=list(told))])
    now = BORN + 3000
    assert "attempt 1: the GPU was 34 % busy: the limit is elsewhere, mostly in the loading of data" in (
        record_of(store, now).row.problems
    )
    assert "gpu         Tesla T4, 34 % busy, at most 5.1 of 15.0 GiB" in summary_text(store, now)
    board = Board(home)
    page, curves = board.run("one", now), board.curves("one")["curves"]
    assert page["gpu"] == {
        "use_percent": 43.0, "memory_mib": 5120.0, "memory_total_mib": 15360.0, "temperature_c": None,
    }  # fmt: skip
    assert curves["GPU use, %"] == [[120, 140], [41.0, 43.0]]
    assert curves["GPU temperature, °C"] == [[120], [61.0]]
    assert curves["GPU memory, GiB"][1] == [5.0, 5.0]
