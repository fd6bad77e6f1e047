"""Requirements files of pip, such that installing them does not replace the machine's torch.

The machine's torch has kernels for its GPU; that of a requirements file, often pinned on another computer, may have
none, and is 2 to 3 GB. So a requirement of torch's family that the machine does not meet is left out, and named.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

FAMILY = ("torch", "torchvision", "torchaudio", "triton", "pytorch-triton")
MOST_BYTES = 1 << 20  # of one file
MOST_FILES = 50  # that include each other

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*(.*)")
_FILE_OPTION = re.compile(r"(-r|--requirement|-c|--constraint|-f|--find-links)[=\s]*(.+)")
_LABEL = re.compile(r"\+(cu[0-9]{2,3}|cpu|rocm[0-9.]+)$")


def normal(name: str) -> str:
    """Return a package's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_of_torch(name: str) -> bool:
    """Return whether a package belongs to one version of torch: itself, its siblings, its CUDA libraries."""
    name = normal(name)
    return name in FAMILY or (name.startswith("nvidia-") and bool(re.search(r"-cu[0-9]+$", name)))


@dataclass
class Lines:
    """The lines of requirements files, without comments, with those that they include."""

    lines: list[str]
    constraints: list[str] = field(default_factory=list)
    is_complete: bool = False  # with all that they need, so that nothing else is to be installed

    def specifiers(self) -> list[tuple[str, str]]:
        """Return (name, versions) of the requirements and constraints, as they are written."""
        found = [parsed(line) for line in (*self.lines, *self.constraints)]
        return [(name, specifier) for name, specifier in found if name]


@dataclass
class Wanted:
    """What is given to pip."""

    lines: list[str]
    constraints: list[str]
    options: list[str]  # of pip
    left_out: list[str]  # requirements, as they are written
    is_complete: bool
    siblings: list[str] = field(default_factory=list)  # to be installed afterwards, in the version that fits torch

    @property
    def has_any(self) -> bool:
        """Whether there is something to install."""
        return any(not line.startswith("-") or line.startswith(("-e", "--editable")) for line in self.lines)

    @property
    def can_use_uv(self) -> bool:
        """Whether uv understands all of it as pip does."""
        return not any(line.startswith("-") and not line.startswith(("-e", "--editable")) for line in self.lines)


def read_requirements(path: str) -> Lines:
    """Return the lines of a requirements file and of those that it includes.

    Raises:
        OSError: one cannot be read.
    """
    found = Lines([])
    _read(path, found, is_constraint=False, seen=set())
    found.is_complete = any("--hash" in line for line in found.lines)  # pip demands that all are listed then
    return found


def taken(lines: list[str], folder: str) -> Lines:
    """Return lines that another file holds, with the files of `folder` that they include.

    Raises:
        OSError: one cannot be read.
    """
    found = Lines([])
    _take(lines, folder, found, is_constraint=False, seen=set())
    return found


def _read(path: str, found: Lines, *, is_constraint: bool, seen: set[str]) -> None:
    real = os.path.realpath(path)
    if real in seen or len(seen) >= MOST_FILES:
        return
    seen.add(real)
    _take(_logical_lines(path), os.path.dirname(path), found, is_constraint=is_constraint, seen=seen)


def _take(lines: list[str], folder: str, found: Lines, *, is_constraint: bool, seen: set[str]) -> None:
    for line in lines:
        option = _FILE_OPTION.fullmatch(line)
        target = option[2].strip().strip("'\"") if option else ""
        if option is None:
            (found.constraints if is_constraint else found.lines).append(line)
        elif option[1] in ("-f", "--find-links"):  # pip looks beside the file, and the file is written elsewhere
            near = os.path.join(folder, target)
            found.lines.append("--find-links %s" % (near if os.path.exists(near) else target))
        elif "://" in target:
            found.lines.append(line)
        else:
            is_limit = is_constraint or option[1] in ("-c", "--constraint")
            _read(os.path.join(folder, target), found, is_constraint=is_limit, seen=seen)


def _logical_lines(path: str) -> list[str]:
    """Return the lines without comments; a backslash at the end joins a line with the next one."""
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES)
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"  # PowerShell's `pip freeze >`
    text = re.sub(r"\\\r?\n", " ", data.decode(encoding, "replace"))
    lines = [re.sub(r"(^|\s+)#.*$", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line]


def parsed(line: str) -> tuple[str, str]:
    """Return the normal name and the versions of a requirement; ("", "") for an option, the versions "" for a URL."""
    if line.startswith("-"):
        return "", ""
    bare = re.split(r"\s--hash", line)[0].split(";")[0].strip()
    if "://" in bare.split("@")[0] or bare.startswith((".", "/")):
        wheel = re.match(r"([A-Za-z0-9_.]+)-[0-9].*\.whl", bare.split("#")[0].rpartition("/")[2])
        return (normal(wheel[1]) if wheel else ""), ""
    match = _NAME.fullmatch(bare)
    if match is None:
        return "", ""
    specifier = match[3].strip().strip("()")
    return normal(match[1]), "" if specifier.startswith("@") else specifier


def adapted(lines: Lines, versions: dict[str, str], unmet: list[list[str]]) -> Wanted:
    """Return what is to be installed where these versions of torch's family are there.

    Args:
        lines: what is asked for.
        versions: by name; empty where the machine has no torch, so that all is installed as it is asked for.
        unmet: (name, versions) of the requirements that the machine does not meet.
    """
    family = {name: version for name, version in versions.items() if is_of_torch(name)}
    refused = {(name, specifier) for name, specifier in unmet}
    wanted = Wanted([], ["%s==%s" % pair for pair in sorted(family.items())], [], [], lines.is_complete)
    label = _LABEL.search(family.get("torch", ""))
    for line in lines.lines:
        name, specifier = parsed(line)
        if not family or not is_of_torch(name):
            wanted.lines.append(line)
        elif name in ("torchvision", "torchaudio") and name not in family:
            # pip finds the version that belongs to the torch that is there
            (wanted.siblings if lines.is_complete else wanted.lines).append(name)
            if label and "pytorch.org" not in " ".join(wanted.options):
                wanted.options += ["--extra-index-url", "https://download.pytorch.org/whl/%s" % label[1]]
        elif (name, specifier) in refused or "@" in line or "://" in line:
            wanted.left_out.append(re.split(r"\s*(;|--hash)", line)[0])
    for line in lines.constraints:
        if not family or not is_of_torch(parsed(line)[0]):
            wanted.constraints.append(line)
    return wanted
