"""The public address of this machine, as checkip.amazonaws.com sees it: only that address is let in by SSH."""

from __future__ import annotations

import http.client
import ipaddress
import urllib.request

from orchestrator.cloud.aws.sdk_errors import one_line
from orchestrator.errors import CloudError

URL = "https://checkip.amazonaws.com"
MOST_BYTES = 1024
MOST_SHOWN = 60
NOT_PUBLIC = tuple(  # of this network, private (RFC 1918), shared (RFC 6598), loopback, link-local, multicast, reserved
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
REMEDY = "give the address range that connects by SSH: --ssh-cidr A.B.C.D/32"


def public_cidr() -> str:
    """Return the public IPv4 address of this machine as `A.B.C.D/32`.

    Behind a proxy that adds X-Forwarded-For the service answers several addresses; the last is the one that it saw.

    Raises:
        CloudError: no answer, or one that is no public IPv4 address; the message names --ssh-cidr.
    """
    try:
        with urllib.request.urlopen(URL, timeout=10) as answer:
            said = bytes(answer.read(MOST_BYTES))
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CloudError(
            f"cannot find out this machine's public address ({one_line(error)}); check the network, or {REMEDY}",
            code="ConnectionError",
        ) from None
    return cidr_of(said)


def cidr_of(said: bytes) -> str:
    """Return the IPv4 rule for an answer of checkip.

    Raises:
        CloudError: it is no public IPv4 address.
    """
    text = said.decode(errors="replace").strip()
    try:
        addresses = [ipaddress.ip_address(part.strip()) for part in text.split(",")]
    except ValueError:
        shown = "".join(letter if letter.isprintable() else " " for letter in text[:MOST_SHOWN])
        raise CloudError(f"{URL} answers {shown!r}, which is no address; {REMEDY}", code="CheckIp") from None
    address = addresses[-1]
    if address.version != 4:
        raise CloudError(f"{URL} answers the IPv6 address {address}, and rules are for IPv4; {REMEDY}", code="CheckIp")
    if any(address in network for network in NOT_PUBLIC):
        raise CloudError(f"{URL} answers {address}, which is no public address; {REMEDY}", code="CheckIp")
    return f"{address}/32"
