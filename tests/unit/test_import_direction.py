"""Imports point one way: the orchestrator sees only `model.config` and `model.errors`; vendors have one door each."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = [  # a module may import those of the lines above its own, and of its own line
    {"errors", "clock", "host_key", "market_flags", "flags"},
    {"catalog", "events"},
    {"cloud", "spec"},
    {"offers", "billing", "store", "plan", "terminal", "sync", "aws", "prices", "predict"},
    {"busy", "ssh", "report", "bench", "compare", "price_cache", "reaper", "limits", "shared_cloud"},
    {"host", "engine", "ear", "rent", "rest", "records", "second_home"},
    {"world"},
    {"asking", "checking", "planning", "summary", "start_from"},
    {"supervising"},
    {"launching"},
    {"running", "reaching", "ending", "quoting", "pruning", "standing"},
    {"reporting", "comparing", "dashboard"},
    {"benching"},
    {"cli", "api"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
DOORS = {
    "boto3": {"aws", "world"},
    "botocore": {"aws"},
    "fabric": {"ssh"},
    "paramiko": {"ssh"},
    "matplotlib": {"report"},
}


def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def room(path: Path) -> str:
    """Return the module, or for a package the package, directly below the top one."""
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


@pytest.mark.parametrize("path", sorted((ROOT / "orchestrator").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_orchestrator_imports_point_one_way(path: Path) -> None:
    me = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "orchestrator" and len(parts) > 1 and parts[1] in RANK and me in RANK:
            assert RANK[parts[1]] <= RANK[me], f"{me} must not import {name}"
        assert parts[0] not in ("torch", "numpy", "tests"), f"{me} imports {name}"
        if parts[0] == "model":
            module = ".".join(parts[:2])
            assert module in ("model.config", "model.errors"), f"{me} reaches into the model: {name}"
            assert len(parts) <= 3, f"{me} reaches past the face of {module}: {name}"
        if parts[0] in DOORS:
            assert me in DOORS[parts[0]], f"{me} uses {name}; its door is {DOORS[parts[0]]}"


@pytest.mark.parametrize("path", sorted((ROOT / "model").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_model_knows_nothing_of_clouds(path: Path) -> None:
    for name in imports(path):
        assert name.split(".")[0] not in ("boto3", "botocore", "fabric", "orchestrator", "infra"), (
            f"{path.name}: {name}"
        )


def test_what_the_orchestrator_may_import_of_the_model_needs_neither_torch_nor_numpy() -> None:
    model = ROOT / "model"
    for path in (*(model / "config").glob("*.py"), model / "errors.py", model / "__init__.py"):
        assert not {n.split(".")[0] for n in imports(path)} & {"torch", "numpy"}


def test_the_agent_needs_the_standard_library_only() -> None:
    import sys

    for name in ("agent.py", "metadata.py", "trainer_files.py", "watch.py"):
        found = {n for n in imports(ROOT / "infra" / "instance" / name) if not n.startswith("infra.instance")}
        assert {n.split(".")[0] for n in found} <= set(sys.stdlib_module_names)
