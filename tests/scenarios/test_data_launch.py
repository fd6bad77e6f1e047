"""A launch whose data lie in S3: on the machine before the GPU waits, and what that took is in the summary. Slow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.data.prepare import Options, prepare
from orchestrator.events import HostReady
from orchestrator.store import RunStore
from tests.data_files import Drive, write_bag
from tests.scenarios import test_second_home as second
from tests.scenarios.stage import Stage

pytestmark = pytest.mark.slow
stage = second.stage
BUCKET, client = second.BUCKET, second.client


def words(*more: str) -> list[str]:
    settings = ["hidden=3", "layers=1", "head=3", "samples=0", "batch_size=8", "device=cpu"]
    flags = ["--cloud", "local", "--instance", "p2.xlarge", "--spot", "-y", "--model", "pixelcnn"]
    return ["launch", *flags, *[word for one in settings for word in ("--set", one)], *more]


def test_a_drive_is_fetched_from_s3_and_trained_on(stage: Stage, tmp_path: Path) -> None:
    second.prepare(stage)
    bag = write_bag(tmp_path / "drive.bag", Drive(seconds=4))
    prepare("udacity", Options(source=str(bag), out=tmp_path / "data", size=8, levels=8))
    for path in (tmp_path / "data").glob("[!.]*"):
        client(stage, "s3").upload_file(str(path), BUCKET, f"pixel-orch/data/drive/{path.name}")
    place = ["--data-bucket", f"s3://{BUCKET}/pixel-orch/data/drive", "--instance-profile", "pixel-orch"]
    code, said = stage.run(
        *words("--dataset", "udacity", "--steps", "20", "--set", "condition=speed", *place, "-n", "drive", "-o", "json")
    )
    assert code == 0, said
    summary = json.loads(said.strip().splitlines()[-1])
    assert (summary["state"], summary["steps"]) == ("SUCCEEDED", 20)
    (ready,) = [event for event in RunStore(stage.home, "drive").events() if isinstance(event, HostReady)]
    assert 0 < ready.data_s <= ready.setup_s
    assert summary["data_s"] == ready.data_s
    assert summary["data_usd"] == pytest.approx(ready.data_s / 3600 * summary["attempts"][0]["price_usd_h"])
    second.end_cloud(stage)
