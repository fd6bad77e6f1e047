"""Where all runs live on this machine, and the names of home and runs."""

from __future__ import annotations

import os
import re
import secrets
import uuid
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
        probe.unlink()
    except OSError as error:
        raise SpecError(
            f"PIXEL_ORCH_HOME: cannot write to {home} ({error.strerror}); set it to a folder that you own"
        ) from None
    return home


def home_id(home: Path, *, write: bool = True) -> str:
    """Return the random id that tags the instances of this home; made at the first launch."""
    path = home / "id"
    if path.exists():
        return path.read_text().strip()
    if not write:
        return "<this home>"
    path.write_text(uuid.uuid4().hex[:12])
    return path.read_text()


def fresh_name(stem: str) -> str:
    """Return a name for a run without one, from the name of a folder or of a model."""
    plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:30].strip("-")
    return f"{plain or 'run'}-{secrets.token_hex(2)}"
