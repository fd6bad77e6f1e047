"""A program without a line for us, on the embedded cloud with --bucket: its outputs go through S3. Slow."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.instance.outputs.stored_state import StoredState, from_bytes
from orchestrator.runs.output_events import OutputsPulled, OutputsRestored
from tests.scenarios.test_second_home import BUCKET, client, end_cloud, prepare, user_id, wait_until_gone
from tests.support.stage import Stage, last_json, staged

pytestmark = pytest.mark.slow

PROGRAM = """
import json, os, shutil, sys, time
last, pause, gate = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
epoch = json.load(open("model.json"))["epoch"] if os.path.exists("model.json") else 0
print("begins with epoch", epoch, flush=True)
while epoch < last:
    while epoch == 4 and gate and not os.path.exists(gate[0]):
        time.sleep(0.05)
    epoch += 1
    time.sleep(pause)
    os.makedirs("run/epoch-%d" % epoch, exist_ok=True)
    with open("run/epoch-%d/weights \\u00fc.bin" % epoch, "wb") as file:
        file.write(b"%04d" % epoch * 5_000_000)  # 20 MB: two parts
    with open("history.csv", "a") as file:
        file.write("%d,0.5\\n" % epoch)
    with open("model.json.new", "w") as file:
        json.dump({"epoch": epoch}, file)
    os.replace("model.json.new", "model.json")
    shutil.rmtree("run/epoch-%d" % (epoch - 1), ignore_errors=True)
    print("epoch", epoch, flush=True)
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    for stage in staged(tmp_path):
        (stage.home / "local").mkdir(parents=True, mode=0o700)
        (stage.work / "train.py").write_text(PROGRAM)
        with (stage.home / "local" / "in-use").open("w") as in_use:
            fcntl.flock(in_use, fcntl.LOCK_SH)
            stage.in_use = in_use  # type: ignore[attr-defined]
            prepare(stage)
            yield stage


def folder_of(stage: Stage, number: int = 1) -> str:
    return f"{stage.store.spec().bucket_prefix}/machines/{user_id(stage, stage.instance_id(number))}"


def content(stage: Stage, key: str) -> bytes:
    return bytes(client(stage, "s3").get_object(Bucket=BUCKET, Key=key)["Body"].read())


def in_s3(stage: Stage, number: int = 1) -> tuple[StoredState, dict[str, Any]]:
    """Return the state that a machine stored, and its model: an error while there is none."""
    state = from_bytes(content(stage, f"{folder_of(stage, number)}/outputs/state.json"))
    digest = next(entry["sha256"] for entry in state.files if entry["path"] == "model.json")
    return state, json.loads(content(stage, f"{folder_of(stage, number)}/outputs/objects/{digest}"))


def epoch_in_s3(stage: Stage, least: int) -> int:
    try:
        epoch = int(in_s3(stage)[1]["epoch"])
    except Exception:  # noqa: BLE001  (no instance, no object yet)
        return 0
    return epoch if epoch >= least else 0


def check_outputs(folder: Path, epochs: int) -> None:
    assert json.loads((folder / "model.json").read_text()) == {"epoch": epochs}
    lines = (folder / "history.csv").read_text().splitlines()
    assert lines == [f"{epoch},0.5" for epoch in range(1, epochs + 1)], "no epoch twice, and none is missing"
    weights = [path for path in (folder / "run").rglob("*") if path.is_file()]
    assert [path.relative_to(folder).as_posix() for path in weights] == [f"run/epoch-{epochs}/weights ü.bin"]
    assert weights[0].read_bytes() == b"%04d" % epochs * 5_000_000


def test_an_interruption_without_notice_goes_on_from_what_s3_has_though_home_has_less(stage: Stage) -> None:
    flags = ("--bucket", BUCKET, "--download-every", "30m")
    gate = stage.work.parent / "interrupted"  # the program does not end before its interruption, however slow S3 is
    launch = stage.start(*stage.launch_words("6", "1", str(gate), flags=flags))
    stage.until(lambda: epoch_in_s3(stage, 3), "epoch 3 in S3")
    before = [event for event in stage.store.events() if isinstance(event, OutputsPulled)]
    assert len(before) <= 1, "home takes none for half an hour"
    stage.embedded().interrupt(stage.instance_id(), notice=False)
    gate.touch()
    assert launch.wait(90) == 0, stage.said(launch)
    (restored,) = [event for event in stage.store.events() if isinstance(event, OutputsRestored)]
    assert restored.source == "S3"
    log = stage.store.log_path(2).read_text()
    begun = int(log.split("begins with epoch ", 1)[1].split()[0])
    assert 3 <= begun < 6, log
    check_outputs(stage.store.outputs, 6)
    state, model = in_s3(stage, 2)
    assert (state.is_final, state.is_own, model) == (True, True, {"epoch": 6})
    assert "restored from S3" in stage.said(launch)
    end_cloud(stage)
    stage.check_nothing_is_left()


def test_a_laptop_that_is_away_finds_the_last_outputs_and_pull_brings_them(stage: Stage) -> None:
    flags = ("--bucket", BUCKET, "--owner-timeout", "2", "--download-every", "30m")
    launch = stage.start(*stage.launch_words("11", "3", flags=flags))
    stage.until(lambda: epoch_in_s3(stage, 1), "epoch 1 in S3")
    code, said = stage.run("pull", "tiny", "-o", "json")
    assert (code, last_json(said)["led_by"]) == (0, launch.pid), said
    os.killpg(launch.pid, signal.SIGKILL)
    wait_until_gone(stage.embedded())
    state, _ = in_s3(stage)
    assert state.is_final, "the machine is kept until S3 has the last outputs, and no longer"
    out = stage.work.parent / "mine"
    code, said = stage.run("pull", "tiny", "--out", str(out))
    assert code == 0, said
    assert f"the outputs that are here, 3 files, 20.00 MB:\n{out / 'outputs'}" in said
    check_outputs(out / "outputs", 11)
    code, said = stage.run("attach", "tiny", "-o", "json")
    assert code == 0, said
    assert (stage.state().state, len(stage.state().attempts)) == ("SUCCEEDED", 1)
    check_outputs(stage.store.outputs, 11)
    end_cloud(stage)
    stage.check_nothing_is_left()


def test_without_downloads_the_run_succeeds_once_s3_has_all(stage: Stage) -> None:
    code, said = stage.run(*stage.launch_words("2", "1.5", flags=("--bucket", BUCKET, "--download", "none")))
    assert code == 0, said
    assert not stage.store.outputs.exists() or not list(stage.store.outputs.iterdir())
    state, model = in_s3(stage)
    assert (state.is_final, model) == (True, {"epoch": 2})
    code, said = stage.run("pull", "tiny", "-o", "json")
    assert (code, last_json(said)["outputs"]) == (0, str(stage.store.outputs)), said
    check_outputs(stage.store.outputs, 2)
    end_cloud(stage)
    stage.check_nothing_is_left()
