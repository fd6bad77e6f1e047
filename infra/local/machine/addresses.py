"""The private addresses of embedded instances: each has one of its own in 127.0.0.0/8.

Linux takes every address of that network as the machine itself. So programs of several instances can listen on one
port number, each on its instance's address, and reach each other there. Other systems have 127.0.0.1 only; then all
instances share it.
"""

import random
import socket

SHARED = "127.0.0.1"
_TRIES = 20


class Addresses:
    """Gives addresses. They are random, so that clouds of other homes on this machine have others."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()
        self._taken: set[str] = set()
        self.are_own = _is_of_this_machine("127.77.77.77")
        """Whether each instance has its own; else all have 127.0.0.1."""

    def take(self) -> str:
        """Return an address that no other instance of this cloud has, or 127.0.0.1."""
        for _ in range(_TRIES if self.are_own else 0):
            # 127.0.x.y is used by others: 127.0.1.1 is the host name's on Debian, 127.0.0.53 is systemd's resolver
            numbers = (self._random.randint(1, 254) for _ in range(3))
            address = "127.{}.{}.{}".format(*numbers)
            if address not in self._taken and _is_of_this_machine(address):
                self._taken.add(address)
                return address
        return SHARED


def _is_of_this_machine(address: str) -> bool:
    """Whether a program can listen there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True
