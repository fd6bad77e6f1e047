"""What several machines of one training need on each of them: gloo's network interface.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys

SIOCGIFADDR = 0x8915
DISCARD_PORT = 9  # a UDP socket that connects sends nothing


def gloo_interface(env: dict[str, str]) -> dict[str, str]:
    """Return GLOO_SOCKET_IFNAME, the interface to the first machine; nothing where the user has set it.

    gloo would listen on the address of the host's name. Where that is 127.0.1.1, as on some images, no other machine
    reaches it, and the processes wait for each other until their timeout. NCCL chooses by itself, and well: it leaves
    out loopback and Docker, and uses several network cards, which one name would not.
    """
    address = env.get("PIXEL_ORCH_MASTER_ADDR", "")
    if not address or "GLOO_SOCKET_IFNAME" in env:
        return {}
    found = interface_to(address)
    return {"GLOO_SOCKET_IFNAME": found} if found else {}


def interface_to(address: str) -> str:
    """Return the network interface over which an IPv4 address is reached, such as "ens5"; "" if it is not found."""
    if not sys.platform.startswith("linux"):
        return ""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, DISCARD_PORT))
            own = probe.getsockname()[0]
            own = "127.0.0.1" if own.startswith("127.") else own
            return next((name for _, name in socket.if_nameindex() if _address_of(probe, name) == own), "")
    except OSError:
        return ""


def _address_of(probe: socket.socket, name: str) -> str:
    try:
        answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
    except OSError:
        return ""  # an interface without an address
    return socket.inet_ntoa(answer[20:24])
