"""Which file of the sent ones says what a program needs, and how a machine installs it.

`infra/instance/user_setup.py` does it there. Files are read within bounds; one that cannot be read is named, and is no
reason to refuse a launch.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from orchestrator.formatting import counted, one_line
from orchestrator.host.sync import Tree
from orchestrator.runs.spec import RunSpec

tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

MOST_BYTES = 1 << 20
LARGEST_YAML_BYTES = 64 << 10  # PyYAML reads about 100 kB a second
ORDER = ("uv.lock", "requirements.txt", "pyproject.toml", "environment.yml", "environment.yaml")
"""Where several are there, the first is installed: a lock knows most, and who writes requirements.txt means it."""

UNREAD = ("Pipfile", "poetry.lock", "pdm.lock", "pixi.toml", "setup.py", "conda.yml", "conda.yaml")
"""Files of the same purpose that are not read; `--setup` can."""

BY_ITSELF = ("uv", "uvx", "poetry", "pipenv", "pdm", "hatch", "pixi", "conda", "mamba", "micromamba")
"""Programs that install what they run needs."""

_INSTALLS = re.compile(r"\b(pip[0-9.]*|uv|conda|mamba|poetry|pipenv)\s+(install|sync|pip|env|run)\b")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Dependencies:
    """What is installed for a program before it starts.

    `order` is what the machine gets: `command`, or `found` with its `kind`; and `needs`, programs that the command
    wants. It is empty where nothing is to be done.
    """

    order: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""  # that was found, and is installed
    packages: tuple[str, ...] = ()  # their names in it, as far as they are known
    others: tuple[str, ...] = ()  # files of the same purpose that are not used
    why_not: str = ""  # why nothing is installed although a file was found

    @property
    def text(self) -> str:
        """What a person agrees to, in one line."""
        command = self.order.get("command")
        if command:
            return f"Setup: {one_line(command)[:300]} (on the machine, before the program starts)"
        image = self.order.get("image")
        unused = f"; not used: {', '.join(self.others)}" if self.others else ""
        if image:
            return f"Image: {image} is pulled on the machine, and brings its packages{unused}"
        if self.file:
            count = f" ({counted(len(self.packages), 'package')})" if self.packages else ""
            how = TOOLS[self.order["found"]["kind"]]
            kept = "" if self.order["found"]["kind"] == "conda" else "; its torch is kept"
            return f"Setup: {self.file}{count} is installed on the machine with {how}{kept}; --no-setup: not{unused}"
        if self.why_not:
            return f"Setup: nothing is installed: {self.why_not}{unused}"
        return f"Setup: nothing is installed: no requirements.txt, pyproject.toml or environment.yml is sent{unused}"

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        kind = self.order.get("found", {}).get("kind") if self.file else None
        return {
            "command": self.order.get("command"),
            "image": self.order.get("image"),
            "file": self.file or None,
            "tool": TOOLS[kind] if kind else None,
            "packages": list(self.packages),
            "not_used": list(self.others),
            "why_not": self.why_not or None,
        }


TOOLS = {
    "uv_lock": "uv",
    "requirements": "pip, or uv if it is there and would not change torch",
    "pyproject": "pip, or uv if it is there and would not change torch",
    "conda": "conda if the image has it, else the part for pip with pip",
}


def dependencies_of(spec: RunSpec, tree: Tree) -> Dependencies:
    """Return what a machine installs for a run; nothing for the bundled trainer."""
    if spec.trainer is not None or not spec.command:
        return Dependencies(why_not="the bundled trainer needs nothing more")
    program = spec.command[0]
    needs = {"needs": ["uv"]} if program in ("uv", "uvx") else {}
    if spec.program.setup is not None:
        return Dependencies({"command": spec.program.setup, **needs})
    found = _found(tree)
    if spec.program.image:
        return Dependencies({"image": spec.program.image}, others=_all(found))
    if not spec.program.installs_dependencies:
        return Dependencies(needs, others=found.others, why_not="--no-setup")
    by = program if program in BY_ITSELF else "the command" if _INSTALLS.search(" ".join(spec.command)) else ""
    return Dependencies(needs, others=_all(found), why_not=f"{by} does it by itself") if by else found


def _all(found: Dependencies) -> tuple[str, ...]:
    return (*([found.file] if found.file else []), *found.others)


def order_for(spec: RunSpec, tree: Tree) -> dict[str, Any] | None:
    """Return what a machine is told to install, None for nothing."""
    return dict(dependencies_of(spec, tree).order) or None


def _found(tree: Tree) -> Dependencies:
    files = set(tree.files)
    there = [name for name in ORDER if name in files]
    others = [name for name in UNREAD if name in files and not (name == "setup.py" and "pyproject.toml" in files)]
    unread: list[str] = []
    for name in there:
        if name == "uv.lock" and "pyproject.toml" not in files:
            continue
        try:
            found, packages = READERS[name](tree, name)
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError, yaml.YAMLError):
            unread.append(f"{name} (it cannot be read)")
            continue
        if found is None:
            continue
        used = {name, "pyproject.toml"} if name == "uv.lock" else {name}
        left = [other for other in there if other not in used and other not in unread]
        return Dependencies({"found": found}, name, tuple(packages), (*left, *unread, *others))
    return Dependencies(others=(*unread, *others))


Found = tuple[dict[str, Any] | None, Sequence[str]]
"""(what the machine is told, None where the file asks for nothing; the names of packages)"""


def _read(tree: Tree, name: str, most_bytes: int = MOST_BYTES) -> str:
    path = tree.folder / name
    if not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError("it is too large")
    is_utf_16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # PowerShell's `pip freeze >`
    return data.decode("utf-16" if is_utf_16 else "utf-8-sig", errors="replace")


def package_name(requirement: str) -> str:
    """Return the name in a requirement as PyPI compares it, "" for none."""
    match = _NAME.match(requirement.strip())
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def _requirements(tree: Tree, name: str) -> Found:
    lines = [line.split("#")[0].strip() for line in _read(tree, name).splitlines()]
    lines = [line for line in lines if line]
    packages = [package_name(line) for line in lines if not line.startswith("-")]
    return ({"kind": "requirements", "file": name} if lines else None), [one for one in packages if one]


def _pyproject(tree: Tree, name: str) -> Found:
    read = tomllib.loads(_read(tree, "pyproject.toml"))
    project, tool = read.get("project") or {}, read.get("tool") or {}
    can_build = "build-system" in read
    is_poetry = "poetry" in tool and not project
    dependencies = [str(one) for one in project.get("dependencies") or []]
    is_dynamic = can_build and (is_poetry or "dependencies" in (project.get("dynamic") or []))
    if is_poetry and tool["poetry"].get("package-mode") is False:
        raise ValueError("only poetry knows its dependencies")
    if not dependencies and not is_dynamic and not (can_build and project):
        return None, []
    packages = [*dependencies, *(tool["poetry"].get("dependencies") or {} if is_poetry else [])]
    found = {
        "kind": "pyproject",
        "file": name,
        "dependencies": dependencies,
        "is_dynamic": is_dynamic,
        "is_package": can_build,
    }
    return found, [package_name(one) for one in packages if one != "python"]


def _uv_lock(tree: Tree, name: str) -> Found:
    locked = tomllib.loads(_read(tree, name, 16 * MOST_BYTES))
    packages = [str(one["name"]) for one in locked.get("package") or [] if "registry" in (one.get("source") or {})]
    project, _ = _pyproject(tree, "pyproject.toml")
    found = project or {"dependencies": [], "is_dynamic": False, "is_package": False}
    return {**found, "kind": "uv_lock", "file": "pyproject.toml"}, packages


def _conda(tree: Tree, name: str) -> Found:
    read = yaml.safe_load(_read(tree, name, LARGEST_YAML_BYTES)) or {}
    listed = read.get("dependencies") or []
    pip = [str(line) for part in listed if isinstance(part, dict) for line in part.get("pip") or []]
    packages = [package_name(part.rpartition("::")[2]) for part in listed if isinstance(part, str)]
    packages = [one for one in packages if one not in ("python", "pip", "")]
    if not pip and not packages:
        return None, []
    names = [*packages, *(package_name(line) for line in pip if not line.startswith("-"))]
    # conda's names of torch and its CUDA: `torch` is what a program imports
    asked = [one for one in packages if not one.startswith(("pytorch", "cuda", "cudatoolkit", "nvidia", "mkl"))]
    return {"kind": "conda", "file": name, "pip": pip, "packages": asked}, names


READERS = {
    "uv.lock": _uv_lock,
    "requirements.txt": _requirements,
    "pyproject.toml": _pyproject,
    "environment.yml": _conda,
    "environment.yaml": _conda,
}
