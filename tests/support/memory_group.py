"""What the machines of a group have to do with each other in memory: they train together, and end together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.memory import MemoryCloud
    from tests.support.memory_host import Machine

PEER_LOST = 75  # exit code of a trainer that lost another rank
MEMBERSHIP = ("PIXEL_ORCH_NODE_IPS", "PIXEL_ORCH_GENERATION", "PIXEL_ORCH_NODES")


def rank_of(machine: Machine) -> int:
    """Return its node rank, 0 where it is alone."""
    return int(machine.job.env.get("PIXEL_ORCH_NODE_RANK", 0)) if machine.job is not None else 0


def members_of(cloud: MemoryCloud, machine: Machine) -> list[Machine]:
    """Return the machines that were started with the same membership, itself among them."""
    if machine.job is None or "PIXEL_ORCH_NODES" not in machine.job.env:
        return [machine]
    mine = [machine.job.env[name] for name in MEMBERSHIP]
    started = [m for m in cloud.machines if m.job is not None and m.command_started_at is not None]
    return [m for m in started if m.job is not None and [m.job.env.get(name) for name in MEMBERSHIP] == mine]


def lead_of(cloud: MemoryCloud, machine: Machine) -> Machine:
    """Return the first machine of the group, which has the steps; itself while that has not started."""
    return next((m for m in members_of(cloud, machine) if rank_of(m) == 0), machine)


def began_at(cloud: MemoryCloud, machine: Machine) -> float | None:
    """Return when the steps begin: as soon as every member has started; None before."""
    members = members_of(cloud, machine)
    wanted = 1 if machine.job is None else int(machine.job.env.get("PIXEL_ORCH_NODES", 1))
    starts = [m.command_started_at for m in members if m.command_started_at is not None]
    return max(starts) if len(starts) >= wanted else None


def stopped_at(cloud: MemoryCloud, machine: Machine) -> float | None:
    """Return when the members agree to stop: as soon as one of them is told to."""
    moments = [t for m in members_of(cloud, machine) for t in (m.stop_at, m.noticed_at) if t is not None]
    return min(moments) if moments else None


def broken_at(cloud: MemoryCloud, machine: Machine) -> float | None:
    """Return when a member is lost to the others: gone, or frozen; None while all are there."""
    members = members_of(cloud, machine)
    if len(members) < 2 and began_at(cloud, machine) is not None:
        return None
    moments = [t for m in members for t in (m.gone_at, m.frozen_from) if t is not None]
    began = [m.command_started_at for m in members if m.command_started_at is not None]
    moments += [t for m in members for t in m.froze_at if t >= min(began)]  # it may have thawed since
    return min(moments) if moments else None


def crash_of(cloud: MemoryCloud, machine: Machine) -> int | None:
    """Return at which step the first of the members crashes."""
    steps = [m.crashes_at_step for m in members_of(cloud, machine) if m.crashes_at_step is not None]
    return min(steps) if steps else None
