"""setup and teardown on the embedded cloud, as a new user types them. Slow."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local import EmbeddedCloud
from orchestrator.cli.main import main
from orchestrator.runs.store import RunStore
from tests.contract.test_embedded_fixtures import PARAMETER, client, wait_for
from tests.support import tiny_trainer

pytestmark = pytest.mark.slow
BUCKET = "pixel-orch-123456789012-us-east-1"
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run commands in this process, on one embedded cloud that stays; nothing of it is left afterwards."""
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setenv("PIXEL_ORCH_LOCAL_BOOT_S", "0.05")
    (home / "local").mkdir(mode=0o700)
    in_use = (home / "local" / "in-use").open("w")
    fcntl.flock(in_use, fcntl.LOCK_SH)  # as another command would, so that none of ours takes the cloud for unused

    def one(*words: str) -> tuple[int, str]:
        cut = words.index("--") if "--" in words else len(words)
        code = main([*words[:cut], "--cloud", "local", *words[cut:]])
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return code, said.out + said.err

    yield one
    in_use.close()
    running = EmbeddedCloud.find(home)
    if running is not None:
        running.stop()


def done(answer: tuple[int, str]) -> str:
    code, said = answer
    assert code == 0, said
    return said


def last_json(said: str) -> dict[str, Any]:
    found: dict[str, Any] = next(json.loads(line) for line in said.splitlines() if line.startswith("{"))
    return found


def test_it_is_made_once_used_and_removed_and_data_only_when_told(run: Run, home: Path) -> None:
    stands = home / "local" / "standing.jsonl"
    said = done(run("setup", "--budget-alarm", "20", "--email", "me@example.org", "--dry-run"))
    assert "Bucket, BucketPolicy, BudgetAlarm, InstanceProfile, Role, SecurityGroup" in " ".join(said.split())
    assert not stands.exists()
    made = last_json(done(run("setup", "-o", "json")))
    assert (made["Bucket"], made["InstanceProfile"], made["changed"]) == (BUCKET, "pixel-orch", True)
    assert made["SecurityGroup"].startswith("sg-")
    found = EmbeddedCloud.find(home)
    assert found is not None
    found.stop()  # what stands is there in the next process too
    assert last_json(done(run("setup", "-o", "json")))["changed"] is False

    work = home.parent / "work"
    work.mkdir()
    (work / "train.py").write_text(Path(str(tiny_trainer.__file__)).read_text())
    flags = ("--bucket", BUCKET, "--workdir", str(work), "-n", "tiny", "-y", "--spot", "-t", "p2.xlarge")
    assert "stored in S3" in done(run("launch", *flags, "--", "python3", "train.py", "20", "0.02"))
    store = RunStore(home, "tiny")
    assert sorted(store.state().stored) == [10, 20]
    assert (store.spec().instance_profile, store.spec().bucket_region) == ("pixel-orch", "us-east-1")

    assert "kept" in done(run("teardown", "--dry-run"))
    assert stands.exists()
    assert last_json(done(run("teardown", "-y", "-o", "json")))["bucket_kept"] == BUCKET
    assert not stands.exists()
    assert list((home / "local" / "s3" / BUCKET).glob("*.object")), "the data is still there"

    again = last_json(done(run("setup", "-o", "json")))
    assert again["Bucket"] == BUCKET, "the bucket that is there is taken again"
    gone = last_json(done(run("teardown", "-y", "--delete-bucket-data", "-o", "json")))
    assert (gone["removed"], gone["bucket_kept"]) == (True, None)
    assert list((home / "local" / "s3").iterdir()) == []
    assert "nothing to do" in done(run("teardown", "-y"))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("setup", "--budget-alarm", "20"), "go together"),
        (("setup", "--email", "me@example.org"), "go together"),
        (("setup", "--budget-alarm", "much", "--email", "me@example.org"), "--budget-alarm"),
        (("setup", "--budget-alarm", "20", "--email", "me"), "--email"),
        (("setup", "--stack-name", "9lives"), "--stack-name"),
        (("setup", "--region", "us-east-1", "--region", "us-west-2"), "--region"),
        (("setup", "--region", "us-mars-1"), "--region"),
        (("teardown", "--stack-name", "a/b"), "--stack-name"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(run: Run, words: Any, complaint: str) -> None:
    code, said = run(*words)
    assert code == 2
    assert complaint in said
    assert len(said.strip().splitlines()) == 1


def test_teardown_asks_and_takes_nothing_from_under_a_machine_that_runs(run: Run, home: Path) -> None:
    cloud = EmbeddedCloud.ensure(home)
    cloud.add_fault({"operation": "CreateStack", "error": "AccessDenied", "times": 1})
    code, said = run("setup")
    assert code == 2
    assert "AccessDenied" in said
    assert "CreateStack" not in (home / "local" / "standing.jsonl").read_text()
    done(run("setup"))
    code, said = run("teardown")
    assert code == 2
    assert "stdin is not a terminal; pass -y" in said
    ec2 = client(cloud, "ec2")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "pixel-orch:managed", "Value": "true"}]}]
    launched = ec2.run_instances(
        ImageId=client(cloud, "ssm").get_parameter(Name=PARAMETER)["Parameter"]["Value"],
        InstanceType="p2.xlarge", MinCount=1, MaxCount=1, TagSpecifications=tags,
    )  # fmt: skip
    instance_id = launched["Instances"][0]["InstanceId"]
    wait_for(ec2, instance_id, "running")
    code, said = run("teardown", "-y")
    assert code == 1
    assert f"instances are still running (1: {instance_id})" in said
    assert (home / "local" / "standing.jsonl").exists()
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for(ec2, instance_id, "terminated")
    done(run("teardown", "-y"))
