"""What `cleanup` removes besides instances: volumes, groups, launch templates, uploads to S3 that were broken off."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orchestrator.cloud.base import Cloud, Leftover
from orchestrator.errors import PixelOrchError
from orchestrator.plan.storage import s3_files
from orchestrator.runs.home import home_id
from orchestrator.runs.listing import read_all
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore

UPLOAD = "unfinished upload"
PREFIX = "pixel-orch/"  # of every run's part of a bucket


@dataclass(frozen=True)
class Removable:
    """One of them.

    Args:
        kind: of thing.
        name: its name, id or address.
        run: whose it is, "" if no tag says it.
        says: more, for people.
        remove: deletes it; False if an instance still has it.
    """

    kind: str
    name: str
    run: str
    says: str
    remove: Callable[[], bool]

    def __str__(self) -> str:
        more = ", ".join(word for word in (f"of {self.run}" if self.run else "", self.says) if word)
        return f"{self.kind} {self.name}{f' ({more})' if more else ''}"

    def as_json(self) -> dict[str, str]:
        """Return it for `-o json`."""
        return {"kind": self.kind, "name": self.name, "run": self.run}


def find_removable(cloud: Cloud, cloud_name: str, home: Path, kept: Set[str]) -> tuple[list[Removable], list[str]]:
    """Return what no run needs any more, and why some of it could not be looked for.

    Args:
        cloud: where.
        cloud_name: "aws" or "local".
        home: whose.
        kept: runs that are not over. What is of a run that a process leads stays too.
    """
    problems: list[str] = []
    found: list[Removable] = []
    try:
        found += [_on_ec2(cloud, one) for one in cloud.leftovers(home_id(home, write=False))]
    except PixelOrchError as error:
        problems.append(f"volumes and groups were not looked for: {error}")
    by_bucket: dict[tuple[str, str | None], list[RunSpec]] = {}
    for spec in read_all(home, lambda store: store.spec())[0]:
        if spec.cloud == cloud_name and spec.bucket and spec.bucket_prefix:
            by_bucket.setdefault((spec.bucket, spec.profile), []).append(spec)
    for (bucket, _), specs in by_bucket.items():
        try:
            found += _uploads(bucket, specs, home)
        except PixelOrchError as error:
            problems.append(f"unfinished uploads to {bucket} were not looked for: {error}")
    led = led_runs(home)  # after the question: a run that has begun since then is led, and keeps what it has made
    return [one for one in found if one.run not in led | kept], problems


def _on_ec2(cloud: Cloud, left: Leftover) -> Removable:
    return Removable(left.kind, left.name, left.run, left.says, partial(cloud.remove_leftover, left))


def _uploads(bucket: str, specs: Sequence[RunSpec], home: Path) -> list[Removable]:
    """Return the uploads of these runs to one bucket that are not complete."""
    store = s3_files(specs[0], home, bucket)
    found = []
    for key, upload_id in store.broken_uploads(PREFIX):
        run = next((spec.run for spec in specs if key.startswith(f"{spec.bucket_prefix}/")), None)
        if run is not None:
            remove = partial(store.abort_upload, key, upload_id)
            found.append(Removable(UPLOAD, f"s3://{bucket}/{key}", run, "", remove))
    return found


def led_runs(home: Path) -> set[str]:
    """Return the names of the runs that a process leads."""
    return {store.run for store in RunStore.folders(home) if store.owner_pid() is not None}
