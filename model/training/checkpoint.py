"""Checkpoints: the complete state of a training, with a digest that verifies it.

A file holds only tensors and plain values, so `torch.load(weights_only=True)` reads it without running code from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import ValidationError
from torch import Tensor

from model.atomic_files import naming, sync_folder, write_file
from model.config import FORMAT, TrainConfig, inspect
from model.errors import CheckpointError, NewerCheckpointError

NAME = re.compile(r"checkpoint-(\d+)\.pt")
MOST_BEST_BYTES = 1 << 16
TEMPORARY = ".checkpoint-"  # the leading dot marks it as incomplete: no reader takes it for a checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training between two steps. Plain values and CPU tensors."""

    step: int  # steps done
    position: int  # training images seen over all epochs: the place in the data
    config: dict[str, Any]  # settings of the run that wrote it
    model: dict[str, Any]
    optimizer: dict[str, Any]
    rng: dict[str, Any]  # states of torch's generators: "cpu", and "cuda" (a list) if a GPU was used
    progress: dict[str, Any]  # state of the metrics and of the choice of the best checkpoint
    ema: dict[str, Any] | None = None  # running mean of the weights (EMA), used for evaluation; None without one

    @property
    def train_config(self) -> TrainConfig:
        """The settings, validated.

        Raises:
            CheckpointError: a setting is unknown to this version.
        """
        try:
            return TrainConfig.model_validate(self.config)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise CheckpointError(
                f"the checkpoint of step {self.step} has a setting {first['loc'][0]} that this version does not "
                "support; update pixel-orch"
            ) from None


def path_of(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step."""
    return folder / f"checkpoint-{step}.pt"


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint atomically and return its path.

    No file is written over: what has the name is set aside, because it is a checkpoint that was refused.

    Raises:
        OSError: the disk is full or the folder does not exist; it names the file and the bytes that it needs.
    """
    payload = plain(checkpoint)
    path = path_of(folder, checkpoint.step)
    temporary = folder / f"{TEMPORARY}{checkpoint.step}-{os.getpid()}.tmp"
    with naming(path, needed=sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(payload))):
        try:
            with temporary.open("wb") as file:
                _write({"format": FORMAT, "digest": digest(payload), "payload": payload}, file)
                file.flush()
                os.fsync(file.fileno())
            set_aside(path, "refused")
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(folder)
    return path


def set_aside(path: Path, why: str) -> Path | None:
    """Rename a checkpoint to `checkpoint-8.pt.WHY`, which no reader takes for one; None if there is no such file.

    Where there is one of that name already, the new one is called `checkpoint-8.pt.WHY-2`, and so on.

    Raises:
        OSError: the file cannot be renamed.
    """
    if not os.path.lexists(path):
        return None
    target, number = path.with_name(f"{path.name}.{why}"), 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}.{why}-{number}")
    path.rename(target)
    return target


def _write(content: dict[str, Any], file: BinaryIO) -> None:
    """Write with torch, and raise the file's own error: torch's writer turns a full disk into a RuntimeError."""
    noted = _Noted(file)
    try:
        torch.save(content, noted)  # type: ignore[arg-type]  # it needs these two methods
    except Exception:
        if noted.error is not None:
            raise noted.error from None
        raise
    if noted.error is not None:
        raise noted.error


class _Noted:
    """A file that notes the first error of a write.

    Args:
        file: what is written to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write all of the data."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Flush the file."""
        try:
            self._file.flush()
        except OSError as error:
            self.error = self.error or error
            raise


def plain(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a copy of the fields of a checkpoint, with all tensors on the CPU."""
    return {field.name: _plain(getattr(checkpoint, field.name)) for field in fields(checkpoint)}


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and verify its digest.

    Raises:
        NewerCheckpointError: a later version of pixel-orch wrote it.
        CheckpointError: the file is missing, damaged, truncated, not a checkpoint, or declares more than it holds;
            nothing is unpacked then.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; check the path")
    inspect(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about a file that is not a checkpoint
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - a damaged archive can raise anything: KeyError, struct.error, MemoryError
        raise CheckpointError(f"{path} is damaged, truncated or not a checkpoint; use an earlier one") from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise CheckpointError(f"{path} is not a checkpoint of pixel-orch; give a file that pixel-orch wrote")
    payload = content.get("payload")
    names = {field.name for field in fields(Checkpoint)} - ({"ema"} if content["format"] == 1 else set())
    try:
        intact = isinstance(payload, dict) and payload.keys() == names and content.get("digest") == digest(payload)
    except TypeError:  # a damaged value has a type that no checkpoint contains
        intact = False
    if not intact or not isinstance(payload, dict):
        raise CheckpointError(f"{path} is damaged: its content does not match its digest; use an earlier one")
    return Checkpoint(**payload)


def find(path: Path) -> Path:
    """Return the checkpoint of a path: a file itself, or a folder's best checkpoint, else its newest.

    A folder is that of a training, or that of a run, which has its checkpoints in `checkpoints/`.

    Raises:
        CheckpointError: the path is a folder without checkpoints.
    """
    if not path.is_dir():
        return path
    steps = steps_in(path)
    if not steps and (path / "checkpoints").is_dir():
        path = path / "checkpoints"
        steps = steps_in(path)
    if not steps:
        raise CheckpointError(f"no checkpoint in {path}; give a checkpoint file, or the output folder of a training")
    try:
        with (path / "best.json").open("rb") as file:  # it may come from a rented machine
            best = json.loads(file.read(MOST_BEST_BYTES))["step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        best = None
    return path_of(path, best if best in steps else steps[-1])


def steps_in(folder: Path) -> list[int]:
    """List the steps of all checkpoints in the folder, oldest first, without verifying them."""
    found = (NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match and match[1] == str(int(match[1])))


def newest(folder: Path) -> tuple[Checkpoint | None, list[tuple[str, str]]]:
    """Return the newest intact checkpoint, and the newer ones that were refused as (name, reason).

    Refused are files that are damaged or not checkpoints, and states that are not finite.

    Raises:
        NewerCheckpointError: a later version of pixel-orch wrote one; it is not damaged, and not to be trained past.
    """
    refused = []
    for step in reversed(steps_in(folder)):
        path = path_of(folder, step)
        try:
            checkpoint = load(path)
            if checkpoint.step != step:
                raise CheckpointError(f"{path} holds step {checkpoint.step}, which differs from its file name")
            part = part_not_finite(checkpoint)
            if part is not None:
                raise CheckpointError(f"{path} has values that are not finite in its {part}: its training had diverged")
        except NewerCheckpointError as error:
            raise NewerCheckpointError(f"{error}, or start in another folder with --out") from None
        except CheckpointError as error:
            refused.append((path.name, str(error)))
        else:
            return checkpoint, refused
    return None, refused


def prune(folder: Path, *, step: int, keep: int, best: int | None, spare: Collection[str] = ()) -> None:
    """Delete the checkpoints up to `step`, except the `keep` newest and that of step `best`.

    Args:
        folder: of the checkpoints.
        step: the newest step to consider.
        keep: number of checkpoints that stay.
        best: step of the best checkpoint, if there is one.
        spare: file names that are neither counted nor deleted: the refused checkpoints.
    """
    mine = [old for old in steps_in(folder) if old <= step and path_of(folder, old).name not in spare]
    for old in mine[:-keep]:
        if old != best:
            path_of(folder, old).unlink(missing_ok=True)


def part_not_finite(checkpoint: Checkpoint) -> str | None:
    """Return the first part of a state with a value that is not finite: "weights", ...; None if all are finite."""
    parts = {"weights": checkpoint.model, "running mean": checkpoint.ema, "optimizer state": checkpoint.optimizer}
    for name, part in parts.items():
        if not all(bool(tensor.isfinite().all()) for tensor in tensors_of(part) if tensor.is_floating_point()):
            return name
    return None


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a tree of mappings and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_of(item)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a small JSON file atomically."""
    write_file(path, (json.dumps(value, allow_nan=False) + "\n").encode())


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a killed process."""
    for pattern in (f"{TEMPORARY}*.tmp", ".best.json-*.tmp", ".samples-*.tmp"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def digest(value: object) -> str:
    """Return the SHA-256 of a tree of dicts, lists, tensors and plain values.

    Each value is hashed with its type and size, so that different trees give different input to the hash.

    Raises:
        TypeError: the tree holds a value of another type.
    """
    hasher = hashlib.sha256()
    _feed(hasher.update, value)
    return hasher.hexdigest()


def _feed(update: Any, value: object) -> None:
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        update(f"tensor {value.dtype} {tuple(value.shape)}\n".encode())
        update(flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        update(f"dict {len(value)}\n".encode())
        for key in sorted(value, key=lambda key: (type(key).__name__, key)):
            _feed(update, key)
            _feed(update, value[key])
    elif isinstance(value, (list, tuple)):
        update(f"{type(value).__name__} {len(value)}\n".encode())
        for item in value:
            _feed(update, item)
    elif value is None or isinstance(value, (bool, int, float, str)):
        text = repr(value).encode("utf-8", "backslashreplace")
        update(f"{type(value).__name__} {len(text)}\n".encode() + text)
    else:
        raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _plain(value: Any) -> Any:
    """Copy a tree with its tensors on the CPU and its mappings as plain dicts."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value
