"""Downloads the newest outputs of a run once, for `pull`: from its machine, or from S3."""

from __future__ import annotations

from pathlib import Path

from orchestrator.engine.journal import Journal
from orchestrator.engine.output_mirror import OutputMirror
from orchestrator.engine.remote_outputs import RemoteOutputs
from orchestrator.engine.remote_place import RemoteStore
from orchestrator.host.base import NOTHING_NEW, Host, Job
from orchestrator.runs.spec import Downloads, RunSpec

TRIES = 3  # the machine may make a newer state meanwhile
ALL = Downloads(mode="all")


def outputs_from_host(journal: Journal, spec: RunSpec, host: Host, number: int, allow_s: float | None) -> None:
    """Download the newest state that a machine has.

    Args:
        journal: of the run, whose lock the caller holds.
        spec: of the run.
        host: the machine.
        number: of its attempt.
        allow_s: how long it may go on after this without hearing from us.

    Raises:
        HostError: it does not answer, or makes no sense.
        OSError: this disk takes no more.
    """
    mirror = OutputMirror(journal, _job(spec), number, ALL)
    for _ in range(TRIES):
        mirror.take(host, host.poll(mirror.job.root, NOTHING_NEW, allow_s))
        if not mirror.has_more:
            break


def outputs_from_s3(journal: Journal, place: RemoteStore) -> str:
    """Download the newest state that is in S3, if it is newer; return why it cannot be used, "" if it can.

    Raises:
        CloudError: S3 does not answer.
        OSError: this disk takes no more.
    """
    return RemoteOutputs(journal, place, ALL).bring_newest()


def _job(spec: RunSpec) -> Job:
    """Return the little that is needed of the job: nothing is sent."""
    return Job(
        root=f"pixel-orch/{spec.run}",
        command=spec.command,
        env={},
        config_json=None if spec.trainer is None else b"{}",
        tree=Path(),
        files=(),
        owner_timeout_s=spec.recovery.owner_timeout_s,
        stop_timeout_s=spec.recovery.stop_timeout_s,
        metadata_poll_s=spec.recovery.poll_s,
    )
