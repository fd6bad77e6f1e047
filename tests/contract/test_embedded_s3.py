"""S3, IAM and the role's credentials on the embedded cloud; what stands there outlives its process."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infra.local import EmbeddedCloud
from infra.local.aws.permissions import action_of, may
from orchestrator.cloud.aws.s3 import S3Store
from orchestrator.cloud.connect import client_settings
from orchestrator.runs.files import sha256_of
from tests.contract.test_embedded_fixtures import PARAMETER, client, wait_for

TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::kept-bucket/mine/*"},
        {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::kept-bucket/machines/${aws:userid}/*"},
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::kept-bucket"},
    ],
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PIXEL_ORCH_LOCAL_BOOT_S", "0.01")
    yield tmp_path
    running = EmbeddedCloud.find(tmp_path)
    if running is not None:
        running.stop()


def make_profile(cloud: EmbeddedCloud) -> None:
    iam = client(cloud, "iam")
    iam.create_role(RoleName="carrier", AssumeRolePolicyDocument=json.dumps(TRUST))
    iam.put_role_policy(RoleName="carrier", PolicyName="s3", PolicyDocument=json.dumps(POLICY))
    iam.create_instance_profile(InstanceProfileName="carrier")
    iam.add_role_to_instance_profile(InstanceProfileName="carrier", RoleName="carrier")


ON_THE_INSTANCE = """
import boto3, json
from botocore.exceptions import ClientError
s3, sts, said = boto3.client("s3"), boto3.client("sts"), {}
def attempt(name, call, **parameters):
    try:
        call(Bucket="kept-bucket", **parameters)
        said[name] = "ok"
    except ClientError as error:
        said[name] = error.response["Error"]["Code"]
attempt("put", s3.put_object, Key="mine/a", Body=b"x")
attempt("get", s3.get_object, Key="mine/a")
attempt("list", s3.list_objects_v2, Prefix="mine/")
attempt("put elsewhere", s3.put_object, Key="yours/a", Body=b"x" * 100000)
attempt("delete", s3.delete_object, Key="mine/a")
said["who"] = who = sts.get_caller_identity()
del who["ResponseMetadata"]
attempt("put in own folder", s3.put_object, Key="machines/%s/a" % who["UserId"], Body=b"x")
attempt("put in another's", s3.put_object, Key="machines/%s0/a" % who["UserId"], Body=b"x")
try:
    sts.get_session_token()
except ClientError as error:
    said["sts"] = error.response["Error"]["Code"]
try:
    boto3.client("ec2", endpoint_url=s3.meta.endpoint_url, region_name="us-east-1").describe_instances()
except ClientError as error:
    said["ec2"] = error.response["Error"]["Code"]
print(json.dumps(said))
"""


@pytest.mark.slow
def test_what_stands_outlives_the_process_and_a_role_may_what_its_policy_says(home: Path) -> None:
    first = EmbeddedCloud.ensure(home)
    client(first, "s3").create_bucket(Bucket="kept-bucket")
    make_profile(first)
    client(first, "s3").put_object(Bucket="kept-bucket", Key="mine/b c", Body=b"kept", Metadata={"sha256": "7"})
    client(first, "s3").put_object(Bucket="kept-bucket", Key="mine/gone", Body=b"")
    client(first, "s3").delete_object(Bucket="kept-bucket", Key="mine/gone")
    assert first.stop_if_idle()

    cloud = EmbeddedCloud.ensure(home)
    kept = client(cloud, "s3").get_object(Bucket="kept-bucket", Key="mine/b c")
    assert (kept["Body"].read(), kept["Metadata"]) == (b"kept", {"sha256": "7"})
    listed = client(cloud, "s3").list_objects_v2(Bucket="kept-bucket")["Contents"]
    assert [one["Key"] for one in listed] == ["mine/b c"]
    assert client(cloud, "iam").get_instance_profile(InstanceProfileName="carrier")["InstanceProfile"]["Roles"]

    ec2 = client(cloud, "ec2")
    script = home / "script.py"
    script.write_text(ON_THE_INSTANCE)
    user_data = {"runcmd": [["sh", "-c", f"{sys.executable} {script} > said 2> errors; touch done"]]}
    launched = ec2.run_instances(
        ImageId=client(cloud, "ssm").get_parameter(Name=PARAMETER)["Parameter"]["Value"],
        InstanceType="p2.xlarge", MinCount=1, MaxCount=1, IamInstanceProfile={"Name": "carrier"},
        UserData="#cloud-config\n" + json.dumps(user_data),
    )  # fmt: skip
    instance_id = launched["Instances"][0]["InstanceId"]
    wait_for(ec2, instance_id, "running")
    folder = home / "local" / "instances" / instance_id / "home"
    wait_until(folder / "done")
    assert (folder / "errors").read_text() == ""
    said = json.loads((folder / "said").read_text())
    role_id = client(cloud, "iam").get_role(RoleName="carrier")["Role"]["RoleId"]
    assert said.pop("who") == {
        "UserId": f"{role_id}:{instance_id}",
        "Account": "123456789012",
        "Arn": f"arn:aws:sts::123456789012:assumed-role/carrier/{instance_id}",
    }
    assert role_id.startswith("AROA")
    assert said == {
        "put in own folder": "ok",
        "put in another's": "AccessDenied",
        "sts": "AccessDenied",
        "put": "ok",
        "get": "ok",
        "list": "ok",
        "put elsewhere": "AccessDenied",
        "delete": "AccessDenied",
        "ec2": "AuthFailure",
    }
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for(ec2, instance_id, "terminated")


def wait_until(path: Path) -> None:
    script = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.02)"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=30, env=dict(os.environ))


@pytest.mark.slow
def test_a_stranger_gets_nothing_and_an_empty_cloud_keeps_no_journal(home: Path) -> None:
    cloud = EmbeddedCloud.ensure(home)
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        client(cloud, "s3", key="ASIASTRANGER").list_buckets()
    with pytest.raises(ClientError, match="Invalid IAM Instance Profile name"):
        client(cloud, "ec2").run_instances(
            ImageId=client(cloud, "ssm").get_parameter(Name=PARAMETER)["Parameter"]["Value"],
            InstanceType="p2.xlarge", MinCount=1, MaxCount=1, IamInstanceProfile={"Name": "nobodys"},
        )  # fmt: skip
    make_profile(cloud)
    assert (home / "local" / "standing.jsonl").exists()
    iam = client(cloud, "iam")
    iam.remove_role_from_instance_profile(InstanceProfileName="carrier", RoleName="carrier")
    iam.delete_instance_profile(InstanceProfileName="carrier")
    iam.delete_role_policy(RoleName="carrier", PolicyName="s3")
    iam.delete_role(RoleName="carrier")
    assert not (home / "local" / "standing.jsonl").exists()
    client(cloud, "s3").create_bucket(Bucket="kept-bucket")
    client(cloud, "s3").delete_bucket(Bucket="kept-bucket")
    assert list((home / "local" / "s3").iterdir()) == []
    cloud.add_fault({"operation": "PutObject", "error": "SlowDown", "times": 1})
    client(cloud, "s3").create_bucket(Bucket="kept-bucket")
    with pytest.raises(ClientError, match="SlowDown"):
        client(cloud, "s3").put_object(Bucket="kept-bucket", Key="a", Body=b"")


ALLOW = {"Effect": "Allow", "Action": "s3:Get*", "Resource": ["arn:aws:s3:::b/runs/*"]}


@pytest.mark.parametrize(
    ("statements", "allowed"),
    [
        ([ALLOW], True),
        ([{**ALLOW, "Action": ["s3:PutObject"]}], False),
        ([{**ALLOW, "Resource": "arn:aws:s3:::other/*"}], False),
        ([ALLOW, {**ALLOW, "Effect": "Deny"}], False),
        ([{**ALLOW, "Condition": {"Bool": {"aws:SecureTransport": "true"}}}], True),
        ([{**ALLOW, "Condition": {"Bool": {"aws:SecureTransport": "false"}}}], False),
        ([{**ALLOW, "Condition": {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}}], False),
        ([ALLOW, {**ALLOW, "Effect": "Deny", "Condition": {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}}], False),
        ([ALLOW, {**ALLOW, "Effect": "Deny", "Condition": {"Bool": {"aws:SecureTransport": "false"}}}], True),
        ([], False),
    ],
)
def test_policies_are_weighed_as_iam_weighs_them(statements: list[Any], allowed: bool) -> None:
    policies = [{"Statement": statements}]
    context = {"aws:SecureTransport": "true", "s3:prefix": ""}
    assert may(policies, "s3:GetObject", "arn:aws:s3:::b/runs/a", context) is allowed


@pytest.mark.parametrize(
    ("method", "key", "query", "operation", "action"),
    [
        ("HEAD", "", {}, "HeadBucket", "s3:ListBucket"),
        ("GET", "", {"list-type": "2"}, "ListObjectsV2", "s3:ListBucket"),
        ("PUT", "k", {}, "PutObject", "s3:PutObject"),
        ("POST", "k", {"uploads": ""}, "CreateMultipartUpload", "s3:PutObject"),
        ("PUT", "k", {"uploadId": "1"}, "UploadPart", "s3:PutObject"),
        ("POST", "k", {"uploadId": "1"}, "CompleteMultipartUpload", "s3:PutObject"),
        ("DELETE", "k", {"uploadId": "1"}, "AbortMultipartUpload", "s3:AbortMultipartUpload"),
        ("DELETE", "k", {}, "DeleteObject", "s3:DeleteObject"),
        ("GET", "k", {}, "GetObject", "s3:GetObject"),
    ],
)
def test_each_request_is_known_by_its_operation(
    method: str, key: str, query: dict[str, str], operation: str, action: str
) -> None:
    assert action_of(method, key, query) == (operation, action)


@pytest.mark.slow
def test_an_object_that_grew_after_it_was_listed_is_not_received(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may write there at any time; and it may store a great many objects."""
    cloud = EmbeddedCloud.ensure(home)
    s3 = client(cloud, "s3")
    s3.create_bucket(Bucket="kept-bucket")
    place = S3Store("kept-bucket", "mine/run", endpoint=client_settings(cloud))
    for step in range(1, 31):
        body = b"weights %d" % step
        metadata = {"sha256": hashlib.sha256(body).hexdigest()}
        s3.put_object(
            Bucket="kept-bucket", Key=f"mine/run/checkpoints/checkpoint-{step}.pt", Body=body, Metadata=metadata
        )
    found = place.checkpoints([], most=3)
    assert [output.step for output in found] == [28, 29, 30]
    key = "mine/run/checkpoints/checkpoint-30.pt"
    s3.put_object(Bucket="kept-bucket", Key=key, Body=b"w" * (20 << 20))
    here = home / "downloads"
    here.mkdir()
    sizes: list[int] = []  # of what was received and is then compared

    def digest_of(path: Path) -> str:
        sizes.append(path.stat().st_size)
        return sha256_of(path)

    monkeypatch.setattr("orchestrator.cloud.aws.s3.sha256_of", digest_of)
    assert not place.fetch(found[-1], here / "checkpoint-30.pt")
    assert sizes == []
    assert list(here.iterdir()) == []
    assert place.fetch(found[0], here / "checkpoint-28.pt")
    assert (here / "checkpoint-28.pt").read_bytes() == b"weights 28"
    newest = place.newest_below("mine/run")
    assert newest is not None
    assert newest.key == key
