"""Makes a frozen dataclass from JSON values: each field of its type and within a range, or an error that names it.

A file of a run may hold what a machine said, or what a disk made of it. What is read with this needs no further checks.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from types import UnionType
from typing import Any, Literal, TypeGuard, TypeVar, Union, cast, get_args, get_origin

T = TypeVar("T")
Check = Callable[[Any], Any]
Range = tuple[float, float]

_known: dict[tuple[type, int], tuple[Mapping[str, Range] | None, dict[str, tuple[Check, bool]]]] = {}
"""The checks of a class by the identity of its ranges: to hash the ranges costs as much as to read an event."""

MOST_STEP = 10**12
MOST_ENTRIES = 10_000
MOST_TEXT = 100_000  # characters of one field
UNIX_TIMES: Range = (0.0, 7_258_118_400.0)  # unix seconds, up to the year 2200
ANY_NUMBER: Range = (-1e15, 1e15)


class WrongValueError(ValueError):
    """A field is missing, or its value is of another type or out of range. The message names the field."""


def is_step(value: object) -> TypeGuard[int]:
    """Return whether a value is a number of steps: an integer from 0 to 10^12, and no bool."""
    return type(value) is int and 0 <= value <= MOST_STEP


def is_figure(value: object, low: float = 0.0, high: float = 1e12) -> TypeGuard[float]:
    """Return whether a value is a finite number within a range, and no bool."""
    return isinstance(value, (int, float)) and type(value) is not bool and low <= value <= high  # NaN: false


def read(cls: type[T], raw: Mapping[str, Any], ranges: Mapping[str, Range] | None = None) -> T:
    """Return the dataclass that these values make; keys that it does not have are passed over.

    Args:
        cls: its fields may be of type bool, int, float, str, a literal, an enum, None or a union of them; a field
            of another type needs a check in `_check_of`.
        raw: values as the JSON reader gives them.
        ranges: by field, for numbers; without one: `ANY_NUMBER`.

    Raises:
        WrongValueError: a field is missing, or has a value of another type or out of its range.
    """
    found = _known.get((cls, id(ranges)))
    if found is None or found[0] is not ranges:
        found = _known[cls, id(ranges)] = ranges, _checks(cast(Any, cls), tuple(ranges.items()) if ranges else ())
    known = found[1]
    values = {}
    for name, (check, is_needed) in known.items():
        if name in raw:
            try:
                values[name] = check(raw[name])
            except WrongValueError as error:
                raise WrongValueError(f"{name}: {error}") from None
        elif is_needed:
            raise WrongValueError(f"{name}: it is missing")
    return cls(**values)


@lru_cache(maxsize=256)
def _checks(cls: Any, ranges: tuple[tuple[str, Range], ...]) -> dict[str, tuple[Check, bool]]:
    """Return for each field (its check, whether it has no default); made once for each class."""
    hints, own = typing.get_type_hints(cls), dict(ranges)
    return {
        field.name: (
            _check_of(hints[field.name], own.get(field.name, ANY_NUMBER)),
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(cls)
    }


def _check_of(hint: Any, within: Range) -> Check:
    if get_origin(hint) is Literal:
        return _one_of({word: word for word in get_args(hint)})
    if get_origin(hint) in (Union, UnionType):
        return _optional(_check_of(next(one for one in get_args(hint) if one is not type(None)), within))
    if get_origin(hint) is tuple:
        return _tuple(_check_of(get_args(hint)[0], within))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _one_of({one.value: one for one in hint})
    if hint in (int, float):
        return _number(hint, *within)
    return {bool: _bool, str: _text}.get(hint, _facts)


def _one_of(known: Mapping[Any, Any]) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, str) or value not in known:
            raise WrongValueError("it is none of the known words")
        return known[value]

    return check


def _optional(inner: Check) -> Check:
    return lambda value: None if value is None else inner(value)


def _tuple(inner: Check) -> Check:
    def check(value: Any) -> Any:
        if type(value) not in (list, tuple) or len(value) > MOST_ENTRIES:
            raise WrongValueError(f"it is no list of at most {MOST_ENTRIES:,} entries")
        return tuple(inner(one) for one in value)

    return check


def _number(kind: type[float], low: float, high: float) -> Check:
    def check(value: Any) -> Any:
        if not (type(value) is kind or (kind is float and type(value) is int)):
            raise WrongValueError(f"it is no {'integer' if kind is int else 'number'}")
        if not low <= value <= high:  # NaN compares as false
            raise WrongValueError(f"it is not between {low:g} and {high:g}")
        return kind(value)

    return check


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise WrongValueError("it is neither true nor false")
    return value


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > MOST_TEXT:
        raise WrongValueError(f"it is no text of at most {MOST_TEXT:,} characters")
    return value


def _facts(value: Any) -> dict[str, Any]:
    """Take over a flat object: names with texts, numbers, true, false or null; nothing nested."""
    if type(value) is not dict or len(value) > 100:
        raise WrongValueError("it is no object of at most 100 entries")
    for one in value.values():
        if type(one) in (dict, list) or (type(one) is float and not math.isfinite(one)):
            raise WrongValueError("an entry is no text and no finite number")
        if type(one) is str:
            _text(one)
    return value
