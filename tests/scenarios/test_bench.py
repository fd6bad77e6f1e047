"""A bench on the embedded cloud: side by side, one type without capacity, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.instance.gpu import gpu_facts
from infra.instance.watch import Watch
from infra.local import EmbeddedCloud
from orchestrator.runs.store import RunStore
from tests.support.stage import Stage, last_json, staged

pytestmark = pytest.mark.slow

TRAINER = """
import json, os, time
out = os.environ["PIXEL_ORCH_OUT"]
began = time.monotonic()
with open(os.path.join(out, "metrics.jsonl"), "a") as file:
    def say(**line):
        file.write(json.dumps(line) + "\\n"); file.flush()
    say(event="start", device_name="tiny", batch_size=8, images_per_epoch=800, resumed_from=0)
    for step in range(1, 41):
        time.sleep(0.5 if step == 1 else SLEEP)
        wall_s = time.monotonic() - began
        say(step=step, images_per_s=8 / (0.5 if step == 1 else SLEEP), wall_s=wall_s, bits_per_dim=2 + 1 / step)
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage."""
    yield from staged(tmp_path)


def check_all_gone(stage: Stage) -> None:
    assert EmbeddedCloud.find(stage.home) is None
    assert stage.leftovers() == []
    for store in RunStore.all(stage.home):
        assert store.state().is_final
        assert store.state().open_attempts() == []


def test_three_types_one_without_capacity_end_in_a_report_of_each(stage: Stage) -> None:
    (stage.work / "mine.py").write_text(TRAINER.replace("SLEEP", "0.02"))
    faults = stage.work / "faults.json"
    faults.write_text(
        json.dumps([{"operation": "RunInstances", "type": "g6.xlarge", "error": "InsufficientInstanceCapacity"}])
    )
    page = stage.work.parent / "bench.html"
    words = [
        "bench",
        "--cloud",
        "local",
        "--instance",
        "p2.xlarge,g5.xlarge,g6.xlarge",
        "--spot",
        "-y",
        "--steps",
        "40",
    ]
    words += ["--budget", "1", "--full-steps", "1000", "-n", "three", "-o", "json", "--html", str(page)]
    words += ["--workdir", str(stage.work), "--faults", str(faults), "--command", f"{sys.executable} mine.py"]
    code, said = stage.run(*words)
    assert code == 1, said
    answer = last_json(said)
    rows = {row["instance_type"]: row for row in answer["types"]}
    assert "No spot capacity for g6.xlarge" in rows["g6.xlarge"]["says"]
    assert rows["g6.xlarge"]["images_per_s"] is None
    for name in ("p2.xlarge", "g5.xlarge"):
        row = rows[name]
        assert row["state"] == "SUCCEEDED", said
        assert row["says"] == ""
        assert row["images_per_s"] == pytest.approx(400), "steady state: the slow first step is warm-up"
        assert row["usd_per_step"] == pytest.approx(row["seconds_per_step"] * row["price_usd_h"] / 3600)
        assert row["est_usd"] == pytest.approx(1000 * row["usd_per_step"])
        assert row["usd_per_epoch"] == pytest.approx(800 / 400 * row["price_usd_h"] / 3600)
        assert not row["is_ranked"], "the embedded cloud measures this machine"
        assert row["target_bits"] == pytest.approx(2 + 1 / 40)
    spent = sum(float(RunStore(stage.home, row["run"]).spec().limits.budget_usd or 0) for row in rows.values())
    assert spent <= 1
    assert "three-g6-xlarge" in page.read_text()
    check_all_gone(stage)


def test_groups_of_two_sizes_are_measured_beside_the_estimate(stage: Stage) -> None:
    words = ["bench", "--cloud", "local", "--instance", "g5.xlarge", "--nodes", "1,2", "--spot", "-y", "--steps", "20"]
    code, said = stage.run(*words, "--budget", "3", "-n", "groups", "-o", "json")
    assert code == 0, said
    rows = {row["nodes"]: row for row in last_json(said)["types"]}
    assert [rows[nodes]["run"] for nodes in (1, 2)] == ["groups-g5-xlarge-x1", "groups-g5-xlarge-x2"]
    assert rows[1]["efficiency"] == 1
    assert rows[2]["efficiency"] == pytest.approx(rows[2]["images_per_s"] / rows[1]["images_per_s"] / 2)
    assert rows[2]["usd_per_step"] == pytest.approx(rows[2]["seconds_per_step"] * rows[2]["price_usd_h"] / 3600)
    assert {row["estimate_basis"].split()[0] for row in rows.values()} == {"predicted"}, "no CPU stands for a GPU"
    states = {nodes: RunStore(stage.home, row["run"]).state() for nodes, row in rows.items()}
    assert {nodes: len(state.attempts) for nodes, state in states.items()} == {1: 1, 2: 2}
    prices = sum(attempt.price_usd_h for attempt in states[2].attempts)
    assert rows[2]["price_usd_h"] == pytest.approx(prices), "of both machines"
    budgets = [float(RunStore(stage.home, rows[n]["run"]).spec().limits.budget_usd or 0) for n in (1, 2)]
    assert budgets == [1, 2]
    check_all_gone(stage)


def test_ctrl_c_ends_every_machine_of_a_bench(stage: Stage) -> None:
    (stage.work / "mine.py").write_text(TRAINER.replace("SLEEP", "0.5"))
    words = ["bench", "--cloud", "local", "--instance", "p2.xlarge,g5.xlarge", "--spot", "-y", "--steps", "40"]
    words += ["-n", "two", "--workdir", str(stage.work), "--", sys.executable, "mine.py"]
    bench = stage.start(*words)
    stores = [RunStore(stage.home, f"two-{name}") for name in ("p2-xlarge", "g5-xlarge")]
    stage.until(lambda: all(store.state().step > 1 for store in stores), "both to train")
    os.kill(bench.pid, signal.SIGINT)
    assert bench.wait(60) == 130, stage.said(bench)
    assert [store.state().state for store in stores] == ["CANCELLED", "CANCELLED"]
    assert "Traceback" not in stage.said(bench)
    check_all_gone(stage)


def test_the_agent_lets_nvidia_smi_write_and_ends_it_with_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.write_text('#!/bin/sh\nfor n in 1 2; do echo "Tesla T4, 1590, 5000, 9$n, 310$n, 15360"; done\nexec sleep 60\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "agent").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "code").mkdir()
    job = {"command": ["true"], "env": {}, "path_first": "/usr/bin"}
    watch = Watch(str(tmp_path), job)
    watch.start_trainer()
    watch.gpu.start()
    give_up_at = time.monotonic() + 20
    while len((tmp_path / "agent" / "gpu.csv").read_text().splitlines()) < 2 and time.monotonic() < give_up_at:
        time.sleep(0.02)
    assert watch.trainer is not None
    watch.trainer.wait()
    watch.poll_trainer()
    assert watch.gpu.is_logging is False, "it has ended with the trainer"
    facts = gpu_facts(str(tmp_path / "agent" / "gpu.csv"))
    assert (facts["name"], facts["utilization_percent"], facts["memory_peak_mib"]) == ("Tesla T4", 91.5, 3102)
