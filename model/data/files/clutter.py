"""Names of files that programs leave beside data and that are no data: they are left out and counted.

Systems and programs put copies, thumbnails and deleted files beside the data, often under a name that ends like an
image. Trained on, a copy counts twice; an AppleDouble file ends the preparation, since it holds no image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

HIDDEN = "hidden"
# Folders by name, in lower case: what lies below is no data.
FOLDERS = frozenset(
    {
        "__macosx",  # the AppleDouble files of a zip made by macOS
        "@eadir",  # thumbnails of a Synology NAS
        "@tmp",
        "#recycle",  # trash of a Synology NAS
        "#snapshot",
        "@recycle",  # trash of a QNAP NAS
        "@recently-snapshot",
        "$recycle.bin",  # trash of Windows
        "recycler",
        "recycled",
        "system volume information",
        "found.000",  # fragments that chkdsk found
        "lost+found",
        "__pycache__",
        "network trash folder",
        "temporary items",
        "cvs",
    }
)
FILES = frozenset({"thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"})
TRASH = (".trash", ".trashes", ".trashed")
SHOWN = 6  # kinds named in the line, at most


def clutter(name: str) -> str | None:
    """Return what a file is that is no data, as its kind: `._*`, `__MACOSX`, `.DS_Store`, `hidden`; else None.

    Args:
        name: the path of the file below the source, with `/` between its parts. The path of the source itself does
            not count: it may lie in a hidden folder.
    """
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".", "..")]
    for part in parts[:-1]:
        low = part.lower()
        if low in FOLDERS or part.startswith("."):
            return ".Trash" if low.startswith(TRASH) else part
    last = parts[-1] if parts else ""
    if last.startswith("._"):
        return "._*"
    if last.lower() in FILES:
        return last.strip()
    if last.startswith("."):
        return ".Trash" if last.lower().startswith(TRASH) else last if last == ".DS_Store" else HIDDEN
    return None


def is_clutter_folder(part: str) -> bool:
    """Return whether a folder of this name holds no data."""
    return clutter(f"{part}/x") is not None


class LeftOut:
    """Counts the files that are left out, by kind."""

    def __init__(self, kinds: Iterable[str] = ()) -> None:
        self._counts = Counter(kinds)

    def takes(self, name: str) -> bool:
        """Count the file if it is no data; return whether it is left out."""
        kind = clutter(name)
        if kind is not None:
            self._counts[kind] += 1
        return kind is not None

    def add(self, kinds: dict[str, int]) -> None:
        """Add the counts of another part of the source."""
        self._counts.update(kinds)

    def clear(self) -> None:
        """Begin again at 0."""
        self._counts.clear()

    @property
    def counts(self) -> dict[str, int]:
        """The number of files by kind, most frequent first."""
        return dict(sorted(self._counts.items(), key=lambda one: (-one[1], one[0])))


def in_words(counts: dict[str, int]) -> str:
    """Return the line that says what was left out."""
    total = sum(counts.values())
    some = [f"{kind} ({count:,})" for kind, count in list(counts.items())[:SHOWN]]
    more = f" and {len(counts) - SHOWN} more kinds" if len(counts) > SHOWN else ""
    what = "1 file is no data and was left out" if total == 1 else f"{total:,} files are no data and were left out"
    return f"{what}: {', '.join(some)}{more}"
