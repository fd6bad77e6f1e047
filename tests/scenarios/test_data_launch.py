"""Launches that need data: prepared on the machine or fetched from S3, beside the bootstrap; what it cost. Slow."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.config.data_recipe import Options
from model.data.prepare.prepare import prepare
from orchestrator.runs.events import HostReady
from orchestrator.runs.store import RunStore
from tests.scenarios import test_second_home as second
from tests.support.data_files import Drive, write_bag, write_cifar
from tests.support.metrics import metrics_of
from tests.support.stage import Stage

pytestmark = pytest.mark.slow
stage = second.stage
BUCKET, client = second.BUCKET, second.client


def words(*more: str) -> list[str]:
    settings = ["hidden=3", "layers=1", "head=3", "samples=0", "batch_size=8", "device=cpu"]
    flags = ["--cloud", "local", "--instance", "p2.xlarge", "--spot", "-y", "--model", "pixelcnn"]
    return ["launch", *flags, *[word for one in settings for word in ("--set", one)], *more]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """Give the address of a mirror that has CIFAR-10's file, though with 60 images of our own."""
    write_cifar(tmp_path / "mirror" / "cifar-10-binary.tar.gz")
    (tmp_path / "mirror" / "train_32x32.tar").write_bytes(bytes(512))
    handler = functools.partial(Quiet, directory=str(tmp_path / "mirror"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def ready_of(stage: Stage, run: str) -> HostReady:
    (ready,) = [event for event in RunStore(stage.home, run).events() if isinstance(event, HostReady)]
    return ready


def test_published_files_are_fetched_and_prepared_on_the_machine(stage: Stage, mirror: str) -> None:
    there = ["--prepare", f"source={mirror}", "--prepare", "levels=16", "--prepare", "unverified=true"]
    code, said = stage.run(*words("--dataset", "cifar10", "--steps", "20", *there, "-n", "small", "-o", "json"))
    assert code == 0, said
    summary = json.loads(said.strip().splitlines()[-1])
    assert (summary["state"], summary["steps"]) == ("SUCCEEDED", 20)
    ready = ready_of(stage, "small")
    assert ready.data_how == "prepared"
    assert 0 < ready.data_s <= ready.setup_s  # beside the bootstrap, not behind it
    code, said = stage.run("report", "-o", "json")
    assert code == 0, said
    (run,) = json.loads(said)["runs"]
    assert run["data_s"] == summary["data_s"] == ready.data_s
    assert 0 < run["data_usd"] < run["to_first_step_usd"] < run["instance_usd"]
    start = next(line for line in metrics_of(RunStore(stage.home, "small")) if line.get("event") == "start")
    assert start["images_per_epoch"] == 50
    second.end_cloud(stage)


def test_a_mirror_with_another_file_is_one_line_and_the_machine_is_gone(stage: Stage, mirror: str) -> None:
    place = ["--prepare", f"source={mirror}"]  # whose train_32x32.tar is 512 bytes
    code, said = stage.run(*words("--dataset", "imagenet-small-32", "--steps", "20", *place, "-n", "small"))
    assert code == 1, said
    assert "set-up failed, another machine would not help" in said
    assert "has 512 bytes, the published file" in said
    assert "Traceback" not in said
    assert [one["state"] for one in stage.embedded().instances()] == ["terminated"]
    second.end_cloud(stage)


def test_a_data_bucket_that_the_machine_could_not_read_is_refused_before_anything_is_rented(stage: Stage) -> None:
    place = ("--dataset", "cifar10", "--steps", "20", "--data-bucket", f"s3://{BUCKET}/pixel-orch/data/small")
    code, said = stage.run(*words(*place))
    assert code == 2, said
    assert f"--data-bucket: there is no bucket {BUCKET}" in said
    client(stage, "s3").create_bucket(Bucket=BUCKET)
    code, said = stage.run(*words(*place))
    assert code == 2, said
    assert "--data-bucket: no instance profile lets the instance read it; run `pixel-orch setup`" in said
    assert stage.embedded().instances() == []
    second.end_cloud(stage)


def test_what_a_first_attempt_prepared_is_in_the_bucket_for_the_next(stage: Stage, mirror: str) -> None:
    second.prepare(stage)
    place = ["--data-bucket", f"s3://{BUCKET}/pixel-orch/data/small", "--instance-profile", "pixel-orch"]
    there = ["--prepare", "levels=16", "--prepare", "unverified=true", "--prepare"]
    cifar = ["--dataset", "cifar10", "--steps", "20", *place, *there]
    code, said = stage.run(*words(*cifar, f"source={mirror}", "-n", "one"))
    assert code == 0, said
    assert ready_of(stage, "one").data_how.startswith("prepared, and uploading to s3://")
    code, said = stage.run(*words(*cifar, "source=http://127.0.0.1:1", "-n", "two"))  # nobody is there
    assert code == 0, said
    assert ready_of(stage, "two").data_how == "fetched"
    assert [run.state().step for run in RunStore.all(stage.home)] == [20, 20]
    code, said = stage.run(*words(*cifar, "levels=8", "-n", "three"))
    assert code == 1, said
    assert 'was prepared with {"holdout": null, "levels": 16}, not {"holdout": null, "levels": 8}' in said
    second.end_cloud(stage)


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
    assert ready.data_how == "fetched"
    assert summary["data_usd"] == pytest.approx(ready.data_s / 3600 * summary["attempts"][0]["price_usd_h"])
    second.end_cloud(stage)
