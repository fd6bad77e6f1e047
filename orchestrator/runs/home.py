"""Where all runs live on this machine, and the names of home and runs."""

from __future__ import annotations

import os
import re
import secrets
import uuid
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import SpecError
from orchestrator.formatting import one_line, unwritable
from orchestrator.runs.files import read_bounded, write_atomically

SCHEMA = 1
"""The layout of a home that this program writes, and the newest that it reads. Version 0.1.0 wrote schema 1."""

SCHEMA_FILE = "schema"
_LONGEST_SCHEMA = 16  # characters of the file that are read


def home_from_environment() -> Path:
    """Return `PIXEL_ORCH_HOME`, by default `~/.pixel-orch`. Does not create it.

    Raises:
        SpecError: a newer pixel-orch wrote it, or its schema file is damaged.
    """
    home = Path(os.path.expanduser(os.environ.get("PIXEL_ORCH_HOME") or "~/.pixel-orch")).absolute()
    if unwritable(str(home)):
        raise SpecError(f"PIXEL_ORCH_HOME: {one_line(str(home))} {unwritable(str(home))}; set it to another folder")
    check_schema(home)
    return home


def check_schema(home: Path) -> None:
    """Refuse a home that this program cannot read.

    Raises:
        SpecError: a newer pixel-orch wrote it, or its schema file is damaged.
    """
    found = schema_of(home)
    if found > SCHEMA:
        raise SpecError(
            f"PIXEL_ORCH_HOME: a newer pixel-orch wrote {home} (schema {found}; this one reads up to {SCHEMA}); "
            "upgrade pixel-orch, or set PIXEL_ORCH_HOME to another folder"
        )


def schema_of(home: Path) -> int:
    """Return the schema of a home; a home without the file, or that does not exist yet, is schema 1.

    Raises:
        SpecError: the file is damaged.
    """
    path = home / SCHEMA_FILE
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_SCHEMA).decode("ascii", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return 1
    except OSError as error:
        raise SpecError(f"PIXEL_ORCH_HOME: cannot read {path} ({error.strerror}); make it readable") from None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise SpecError(
            f"PIXEL_ORCH_HOME: {path} is damaged: expected a number, found {text!r}; "
            f"write {SCHEMA} into it if no newer pixel-orch has used this home"
        )
    return int(text)


def make_home(home: Path) -> Path:
    """Create the home folder, for its owner only, with its schema file.

    Raises:
        SpecError: it cannot be written, or this program cannot read it.
    """
    check_schema(home)
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = home / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)  # another thread uses the same
        if not (home / SCHEMA_FILE).exists() or schema_of(home) < SCHEMA:
            write_atomically(home / SCHEMA_FILE, f"{SCHEMA}\n".encode())
    except OSError as error:
        raise SpecError(
            f"PIXEL_ORCH_HOME: cannot write to {home} ({error.strerror}); set it to a folder that you own"
        ) from None
    return home


def home_id(home: Path, *, write: bool = True) -> str:
    """Return the random id that tags the instances of this home; made at the first launch."""
    path = home / "id"
    if os.path.lexists(path):
        return _written_id(path)
    if not write:
        return "<this home>"
    own = home / f".id-{uuid.uuid4().hex}"
    own.write_text(uuid.uuid4().hex[:12])
    with suppress(FileExistsError):  # another launch of this moment was first
        os.link(own, path)
    own.unlink()
    return _written_id(path)


def _written_id(path: Path) -> str:
    """Return the id in a file.

    Raises:
        SpecError: there is none in it.
    """
    try:
        text = read_bounded(path, 1024).decode("ascii", errors="replace").strip()
    except OSError as error:
        raise SpecError(f"PIXEL_ORCH_HOME: cannot read {path} ({error.strerror}); make it readable") from None
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", text):
        raise SpecError(
            f"PIXEL_ORCH_HOME: {path} is damaged: {text[:40]!r} is no id; write into it the value of the tag "
            "pixel-orch:owner of the home's instances, or remove it if there are none"
        )
    return text


def fresh_name(stem: str) -> str:
    """Return a name for a run without one, from the name of a folder or of a model."""
    plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:30].strip("-")
    return f"{plain or 'run'}-{secrets.token_hex(2)}"
