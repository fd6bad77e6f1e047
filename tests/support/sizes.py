"""Counts the lines of files, classes and functions."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Limit(NamedTuple):
    """The most lines that each may have."""

    file: int
    a_class: int
    function: int


def too_long(paths: Iterable[Path], limit: Limit, root: Path) -> list[str]:
    """Return what is longer than its limit, as `path:line name: lines (limit)`; paths are relative to `root`."""
    return [line for path in sorted(paths) for line in _of_file(path, limit, str(path.relative_to(root)))]


def _of_file(path: Path, limit: Limit, shown: str) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > limit.file:
        yield f"{shown}:1 file: {lines} lines ({limit.file} allowed)"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            most = limit.a_class
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            most = limit.function
        else:
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1  # from `def` or `class`, decorators not counted
        if lines > most:
            yield f"{shown}:{node.lineno} {node.name}: {lines} lines ({most} allowed)"
