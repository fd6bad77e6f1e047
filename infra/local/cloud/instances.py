"""The instances of the embedded cloud: their records, their hosts, and whether describe calls return them yet."""

import secrets
import time
from pathlib import Path
from typing import Any

from infra.local.aws import moto_ec2
from infra.local.aws.moto_ec2 import Ec2Instance
from infra.local.aws.wire import ApiError
from infra.local.machine.host import EmbeddedHost

ACTIVE_STATES = ("pending", "running", "shutting-down", "stopping")


class RefusedError(Exception):
    """A control request cannot be carried out; the message says why."""


class Instances:
    """All instances since the start, by id; those that have not ended have a host.

    Args:
        folder: the folder that holds a folder for each instance.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: dict[str, EmbeddedHost] = {}
        self._records: dict[str, Ec2Instance] = {}
        self._hidden: dict[str, int] = {}
        self._hidden_until: dict[str, float] = {}
        self._role_keys: dict[str, Ec2Instance] = {}

    def add(self, record: Ec2Instance, host: EmbeddedHost, *, hidden_s: float, hidden_describes: int) -> None:
        """Add an instance that was launched or started again.

        Args:
            record: the record that describe calls return.
            host: the machine of the instance.
            hidden_s: for so many seconds no describe call returns it.
            hidden_describes: so many describe calls by its id do not find it.
        """
        self._hidden_until[record.id] = time.monotonic() + hidden_s
        self._records[record.id] = record
        self.hosts[record.id] = host
        self._hidden.setdefault(record.id, hidden_describes)

    def new_role_key(self, record: Ec2Instance) -> str:
        """Create the access key id of an instance's temporary credentials."""
        key = f"ASIA{secrets.token_hex(8).upper()}"
        self._role_keys[key] = record
        return key

    def role_of(self, access_key_id: str) -> tuple[str, str] | None:
        """Return (role, instance id) of a temporary key; None for another key, or if its instance has ended."""
        record = self._role_keys.get(access_key_id)
        role = moto_ec2.role_of(record) if record is not None and record.state in ACTIVE_STATES else None
        return (role, str(record.id)) if record is not None and role is not None else None

    def record(self, instance_id: str) -> Ec2Instance:
        """Return the record of an instance. Raises RefusedError if there is none."""
        found = self._records.get(instance_id)
        if found is None:
            raise RefusedError(f"the embedded cloud has no instance {instance_id}")
        return found

    def running(self, instance_id: str) -> tuple[Ec2Instance, EmbeddedHost]:
        """Return the record and the host of an instance. Raises RefusedError if it has ended."""
        record = self.record(instance_id)
        host = self.hosts.get(instance_id)
        if host is None:
            raise RefusedError(f"{instance_id} is {record.state}")
        return record, host

    def all(self) -> list[Ec2Instance]:
        """Return all instances since the start, in the order of their launch."""
        return list(self._records.values())

    def describe(self) -> list[dict[str, Any]]:
        """Return each instance as `EmbeddedCloud.instances` does."""
        found = []
        for record in self.all():
            host = self.hosts.get(record.id)
            found.append(
                {
                    "id": record.id,
                    "state": record.state,
                    "zone": record.availability_zone,
                    "type": record.instance_type,
                    "market": "spot" if record.is_spot else "on-demand",
                    "reason": record.state_reason.code or None,
                    "launch_index": int(record.ami_launch_index),
                    "private_address": str(record.private_ip),
                    "placement_group": record.placement.group_name or None,
                    "ssh_port": host.ssh_port if host else None,
                    "frozen": host.frozen if host else False,
                    "folder": str(self.folder / record.id),
                    "pids": host.pids() if host else [],
                }
            )
        return found

    def hide(self, instance_ids: list[str]) -> None:
        """Count a describe call by id. Raises EC2's NotFound error while an instance is not visible yet."""
        for instance_id in instance_ids:
            too_new = instance_id in self.hidden_ids()
            if too_new or self._hidden.get(instance_id, 0) > 0:
                self._hidden[instance_id] -= 0 if too_new else 1
                raise ApiError("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")

    def hidden_ids(self) -> set[str]:
        """Return the ids of the instances that no describe call returns yet."""
        return {instance_id for instance_id, until in self._hidden_until.items() if until > time.monotonic()}

    def is_idle(self) -> bool:
        """Whether no instance is pending, running or ending."""
        return not any(record.state in ACTIVE_STATES for record in self.all())

    def used(self, instance_type: str, zone: str) -> int:
        """Return the number of instances in a capacity pool."""
        return sum(
            record.state in ACTIVE_STATES
            for record in self.all()
            if (record.instance_type, record.availability_zone) == (instance_type, zone)
        )

    def counted(self) -> list[tuple[str, str, str]]:
        """Return (type, market, region) of each instance that counts towards a vCPU quota."""
        return [
            (record.instance_type, "spot" if record.is_spot else "on-demand", record.region_name)
            for record in self.all()
            if record.state in ACTIVE_STATES
        ]
