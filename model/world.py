"""The place of this process among the processes of one training. Torch is not imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from model.errors import SetupError

TIMEOUT_S = 300.0
"""How long a process waits for another one. Torch's own default is 30 minutes, which a rented machine would bill."""


@dataclass(frozen=True)
class World:
    """One process of a training, and how it finds the others. The default is a process alone."""

    rank: int = 0  # of this process, over all machines; rank 0 writes the files
    size: int = 1  # processes over all machines
    local_rank: int = 0  # of this process on its machine: the index of its GPU
    local_size: int = 1  # processes on this machine
    address: str = ""  # of the machine of rank 0
    port: int = 0
    timeout_s: float = TIMEOUT_S

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> World:
        """Read RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun sets them.

        Raises:
            SetupError: one of them is missing or not a number, or they contradict each other.
        """
        if "RANK" not in env and "WORLD_SIZE" not in env:
            return ALONE
        size = whole(env, "WORLD_SIZE", least=1)
        if size == 1:
            return ALONE
        rank, local = whole(env, "RANK"), whole(env, "LOCAL_RANK", default=0)
        if rank >= size:
            raise SetupError(f"RANK={rank} and WORLD_SIZE={size} contradict each other; ranks count from 0")
        address = env.get("MASTER_ADDR")
        if not address:
            raise SetupError(f"WORLD_SIZE is {size}, but MASTER_ADDR is not set; give the address of rank 0's machine")
        return cls(
            rank,
            size,
            local,
            whole(env, "LOCAL_WORLD_SIZE", least=1, default=local + 1),
            address,
            whole(env, "MASTER_PORT", least=1, most=65535),
            float(whole(env, "PIXEL_ORCH_GROUP_TIMEOUT_S", least=1, default=int(TIMEOUT_S))),
        )


ALONE = World()


def whole(
    env: Mapping[str, str], name: str, *, least: int = 0, most: int = 2**31 - 1, default: int | None = None
) -> int:
    """Read a whole number from the environment.

    Raises:
        SetupError: it is missing without a default, not a whole number, or out of range.
    """
    text = env.get(name, "")
    if not text and default is not None:
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 11 else -1
    if not least <= number <= most:
        given = f"{name}={text}" if text else f"{name} is not set, it"
        raise SetupError(f"{given} is not a whole number from {least} to {most}; correct the environment")
    return number
