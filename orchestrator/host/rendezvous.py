"""How the processes of a group find each other: the variables that each machine's program gets.

The rendezvous is static: the ranks are known before anything starts, and the store that the processes meet at lives on
the first machine for one generation only. Nothing of it outlives a lost machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

MASTER_PORT = 29500  # torchrun's default
PORTS = 400  # each generation has the next one: what is left of an earlier generation finds nobody
SHARED_PORT, SHARED_PORTS = 20000, 9000  # on one computer, below those that Linux gives to clients


@dataclass(frozen=True)
class Rendezvous:
    """One machine's place in a generation of its group.

    Args:
        node_ips: the private addresses of all machines, by node rank.
        node_rank: of this one.
        slots: processes on each machine, one for each GPU.
        generation: from 1; it grows whenever the group starts anew.
    """

    node_ips: Sequence[str]
    node_rank: int
    slots: int
    generation: int

    @property
    def nodes(self) -> int:
        """How many machines there are."""
        return len(self.node_ips)

    @property
    def master_port(self) -> int:
        """The TCP port of the store on the first machine.

        The machines of the embedded cloud share this computer, and torch's store listens on all addresses of it: so
        that two runs do not meet, the port there depends on the machine too.
        """
        first = self.node_ips[0]
        if first.startswith("127."):
            return SHARED_PORT + crc32(f"{first} {self.generation}".encode()) % SHARED_PORTS
        return MASTER_PORT + (self.generation - 1) % PORTS

    def variables(self) -> dict[str, str]:
        """Return what the program of this machine gets; `torchrun` takes them in one line, see docs/scaling.md."""
        return {
            "PIXEL_ORCH_NODES": str(self.nodes),
            "PIXEL_ORCH_NODE_RANK": str(self.node_rank),
            "PIXEL_ORCH_NODE_IPS": "\n".join(self.node_ips),
            "PIXEL_ORCH_GPUS_PER_NODE": str(self.slots),
            "PIXEL_ORCH_MASTER_ADDR": self.node_ips[0],
            "PIXEL_ORCH_MASTER_PORT": str(self.master_port),
            "PIXEL_ORCH_GENERATION": str(self.generation),
        }
