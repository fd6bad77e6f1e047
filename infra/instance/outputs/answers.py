"""What the owner asks about the states of a program's outputs, and what it says; `mirror.py` makes them.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from infra.instance.outputs.mirror import DIFFERENCE, PINNED, difference, folder_of, number_of, sealed_state
from infra.instance.trainer_files import read_json, touch, write_json

if TYPE_CHECKING:  # Python 3.8 has no `dict[...]`
    from infra.instance.outputs.mirror import Entry


def changes(root: str, number: int, base: int) -> dict[str, Any]:
    """Return how a state differs from the one that the owner has; no files if it is not the newest any more.

    Where the owner has another base than we know of, it is told all files.
    """
    pin(root)
    known = read_json(os.path.join(folder_of(root), DIFFERENCE), {})
    if (known.get("state"), known.get("base")) != (number, base):
        sealed, home = sealed_state(root), sealed_state(root, "home.json")
        if sealed["state"] != number:
            return {"state": sealed["state"], "base": home["state"], "files": [], "deleted": []}
        known = difference(sealed, home if base == home["state"] else {"state": 0, "files": {}})
    touch(os.path.join(folder_of(root), "fetching"))
    return {**known, "files": [shown(entry, there) for entry, there in known["files"].values()]}


def pin(root: str) -> None:
    """Keep the newest state for the owner, who reads it from now on, where newer ones are made meanwhile for S3."""
    if os.path.exists(os.path.join(root, "agent", "s3.json")):
        with contextlib.suppress(OSError):
            _become(_linked(root, "sealed.json"), PINNED)


def _linked(root: str, name: str) -> str:
    """Return another path of a state's file, which costs nothing however long it is; no newer state replaces it."""
    folder = folder_of(root)
    new = os.path.join(folder, f"{name}.{os.getpid()}.new")
    os.link(os.path.join(folder, name), new)
    return new


def _become(new: str, name: str) -> None:
    os.replace(new, os.path.join(os.path.dirname(new), name))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)  # a rename of one file to itself does nothing


def shown(entry: Entry, base: Entry | None = None) -> Entry:
    """Return an entry without what concerns this machine only; `after` only if it is the whole of the base's file."""
    told = {key: value for key, value in entry.items() if key not in ("mark", "copied", "is_part", "after_sha256")}
    if "after" in told and (base is None or base.get("sha256") != entry.get("after_sha256")):
        del told["after"]
    return told


def acknowledge(root: str, number: int) -> dict[str, Any]:
    """Note that the owner has a state."""
    folder = folder_of(root)
    for name in ("sealed.json", PINNED):
        if not os.path.exists(os.path.join(folder, name)):
            continue
        new = _linked(root, name)
        if number_of(new) == number:
            _become(new, "home.json")
            write_json(os.path.join(folder, "home"), number)
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, "fetching"))
            return {"acknowledged": True}
        os.unlink(new)
    return {"acknowledged": False}


def allow(root: str, size_bytes: str) -> None:
    """Note how many bytes the owner would download now."""
    folder = folder_of(root)
    with contextlib.suppress(OSError):  # the disk is full
        if os.path.isdir(folder):
            path = os.path.join(folder, "allowed")
            with open(path + ".new", "w") as file:
                file.write(size_bytes)
            os.replace(path + ".new", path)


def told(root: str) -> dict[str, Any] | None:
    """Return what `agent.py status` says of the outputs; None before the first look."""
    found: dict[str, Any] | None = read_json(os.path.join(folder_of(root), "told.json"), None)
    return found


def is_mirrored(root: str) -> bool:
    """Return whether the owner has all that an ended program left."""
    now = told(root)
    if now is None:
        return True
    home = read_json(os.path.join(folder_of(root), "home"), now["home"])
    is_all_here = home == now["state"] or (now["new_files"] == 0 and now["state"] == now["home"])
    return bool(now["is_final"] and is_all_here)


def are_stored(root: str) -> bool:
    """Return whether S3 has all that an ended program left; False without a copy there."""
    now, ledger = told(root), read_json(os.path.join(root, "agent", "s3.json"), {})
    stored = ledger.get("outputs") or {}
    is_newest = now is not None and stored.get("state") == now["state"]
    return bool(now is not None and now["is_final"] and is_newest and stored.get("is_final"))
