"""`cleanup` on the embedded cloud: placement groups, volumes and unfinished uploads that runs have left."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.local import EmbeddedCloud
from orchestrator.cli.main import main
from orchestrator.cloud.base import MANAGED_TAG, OWNER_TAG, RUN_TAG
from orchestrator.cloud.connect import embedded_endpoint
from orchestrator.runs.events import RunCreated, StateChanged
from orchestrator.runs.home import home_id, make_home
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore

pytestmark = pytest.mark.slow  # each has an embedded cloud of its own
ZONE, BUCKET = "us-east-1b", "uploads"


class Place:
    """A home with an embedded cloud that stays."""

    def __init__(self, home: Path, endpoint: dict[str, str]) -> None:
        self.home = home
        self.ec2, self.s3 = (boto3.client(name, region_name="us-east-1", **endpoint) for name in ("ec2", "s3"))

    def tags(self, kind: str, run: str, home: str | None = None) -> list[dict[str, Any]]:
        named = {MANAGED_TAG: "true", RUN_TAG: run, OWNER_TAG: home or home_id(self.home)}
        return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in named.items()]}]

    def volumes(self) -> set[str]:
        return {one["VolumeId"] for one in self.ec2.describe_volumes()["Volumes"]}

    def groups(self) -> set[str]:
        return {one["GroupName"] for one in self.ec2.describe_placement_groups()["PlacementGroups"]}

    def uploads(self) -> set[str]:
        return {one["Key"] for one in self.s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])}

    def run(self, name: str, state: str = "CANCELLED") -> RunStore:
        spec = RunSpec(
            run=name,
            cloud="local",
            instances=("p2.xlarge",),
            market="spot",
            regions=("us-east-1",),
            bucket=BUCKET,
            bucket_prefix=f"pixel-orch/{name}-1",
        )
        store = RunStore.create(self.home, spec)
        store.append(RunCreated(at=1.0, run=name, cloud="embedded cloud"))
        store.append(StateChanged(at=2.0, state=state, reason="test"))  # type: ignore[arg-type]
        return store


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    home = tmp_path / "home"
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setenv("PIXEL_ORCH_LOCAL_BOOT_S", "0.01")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    make_home(home)
    home_id(home)
    with embedded_endpoint(home) as endpoint:
        found = Place(home, endpoint)
        yield found
        running = EmbeddedCloud.find(home)
        assert running is not None
        running.stop()


def cleanup(*more: str) -> int:
    return main(["cleanup", "--cloud", "local", *more])


def test_a_placement_group_that_no_run_needs_is_removed(place: Place, capsys: Any) -> None:
    for name, run, home in (("ours", "gone", None), ("theirs", "gone", "another"), ("led", "busy", None)):
        tags = place.tags("placement-group", run, home)
        place.ec2.create_placement_group(GroupName=name, Strategy="cluster", TagSpecifications=tags)
    with place.run("busy", "TRAINING").owned():
        assert cleanup() == 1
        assert "left: placement group ours (of gone)" in capsys.readouterr().out
        assert place.groups() == {"ours", "theirs", "led"}
        assert cleanup("-y") == 0
        assert capsys.readouterr().out == "removed placement group ours (of gone)\n"
        assert place.groups() == {"theirs", "led"}


def test_a_placement_group_goes_after_its_instances(place: Place, capsys: Any) -> None:
    tags = place.tags("placement-group", "gone")
    place.ec2.create_placement_group(GroupName="close", Strategy="cluster", TagSpecifications=tags)
    image = place.ec2.describe_images(Owners=["898082745236"])["Images"][0]["ImageId"]
    launched = place.ec2.run_instances(
        ImageId=image,
        InstanceType="p2.xlarge",
        MinCount=2,
        MaxCount=2,
        Placement={"GroupName": "close", "AvailabilityZone": ZONE},
        TagSpecifications=place.tags("instance", "gone"),
    )["Instances"]
    assert cleanup() == 1
    assert "left:" not in capsys.readouterr().out
    assert cleanup("-y") == 0
    out = capsys.readouterr().out
    assert all(one["InstanceId"] in out for one in launched)
    assert "removed placement group close" in out
    assert place.groups() == set()


def test_a_volume_without_an_instance_is_removed(place: Place, capsys: Any) -> None:
    def make(run: str, home: str | None = None) -> str:
        tags = place.tags("volume", run, home)
        return str(
            place.ec2.create_volume(AvailabilityZone=ZONE, Size=50, VolumeType="gp3", TagSpecifications=tags)[
                "VolumeId"
            ]
        )

    ours, theirs = make("gone"), make("gone", "another")
    untagged = place.ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeId"]
    image = place.ec2.describe_images(Owners=["898082745236"])["Images"][0]["ImageId"]
    place.ec2.run_instances(ImageId=image, InstanceType="p2.xlarge", MinCount=1, MaxCount=1)
    in_use = place.volumes() - {ours, theirs, untagged}
    assert in_use, "the root volume of an instance"
    tags = place.tags("volume", "gone")[0]["Tags"]
    place.ec2.create_tags(Resources=list(in_use), Tags=tags)
    assert cleanup() == 1
    assert capsys.readouterr().out.startswith(f"left: volume {ours} (of gone, 50 GiB)\nnothing was ended")
    assert cleanup("-y") == 0
    assert capsys.readouterr().out == f"removed volume {ours} (of gone, 50 GiB)\n"
    assert place.volumes() == {theirs, untagged, *in_use}
    assert cleanup() == 0


def test_a_security_group_and_a_launch_template_of_a_run_that_is_over_are_removed(place: Place, capsys: Any) -> None:
    def make(home: str | None) -> tuple[str, str]:
        group, template = (place.tags(kind, "gone", home) for kind in ("security-group", "launch-template"))
        group_id = place.ec2.create_security_group(GroupName=f"g-{home}", Description="left", TagSpecifications=group)[
            "GroupId"
        ]
        made = place.ec2.create_launch_template(
            LaunchTemplateName=f"t-{home}", LaunchTemplateData={"InstanceType": "p2.xlarge"}, TagSpecifications=template
        )
        return str(group_id), str(made["LaunchTemplate"]["LaunchTemplateId"])

    ours, theirs = make(None), make("another")
    assert cleanup() == 1
    out = capsys.readouterr().out
    assert f"left: security group {ours[0]} (of gone)" in out
    assert f"left: launch template {ours[1]} (of gone)" in out
    assert cleanup("-y") == 0
    groups = {one["GroupId"] for one in place.ec2.describe_security_groups()["SecurityGroups"]}
    templates = {one["LaunchTemplateId"] for one in place.ec2.describe_launch_templates()["LaunchTemplates"]}
    assert (ours[0] in groups, theirs[0] in groups) == (False, True)
    assert templates == {theirs[1]}


def test_a_security_group_that_an_instance_of_another_run_has_stays(place: Place, capsys: Any) -> None:
    tags = place.tags("security-group", "gone")
    group = place.ec2.create_security_group(GroupName="g", Description="left", TagSpecifications=tags)["GroupId"]
    image = place.ec2.describe_images(Owners=["898082745236"])["Images"][0]["ImageId"]
    place.ec2.run_instances(ImageId=image, InstanceType="p2.xlarge", MinCount=1, MaxCount=1, SecurityGroupIds=[group])
    assert cleanup("-y") == 1
    assert f"security group {group} (of gone) still has an instance; repeat the command" in capsys.readouterr().err


def test_an_ended_instance_leaves_no_volume(place: Place) -> None:
    image = place.ec2.describe_images(Owners=["898082745236"])["Images"][0]["ImageId"]
    tags = place.tags("instance", "gone") + place.tags("volume", "gone")
    place.ec2.run_instances(ImageId=image, InstanceType="p2.xlarge", MinCount=1, MaxCount=1, TagSpecifications=tags)
    assert cleanup("-y") == 0
    assert cleanup() == 0


def test_an_upload_that_was_broken_off_is_aborted(place: Place, capsys: Any) -> None:
    place.s3.create_bucket(Bucket=BUCKET)
    place.run("gone")
    keys = [f"pixel-orch/{name}-1/machines/AROA:i-0/checkpoints/checkpoint-5.pt" for name in ("gone", "busy", "other")]
    uploads = {}
    for key in keys:
        uploads[key] = place.s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        place.s3.upload_part(Bucket=BUCKET, Key=key, UploadId=uploads[key], PartNumber=1, Body=b"x" * 5)
    place.s3.put_object(Bucket=BUCKET, Key=keys[0] + ".whole", Body=b"whole")
    with place.run("busy", "TRAINING").owned():
        assert cleanup() == 1
        assert f"left: unfinished upload s3://{BUCKET}/{keys[0]} (of gone)" in capsys.readouterr().out
        assert cleanup("-y") == 0
    assert place.uploads() == set(keys[1:])
    assert place.s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 1


def test_a_bucket_that_is_gone_is_said_and_keeps_nothing_else_from_its_removal(place: Place, capsys: Any) -> None:
    place.run("gone")
    tags = place.tags("placement-group", "gone")
    place.ec2.create_placement_group(GroupName="close", Strategy="cluster", TagSpecifications=tags)
    assert cleanup("-y") == 0
    out, err = capsys.readouterr()
    assert out == "removed placement group close (of gone)\n"
    assert f"unfinished uploads to {BUCKET} were not looked for" in err
    assert "Traceback" not in err
