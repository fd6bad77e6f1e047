"""EC2 as a `Cloud`: RunInstances with InstanceMarketOptions for each pool; everything is found by tag."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from orchestrator.clock import OF_THIS_PROCESS
from orchestrator.cloud.aws import account, group, leftovers
from orchestrator.cloud.aws.checkip import public_cidr
from orchestrator.cloud.aws.errors import NO_CREDENTIALS, map_boto_errors
from orchestrator.cloud.aws.fleet import create_fleet
from orchestrator.cloud.aws.images import find_image
from orchestrator.cloud.aws.prices import PriceSource
from orchestrator.cloud.aws.session import forget_assumed_roles, open_client, open_session
from orchestrator.cloud.aws.spot_history import history_parameters, price_changes
from orchestrator.cloud.base import (
    MANAGED_TAG,
    OWNER_TAG,
    RUN_TAG,
    Call,
    Image,
    Instance,
    Leftover,
    Network,
    admission,
    admission_within,
)
from orchestrator.errors import CloudError, CredentialsError, NotFoundError, ThrottledError
from orchestrator.market.pools import Pool
from orchestrator.market.price_series import PricePoint

SSH_PORT_TAG = "pixel-orch-local:ssh-port"  # only the embedded cloud sets it: there all instances are 127.0.0.1
PAGE = 200
THROTTLED_WAITS_S = (1.0, 2.0, 4.0, 8.0)


class AwsCloud:
    """EC2 in the given regions.

    Args:
        regions: where instances are; the first one answers for the caller's identity.
        endpoint: `{"endpoint_url": ..., "aws_access_key_id": ..., ...}` for the embedded cloud, empty for AWS itself.
        title: its name for people.
        profile: of ~/.aws/config; None takes AWS_PROFILE, or the default one.

    Raises:
        AccessError: there are no credentials.
    """

    def __init__(
        self,
        regions: Sequence[str],
        *,
        endpoint: Mapping[str, str] | None = None,
        title: str = "AWS",
        profile: str | None = None,
    ) -> None:
        self.title = title
        self.profile = profile
        self.regions = tuple(regions)
        self._endpoint = dict(endpoint or {})
        self._clients: dict[tuple[str, str, bool], Any] = {}
        self._opened: Any = None
        with map_boto_errors("credentials"):
            if not self._endpoint and self._session().get_credentials() is None:
                raise CredentialsError(f"no AWS credentials found; {NO_CREDENTIALS}", code="NoCredentials")

    def _session(self) -> Any:
        if self._opened is None:
            self._opened = open_session(self.profile, endpoint=self._endpoint)
        return self._opened

    @contextmanager
    def _door(self, where: str) -> Iterator[None]:
        """Map boto3's errors; after one of the credentials read them again: a person may log in, a helper get well.

        boto3 reads keys from a file once, so a session whose keys have expired would never see the new ones.
        """
        try:
            with map_boto_errors(where):
                yield
        except CredentialsError as error:
            self._opened, self._clients = None, {}
            if error.operation:  # AWS itself has refused these keys
                forget_assumed_roles()
            raise

    def _client(self, service: str, region: str, *, once: bool = False) -> Any:
        """Return a client; `once` sends each request a single time.

        EC2's "no capacity" is HTTP 500, which the SDK retries.
        """
        key = (service, region, once)
        with self._door(region):
            if key not in self._clients:
                retries = {"total_max_attempts": 1} if once else {"mode": "standard", "total_max_attempts": 4}
                self._clients[key] = open_client(
                    self._session(),
                    service,
                    region,
                    endpoint=self._endpoint,
                    retries=retries,
                    connect_timeout=10,
                    read_timeout=60,
                    tcp_keepalive=True,
                )
            return self._clients[key]

    def _pages(self, region: str, operation: str, key: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        with self._door(region):
            for page in self._client("ec2", region).get_paginator(operation).paginate(**parameters):
                yield from page[key]

    def who(self) -> str:
        """Return the caller's ARN.

        Raises:
            AccessError: the credentials do not work.
        """
        with self._door("caller identity"):
            return str(self._client("sts", self.regions[0]).get_caller_identity()["Arn"])

    # -- offerings and prices

    def offerings(self, instance_types: Sequence[str]) -> list[Pool]:
        """DescribeInstanceTypeOfferings: the price list also has retired types."""
        found = []
        for region in self.regions:
            filters = [{"Name": "instance-type", "Values": list(instance_types)}]
            for offering in self._pages(
                region,
                "describe_instance_type_offerings",
                "InstanceTypeOfferings",
                LocationType="availability-zone",
                Filters=filters,
            ):
                found.append(Pool(offering["InstanceType"], offering["Location"], region))
        return sorted(found)

    def spot_prices(self, pools: Sequence[Pool]) -> dict[Pool, PricePoint]:
        """Return the price in force now: for an empty window EC2 answers with the last change before it."""
        now = OF_THIS_PROCESS.now()
        prices: dict[Pool, PricePoint] = {}
        for region in {pool.region for pool in pools}:
            types = sorted({pool.instance_type for pool in pools if pool.region == region})
            for pool, point in self._price_changes(region, types, now, now):
                if pool in pools and (pool not in prices or point.at > prices[pool].at):
                    prices[pool] = point
        return prices

    def on_demand_prices(self, pools: Sequence[Pool]) -> dict[Pool, float]:
        """GetProducts, one request for each type; {} if the price list refuses or does not answer."""
        try:
            source = PriceSource(endpoint=self._endpoint, profile=self.profile)
            listed = source.on_demand(sorted({pool.instance_type for pool in pools}))
        except CloudError:
            return {}
        found = ((pool, listed.get((pool.instance_type, pool.region))) for pool in pools)
        return {pool: float(price) for pool, price in found if price is not None}

    def price_history(self, pool: Pool, start: float, end: float) -> list[PricePoint]:
        """DescribeSpotPriceHistory, all pages, sorted by time."""
        changes = self._price_changes(pool.region, [pool.instance_type], start, end, zone=pool.zone)
        return sorted((point for found, point in changes if found == pool), key=lambda point: point.at)

    def _price_changes(
        self, region: str, types: Sequence[str], start: float, end: float, zone: str | None = None
    ) -> Iterator[tuple[Pool, PricePoint]]:
        parameters = history_parameters(types, start, end, zone)
        pages = self._pages(region, "describe_spot_price_history", "SpotPriceHistory", **parameters)
        return price_changes(pages, region)

    def image(self, region: str, image_id: str | None = None) -> Image:
        """Return the image named, else AWS's Deep Learning AMI; see `images.py`."""
        with self._door(region):
            return find_image(self._client("ec2", region), self._client("ssm", region), region, image_id)

    def network(self, region: str, subnets: Sequence[str]) -> Network:
        """Return the VPC and the zones of these subnets; see `account.py`."""
        with self._door(region):
            return account.network(self._client("ec2", region), region, subnets)

    def quota_vcpus(self, region: str, code: str) -> float | None:
        """Return a quota of EC2 in vCPUs; see `account.py`."""
        with self._door(region):
            return account.quota_vcpus(self._client("service-quotas", region), region, code)

    def dry_run(self, call: Call) -> None:
        """Send a request as a DryRun; see `account.py`."""
        with self._door(call.region):
            account.dry_run(self._client("ec2", call.region), call)  # creates nothing, so it may be retried

    def credentials_end_at(self) -> float | None:
        """Return when the credentials in hand expire; see `account.py`."""
        if self._endpoint:
            return None
        with self._door("credentials"):
            return account.credentials_end_at(self._session())

    def caller_cidr(self) -> str:
        """Return the public address of this machine (checkip.amazonaws.com); 127.0.0.1/32 for the embedded cloud."""
        if self._endpoint:
            return "127.0.0.1/32"
        return public_cidr()

    # -- the security group

    def open_security_group(self, region: str, call: Call, cidr: str | None, *, within: bool = False) -> str:
        """CreateSecurityGroup and its rules; an existing group of this run and home gets the missing ones.

        A group that only has the same name may be anybody's, with rules of their own: it is never used.
        """
        ec2 = self._client("ec2", region)
        name = call.parameters["GroupName"]
        tags = {tag["Key"]: tag["Value"] for tag in call.parameters["TagSpecifications"][0]["Tags"]}
        filters = _by_owner(tags[RUN_TAG], tags[OWNER_TAG])
        if "VpcId" in call.parameters:
            filters.append({"Name": "vpc-id", "Values": [call.parameters["VpcId"]]})
        with self._door(f"{region}, security group {name}"):
            existing = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
            rules = existing[0].get("IpPermissions", []) if existing else []
        group_id = str(existing[0]["GroupId"]) if existing else self._new_group(region, call, tags[OWNER_TAG])
        if cidr and not any(r.get("CidrIp") == cidr for rule in rules for r in rule.get("IpRanges", [])):
            self._admit(region, group_id, admission(region, group_id, cidr))
        if within and not any(p.get("GroupId") == group_id for r in rules for p in r.get("UserIdGroupPairs", [])):
            self._admit(region, group_id, admission_within(region, group_id))
        return group_id

    def _new_group(self, region: str, call: Call, home_id: str) -> str:
        """Create a group; where the name is taken by another owner's, under a name with the id of this home."""
        name = call.parameters["GroupName"]
        try:
            with self._door(f"{region}, security group {name}"):
                return str(self._client("ec2", region).create_security_group(**call.parameters)["GroupId"])
        except CloudError as error:
            if error.code != "InvalidGroup.Duplicate":
                raise
        parameters = {**call.parameters, "GroupName": f"{name}-{home_id}"}
        with self._door(f"{region}, security group {parameters['GroupName']}"):
            return str(self._client("ec2", region).create_security_group(**parameters)["GroupId"])

    def _admit(self, region: str, group_id: str, rule: Call) -> None:
        """AuthorizeSecurityGroupIngress; retried, because EC2 may not know a new group yet."""
        for wait_s in (*THROTTLED_WAITS_S, None):
            try:
                with self._door(f"{region}, security group {group_id}"):
                    self._client("ec2", region).authorize_security_group_ingress(**rule.parameters)
                return
            except CloudError as error:
                if error.code == "InvalidPermission.Duplicate":
                    return
                if wait_s is None or not isinstance(error, NotFoundError):
                    raise
                time.sleep(wait_s)

    def close_security_group(self, region: str, run: str, home_id: str = "") -> None:
        """DeleteSecurityGroup by tag, and the launch templates of a killed process; "" is any home's."""
        ec2 = self._client("ec2", region)
        filters = _by_owner(run, home_id)
        with self._door(f"{region}, launch templates of {run}"):
            for template in ec2.describe_launch_templates(Filters=filters)["LaunchTemplates"]:
                ec2.delete_launch_template(LaunchTemplateId=template["LaunchTemplateId"])
        with self._door(f"{region}, security group of {run}"):
            groups = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        for one in groups:
            try:
                with self._door(f"{region}, security group {one['GroupId']}"):
                    ec2.delete_security_group(GroupId=one["GroupId"])
            except NotFoundError:
                continue

    # -- placement groups

    def open_placement_group(self, call: Call) -> None:
        """CreatePlacementGroup; see `group.py`."""
        with self._door(call.region):
            group.open_placement_group(self._client("ec2", call.region), call)

    def close_placement_groups(self, region: str, run: str, home_id: str = "") -> list[str]:
        """DeletePlacementGroup by tag; return the names of those that still have an instance."""
        with self._door(region):
            return group.close_placement_groups(self._client("ec2", region), region, _by_owner(run, home_id))

    def cluster_types(self, instance_types: Sequence[str]) -> set[str]:
        """DescribeInstanceTypes of each region; a region that does not answer adds none."""
        found: set[str] = set()
        for region in self.regions:
            with suppress(CloudError), self._door(region):
                found |= group.cluster_types(self._client("ec2", region), region, instance_types)
        return found

    # -- what a run may leave

    def leftovers(self, home_id: str) -> list[Leftover]:
        """Volumes, groups and launch templates of each region, by tag; see `leftovers.py`."""
        found = []
        for region in self.regions:
            with self._door(region):
                found += leftovers.find(self._client("ec2", region), region, home_id)
        return found

    def remove_leftover(self, left: Leftover) -> bool:
        """Delete one of them; False if an instance still has it."""
        with self._door(left.region):
            return leftovers.remove(self._client("ec2", left.region), left)

    # -- instances

    def launch_group(self, call: Call) -> tuple[Instance, ...]:
        """RunInstances for all or none, sent once. A repeated request with its token gives the same instances."""
        with self._door(group.where_of(call)):
            answer = self._client("ec2", call.region, once=True).run_instances(**call.parameters)
        return group.whole(call, (_instance(raw, call.region) for raw in answer["Instances"]), self.terminate)

    def launch(self, call: Call, template: Call | None = None) -> Instance:
        """RunInstances or CreateFleet, sent once. A repeated request with its client token gives the same instance."""
        once = self._client("ec2", call.region, once=True)
        if template is not None:
            with self._door(call.region):
                return create_fleet(self._client("ec2", call.region), once, template, call)
        with self._door(group.where_of(call)):
            answer = once.run_instances(**call.parameters)
        return _instance(answer["Instances"][0], call.region)

    def instances(self, run: str | None = None) -> list[Instance]:
        """DescribeInstances by tag, paginated."""
        value = (
            {"Name": f"tag:{RUN_TAG}", "Values": [run]} if run else {"Name": f"tag:{MANAGED_TAG}", "Values": ["true"]}
        )
        found: list[Instance] = []
        for region in self.regions:
            for reservation in self._pages(
                region,
                "describe_instances",
                "Reservations",
                Filters=[value],
                PaginationConfig={"PageSize": PAGE},
            ):
                found.extend(_instance(raw, region) for raw in reservation["Instances"])
        return sorted(found, key=lambda instance: instance.launched_at)

    def terminate(self, region: str, instance_ids: Sequence[str]) -> None:
        """TerminateInstances; retries while EC2 does not know an instance (yet), or throttles."""
        for wait_s in (*THROTTLED_WAITS_S, None):
            try:
                with self._door(", ".join(instance_ids)):
                    self._client("ec2", region).terminate_instances(InstanceIds=list(instance_ids))
                return
            except (NotFoundError, ThrottledError):
                if wait_s is None:
                    raise
                time.sleep(wait_s)


def _by_owner(run: str, home_id: str) -> list[dict[str, Any]]:
    """Return the filters for what this home made for a run; with "" for what any home made for it."""
    wanted = {MANAGED_TAG: "true", RUN_TAG: run, **({OWNER_TAG: home_id} if home_id else {})}
    return [{"Name": f"tag:{key}", "Values": [value]} for key, value in wanted.items()]


def configured_region(profile: str | None) -> str | None:
    """Return the region that `aws configure` set, or None."""
    with map_boto_errors("configuration"):
        name = open_session(profile).region_name
    return str(name) if name else None


def _port(text: str) -> int:
    """Return the port in the embedded cloud's tag; 22 for any other text, which somebody else wrote."""
    return int(text) if re.fullmatch("[0-9]{1,5}", text) and 0 < int(text) < 1 << 16 else 22


def _instance(raw: Mapping[str, Any], region: str) -> Instance:
    tags = {tag["Key"]: tag["Value"] for tag in raw.get("Tags", [])}
    reason = raw.get("StateReason") or {}
    return Instance(
        instance_id=raw["InstanceId"],
        instance_type=raw["InstanceType"],
        zone=raw["Placement"]["AvailabilityZone"],
        region=region,
        market="spot" if raw.get("InstanceLifecycle") == "spot" else "on-demand",
        state=raw["State"]["Name"],
        launched_at=raw["LaunchTime"].timestamp(),
        address=raw.get("PublicIpAddress") or raw.get("PublicDnsName") or "",
        private_address=raw.get("PrivateIpAddress") or "",
        launch_index=int(raw.get("AmiLaunchIndex") or 0),
        ssh_port=_port(tags.get(SSH_PORT_TAG, "")),
        reason_code=reason.get("Code", ""),
        reason=reason.get("Message", "") or raw.get("StateTransitionReason", ""),
        client_token=raw.get("ClientToken", ""),
        tags=tags,
    )
