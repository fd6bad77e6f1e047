"""The parts of one run's engine that bring up a machine and watch it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.engine.allowance import Allowance
from orchestrator.engine.deadline import DeadlineKeeper
from orchestrator.engine.journal import Journal
from orchestrator.engine.provisioner import Provisioner
from orchestrator.engine.reaper import Reaper
from orchestrator.engine.remote_store import RemoteCopy
from orchestrator.engine.stop import StopRequest
from orchestrator.host.base import Job
from orchestrator.runs.spec import RunSpec


@dataclass(frozen=True)
class Parts:
    """What `BringUp` and `AttemptLeader` work with; one of each for a run."""

    spec: RunSpec
    job: Job
    journal: Journal
    stop: StopRequest
    allowance: Allowance
    reaper: Reaper
    provisioner: Provisioner
    remote: RemoteCopy
    deadline: DeadlineKeeper | None = None
