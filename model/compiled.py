"""How numba compiles the inner loops on a CPU; only modules that need numba import this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function, **more: Any) -> Function:
    """Compile a function at its first call. The compiler may reorder sums, to add 4 or 8 terms at a time.

    Args:
        function: what to compile.
        more: further options of `numba.njit`.
    """
    how: dict[str, Any] = {"fastmath": {"contract", "reassoc", "nsz"}, "error_model": "numpy", **more}
    try:
        return cast("Function", numba.njit(cache=True, **how)(function))
    except RuntimeError:  # numba finds no writable cache folder
        return cast("Function", numba.njit(**how)(function))


def inlined(function: Function) -> Function:
    """Compile a function into those that call it."""
    return compiled(function, inline="always")
