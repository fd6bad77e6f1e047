"""`model/` keeps to torch 2.0: K80s have no newer build. `make test-oldest-torch` runs these tests on it.

Here the names that `model/` uses are compared with those that torch 2.13 has and torch 2.0 lacks, which were recorded
from both (tests/fixtures/torch_2_0_lacks.json). Names that begin with an underscore were not recorded.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LACKS: dict[str, list[str] | None] = json.loads((ROOT / "tests/fixtures/torch_2_0_lacks.json").read_text())
OF_OBJECTS = {*(LACKS["Tensor"] or []), *(LACKS["Module"] or [])} - {"index", "compile"}  # too common
KEYWORDS = {"load": {"mmap"}, "load_state_dict": {"assign"}, "use_deterministic_algorithms": set[str]()}
IMPORTED_SAFELY = {"torch.utils.deterministic"}  # where it is missing there is nothing to switch off


def of_torch(path: Path) -> ast.Module | None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return tree if any(name.partition(".")[0] == "torch" for name in names) else None


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def too_new(tree: ast.Module) -> Iterator[str]:
    """Yield what torch 2.0 does not have, with its line."""
    alias = {"F": "torch.nn.functional", "nn": "torch.nn", "dist": "torch.distributed"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            module = str(node.module)
            for name in node.names:
                whole = f"{module}.{name.name}"
                lacking = LACKS.get(module, [])
                if lacking is None or name.name in lacking or (whole in LACKS and LACKS[whole] is None):
                    yield f"{node.lineno}: {whole}"
        elif isinstance(node, ast.Attribute):
            place, _, name = dotted(node).rpartition(".")
            head, _, tail = place.partition(".")
            place = f"{alias.get(head, head)}.{tail}".rstrip(".")
            lacking = LACKS.get(place, [])
            if lacking is None or name in lacking or name in OF_OBJECTS:
                yield f"{node.lineno}: {place}.{name}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            for keyword in node.keywords:
                if keyword.arg in KEYWORDS.get(node.func.attr, ()):
                    yield f"{node.lineno}: {node.func.attr}({keyword.arg}=)"


FILES = [path for path in sorted((ROOT / "model").rglob("*.py")) if of_torch(path)]


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_newer_than_torch_2_0(path: Path) -> None:
    tree = of_torch(path)
    assert tree is not None
    found = [line for line in too_new(tree) if not any(line.endswith(name) for name in IMPORTED_SAFELY)]
    assert not found, f"torch 2.0 has none of these in {path.name}: {found}"


@pytest.mark.parametrize(
    "code",
    ["import torch\ntorch.zeros(1).nbytes", "import torch\ntorch.OutOfMemoryError", "import torch\nx.itemsize",
     "from torch import nn\nnn.Buffer(x)", "import torch.nn.functional as F\nF.rms_norm(x)",
     "import torch\ntorch.load(p, mmap=True)", "import torch\nnet.load_state_dict(w, assign=True)",
     "from torch.nn import RMSNorm", "from torch.utils._pytree import tree_leaves", "from torch.amp import GradScaler",
     "from torch.utils.deterministic import fill_uninitialized_memory"],
)  # fmt: skip
def test_what_is_newer_is_found(code: str) -> None:
    assert list(too_new(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    ["import torch\ntorch.zeros(1).element_size()", "import torch.distributed as dist\ndist.all_reduce(x)",
     "import torch\ntorch.load(p, weights_only=True)", "import torch\nx.untyped_storage()"],
)  # fmt: skip
def test_what_torch_2_0_has_is_not(code: str) -> None:
    assert not list(too_new(ast.parse(code)))


def test_no_default_that_has_changed_since_is_relied_on() -> None:
    """`torch.load` runs code from a file by default in torch 2.0, and does not in torch 2.6."""
    calls = 0
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and dotted(node.func) == "torch.load":
                calls += 1
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("weights_only") == "True", f"{path}:{node.lineno}"
    assert calls
