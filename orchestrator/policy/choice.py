"""From the name of a policy to the policy: for the simulator, an outlook and a live run alike."""

from __future__ import annotations

from orchestrator.policy.base import Policy
from orchestrator.policy.baselines import Greedy, OnDemand, Spot, TimeSliced
from orchestrator.policy.planned import Known, Planned
from orchestrator.policy.uniform_progress import LoweredUniformProgress, UniformProgress

SIMPLE = {one.name: one for one in (OnDemand, Spot, Greedy, TimeSliced, UniformProgress, LoweredUniformProgress)}


def policy_of(name: str, known: Known, *, is_first_hour_free: bool = False) -> Policy:
    """Return the policy of a name.

    Args:
        name: one of `names.NAMES`.
        known: what `planned` knows of the market.
        is_first_hour_free: whether AWS bills nothing for an instance that it takes back in its first hour.
    """
    if name == Planned.name:
        return Planned(known, is_first_hour_free=is_first_hour_free)
    return SIMPLE[name]()
