"""Reads the imports of a source tree: which folder imports which, and where a circle is.

Every import counts: at the top of a file, inside a function, under `TYPE_CHECKING`, and by `import_module("name")`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One import: the module that imports, the module that is imported, and the line of it."""

    source: str
    target: str
    line: int

    def __str__(self) -> str:
        """Name both modules and the line."""
        return f"{self.source}:{self.line} imports {self.target}"


def module_name(path: Path, root: Path) -> str:
    """Return the dotted name of a file below `root`; a package's `__init__` has the package's name."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(root: Path, package: str) -> dict[str, Path]:
    """Return the files of a package by dotted name."""
    return {module_name(path, root): path for path in sorted((root / package).rglob("*.py"))}


@cache
def _imports_in(text: str) -> tuple[ast.AST, ...]:
    """Return the imports in a file, and the calls that may import by name; parsing all files takes a second."""
    names = ("import_module", "__import__")

    def may_import(node: ast.AST) -> bool:
        if not isinstance(node, ast.Call):
            return isinstance(node, (ast.Import, ast.ImportFrom))
        return (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) in names

    return tuple(node for node in ast.walk(ast.parse(text)) if may_import(node))


def imports_of(path: Path, name: str, known: Mapping[str, Path]) -> Iterator[Import]:
    """Yield what a file imports. `from package import module` is an import of the module where there is one."""
    for node in _imports_in(path.read_text()):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield Import(name, full if full in known else node.module, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            yield Import(name, "." * node.level + (node.module or ""), node.lineno)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            constants = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
            if called in ("import_module", "__import__") and constants:
                yield Import(name, str(constants[0]), node.lineno)


def all_imports(root: Path, *packages: str) -> list[Import]:
    """Return every import of every file of these packages."""
    known: dict[str, Path] = {}
    for package in packages:
        known.update(modules(root, package))
    return [found for name, path in known.items() for found in imports_of(path, name, known)]


def circles(imports: list[Import]) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle (Tarjan's strongly connected components)."""
    graph: dict[str, set[str]] = {}
    for found in imports:
        graph.setdefault(found.source, set()).add(found.target)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph.get(name, ())):
            if target == name or target not in graph:
                continue
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = [stack.pop()]
            while group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                groups.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return groups
