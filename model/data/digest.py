"""Computes the digest of a file block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

READ_BYTES = 4 << 20


def sha256_of(path: Path, algorithm: str = "sha256", progress: Callable[[int], None] = lambda _: None) -> str:
    """Hash a file; call `progress` with the size of each block in bytes.

    Raises:
        OSError: the file cannot be read.
    """
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    buffer = memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
            progress(count)
    return hasher.hexdigest()
