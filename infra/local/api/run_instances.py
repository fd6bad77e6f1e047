"""RunInstances: the checks, the choice of the zone and the client tokens, before moto writes the record.

The order of the checks is the one observed on EC2: parameters first, then limits and capacity, then the dry run's
answer.
"""

import base64
import re
import time
from collections.abc import Callable
from typing import Any

from infra.local.api.placement_groups import PlacementGroups
from infra.local.aws import moto_ec2, moto_iam, quotas, spot_market
from infra.local.aws.moto_ec2 import Ec2Instance
from infra.local.aws.wire import EC2_NAMESPACE, ApiError, Form, Reply
from infra.local.cloud.cloud import Cloud
from infra.local.cloud.faults import Call, api_error

Moto = Callable[[Form], Reply]
_MAX_USER_DATA = 16384
_VOLATILE = {"DryRun", "Version", "Action"}


class Launcher:
    """RunInstances of one embedded cloud; it stores client tokens."""

    def __init__(self, cloud: Cloud, placement: PlacementGroups) -> None:
        self._cloud = cloud
        self._placement = placement
        self._tokens: dict[tuple[str, str], tuple[dict[str, str], list[str]]] = {}

    def run_instances(self, region: str, form: Form, moto: Moto) -> Reply:
        """Launch, or repeat the answer for a known client token. Raises ApiError. Call with the cloud's lock held."""
        if self._cloud.stopping:
            raise ApiError("Unavailable", "The embedded cloud is shutting down.", 503)
        instance_type = _known_type(form)
        _check_image_and_key(region, form)
        _check_user_data(form)
        _check_profile(form)
        zones = _candidate_zones(region, instance_type, form)
        _counts(form)
        token = form.get("ClientToken")
        asked = {name: value for name, value in form.values.items() if name not in _VOLATILE}
        if token and (before := self._tokens.get((region, token))) is not None:
            return _replay(before, asked, form, moto)
        zones = self._placement.zones_left(region, form, instance_type, zones)
        zone = self._choose_zone(instance_type, zones, form)
        if form.flag("DryRun"):
            raise ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        reply, ids = self._launch(form, zone, moto)
        if token and ids:
            self._tokens[(region, token)] = (asked, ids)
        market_name = "spot" if form.get("InstanceMarketOptions.MarketType") == "spot" else "on-demand"
        self._cloud.faults.strike(Call("RunInstances", zone, instance_type, market_name), served=True)
        return reply

    def launch_one(self, region: str, form: Form, moto: Moto) -> list[str]:
        """Launch in one pool of a CreateFleet; returns the new ids. Raises ApiError, also for moto's refusals."""
        if self._cloud.stopping:
            raise ApiError("Unavailable", "The embedded cloud is shutting down.", 503)
        instance_type = _known_type(form)
        _check_image_and_key(region, form)
        _check_user_data(form)
        _check_profile(form)
        zones = _candidate_zones(region, instance_type, form)
        zones = self._placement.zones_left(region, form, instance_type, zones)
        zone = self._choose_zone(instance_type, zones, form, "CreateFleet")
        reply, ids = self._launch(form, zone, moto)
        if not ids:
            code, text = (re.search(f"<{tag}>(.*?)</{tag}>", reply.body.decode()) for tag in ("Code", "Message"))
            raise ApiError(code[1] if code else "InternalError", text[1] if text else "", reply.status)
        return ids

    def _choose_zone(self, instance_type: str, zones: list[str], form: Form, operation: str = "RunInstances") -> str:
        """Return the first zone that admits the request; if the request names none, EC2 chooses one with capacity."""
        refusal: ApiError | None = None
        for zone in zones:
            try:
                self._admit(instance_type, zone, form, operation)
            except ApiError as error:
                if error.code not in ("InsufficientInstanceCapacity", "Unsupported"):
                    raise
                refusal = error
            else:
                return zone
        raise refusal or ApiError("InternalError", "An internal error has occurred", 500)

    def _admit(self, instance_type: str, zone: str, form: Form, operation: str) -> None:
        is_spot = form.get("InstanceMarketOptions.MarketType") == "spot"
        max_price = form.get("InstanceMarketOptions.SpotOptions.MaxPrice") if is_spot else None
        dry_run = form.flag("DryRun")
        call = Call(operation, zone, instance_type, "spot" if is_spot else "on-demand", max_price, dry_run)
        self._cloud.faults.strike(call)
        if zone not in spot_market.offering_zones(instance_type, spot_market.region_of(zone)):
            raise api_error("Unsupported", call)
        if dry_run:
            return
        least, most = _counts(form)
        self._check_quota(instance_type, zone, call, most)
        if max_price is not None:
            self._check_max_price(max_price, call)
        free = self._free(instance_type, zone)
        if free is not None and least > free:
            raise api_error("InsufficientInstanceCapacity", call)

    def _free(self, instance_type: str, zone: str) -> int | None:
        """Return for how many more instances a pool has room; None for a pool without a limit."""
        room = self._cloud.conditions.capacity.get((instance_type, zone))
        return None if room is None else room - self._cloud.instances.used(instance_type, zone)

    def _check_quota(self, instance_type: str, zone: str, call: Call, count: int) -> None:
        """Check the account's vCPU quota of that family and market, which applies to all zones of the region."""
        quota = quotas.quota_for(instance_type, call.market or "on-demand")
        more = count * quotas.vcpus(instance_type)
        region = spot_market.region_of(zone)
        if self._cloud.conditions.account.has_room(quota, region, self._cloud.instances.counted(), more):
            return
        if quota.market == "spot":
            raise api_error("MaxSpotInstanceCountExceeded", call)
        limit = f"{self._cloud.conditions.account.value(quota.code, region):.0f}"
        raise api_error("VcpuLimitExceeded", call, vcpu_limit=limit)

    def _check_max_price(self, max_price: str, call: Call) -> None:
        try:
            usd_h = float(max_price)
        except ValueError:
            usd_h = 0.0
        if usd_h <= 0.001:
            raise ApiError(
                "InvalidParameterValue", f"Invalid value '{max_price}' for spot price. Must be greater than 0.001."
            )
        spot_usd_h = self._cloud.conditions.prices.spot_usd_h(call.type or "", call.zone or "", time.time())
        if usd_h < spot_usd_h:
            raise api_error("SpotMaxPriceTooLow", call, spot_usd_h=spot_usd_h)

    def _launch(self, form: Form, zone: str, moto: Moto) -> tuple[Reply, list[str]]:
        """Let moto write the records, then create their hosts. Returns no ids if moto refuses.

        moto launches MinCount instances. EC2 launches MaxCount, or as many as the pool has room for: MinCount at least.
        """
        most, free = _counts(form)[1], self._free(form.get("InstanceType") or "", zone)
        values = {**form.values, "MinCount": str(most if free is None else min(most, free))}
        values.setdefault("InstanceInitiatedShutdownBehavior", "stop")
        if not _names_a_subnet(form):
            values["Placement.AvailabilityZone"] = zone
        Ec2Instance.born.clear()
        Ec2Instance.placement_group = form.get("Placement.GroupName") or ""
        reply = moto(Form(values))
        if reply.status != 200:
            return reply, []
        born = list(Ec2Instance.born)
        max_price = form.get("InstanceMarketOptions.SpotOptions.MaxPrice")
        for record in born:
            record.max_price_usd_h = float(max_price) if max_price else None
            self._cloud.add(record)
        return reply, [record.id for record in born]


def _known_type(form: Form) -> str:
    instance_type = form.get("InstanceType") or "m1.small"
    if instance_type not in spot_market.instance_types():
        raise ApiError("InvalidParameterValue", f"Invalid value '{instance_type}' for InstanceType.")
    return instance_type


def _check_image_and_key(region: str, form: Form) -> None:
    image_id = form.get("ImageId")
    if image_id is None:
        raise ApiError("MissingParameter", "The request must contain the parameter ImageId")
    if re.fullmatch(r"ami-[0-9a-f]+", image_id) is None:
        raise ApiError("InvalidAMIID.Malformed", f'Invalid id: "{image_id}" (expecting "ami-...")')
    backend = moto_ec2.backend(region)
    if image_id not in backend.amis:
        raise ApiError("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
    key = form.get("KeyName")
    if key is not None and key not in backend.key_pairs:
        raise ApiError("InvalidKeyPair.NotFound", f"The key pair '{key}' does not exist")


def _check_user_data(form: Form) -> None:
    """Check EC2's limit of user data: 16 KB before base64."""
    size = len(base64.b64decode(form.get("UserData") or ""))
    if size > _MAX_USER_DATA:
        raise ApiError("InvalidParameterValue", f"User data is limited to {_MAX_USER_DATA} bytes")


def _check_profile(form: Form) -> None:
    """Check that the instance profile exists. EC2 returns the same error for some seconds after its creation."""
    name = form.get("IamInstanceProfile.Name")
    if name is not None and not moto_iam.has_profile(name):
        text = f"Value ({name}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
        raise ApiError("InvalidParameterValue", text)


def _names_a_subnet(form: Form) -> bool:
    return bool(form.get("SubnetId") or form.get("NetworkInterface.1.SubnetId"))


def _candidate_zones(region: str, instance_type: str, form: Form) -> list[str]:
    """Return the zones that the request allows: the subnet's, the requested one, or those that offer the type."""
    subnet_id = form.get("SubnetId") or form.get("NetworkInterface.1.SubnetId")
    if subnet_id is not None:
        try:
            return [str(moto_ec2.backend(region).get_subnet(subnet_id).availability_zone)]
        except moto_ec2.ServiceException as error:
            raise ApiError(error.code, error.message) from error
    zone = form.get("Placement.AvailabilityZone")
    if zone is not None:
        if zone not in spot_market.zones(region):
            raise ApiError("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
        return [zone]
    return spot_market.offering_zones(instance_type, region) or spot_market.zones(region)[:1]


def _counts(form: Form) -> tuple[int, int]:
    """Return (MinCount, MaxCount). Raises ApiError."""
    try:
        least, most = int(form.get("MinCount") or "1"), int(form.get("MaxCount") or form.get("MinCount") or "1")
    except ValueError:
        raise ApiError("InvalidParameterValue", "MinCount and MaxCount must be whole numbers") from None
    if not 1 <= least <= most:
        raise ApiError("InvalidParameterValue", f"MinCount {least} and MaxCount {most} are not in 1 <= min <= max")
    return least, most


def _replay(before: tuple[dict[str, str], list[str]], asked: dict[str, str], form: Form, moto: Moto) -> Reply:
    """Return the answer for a known client token: the same instances in their present state.

    See "Ensuring idempotency in Amazon EC2 API requests" in the EC2 API reference. Raises ApiError if the parameters
    differ.
    """
    asked_before, ids = before
    if asked != asked_before:
        raise ApiError(
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
        )
    values: dict[str, Any] = {"Action": "DescribeInstances", "Version": form.values.get("Version", "2016-11-15")}
    values.update({f"InstanceId.{number}": instance_id for number, instance_id in enumerate(ids, 1)})
    described = moto(Form(values))
    # A reservation has the same elements in both answers.
    found = re.search(r"<reservationSet><item>(.*)</item></reservationSet>", described.body.decode(), re.DOTALL)
    if described.status != 200 or found is None:
        return described
    body = f'<RunInstancesResponse xmlns="{EC2_NAMESPACE}">{found[1]}</RunInstancesResponse>'
    return Reply(200, described.content_type, body.encode())
