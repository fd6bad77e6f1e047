"""Public SSH host keys in the form of `known_hosts`, and as fingerprints; pure."""

from __future__ import annotations

import base64
import hashlib


def known_hosts_lines(address: str, port: int, public_keys: str) -> list[str]:
    """Return the lines of a `known_hosts` file for that host, one for each line of `public_keys`."""
    name = address if port == 22 else f"[{address}]:{port}"
    return [f"{name} {' '.join(key.split()[:2])}" for key in public_keys.splitlines() if key.strip()]


def fingerprint(public_key: str) -> str:
    """Return a public key's SHA-256 fingerprint, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(base64.b64decode(public_key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
