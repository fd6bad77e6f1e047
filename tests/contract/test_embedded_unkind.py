"""Each fault of the grammar, done to real embedded instances. A fault without a test here does not exist."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from infra.local import EmbeddedCloud
from infra.local.cloud.faults import EVENTS, STATES
from tests.contract.test_embedded_fixtures import (
    PARAMETER,
    SPOT,
    Launch,
    Login,
    ami,
    client,
    cloud,
    describe,
    ec2,
    error_of,
    launch,
    new_private_key,
    private_key,
    wait_for,
)

__all__ = ["ami", "cloud", "ec2", "launch", "private_key"]
Check = Callable[["Stage"], None]
TESTED: dict[str, Check] = {}


class Stage:
    """What a check needs."""

    def __init__(self, cloud: EmbeddedCloud, ec2: Any, launch: Launch, key: paramiko.PKey) -> None:
        self.cloud, self.ec2, self.launch, self.key = cloud, ec2, launch, key

    def strike(self, name: str, **keys: Any) -> None:
        self.cloud.add_fault({"event": name, "times": 1, **keys})

    def log_in(self, instance_id: str) -> Login:
        return Login(describe(self.ec2, instance_id), self.key)

    def metadata(self, instance_id: str, path: str) -> str:
        """What the instance itself reads."""
        url = "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest"
        script = (
            f"T=$(curl -sX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' {url}/api/token);"
            f'curl -sf -H "X-aws-ec2-metadata-token: $T" {url}/meta-data/{path}'
        )
        session = self.log_in(instance_id)
        said = session.run(script)[0].decode()
        session.close()
        return said


@pytest.fixture
def stage(cloud: EmbeddedCloud, ec2: Any, launch: Launch, private_key: paramiko.PKey) -> Iterator[Stage]:
    yield Stage(cloud, ec2, launch, private_key)
    cloud.clear_faults()


def checks(name: str) -> Callable[[Check], Check]:
    def keep(check: Check) -> Check:
        TESTED[name] = check
        return check

    return keep


def eventually(ready: Callable[[], Any], limit_s: float = 10) -> None:
    give_up = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@checks("slow-boot")
def slow_boot(stage: Stage) -> None:
    stage.strike("slow-boot", boot_s=0.6)
    began = time.monotonic()
    stage.launch()
    assert 0.5 < time.monotonic() - began < 3
    stage.launch()
    assert time.monotonic() - began < 3


@checks("failed-boot")
def failed_boot(stage: Stage) -> None:
    stage.strike("failed-boot")
    gone = wait_for(stage.ec2, stage.launch(wait=False), "terminated")
    assert gone["StateReason"]["Code"] == "Server.InternalError"


@checks("not-found")
def not_found(stage: Stage) -> None:
    stage.strike("not-found", for_s=0.5)
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "unseen", "Value": "yes"}]}]
    instance_id = stage.launch(wait=False, TagSpecifications=tags)
    by_tag = [{"Name": "tag:unseen", "Values": ["yes"]}]
    assert stage.ec2.describe_instances(Filters=by_tag)["Reservations"] == []
    assert error_of(stage.ec2.describe_instances, InstanceIds=[instance_id])[0] == "InvalidInstanceID.NotFound"
    eventually(lambda: stage.ec2.describe_instances(Filters=by_tag)["Reservations"])
    wait_for(stage.ec2, instance_id, "running")


@checks("interruption")
def interruption(stage: Stage) -> None:
    stage.strike("interruption", notice_s=2.0)
    instance_id = stage.launch()
    assert json.loads(stage.metadata(instance_id, "spot/instance-action"))["action"] == "terminate"
    gone = wait_for(stage.ec2, instance_id, "terminated")
    assert gone["StateReason"]["Code"] == "Server.SpotInstanceTermination"


@checks("interruption-without-notice")
def interruption_without_notice(stage: Stage) -> None:
    stage.strike("interruption-without-notice", after_s=0.2)
    instance_id = stage.launch()
    gone = wait_for(stage.ec2, instance_id, "terminated")
    assert gone["StateReason"]["Code"] == "Server.SpotInstanceTermination"


@checks("notice-without-interruption")
def notice_without_interruption(stage: Stage) -> None:
    stage.strike("notice-without-interruption", notice_s=0.1)
    instance_id = stage.launch()
    time.sleep(0.3)
    assert "terminate" in stage.metadata(instance_id, "spot/instance-action")
    assert describe(stage.ec2, instance_id)["State"]["Name"] == "running"


@checks("rebalance")
def rebalance(stage: Stage) -> None:
    stage.strike("rebalance")
    assert "noticeTime" in stage.metadata(stage.launch(), "events/recommendations/rebalance")


@checks("frozen-host")
def frozen_host(stage: Stage) -> None:
    stage.strike("frozen-host", for_s=0.5)
    instance_id = stage.launch()
    assert next(one for one in stage.cloud.instances() if one["id"] == instance_id)["frozen"]
    began = time.monotonic()
    stage.log_in(instance_id).close()
    assert time.monotonic() - began > 0.2


@checks("cut-link")
def cut_link(stage: Stage) -> None:
    stage.strike("cut-link", for_s=0.5)
    instance_id = stage.launch()
    with pytest.raises((OSError, EOFError, paramiko.SSHException)):
        stage.log_in(instance_id)
    eventually(lambda: _answers(stage, instance_id))
    stage.strike("cut-link", after_bytes=100_000)
    session = stage.log_in(stage.launch())
    try:
        received = len(session.run("head -c 1000000 /dev/zero")[0])
    except (OSError, EOFError, paramiko.SSHException):
        received = 0
    assert received < 100_000


def _answers(stage: Stage, instance_id: str) -> bool:
    try:
        stage.log_in(instance_id).close()
    except (OSError, EOFError, paramiko.SSHException):
        return False
    return True


WRITER = """
import os, time
file = os.open("w", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
try:
    while os.write(file, b"x"):
        time.sleep(0.02)
except OSError as error:
    print(error)
"""


@checks("full-disk")
def full_disk(stage: Stage) -> None:
    instance_id = stage.launch()
    session = stage.log_in(instance_id)
    (home_of(stage, instance_id) / "writer.py").write_text(WRITER)
    _, reading, _ = session.client.exec_command("python3 writer.py", timeout=20)
    eventually(lambda: (home_of(stage, instance_id) / "w").exists())
    stage.cloud.fill_disk(instance_id)
    assert b"File too large" in reading.read(), "what runs already cannot write any more"
    assert session.run("echo x > new && cat new")[0] == b""
    stage.cloud.fill_disk(instance_id, full=False)
    assert session.run("echo x > new && cat new")[0] == b"x\n"
    session.close()
    stage.strike("full-disk")
    session = stage.log_in(stage.launch())
    assert session.run("echo x > new && cat new")[0] == b""
    session.close()


def home_of(stage: Stage, instance_id: str) -> Path:
    return Path(next(one for one in stage.cloud.instances() if one["id"] == instance_id)["folder"], "home")


@checks("wrong-host-key")
def wrong_host_key(stage: Stage) -> None:
    private = new_private_key()
    given = {"ssh_keys": {"ed25519_private": private, "ed25519_public": "x"}}
    wanted = paramiko.Ed25519Key.from_private_key(_file(private)).get_base64()
    good = stage.log_in(stage.launch(given))
    assert good.client.get_transport().get_remote_server_key().get_base64() == wanted  # type: ignore[union-attr]
    stage.strike("wrong-host-key")
    bad = stage.log_in(stage.launch(given))
    assert bad.client.get_transport().get_remote_server_key().get_base64() != wanted  # type: ignore[union-attr]


def _file(text: str) -> Any:
    import io

    return io.StringIO(text)


@checks("clock-skew")
def clock_skew(stage: Stage) -> None:
    stage.strike("clock-skew", skew_s=-900)
    session = stage.log_in(stage.launch())
    script = "import os,time; open('f','w').close(); print(time.time(), os.stat('f').st_mtime, time.gmtime().tm_min)"
    said, errors, code = session.run(f'python3 -c "{script}"; date +%s')
    assert code == 0, errors
    python, file, _, date = (float(word) for word in said.split())
    for seen in (python, file, date):
        assert abs(seen - (time.time() - 900)) < 10
    session.run("touch g")
    aged, _, _ = session.run("python3 -c \"import os; os.utime('g'); print(os.stat('g').st_mtime)\"")
    assert abs(float(aged) - (time.time() - 900)) < 10
    session.close()


@checks("capacity")
def capacity(stage: Stage) -> None:
    stage.cloud.add_fault({"state": "capacity", "type": "p2.xlarge", "zone": "us-east-1b", "count": 1})
    stage.launch()
    with pytest.raises(Exception, match="InsufficientInstanceCapacity"):
        stage.launch()


@checks("quota")
def quota(stage: Stage) -> None:
    stage.cloud.add_fault({"state": "quota", "code": "L-7212CCBC", "vcpus": 0})
    with pytest.raises(Exception, match="MaxSpotInstanceCountExceeded"):
        stage.launch()


@checks("spot-price")
def spot_price(stage: Stage) -> None:
    def now() -> float:
        rows = stage.ec2.describe_spot_price_history(
            InstanceTypes=["p2.xlarge"], AvailabilityZone="us-east-1b", StartTime=time.time()
        )["SpotPriceHistory"]
        assert len(rows) == 1
        return float(rows[0]["SpotPrice"])

    before = now()
    bid = {"MarketType": "spot", "SpotOptions": {"MaxPrice": f"{before * 1.2:.4f}"}}
    low, high = stage.launch(InstanceMarketOptions=bid), stage.launch(InstanceMarketOptions=SPOT)
    stage.cloud.add_fault({"state": "spot-price", "type": "p2.xlarge", "zone": "us-east-1b", "factor": 1.5})
    eventually(lambda: abs(now() - before * 1.5) < 0.001)
    assert "terminate" in stage.metadata(low, "spot/instance-action")
    assert stage.metadata(high, "spot/instance-action") == ""
    stage.cloud.add_fault({"state": "spot-price", "zone": "us-east-1b", "usd_h": 99})
    eventually(lambda: now() == 0.9)  # never above on-demand


@checks("no-cluster")
def no_cluster(stage: Stage) -> None:
    stage.cloud.add_fault({"state": "no-cluster", "type": "p2.xlarge"})
    found = stage.ec2.describe_instance_types(InstanceTypes=["p2.xlarge"])["InstanceTypes"]
    assert found[0]["PlacementGroupInfo"]["SupportedStrategies"] == ["partition", "spread"]
    stage.ec2.create_placement_group(GroupName="close", Strategy="cluster")
    with pytest.raises(Exception, match="InvalidParameterCombination"):
        stage.launch(Placement={"GroupName": "close"})
    stage.ec2.delete_placement_group(GroupName="close")


@checks("no-image")
def no_image(stage: Stage) -> None:
    ssm = client(stage.cloud, "ssm")
    ami_id = ssm.get_parameter(Name=PARAMETER)["Parameter"]["Value"]
    stage.cloud.add_fault({"state": "no-image", "region": "us-east-1"})
    assert error_of(ssm.get_parameter, Name=PARAMETER)[0] == "ParameterNotFound"
    assert stage.ec2.describe_images(Owners=["898082745236"])["Images"] == []
    request = {"ImageId": ami_id, "InstanceType": "p2.xlarge", "MinCount": 1, "MaxCount": 1}
    assert error_of(stage.ec2.run_instances, **request)[0] == "InvalidAMIID.NotFound"
    assert client(stage.cloud, "ssm", "us-west-2").get_parameter(Name=PARAMETER)
    stage.cloud.clear_faults()
    assert ssm.get_parameter(Name=PARAMETER)["Parameter"]["Value"] == ami_id


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TESTED))
def test_fault(stage: Stage, name: str) -> None:
    TESTED[name](stage)


def test_each_fault_of_the_grammar_has_a_test() -> None:
    assert set(TESTED) == set(EVENTS) | set(STATES)


@pytest.mark.slow
def test_a_served_fault_loses_the_answer_and_not_the_instance(
    cloud: EmbeddedCloud, ec2: Any, ami: str, launch: Launch
) -> None:
    cloud.add_fault({"operation": "RunInstances", "error": "InternalError", "served": True, "times": 1})
    before = len(cloud.instances())
    request = {"ImageId": ami, "InstanceType": "p2.xlarge", "MinCount": 1, "MaxCount": 1, "ClientToken": "lost"}
    assert error_of(ec2.run_instances, **request)[::2] == ("InternalError", 500)
    assert len(cloud.instances()) == before + 1
    instance_id = ec2.run_instances(**request)["Instances"][0]["InstanceId"]
    assert len(cloud.instances()) == before + 1
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for(ec2, instance_id, "terminated")


def test_the_state_can_be_dumped(cloud: EmbeddedCloud, ec2: Any, launch: Launch) -> None:
    cloud.add_fault({"event": "rebalance", "zone": "us-east-1b"})
    cloud.add_fault({"state": "quota", "code": "L-DB2E81BA", "vcpus": 4})
    group = ec2.create_security_group(GroupName="dumped", Description="x")["GroupId"]
    instance_id = launch()
    env = {**os.environ, "PIXEL_ORCH_HOME": str(cloud.home)}
    said = subprocess.run(
        [sys.executable, "-m", "infra.local", "--dump"], capture_output=True, text=True, check=True, env=env
    ).stdout
    found = json.loads(said)
    assert found == cloud.dump() | {"requests": found["requests"]}
    assert next(one for one in found["instances"] if one["id"] == instance_id)["state"] == "running"
    assert [fault["name"] for fault in found["faults"]] == ["rebalance", "quota"]
    assert found["faults"][0]["struck"] == 1
    assert found["quotas"] == [{"code": "L-DB2E81BA", "region": None, "vcpus": 4.0}]
    assert "dumped" in {one["name"] for one in found["security_groups"]}
    assert found["requests"]["RunInstances"] >= 1
    ec2.delete_security_group(GroupId=group)


def test_a_dump_without_a_cloud_says_so(tmp_path: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "infra.local", "--dump", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 1
    assert "no embedded cloud runs" in asked.stderr
