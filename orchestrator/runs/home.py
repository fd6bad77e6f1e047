"""Where all runs live on this machine, and the names of home and runs."""

from __future__ import annotations

import os
import re
import secrets
import uuid
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import SpecError


def home_from_environment() -> Path:
    """Return `PIXEL_ORCH_HOME`, by default `~/.pixel-orch`. Does not create it."""
    return Path(os.environ.get("PIXEL_ORCH_HOME") or "~/.pixel-orch").expanduser().absolute()


def make_home(home: Path) -> Path:
    """Create the home folder, for its owner only.

    Raises:
        SpecError: it cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = home / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)  # another thread uses the same
    except OSError as error:
        raise SpecError(
            f"PIXEL_ORCH_HOME: cannot write to {home} ({error.strerror}); set it to a folder of yours"
        ) from None
    return home


def home_id(home: Path, *, write: bool = True) -> str:
    """Return the random name by which instances are known to belong to this home; made at the first launch."""
    path = home / "id"
    if path.exists():
        return path.read_text().strip()
    if not write:
        return "<this home>"
    own = home / f".id-{uuid.uuid4().hex}"
    own.write_text(uuid.uuid4().hex[:12])
    with suppress(FileExistsError):  # another launch of this moment was first
        os.link(own, path)
    own.unlink()
    return path.read_text().strip()


def fresh_name(stem: str) -> str:
    """Return a name for a run that was given none, from any text: a folder's name, a model's."""
    plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:30].strip("-")
    return f"{plain or 'run'}-{secrets.token_hex(2)}"
