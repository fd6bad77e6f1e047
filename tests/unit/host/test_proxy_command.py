"""The command that reaches a machine gets the run's profile and region."""

from __future__ import annotations

import pytest

from orchestrator.cloud.base import Instance
from orchestrator.host.connect import proxy_of
from orchestrator.plan.settings import SSM_PROXY
from orchestrator.runs.spec import RunSpec

INSTANCE = Instance(
    instance_id="i-0123456789abcdef0",
    instance_type="g4dn.xlarge",
    zone="us-east-1a",
    region="us-east-1",
    market="spot",
    state="running",
    launched_at=0.0,
    private_address="10.0.0.5",
)


def spec(proxy: str | None, profile: str | None = "work") -> RunSpec:
    return RunSpec(
        run="x",
        cloud="aws",
        instances=("g4dn.xlarge",),
        market="spot",
        regions=("us-east-1",),
        profile=profile,
        ssh_proxy=proxy,
    )


def test_the_session_manager_gets_profile_and_region() -> None:
    command = proxy_of(INSTANCE, spec(SSM_PROXY))
    assert command is not None
    assert command.endswith(" --profile work")
    assert "--region us-east-1" in command
    assert "--target i-0123456789abcdef0" in command


@pytest.mark.parametrize(
    ("proxy", "profile", "wanted"),
    [
        (None, "work", None),
        ("ssh -W %h:%p bastion", "work", "ssh -W %h:%p bastion"),
        ("aws ssm start --profile other --target %i", "work", "aws ssm start --profile other --target {id} {region}"),
        ("aws ssm start --region=eu-west-1 --target %i", None, "aws ssm start --region=eu-west-1 --target {id}"),
        ("/opt/bin/aws ssm start", "my work", "/opt/bin/aws ssm start --profile 'my work' {region}"),
        ("sh -c 'aws ssm start --target %i'", "work", "sh -c 'aws ssm start --target {id}'"),
        ("aws ssm start | tee log", "work", "aws ssm start | tee log"),
    ],
)
def test_a_command_of_ones_own_gets_what_it_does_not_name(
    proxy: str | None, profile: str | None, wanted: str | None
) -> None:
    wanted = wanted and wanted.format(id=INSTANCE.instance_id, region="--region us-east-1")
    assert proxy_of(INSTANCE, spec(proxy, profile)) == wanted
