"""Ends a run from outside: through the process that leads it, or without one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from orchestrator.clock import SystemClock
from orchestrator.cloud.base import Cloud, Image
from orchestrator.cloud.connect import cloud_of
from orchestrator.engine.reaper import Reaper
from orchestrator.errors import CloudError, HostError, PixelOrchError
from orchestrator.host.connect import forget_ssh_config
from orchestrator.runs.events import InstanceEnded, StateChanged
from orchestrator.runs.files import wait_until_gone
from orchestrator.runs.home import home_id
from orchestrator.runs.lock import Holder, RunBusyError
from orchestrator.runs.store import RunStore

END_TIMEOUT_S = 300.0
ASK_AGAIN_S = 0.2


def end_run(store: RunStore, home: Path) -> None:
    """Let the process that leads the run end it, if there is one; else end it here.

    Raises:
        HostError: that process does not end it, or belongs to another user.
        CloudError: an instance of it is still there.
    """
    clock = SystemClock()
    give_up_at = clock.now() + END_TIMEOUT_S
    seen: set[int] = set()
    while clock.now() < give_up_at:
        if store.state().is_final:
            for pid in seen:
                wait_until_gone(pid)  # it still ends the embedded cloud
            return
        try:
            with store.owned():
                end_unowned(store, home)
            return
        except RunBusyError:
            _ask(store, seen)
            clock.sleep(ASK_AGAIN_S)
    raise HostError(
        f"process {store.owner_pid() or '?'} did not end the run within {END_TIMEOUT_S:.0f} s; "
        "end that process, then repeat the command"
    )


def _ask(store: RunStore, asked: set[int]) -> None:
    """Ask the process that leads the run to end it, once each: a launch in the background passes it to another.

    Args:
        store: of the run.
        asked: the processes that were sent a signal; the one of now is added.
    """
    holder = Holder.of(store.folder)
    store.request_stop("CANCELLED")  # also for a process that does not listen to signals yet
    if holder.pid is not None and not holder.is_shared and holder.pid not in asked:
        asked.add(holder.pid)
        _signal(holder.pid)


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise HostError(f"process {pid} leads the run and belongs to another user; ask its owner") from None


def end_unowned(store: RunStore, home: Path) -> None:
    """Terminate the instances of a run that no process leads; the caller holds the run's lock.

    Raises:
        CloudError: EC2 does not answer, or an instance is still there.
    """
    forget_ssh_config(store)
    if store.state().is_final:
        return
    spec, clock = store.spec(), SystemClock()
    if spec.is_embedded and not embedded_cloud_runs(home):
        _write_off(store, clock.now(), "the embedded cloud has ended, and its instances with it")
        return
    with cloud_of(spec, home) as cloud:
        reaper = Reaper(
            spec=spec,
            cloud=cloud,
            clock=clock,
            state=store.state,
            emit=store.append,
            image_of=lambda region: _image(cloud, region, spec.ami),
            home_id=home_id(home, write=False),
        )
        try:
            left = reaper.end_all("pixel-orch down")
        except CloudError as error:
            names = ", ".join(attempt.instance_id for attempt in store.state().open_attempts())
            still = f"{names} may still run and be billed; " if names else ""
            raise type(error)(
                f"{still}{error}; then repeat the command, or run `pixel-orch cleanup`", code=error.code
            ) from None
        if left:
            raise CloudError(f"EC2 has not yet terminated {', '.join(left)}; repeat the command in a minute")
        reaper.close_security_groups(set(spec.regions))
        store.append(StateChanged(at=clock.now(), state="CANCELLED", reason="ended by pixel-orch down or cleanup"))


def _image(cloud: Cloud, region: str, ami: str | None) -> Image:
    """Return the image of the run's instances; an empty one if EC2 does not tell."""
    try:
        return cloud.image(region, ami)
    except PixelOrchError:
        return Image("")


def embedded_cloud_runs(home: Path) -> bool:
    """Whether the embedded cloud of this home runs now."""
    from infra.local import EmbeddedCloud

    return EmbeddedCloud.find(home) is not None


def _write_off(store: RunStore, now: float, reason: str) -> None:
    """Record the end of instances that ended with the embedded cloud's process."""
    for attempt in store.state().open_attempts():
        store.append(
            InstanceEnded(
                at=now,
                attempt=attempt.number,
                instance_id=attempt.instance_id,
                ended_at=now,
                ended_by="other",
                reason=reason,
                reason_code="",
            )
        )
    store.append(StateChanged(at=now, state="CANCELLED", reason=reason))
