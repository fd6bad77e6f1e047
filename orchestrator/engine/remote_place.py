"""The protocol of a run's copy in S3, as this machine sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from orchestrator.runs.output_tree import TreeFile
from orchestrator.runs.outputs import Output


class RemoteStore(Protocol):
    """The place of one run in a bucket; `cloud.aws.s3.S3Store`. Every method may raise `CloudError`."""

    @property
    def url(self) -> str:
        """How people name it."""
        ...

    def checkpoints(self, instance_ids: Sequence[str], most: int = 20) -> list[Output]:
        """Return the newest checkpoints that these instances stored, oldest first; none of another machine."""
        ...

    def fetch(self, output: Output, destination: Path) -> bool:
        """Download one, whole and compared by digest, or not at all."""
        ...

    def file(self, instance_id: str, name: str) -> bytes:
        """Return a small file that an instance stored, b"" if there is none."""
        ...

    def last_words(self, instance_id: str) -> dict[str, Any]:
        """Return the agent's state as it was stored last, {} if there is none."""
        ...

    def output_state(self, instance_id: str) -> bytes:
        """Return the list of the newest state of the outputs that an instance stored whole, b"" if it stored none."""
        ...

    def fetch_outputs(self, instance_id: str, files: Sequence[TreeFile], folder: Path) -> frozenset[str]:
        """Download contents that an instance stored into a folder, each under its SHA-256, whole or not at all.

        Returns the digests that are there now; what is missing is damaged in S3, or is not there.
        """
        ...
