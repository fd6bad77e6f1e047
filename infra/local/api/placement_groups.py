"""Placement groups, which moto does not have: their operations, and what RunInstances asks of them.

EC2 User Guide, "Placement groups for your Amazon EC2 instances". A cluster group is in the zone of its first instance,
and can be deleted when its last one is terminated. Texts: bcbio-nextgen-vm#45 and scylla-cluster-tests#6742 (in use),
csit#179 (duplicate), dstack#2872 (type).
"""

import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from infra.local.aws import moto_ec2
from infra.local.aws.errors import STATUS_AND_TEXT
from infra.local.aws.wire import ApiError, Form, Reply, Xml, xml_reply
from infra.local.cloud.cloud import Cloud

MOST = 500
"""The quota of an account, for each region."""
_STRATEGIES = ("cluster", "spread", "partition")
_NAME = re.compile(r"[ -~]{1,255}")


@dataclass
class PlacementGroup:
    """One group."""

    region: str
    name: str
    strategy: str
    group_id: str = field(default_factory=lambda: f"pg-{secrets.token_hex(8)}{secrets.token_hex(1)[0]}")
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        """Its ARN."""
        return f"arn:aws:ec2:{self.region}:{moto_ec2.ACCOUNT_ID}:placement-group/{self.name}"

    def described(self) -> dict[str, Xml]:
        """Return it as EC2 does."""
        tags: list[Xml] = [{"key": key, "value": value} for key, value in self.tags.items()]
        return {
            "groupName": self.name,
            "groupId": self.group_id,
            "groupArn": self.arn,
            "strategy": self.strategy,
            "state": "available",
            "tagSet": tags,
        }


class PlacementGroups:
    """The placement groups of one embedded cloud. Call with the cloud's lock held."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._groups: dict[tuple[str, str], PlacementGroup] = {}

    def answer(self, operation: str, region: str, form: Form) -> Reply:
        """Answer CreatePlacementGroup, DescribePlacementGroups or DeletePlacementGroup. Raises ApiError."""
        by_operation = {
            "CreatePlacementGroup": self._create,
            "DescribePlacementGroups": self._describe,
            "DeletePlacementGroup": self._delete,
        }
        return xml_reply(operation, by_operation[operation](region, form))

    def _create(self, region: str, form: Form) -> dict[str, Xml]:
        name, strategy = form.get("GroupName"), form.get("Strategy") or "cluster"
        if name is None:
            raise ApiError("MissingParameter", "The request must contain the parameter GroupName")
        if not _NAME.fullmatch(name):
            raise ApiError("InvalidParameterValue", f"Value ({name}) for parameter groupName is invalid.")
        if strategy not in _STRATEGIES:
            text = f"Value ({strategy}) for parameter strategy is invalid. It must be one of {', '.join(_STRATEGIES)}."
            raise ApiError("InvalidParameterValue", text)
        if (region, name) in self._groups:
            raise _refusal("InvalidPlacementGroup.Duplicate", name)
        if sum(where == region for where, _ in self._groups) >= MOST:
            raise _refusal("PlacementGroupLimitExceeded", name)
        _check_dry_run(form)
        group = PlacementGroup(region, name, strategy, tags=_tags(form))
        self._groups[(region, name)] = group
        return {"placementGroup": group.described()}

    def _describe(self, region: str, form: Form) -> dict[str, Xml]:
        groups = [group for (where, _), group in self._groups.items() if where == region]
        by_name, by_id = form.numbered("GroupName"), form.numbered("GroupId")
        for asked, known in ((by_name, {one.name for one in groups}), (by_id, {one.group_id for one in groups})):
            for missing in [one for one in asked if one not in known]:
                raise _refusal("InvalidPlacementGroup.Unknown", missing)
        found = [one for one in groups if (not by_name or one.name in by_name) and (not by_id or one.group_id in by_id)]
        filters = form.filters()
        return {"placementGroupSet": [one.described() for one in found if _passes(one, filters)]}

    def _delete(self, region: str, form: Form) -> dict[str, Xml]:
        name = form.get("GroupName") or ""
        if (region, name) not in self._groups:
            raise _refusal("InvalidPlacementGroup.Unknown", name)
        if self._members(region, name):
            raise _refusal("InvalidPlacementGroup.InUse", name)
        _check_dry_run(form)
        del self._groups[(region, name)]
        return {"return": "true"}

    def _members(self, region: str, name: str) -> list[Any]:
        """Return the records of its instances that are not terminated."""
        return [
            record
            for record in self._cloud.instances.all()
            if record.region_name == region and record.placement.group_name == name and record.state != "terminated"
        ]

    # --- what RunInstances asks --------------------------------------------------------------------------------------

    def zones_left(self, region: str, form: Form, instance_type: str, zones: list[str]) -> list[str]:
        """Return the zones in which a launch may start, given the group that it names. Raises ApiError for none."""
        name = form.get("Placement.GroupName")
        if name is None:
            return zones
        group = self._groups.get((region, name))
        if group is None:
            raise _refusal("InvalidPlacementGroup.Unknown", name)
        if group.strategy != "cluster":
            return zones
        if not moto_ec2.can_be_in_cluster(instance_type):
            raise ApiError(
                "InvalidParameterCombination",
                f"Cluster placement groups are not supported by the '{instance_type}' instance type. Specify a"
                " supported instance type or change the placement group strategy, and try again.",
            )
        members = self._members(region, name)
        if not members:
            return zones
        zone = str(members[0].availability_zone)
        if zone not in zones:
            text = f"The placement group '{name}' is in use in another availability zone: {zone}"
            raise ApiError("InvalidPlacementGroup.InUse", text)
        return [zone]


def _refusal(code: str, name: str) -> ApiError:
    status, text = STATUS_AND_TEXT[code]
    return ApiError(code, text.replace("pixel-orch-group", name), status)


def _check_dry_run(form: Form) -> None:
    if form.flag("DryRun"):
        raise ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)


def _tags(form: Form) -> dict[str, str]:
    """Return the tags of TagSpecification.N with ResourceType placement-group. Raises ApiError for another type."""
    found: dict[str, str] = {}
    number = 1
    while (kind := form.get(f"TagSpecification.{number}.ResourceType")) is not None:
        if kind != "placement-group":
            text = f"'{kind}' is not a valid taggable resource type for this operation."
            raise ApiError("InvalidParameterValue", text)
        tag = 1
        while (key := form.get(f"TagSpecification.{number}.Tag.{tag}.Key")) is not None:
            found[key] = form.values.get(f"TagSpecification.{number}.Tag.{tag}.Value", "")
            tag += 1
        number += 1
    return found


def _passes(group: PlacementGroup, filters: dict[str, list[str]]) -> bool:
    own = {
        "group-name": group.name,
        "group-arn": group.arn,
        "strategy": group.strategy,
        "state": "available",
    }
    for name, values in filters.items():
        if name.startswith("tag:"):
            if group.tags.get(name.removeprefix("tag:")) not in values:
                return False
        elif name == "tag-key":
            if not set(group.tags) & set(values):
                return False
        elif name not in own:
            raise ApiError("InvalidParameterValue", f"The filter '{name}' is invalid")
        elif own[name] not in values:
            return False
    return True
