"""How large a group may be: what `--nodes` and `--slots` ask for, and what the batch allows."""

from __future__ import annotations

import re
from typing import Any

from model.config.train_config import check_world
from model.errors import ConfigError
from orchestrator.errors import SpecError
from orchestrator.plan.job import slots_of
from orchestrator.runs.spec import GroupSpec, RunSpec

NODES = re.compile(r"([0-9]{1,6})(?::([0-9]{1,6}))?")
MOST_NODES = 1000
MOST_SLOTS = 64


def check_nodes(nodes: Any, slots: Any) -> GroupSpec:
    """Return the group that settings ask for: `4` machines, or `2:4`, from two to four; one without a setting.

    Raises:
        SpecError: it is no number of machines, or the smallest number is above the largest.
    """
    low = high = 1
    if nodes is not None:
        found = NODES.fullmatch(str(nodes).strip())
        if not found:
            raise SpecError(f"--nodes: {str(nodes)[:40]!r} is no number of machines; give N or MIN:MAX, such as 2:4")
        low, high = int(found[1]), int(found[2] or found[1])
        if low > high:
            raise SpecError(f"--nodes: {low}:{high} begins with the larger number; give {high}:{low}")
        if not 1 <= low <= high <= MOST_NODES:
            raise SpecError(f"--nodes: {nodes} is not between 1 and {MOST_NODES}")
    if slots is not None and not (str(slots).isdecimal() and 1 <= int(slots) <= MOST_SLOTS):
        raise SpecError(f"--slots: {str(slots)[:40]!r} is no number of processes; give 1 to {MOST_SLOTS}")
    return GroupSpec(min_nodes=low, max_nodes=high, slots=None if slots is None else int(slots))


def sizes(spec: RunSpec) -> tuple[int, ...]:
    """Return how many machines the group may have, the largest number first.

    The bundled trainer splits each batch equally over all processes, so that the global batch stays what was asked for.
    """
    group = spec.group
    return tuple(n for n in range(group.max_nodes, group.min_nodes - 1, -1) if not _problem(spec, n))


def check_group(spec: RunSpec) -> None:
    """Check that a group of the largest size can train.

    Raises:
        SpecError: the batch cannot be split, or something does not go together with a group.
    """
    problem = _problem(spec, spec.group.max_nodes)
    if problem:
        raise SpecError(problem)
    if not spec.is_group:
        return
    if spec.strategy != "price":
        raise SpecError("--strategy any chooses a pool for one machine; leave it out with --nodes")
    if spec.deadline is not None and spec.group.min_nodes < spec.group.max_nodes:
        raise SpecError(f"--deadline needs a group of one size; give --nodes {spec.group.max_nodes}")
    if spec.program.image:
        raise SpecError("--image: the machines of a group do not run containers; leave out --image or --nodes")


def _problem(spec: RunSpec, nodes: int) -> str:
    """Return why so many machines cannot train, "" if they can."""
    if spec.trainer is None:
        return ""
    for name in spec.instances:
        slots = slots_of(spec, name)
        try:
            check_world(spec.trainer, nodes * slots)
        except ConfigError as error:
            each = f" with {slots} processes{' each' if nodes > 1 else ''}" if slots > 1 else ""
            return f"{'--nodes' if nodes > 1 else '--slots'}: {nodes} x {name}{each}: {error}"
    return ""
