"""The keys of a run's objects in S3: which machine may write where, and what belongs to a run.

    PREFIX/machines/USERID/checkpoints/checkpoint-<step>.pt
    PREFIX/machines/USERID/metrics.jsonl, trainer.log, state.json
    PREFIX/machines/USERID/outputs/state.json                                the newest whole state of the outputs
    PREFIX/machines/USERID/outputs/objects/<sha256>                          contents of its files, by their digest
    PREFIX/checkpoints/checkpoint-<step>.pt                                  the layout of 0.1.0, which is still read
    PREFIX/attempts/<instance id>/metrics.jsonl, trainer.log, state.json

USERID is the policy variable `aws:userid` of an instance's role: ROLE-ID:INSTANCE-ID. EC2 sets it, so a machine cannot
have another one's, and the role's policy lets it write below its own folder only (docs/decisions/0017). A reader takes
exactly these keys: `*` in the policy covers slashes too, so a machine may write `.../anything/machines/USERID/...`.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from infra.instance.trainer_files import CHECKPOINT

MACHINES = "machines"
OUTPUT_STATE = "outputs/state.json"
USER_ID = re.compile(r"[A-Za-z0-9]{1,128}:(i-[0-9a-f]{1,40})")
"""`aws:userid` of an instance's role; group 1 is the instance id. For any other credentials it has another form."""


class StoredCheckpoint(NamedTuple):
    """A checkpoint in S3. The greatest is the one to resume from."""

    step: int
    rank: int  # of two of the same step that of the later machine is newer; -1 for the layout of 0.1.0
    name: str
    key: str


def machine_folder(prefix: str, user_id: str) -> str:
    """Return the part of a run's prefix that one machine writes, without a slash at the end."""
    return f"{prefix}/{MACHINES}/{user_id}"


def output_object(sha256: str) -> str:
    """Return where a machine's folder has a content of its program's outputs."""
    return f"outputs/objects/{sha256}"


def instance_of(user_id: str) -> str:
    """Return the id of the instance whose role has that user id, "" if it is not one of an instance."""
    match = USER_ID.fullmatch(user_id)
    return match.group(1) if match else ""


def folders_of(prefix: str, user_ids: Iterable[str], instances: Sequence[str]) -> list[tuple[str, str]]:
    """Return (instance id, folder) of a run's machines, the one that was launched last first.

    Args:
        prefix: of the run, without a slash at the end.
        user_ids: that have a folder below its `machines/`.
        instances: ids of the run's instances in the order of their launch; the others' folders are left out.
    """
    ranks = {instance_id: rank for rank, instance_id in enumerate(instances)}
    found = [(instance_of(user_id), machine_folder(prefix, user_id)) for user_id in user_ids]
    return sorted((one for one in found if one[0] in ranks), key=lambda one: (-ranks[one[0]], one[1]))


def checkpoints(prefix: str, keys: Iterable[str], instances: Sequence[str] | None) -> list[StoredCheckpoint]:
    """Return the checkpoints of a run among some keys, oldest first.

    Args:
        prefix: of the run, without a slash at the end.
        keys: of objects.
        instances: ids of the run's instances in the order of their launch; what another instance wrote is left out.
            None where they are not known: every machine's checkpoints are taken.
    """
    ranks = {instance_id: rank for rank, instance_id in enumerate(instances or ())}
    found = []
    for key in keys:
        if not key.startswith(prefix + "/"):
            continue
        folder, _, name = key[len(prefix) + 1 :].rpartition("/")
        match, parts, rank = CHECKPOINT.fullmatch(name), folder.split("/"), -1
        if len(parts) == 3 and (parts[0], parts[2]) == (MACHINES, "checkpoints"):
            instance_id = instance_of(parts[1])
            if not instance_id or (instances is not None and instance_id not in ranks):
                continue
            rank = ranks.get(instance_id, 0)
        elif folder != "checkpoints":
            continue
        if match:
            found.append(StoredCheckpoint(int(match.group(1)), rank, name, key))
    return sorted(found)
