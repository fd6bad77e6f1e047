"""S3 as the in-memory cloud has it: what the machines carried there by when, and the laptop's sight of it.

A machine carries a finished checkpoint within `carry_s`, as `infra/instance/checkpoint_uploader.py` does beside the
trainer. What was not there when it was interrupted is lost; one that ends itself waits until all is there, unless S3
refuses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CloudError
from orchestrator.host.base import BucketPlace
from orchestrator.runs.output_tree import TreeFile
from orchestrator.runs.outputs import Output
from tests.support.memory_host import Machine, MemoryHost, output_of

if TYPE_CHECKING:
    from tests.support.memory import MemoryCloud

PLACE = BucketPlace("b", "pixel-orch/story-1", "us-east-1")


class MemoryS3:
    """The `RemoteStore` seam.

    Args:
        cloud: whose machines write there.
    """

    url = f"s3://{PLACE.bucket}/{PLACE.prefix}"

    def __init__(self, cloud: MemoryCloud) -> None:
        self.cloud = cloud
        self.fails: CloudError | None = None  # what the laptop gets instead of an answer

    def checkpoints(self, instance_ids: Sequence[str], most: int = 20) -> list[Output]:
        self._check()
        written = {m.instance.instance_id for m in self.cloud.machines if m.carried}
        assert written <= set(instance_ids), "what a machine of the run stored is not asked for"
        return [output_of(step) for step in sorted(self.cloud.bucket)][-most:]

    def fetch(self, output: Output, destination: Path) -> bool:
        self._check()
        self.cloud.write(destination, self.cloud.bucket[output.step])
        return True

    def file(self, instance_id: str, name: str) -> bytes:
        self._check()
        host, until = self._host(instance_id)
        return host.metrics_at(until) if until is not None and name == "metrics.jsonl" else b""

    def last_words(self, instance_id: str) -> dict[str, Any]:
        self._check()
        host, until = self._host(instance_id)
        if until is None:
            return {}
        trainer, code, asked = host.trainer_at(until)
        words: dict[str, Any] = {"trainer": {"state": trainer, "exit_code": code, "asked": asked}}
        return {**words, "outputs": host.told_of_tree(until)} if trainer == "exited" else words

    def output_state(self, instance_id: str) -> bytes:
        self._check()
        found = self.cloud.bucket_trees.get(instance_id)
        return b"" if found is None else found.raw()

    def fetch_outputs(self, instance_id: str, files: Sequence[TreeFile], folder: Path) -> frozenset[str]:
        self._check()
        folder.mkdir(parents=True, exist_ok=True)
        there = self.cloud.bucket_trees[instance_id].files.values()
        contents = {hashlib.sha256(content).hexdigest(): content for content in there}
        for file in files:
            if file.sha256 in contents:
                self.cloud.write(folder / file.sha256, contents[file.sha256])
        return frozenset(file.sha256 for file in files if file.sha256 in contents)

    def _host(self, instance_id: str) -> tuple[MemoryHost, float | None]:
        """Return the machine, and up to when S3 has what it did; None: nothing of it."""
        machine = next(m for m in self.cloud.machines if m.instance.instance_id == instance_id)
        return MemoryHost(self.cloud, machine), self.cloud.carried_until(machine)

    def _check(self) -> None:
        self.cloud.carry()
        if self.cloud.is_offline:
            raise CloudError("could not connect", code="EndpointConnectionError")
        if self.fails is not None:
            raise self.fails


def carried_until(machine: Machine, now: float, refusals: list[tuple[float, float]]) -> float | None:
    """Return up to which moment what a machine had finished is in S3 by now; None: nothing of it is."""
    if machine.job is None or machine.job.bucket is None or machine.command_started_at is None:
        return None
    until = now
    if machine.gone_at is not None:
        until = min(until, machine.gone_at)
    if machine.gone_at is None or machine.instance.reason_code != "Client.InstanceInitiatedShutdown":
        until -= machine.carry_s
    for since, to in refusals:
        if since <= until < to:
            until = since
    return until if until >= machine.command_started_at else None
