"""Runs of several processes have a row of their own, and their speed counts for one GPU in the predictions."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from model.config import TrainConfig
from orchestrator.market import catalog
from orchestrator.market.scaling import Estimate, group, work_of_rank
from orchestrator.market.spot_prices import recorded_regions, recorded_rows
from orchestrator.market.throughput import bound_s, work_of
from orchestrator.plan.planner import measured_speeds
from orchestrator.report import Report, as_json, as_markdown, as_text, build
from orchestrator.report.metrics import digest
from orchestrator.report.records import records_of
from orchestrator.runs.events import InstanceStarted
from orchestrator.runs.group_events import GroupFormed
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, Had, metrics, write_run

NOW = BORN + 10**6
NAMES = ["g5.xlarge", "g5.12xlarge", "p4d.24xlarge"]


def of_ranks(had: Had, ranks: int) -> Had:
    """Return an attempt whose `start` line says how many processes share each batch."""
    lines = [json.loads(line) for line in metrics(had, BORN + 10)]
    had.lines = [json.dumps(line | ({"world": ranks} if line.get("event") == "start" else {})) for line in lines]
    return had


def report(home: Path) -> Report:
    records = records_of(RunStore.folders(home), NOW)
    workloads = {record.workload.name: record.workload for record in records}
    prices = recorded_rows(NAMES, recorded_regions(NAMES), 0)
    return build([record.row for record in records], NOW, workloads=workloads, prices=prices)


@pytest.mark.parametrize(("world", "ranks"), [(4, 4), (None, 1), (0, 1), (-2, 1), (True, 1), ("4", 1), (10**9, 1)])
def test_the_start_line_says_how_many_processes_there_are(world: object, ranks: int) -> None:
    assert digest([{"event": "start", "world": world}]).world == ranks


def test_a_group_is_not_mixed_with_one_process(home: Path) -> None:
    write_run(home, "one", [Had("g5.xlarge", images_per_s=1000)])
    write_run(home, "four", [of_ranks(Had("g5.xlarge", images_per_s=3000), 4)])
    found = {row.ranks: row.images_per_s for row in report(home).types}
    assert found == {1: pytest.approx(1000), 4: pytest.approx(3000)}
    assert {row["ranks"] for row in as_json(report(home))["types"]} == {1, 4}
    assert "g5.xlarge, 4 processes" in as_text(report(home))
    assert "g5.xlarge, 4 processes" in as_markdown(report(home))


def test_the_speed_of_several_processes_counts_for_one_gpu(home: Path) -> None:
    write_run(home, "four", [of_ranks(Had("g5.12xlarge", images_per_s=4000), 4)])
    config = TrainConfig(steps=1000)
    (made,) = [row for row in report(home).predicted if row.instance_type == "g5.xlarge"]
    known, other = catalog.find("g5.12xlarge"), catalog.find("g5.xlarge")
    slowdown = 1 / (1000 * bound_s(work_of_rank(config, 4), known))
    assert made.images_per_s == pytest.approx(1 / (slowdown * bound_s(work_of(config), other)))


def test_a_run_of_one_process_is_taken_before_one_of_several(home: Path) -> None:
    write_run(home, "one", [Had("g4dn.xlarge", images_per_s=700)])
    before = {row.instance_type: row.images_per_s for row in report(home).predicted}
    write_run(home, "two", [of_ranks(Had("g4dn.xlarge", images_per_s=100), 2)])
    assert {row.instance_type: row.images_per_s for row in report(home).predicted} == before


def test_predictions_say_how_many_gpus_there_are_and_what_all_of_them_do(home: Path) -> None:
    write_run(home, "one", [Had("g4dn.xlarge", images_per_s=700)])
    rows = {row.instance_type: row for row in report(home).predicted}
    one, eight = rows["g5.xlarge"], rows["p4d.24xlarge"]
    assert (one.gpus, one.one_gpu_images_per_s) == (1, one.images_per_s)
    assert eight.gpus == 8
    assert eight.one_gpu_images_per_s is not None
    config = TrainConfig(steps=1000)
    known = catalog.find("p4d.24xlarge")
    assert eight.images_per_s == group(known, 1, config, Estimate(eight.one_gpu_images_per_s, 1, 1e9)).images_per_s.mid
    assert eight.usd_per_epoch is not None
    assert "IMAGES/S is of all GPUs of a machine" in " ".join(as_text(report(home)).split())


def test_a_batch_that_does_not_divide_is_predicted_for_one_gpu(home: Path) -> None:
    write_run(home, "one", [Had("g4dn.xlarge", images_per_s=700)], trainer=TrainConfig(batch_size=20))
    rows = {row.instance_type: row for row in report(home).predicted}
    assert rows["p4d.24xlarge"].gpus == 1
    assert rows["p4d.24xlarge"].images_per_s == rows["p4d.24xlarge"].one_gpu_images_per_s


def test_a_group_is_one_row_at_the_price_of_all_its_machines(home: Path) -> None:
    """The first machine alone has metrics; the others are billed as well."""
    store = write_run(home, "group", [of_ranks(Had("g5.xlarge", price_usd_h=0.5, images_per_s=1500), 2)])
    store.append(GroupFormed(at=BORN + 20, generation=1, attempts=(1, 2), kept_from=(0, 0)))
    other = InstanceStarted(
        at=BORN + 10, attempt=2, instance_id="i-2", instance_type="g5.xlarge", zone="us-east-1a", region="us-east-1",
        market="spot", price_usd_h=0.5,
    )  # fmt: skip
    lines = store.folder / "events.jsonl"
    old = lines.read_text().splitlines()
    lines.write_text("\n".join([*old[:2], json.dumps(other.to_json()), old[-1], *old[2:-1]]) + "\n")
    (row,) = report(home).types
    assert (row.nodes, row.ranks, row.attempts, row.label) == (2, 2, 1, "2 x g5.xlarge")
    assert row.price_usd_h == Decimal("1.0")
    assert row.usd_per_epoch == pytest.approx(Decimal(1257) / 1500 * Decimal("1.0") / 3600)
    (run,) = report(home).runs
    assert run.usd_per_epoch == row.usd_per_epoch
    assert not [problem for problem in run.problems if "no metrics" in problem]
    (attempt,) = run.attempts
    assert [(one.rank, one.instance_id) for one in attempt.members] == [(0, attempt.instance_id), (1, "i-2")]
    assert attempt.billed_usd == sum(one.billed_usd for one in attempt.members)


def test_the_speed_of_several_machines_ranks_no_single_one(home: Path) -> None:
    write_run(home, "one", [Had("g4dn.xlarge", images_per_s=700)])
    write_run(home, "four", [of_ranks(Had("g5.xlarge", images_per_s=4000), 4)])
    write_run(home, "machine", [of_ranks(Had("g5.12xlarge", images_per_s=3900), 4)])
    names = ("g4dn.xlarge", "g5.xlarge", "g5.12xlarge")
    asked = RunSpec(run="x", cloud="aws", instances=names, market="spot", regions=("us-east-1",),
                    trainer=TrainConfig(steps=1000))  # fmt: skip
    assert measured_speeds(home, asked) == {"g4dn.xlarge": pytest.approx(700), "g5.12xlarge": pytest.approx(3900)}
