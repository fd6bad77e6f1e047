"""Quotas, networks, permissions (by DryRun) and the expiry of credentials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from orchestrator.cloud.aws.errors import map_boto_errors
from orchestrator.cloud.base import Call, Network
from orchestrator.errors import AccessError, CloudError, CredentialsError, SpecError

OPERATIONS = {
    "RunInstances": "run_instances",
    "CreateSecurityGroup": "create_security_group",
    "CreatePlacementGroup": "create_placement_group",
}


def quota_vcpus(client: Any, region: str, code: str) -> float | None:
    """GetServiceQuota; a quota that was never raised has AWS's default, which is another request."""
    for operation in ("get_service_quota", "get_aws_default_service_quota"):
        try:
            with map_boto_errors(f"{region}, quota {code}"):
                answer = getattr(client, operation)(ServiceCode="ec2", QuotaCode=code)
            return float(answer["Quota"]["Value"])
        except CredentialsError:
            raise
        except AccessError:
            return None  # the policy does not allow the question
        except CloudError as error:
            if error.code not in ("NoSuchResourceException", "ResourceNotFoundException"):
                raise
    return None


def dry_run(client: Any, call: Call) -> None:
    """Send a request with DryRun: EC2 answers whether it would be allowed."""
    try:
        with map_boto_errors(call.region):
            getattr(client, OPERATIONS[call.operation])(**call.parameters, DryRun=True)
    except CloudError as error:
        if error.code != "DryRunOperation":
            raise


def network(client: Any, region: str, subnets: Sequence[str]) -> Network:
    """DescribeSubnets and DescribeVpcs: one VPC, and the zone of each subnet."""
    if not subnets:
        with map_boto_errors(f"{region}, default VPC"):
            vpcs = client.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not vpcs:
            raise SpecError(
                f"--subnet: {region} has no default VPC; give --subnet subnet-..., or: aws ec2 create-default-vpc"
            )
        with map_boto_errors(f"{region}, default subnets"):
            defaults = client.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
        if not defaults:
            raise SpecError(
                f"--subnet: the default VPC of {region} has no default subnet; give --subnet subnet-..., or: "
                "aws ec2 create-default-subnet"
            )
        return Network(zones=tuple(sorted(str(subnet["AvailabilityZone"]) for subnet in defaults)))
    found: list[Mapping[str, Any]] = []
    for subnet in subnets:
        try:
            with map_boto_errors(f"{region}, {subnet}"):
                found += client.describe_subnets(SubnetIds=[subnet])["Subnets"]
        except CloudError as error:
            if not error.code.startswith("InvalidSubnet"):
                raise
    if not found:
        raise SpecError(f"--subnet: {', '.join(subnets)} is not in {region}; give a subnet of each --region")
    if len({subnet["VpcId"] for subnet in found}) > 1:
        raise SpecError(f"--subnet: the subnets in {region} are of several VPCs; give those of one")
    zones = {str(subnet["AvailabilityZone"]): str(subnet["SubnetId"]) for subnet in found}
    return Network(vpc_id=str(found[0]["VpcId"]), subnets=zones)


def credentials_end_at(session: Any) -> float | None:
    """Return when temporary credentials expire (unix seconds).

    botocore refreshes those of a role or of SSO as long as it can; the time is that of the present ones.
    """
    credentials = session.get_credentials()
    if credentials is not None:
        with suppress(CloudError), map_boto_errors("credentials"):  # they cannot be renewed: the old expiry stays
            credentials.get_frozen_credentials()
    expires = getattr(credentials, "_expiry_time", None)  # no public name for it
    return float(expires.timestamp()) if expires is not None else None


__all__ = ["credentials_end_at", "network", "quota_vcpus", "dry_run"]
