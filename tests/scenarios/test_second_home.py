"""S3 as a second checkpoint store: it holds every checkpoint, and a run needs no laptop that is online. Slow."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.local import EmbeddedCloud
from orchestrator.runs.events import CheckpointStored, TrainerExited
from orchestrator.runs.store import RunStore
from tests.contract.test_embedded_s3 import TRUST
from tests.support.metrics import metrics_of
from tests.support.stage import Stage, last_json, staged
from tests.support.tiny_trainer import expected, load

pytestmark = pytest.mark.slow
BUCKET = "second-store"
DENIED = '{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "s3:*", "Resource": "*"}]}'


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Yield a stage whose embedded cloud stays up between commands, since the fixture holds its in-use lock."""
    for stage in staged(tmp_path):
        (stage.home / "local").mkdir(parents=True, mode=0o700)
        with (stage.home / "local" / "in-use").open("w") as in_use:
            fcntl.flock(in_use, fcntl.LOCK_SH)
            stage.in_use = in_use  # type: ignore[attr-defined]
            yield stage


def client(stage: Stage, service: str) -> Any:
    cloud = EmbeddedCloud.find(stage.home) or EmbeddedCloud.ensure(stage.home)
    return boto3.client(
        service,
        region_name="us-east-1",
        endpoint_url=cloud.endpoint_url,
        aws_access_key_id=cloud.endpoint.access_key_id,
        aws_secret_access_key="x",
    )


def prepare(stage: Stage) -> None:
    """Create the resources that a run needs from `setup`: the bucket and the instance role with its policy."""
    client(stage, "s3").create_bucket(Bucket=BUCKET)
    iam = client(stage, "iam")
    policy = (Path(__file__).parents[2] / "infra" / "account" / "policies" / "instance.json").read_text()
    iam.create_role(RoleName="pixel-orch", AssumeRolePolicyDocument=json.dumps(TRUST))
    iam.put_role_policy(RoleName="pixel-orch", PolicyName="s3", PolicyDocument=policy.replace("BUCKET", BUCKET))
    iam.create_instance_profile(InstanceProfileName="pixel-orch")
    iam.add_role_to_instance_profile(InstanceProfileName="pixel-orch", RoleName="pixel-orch")


def stored(stage: Stage) -> dict[int, str]:
    """Return the keys of the checkpoints in S3, by step."""
    prefix = stage.store.spec().bucket_prefix
    pages = client(stage, "s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/machines/")
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    return {int(key.rpartition("-")[2].split(".")[0]): key for key in keys if "/checkpoints/" in key}


def moved(stage: Stage, key: str, target: str) -> None:
    """Move an object, with the account's own key: no machine may."""
    client(stage, "s3").copy_object(Bucket=BUCKET, Key=target, CopySource={"Bucket": BUCKET, "Key": key})
    client(stage, "s3").delete_object(Bucket=BUCKET, Key=key)


def user_id(stage: Stage, instance_id: str) -> str:
    return f"{client(stage, 'iam').get_role(RoleName='pixel-orch')['Role']['RoleId']}:{instance_id}"


def content(stage: Stage, key: str) -> dict[str, Any]:
    """Return a stored checkpoint after a check of its digest."""
    path = stage.work.parent / "fetched"
    client(stage, "s3").download_file(BUCKET, key, str(path))
    return load(str(path))


def wait_until_gone(embedded: EmbeddedCloud) -> None:
    """Wait until the instance terminates itself. No local process supervises it."""
    give_up_at = time.monotonic() + 40
    while embedded.instances()[0]["state"] != "terminated":
        assert time.monotonic() < give_up_at, "the instance does not terminate itself"
        time.sleep(0.05)


def end_cloud(stage: Stage) -> None:
    """Release the lock of the embedded cloud and stop it."""
    stage.in_use.close()  # type: ignore[attr-defined]
    stage.embedded().stop()


def test_an_invalid_bucket_is_refused_before_an_instance_starts(stage: Stage) -> None:
    for words, complaint in (
        (("--bucket", "Not_A_Bucket"), "is not a bucket name"),
        (("--bucket", "nobodys-bucket"), "there is no bucket nobodys-bucket"),
    ):
        code, said = stage.run(*stage.launch_words("5", "0.01", flags=words))
        assert code == 2, said
        assert complaint in said
        assert not (stage.home / "runs" / "tiny").exists()
    client(stage, "s3").create_bucket(Bucket=BUCKET)
    code, said = stage.run(*stage.launch_words("5", "0.01", flags=("--bucket", BUCKET)))
    assert code == 2
    assert "no instance profile" in said
    faults = stage.work.parent / "faults.yaml"
    faults.write_text("- {operation: HeadBucket, error: AccessDenied}\n")
    code, said = stage.run(*stage.launch_words("5", "0.01", flags=("--bucket", BUCKET, "--faults", str(faults))))
    assert code == 2
    assert "s3:ListBucket" in said
    assert stage.embedded().instances() == []
    end_cloud(stage)
    assert not (stage.home / "runs" / "tiny").exists()


def test_every_checkpoint_is_stored_and_an_instance_resumes_from_s3_if_the_laptop_lacks_it(stage: Stage) -> None:
    prepare(stage)
    words = stage.launch_words("120", "0.05", "--every", "200", "--size", "17000000", flags=("--bucket", BUCKET))
    launch = stage.start(*words)
    stage.until_step(30)
    code, said = stage.run("stop", "tiny")
    assert code == 0, said
    launch.wait(30)
    state = stage.state()
    last = state.attempts[0].last_step
    assert set(state.stored) == set(state.checkpoints) == {last}
    assert [event.step for event in stage.store.events() if isinstance(event, CheckpointStored)] == [last]
    assert set(stored(stage)) == {last}, "one multipart upload"
    assert content(stage, stored(stage)[last])["weights"] == expected(last)
    instance_id = state.attempts[0].instance_id
    folder = f"{stage.store.spec().bucket_prefix}/machines/{user_id(stage, instance_id)}"
    assert stored(stage)[last] == f"{folder}/checkpoints/checkpoint-{last}.pt"
    metrics = f"{folder}/metrics.jsonl"
    lines = client(stage, "s3").get_object(Bucket=BUCKET, Key=metrics)["Body"].read().splitlines()
    assert max(json.loads(line).get("step", 0) for line in lines) == last

    for path in stage.store.checkpoints.iterdir():  # as on another laptop: the run folder has no checkpoints
        path.unlink()
    code, said = stage.run("launch", "--resume", "tiny", "-y", "-o", "json")
    assert code == 0, said
    answer = last_json(said)
    assert answer["attempts"][1]["first_step"] == last + 1, "no step is trained twice"
    assert load(str(stage.store.checkpoints / "checkpoint-120.pt"))["weights"] == expected(120)
    assert set(stored(stage)) == {last, 120}
    end_cloud(stage)
    stage.check_nothing_is_left()


def test_a_laptop_may_be_offline_until_the_run_is_done(stage: Stage) -> None:
    prepare(stage)
    flags = ("--bucket", BUCKET, "--owner-timeout", "2")
    launch = stage.start(*stage.launch_words("120", "0.05", "--every", "40", flags=flags))
    stage.until_step(15)
    os.killpg(launch.pid, signal.SIGKILL)
    embedded = stage.embedded()
    wait_until_gone(embedded)
    assert embedded.instances()[0]["reason"] == "Client.InstanceInitiatedShutdown"
    assert set(stored(stage)) == {40, 80, 120}, (
        "training continues after the owner time-out, and all checkpoints are in S3"
    )
    before = stage.state()
    assert 120 not in before.checkpoints
    code, said = stage.run("pull", "tiny", "-o", "json")
    assert code == 0, said
    assert (last_json(said)["fetched"], Path(last_json(said)["checkpoint"]).name) == (1, "checkpoint-120.pt")
    code, said = stage.run("attach", "tiny", "-o", "json")
    assert code == 0, said
    state = stage.state()
    assert (state.state, len(state.attempts)) == ("SUCCEEDED", 1), "no second instance"
    assert state.attempts[0].ended_by == "instance"
    assert [e.exit_code for e in stage.store.events() if isinstance(e, TrainerExited)] == [0]
    assert load(str(stage.store.checkpoints / "checkpoint-120.pt"))["weights"] == expected(120)
    assert max(line.get("step", 0) for line in metrics_of(stage.store)) == 120
    end_cloud(stage)
    stage.check_nothing_is_left()


def test_another_laptop_continues_the_run_from_s3(stage: Stage) -> None:
    prepare(stage)
    code, said = stage.run(*stage.launch_words("40", "0.02", "--every", "20", flags=("--bucket", BUCKET)))
    assert code == 0, said
    place, twenty = f"s3://{BUCKET}/{stage.store.spec().bucket_prefix}", stored(stage)[20]
    stage.store.folder.rename(stage.work.parent / "gone")  # as on another laptop: the run folder does not exist
    for name, where in (("newest", place), ("one", f"s3://{BUCKET}/{twenty}")):
        words = stage.launch_words("60", "0.02", "--every", "20", flags=("--from", where))
        words[words.index("tiny")] = name
        code, said = stage.run(*words)
        assert code == 0, said
        store = RunStore(stage.home, name)
        assert store.state().attempts[0].first_step == {"newest": 41, "one": 21}[name]
        assert load(str(store.checkpoints / "checkpoint-60.pt"))["weights"] == expected(60)
    code, said = stage.run(*stage.launch_words("60", "0.02", flags=("--from", f"s3://{BUCKET}/pixel-orch/no-such-run")))
    assert code == 2, said
    assert f"--from: there is no checkpoint below s3://{BUCKET}/pixel-orch/no-such-run" in said
    assert not list(stage.home.glob(".from-*"))
    end_cloud(stage)


def test_a_copy_of_0_1_0_is_resumed_from_and_what_a_strange_machine_planted_is_not(stage: Stage) -> None:
    prepare(stage)
    words = stage.launch_words("120", "0.05", "--every", "200", flags=("--bucket", BUCKET))
    launch = stage.start(*words)
    stage.until_step(30)
    code, said = stage.run("stop", "tiny")
    assert code == 0, said
    launch.wait(30)
    last, prefix = stage.state().attempts[0].last_step, stage.store.spec().bucket_prefix
    moved(stage, stored(stage)[last], f"{prefix}/checkpoints/checkpoint-{last}.pt")
    evil, digest = b"evil", hashlib.sha256(b"evil").hexdigest()
    client(stage, "s3").put_object(
        Bucket=BUCKET,
        Key=f"{prefix}/machines/{user_id(stage, 'i-0bbbbbbbbbbbbbbb9')}/checkpoints/checkpoint-110.pt",
        Body=evil,
        Metadata={"sha256": digest, "step": "110"},
    )
    for path in stage.store.checkpoints.iterdir():
        path.unlink()
    code, said = stage.run("launch", "--resume", "tiny", "-y", "-o", "json")
    assert code == 0, said
    assert last_json(said)["attempts"][1]["first_step"] == last + 1
    assert load(str(stage.store.checkpoints / "checkpoint-120.pt"))["weights"] == expected(120)
    assert digest not in {one.sha256 for one in stage.state().stored.values()}
    end_cloud(stage)
    stage.check_nothing_is_left()


def test_without_permission_the_failure_is_reported_and_training_continues(stage: Stage) -> None:
    prepare(stage)
    client(stage, "iam").put_role_policy(RoleName="pixel-orch", PolicyName="s3", PolicyDocument=DENIED)
    code, said = stage.run(*stage.launch_words("40", "0.05", flags=("--bucket", BUCKET)))
    assert code == 0, said
    assert "S3 UPLOAD FAILED" in said
    assert "AccessDenied" in said
    assert sorted(stage.state().checkpoints) == [10, 20, 30, 40]
    assert stage.state().stored == {}
    end_cloud(stage)
    stage.check_nothing_is_left()
