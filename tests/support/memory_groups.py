"""The placement groups of the in-memory cloud."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from orchestrator.cloud.aws.errors import MEANINGS
from orchestrator.cloud.base import OWNER_TAG, RUN_TAG, Call, Leftover
from orchestrator.errors import CloudError


@dataclass
class PlacementGroup:
    """One of them: whose it is, its zone once an instance has been put in it, and those instances."""

    region: str
    run: str
    home_id: str
    zone: str = ""
    members: set[str] = field(default_factory=set)


class PlacementGroups:
    """All of them by name. `types_without` cannot be in one."""

    def __init__(self) -> None:
        self.by_name: dict[str, PlacementGroup] = {}
        self.types_without: set[str] = set()

    def open(self, call: Call) -> None:
        """Make one; one of this name stays."""
        tags = {tag["Key"]: tag["Value"] for tag in call.parameters["TagSpecifications"][0]["Tags"]}
        made = PlacementGroup(call.region, tags[RUN_TAG], tags[OWNER_TAG])
        self.by_name.setdefault(call.parameters["GroupName"], made)

    def close(self, region: str, run: str, home_id: str, gone: Set[str]) -> list[str]:
        """Remove those of a run; return those that have an instance which is not gone."""
        of_run = {n: g for n, g in self.by_name.items() if (g.region, g.run) == (region, run)}
        ours = {n: g for n, g in of_run.items() if home_id in ("", g.home_id)}
        in_use = [name for name, group in ours.items() if group.members - gone]
        for name in set(ours) - set(in_use):
            del self.by_name[name]
        return in_use

    def leftovers(self, home_id: str) -> list[Leftover]:
        """Return those of a home."""
        ours = ((name, group) for name, group in self.by_name.items() if group.home_id == home_id)
        return [Leftover("placement group", name, group.region, group.run) for name, group in ours]

    def remove(self, name: str, gone: Set[str]) -> bool:
        """Remove one, unless an instance of it is not gone."""
        group = self.by_name.get(name)
        if group is not None and group.members - gone:
            return False
        self.by_name.pop(name, None)
        return True

    def refusal(self, call: Call, zone: str) -> CloudError | None:
        """Return what EC2 says to a launch into a group that is not there, or in another zone."""
        name = call.parameters.get("Placement", {}).get("GroupName")
        if name is None:
            return None
        group = self.by_name.get(name)
        if group is None:
            return _refusal("InvalidPlacementGroup.Unknown", f"The Placement Group '{name}' is unknown.")
        if call.parameters["InstanceType"] in self.types_without:
            return _refusal("InvalidParameterCombination", "Cluster placement groups are not supported by this type")
        if group.members and group.zone != zone:
            return _refusal("InvalidPlacementGroup.InUse", f"in use in another availability zone: {group.zone}")
        return None

    def put(self, call: Call, zone: str, instance_ids: Iterable[str]) -> None:
        """Put the instances of a launch in the group that it names, if it names one."""
        name = call.parameters.get("Placement", {}).get("GroupName")
        if name is not None:
            self.by_name[name].zone = zone
            self.by_name[name].members |= set(instance_ids)


def _refusal(code: str, text: str) -> CloudError:
    meaning = MEANINGS[code]
    return meaning.kind(f"RunInstances: {code}: {text}", code=code, scope=meaning.scope)
