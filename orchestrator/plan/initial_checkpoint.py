"""`launch --from`: a new run that begins with a checkpoint of another one, from a file or from S3.

It continues a run whose machine is lost, or trains it for longer. The checkpoint is downloaded and checked before
anything is rented.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from model.config import network_mismatch, peek
from model.errors import CheckpointError
from orchestrator.clock import SystemClock
from orchestrator.errors import SpecError
from orchestrator.formatting import nearest
from orchestrator.plan.storage import s3_files
from orchestrator.runs.events import CheckpointPulled
from orchestrator.runs.files import sha256_of, sync_folder
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.outputs import CHECKPOINT_NAME, Output
from orchestrator.runs.spec import NAME_GRAMMAR, RunSpec
from orchestrator.runs.store import RunStore


@dataclass(frozen=True)
class InitialCheckpoint:
    """A checkpoint that is on this machine."""

    path: Path
    name: str
    step: int
    is_ours: bool  # a copy that was made for this launch, and may be moved


def find_local(text: str, spec: RunSpec) -> InitialCheckpoint | None:
    """Return the checkpoint that `--from` names; None if it is in S3.

    Raises:
        SpecError: there is none, or it does not fit the run.
    """
    if text.startswith("s3://"):
        _place(text)
        return None
    checkpoint = _local(text)
    _check(checkpoint, spec)
    return checkpoint


def fetch(text: str, spec: RunSpec, home: Path) -> InitialCheckpoint:
    """Download the checkpoint that `--from` names in S3.

    Raises:
        SpecError: there is none, or it does not fit the run.
        CloudError: S3 does not answer.
    """
    checkpoint = _fetched(text, spec, home)
    try:
        _check(checkpoint, spec)
    except SpecError:
        discard(checkpoint)
        raise
    return checkpoint


def discard(checkpoint: InitialCheckpoint | None) -> None:
    """Remove what was downloaded for a launch that is not confirmed."""
    if checkpoint is not None and checkpoint.is_ours:
        shutil.rmtree(checkpoint.path.parent, ignore_errors=True)


def adopt(store: RunStore, checkpoint: InitialCheckpoint) -> None:
    """Make it the first checkpoint of a run, as if attempt 0 had saved it.

    Raises:
        SpecError: it cannot be copied.
    """
    target = store.checkpoints / checkpoint.name
    try:
        if checkpoint.is_ours:
            os.replace(checkpoint.path, target)
            discard(checkpoint)
        else:
            part = target.with_name(f".{target.name}.part")
            shutil.copyfile(checkpoint.path, part)
            os.replace(part, target)
        sync_folder(store.checkpoints)
        digest, size = sha256_of(target), target.stat().st_size
    except OSError as error:
        raise SpecError(f"--from: cannot copy {checkpoint.name} to {store.checkpoints}: {error.strerror}") from None
    copied = Output(checkpoint.name, checkpoint.step, size, digest)
    store.append(CheckpointPulled.of(copied, 0, SystemClock().now()))


def _local(text: str) -> InitialCheckpoint:
    path = Path(os.path.expanduser(text))
    if not path.exists() and NAME_GRAMMAR.fullmatch(text):
        run = RunStore(home_from_environment(), text).folder
        path = run if run.is_dir() else path
    if path.is_dir():
        inside = path / "checkpoints"  # of a run's folder
        folder = inside if inside.is_dir() else path
        found = [(int(m[1]), p) for p in folder.iterdir() if (m := CHECKPOINT_NAME.fullmatch(p.name))]
        if not found:
            raise SpecError(f"--from: there is no checkpoint-<step>.pt in {folder}; give a file, or a run's folder")
        path = max(found)[1]
    if not path.is_file():
        near = nearest(text, [store.run for store in RunStore.all(home_from_environment())])
        guess = f"did you mean the run {near}? Or " if near else ""
        raise SpecError(
            f"--from: there is no {path}; {guess}give a run's name, a checkpoint, its folder, or s3://BUCKET/PREFIX"
        )
    match = CHECKPOINT_NAME.fullmatch(path.name)
    if match is None:
        raise SpecError(f"--from: {path.name} has no step in its name; rename it to checkpoint-<step>.pt")
    return InitialCheckpoint(path, path.name, int(match[1]), is_ours=False)


def _place(text: str) -> tuple[str, str]:
    """Return (bucket, prefix)."""
    place = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(\S+?)/*", text)
    if place is None:
        raise SpecError(f"--from: {text!r} is not an S3 URL; give s3://BUCKET/PREFIX of a run, or of a checkpoint")
    return place[1], place[2]


def _fetched(text: str, spec: RunSpec, home: Path) -> InitialCheckpoint:
    bucket, prefix = _place(text)
    files = s3_files(spec, home, bucket)
    files.check("--from")
    output = files.newest_below(prefix)
    if output is None:
        raise SpecError(f"--from: there is no checkpoint below {text}")
    folder = Path(tempfile.mkdtemp(prefix=".from-", dir=home))
    if not files.fetch(output, folder / output.name, needs_digest=False):
        shutil.rmtree(folder)
        raise SpecError(f"--from: s3://{bucket}/{output.key} is damaged: its digest differs; give an earlier one")
    return InitialCheckpoint(folder / output.name, output.name, output.step, is_ours=True)


def _check(checkpoint: InitialCheckpoint, spec: RunSpec) -> None:
    """Refuse what the trainer would refuse."""
    if spec.trainer is None:
        return
    try:
        peeked = peek(checkpoint.path)
    except CheckpointError as error:
        raise SpecError(f"--from: {error}") from None
    if peeked.step != checkpoint.step:
        raise SpecError(f"--from: {checkpoint.name} holds step {peeked.step}, not the step of its name; rename it")
    problem = network_mismatch(peeked.config, spec.trainer)
    if problem is not None:
        raise SpecError(f"--from: {checkpoint.name} does not fit: {problem}")
    if checkpoint.step >= spec.trainer.steps:
        raise SpecError(
            f"--from: {checkpoint.name} is of step {checkpoint.step}, and --steps is {spec.trainer.steps}: "
            "nothing is left to train; give more steps"
        )
