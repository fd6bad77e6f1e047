"""A stand-in for the part of IPython that a notebook's display needs; keeps what is shown."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest


class Notebook:
    """What a notebook shows: a list of HTML for each output, the newest last."""

    def __init__(self) -> None:
        self.outputs: list[list[str]] = []
        self.is_closed = False

    def display(self, shown: SimpleNamespace, display_id: bool = False) -> SimpleNamespace:
        """Show something in an output of its own."""
        assert display_id, "without it nothing can be replaced"
        output = [shown.data]
        self.outputs.append(output)

        def update(newer: SimpleNamespace) -> None:
            if self.is_closed:
                raise RuntimeError("the kernel's socket is closed")
            output.append(newer.data)

        return SimpleNamespace(update=update)


def install(monkeypatch: pytest.MonkeyPatch, *, has_kernel: bool = True) -> Notebook:
    """Let this process be a notebook's kernel, or IPython's terminal."""
    notebook = Notebook()
    shell = SimpleNamespace(kernel=object()) if has_kernel else SimpleNamespace()
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    display.display = notebook.display  # type: ignore[attr-defined]
    display.HTML = lambda data: SimpleNamespace(data=data)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return notebook
