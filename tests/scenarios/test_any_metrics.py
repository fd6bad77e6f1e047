"""Programs without a line for pixel-orch on the embedded cloud: they are measured, interrupted, and reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.runs.program_events import MetricsFound, WorkUnsaved
from tests.support.stage import Stage, staged

pytestmark = pytest.mark.slow

PRINTS = """
import os, time
first = int(open("model.pt").read()) if os.path.exists("model.pt") else 0
for epoch in range(first + 1, 16):
    time.sleep(0.4)
    with open("model.tmp", "w") as file:
        file.write(str(epoch))
    os.replace("model.tmp", "model.pt")
    print(f"Epoch {epoch}/15 | loss: {1 / epoch:.4f}")
"""
SILENT = "import time; time.sleep(6)"
LOGS = """
import time
import orchestrator
for step in range(1, 21):
    time.sleep(0.1)
    orchestrator.log(step, loss=1 / step)
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    yield from staged(tmp_path)


def launched(stage: Stage, source: str, *flags: str) -> dict[str, object]:
    """Launch a program, which must succeed; return its report."""
    (stage.work / "train.py").write_text(source)
    words = ["launch", "--cloud", "local", "--instance", "p2.xlarge", "--spot", "-y", "-n", "tiny"]
    code, said = stage.run(*words, "--workdir", str(stage.work), *flags, "--", "python", "train.py")
    assert code == 0, said
    code, text = stage.run("status", "tiny", "-o", "json")
    assert code == 0
    found: dict[str, object] = {**json.loads(text), "said": said}
    return found


def test_a_program_that_only_prints_is_measured_by_patterns_and_told_what_an_interruption_loses(stage: Stage) -> None:
    found = launched(
        stage, PRINTS, "--metric", r"epoch=Epoch (\d+)/", "--metric", r"loss=loss: (\S+)", "--interrupt-after", "3"
    )
    assert (found["state"], found["steps"], found["steps_are"]) == ("SUCCEEDED", 15, "epochs")
    assert found["metrics_source"] == "the patterns of --metric"
    assert found["metrics"] == {"loss": 0.0667}
    assert found["interruptions"] == 1
    assert 0.3 < float(str(found["seconds_per_step"])) < 1.5
    events = stage.store.events()
    assert [event.attempt for event in events if isinstance(event, MetricsFound)] == [1, 2]
    assert len([event for event in events if isinstance(event, WorkUnsaved)]) == 1
    assert "The program does not handle SIGTERM: an interruption loses" in str(found["said"])
    code, text = stage.run("report", "tiny")
    assert code == 0 and "15 ep" in text


def test_a_program_without_any_metrics_is_interrupted_by_its_start_and_reported_by_time(stage: Stage) -> None:
    found = launched(stage, SILENT, "--interrupt-after", "1")
    assert (found["state"], found["steps"], found["metrics_source"]) == ("SUCCEEDED", None, None)
    assert found["interruptions"] == 1
    assert float(str(found["cost_usd"])) > 0
    code, text = stage.run("status", "tiny")
    assert code == 0
    assert "metrics     none found" in text and "no step was trained" not in text and "steps       0" not in text


def test_a_program_logs_by_the_one_line_that_it_may_have(stage: Stage) -> None:
    found = launched(stage, LOGS)
    assert (found["steps"], found["metrics_source"]) == (20, "metrics.jsonl")
    assert found["metrics"] == {"loss": 0.05}
    assert 0.08 < float(str(found["seconds_per_step"])) < 0.3
