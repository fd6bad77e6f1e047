"""Decodes ROS1 messages by the definitions in the bag.

The types differ between versions of a message; the names of the fields do not.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from model.errors import DataError

SIZES = {"bool": "?", "int8": "b", "uint8": "B", "byte": "b", "char": "B", "int16": "h", "uint16": "H", "int32": "i"}
SIZES |= {"uint32": "I", "int64": "q", "uint64": "Q", "float32": "f", "float64": "d"}
FIELD = re.compile(r"([A-Za-z][\w/]*)(?:\[(\d{0,9})\])?\s+([A-Za-z]\w*)\s*(?:#.*)?")
HEADER = "uint32 seq\ntime stamp\nstring frame_id\n"
DEEPEST, MOST_FIELDS = 32, 10_000  # limits of a definition: nesting of types, and fields of all types together
Read = Callable[[memoryview, int], tuple[Any, int]]
T = TypeVar("T")


class Layout:
    """A decoder for the messages of one type.

    Args:
        type_: the message type, such as `sensor_msgs/Image`.
        definition: the definition of the type in the bag, with those of the types that it contains.

    Raises:
        DataError: the definition is invalid.
    """

    def __init__(self, type_: str, definition: str) -> None:
        self.type = type_
        first, *others = re.split(r"^=+\n", definition.replace("\r\n", "\n"), flags=re.MULTILINE)
        self._texts = {type_: first, "std_msgs/Header": HEADER}
        for other in others:
            head, _, text = other.partition("\n")
            self._texts[head.removeprefix("MSG:").strip()] = text
        self._fields = 0
        self._read = self._struct(type_, ())

    def read(self, data: memoryview) -> dict[str, Any]:
        """Decode a message to its fields by name: times in ns, byte arrays as views, other arrays as lists.

        Raises:
            DataError: the message is shorter than its definition requires.
        """
        try:
            fields, _ = self._read(data, 0)
        except (struct.error, ValueError, IndexError, UnicodeDecodeError, MemoryError):
            raise DataError(f"the {self.type} of {len(data)} bytes is damaged") from None
        return dict(fields)

    def _struct(self, type_: str, within: tuple[str, ...]) -> Read:
        if type_ in within or type_ not in self._texts:
            raise DataError(f"the bag's definition of {self.type} has no type {type_}")
        if len(within) >= DEEPEST:
            raise DataError(f"the bag's definition of {self.type} nests more than {DEEPEST} types")
        package = type_.rpartition("/")[0]
        fields: list[tuple[str, Read]] = []
        for line in self._texts[type_].splitlines():
            bare = line.strip()
            if not bare or bare.startswith("#") or _is_constant(bare):
                continue
            match = FIELD.fullmatch(bare)
            if match is None:
                raise DataError(f"the bag's definition of {type_} has an invalid line {bare[:40]!r}")
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise DataError(f"the bag's definition of {self.type} has more than {MOST_FIELDS:,} fields")
            fields.append((match[3], self._field(match[1], match[2], package, (*within, type_))))

        def read(data: memoryview, at: int) -> tuple[dict[str, Any], int]:
            found = {}
            for name, one in fields:
                found[name], at = one(data, at)
            return found, at

        return read

    def _field(self, type_: str, length: str | None, package: str, within: tuple[str, ...]) -> Read:
        one = self._one(type_, package, within)
        if length is None:
            return one
        if type_ in ("uint8", "char", "byte", "int8"):
            return _bytes(int(length) if length else None)
        return _array(one, int(length) if length else None)

    def _one(self, type_: str, package: str, within: tuple[str, ...]) -> Read:
        if type_ in SIZES:
            return _plain(SIZES[type_])
        if type_ in ("time", "duration"):
            return _time if type_ == "time" else _duration
        if type_ == "string":
            return _string
        if type_ == "Header":
            type_ = "std_msgs/Header"
        return self._struct(type_ if "/" in type_ else f"{package}/{type_}", within)


@lru_cache(maxsize=256)
def layout(type_: str, definition: str) -> Layout:
    """Return the layout of a type, cached by type and definition."""
    return Layout(type_, definition)


def field(message: dict[str, Any], path: str, default: Any = None) -> Any:
    """Return a field by its dotted path, or the default if the message has no such field."""
    value: Any = message
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return default
        value = value[name]
    return value


def needed(message: dict[str, Any], path: str, kind: type[T]) -> T:
    """Return a required field by its dotted path.

    Raises:
        DataError: the definition in the bag lacks the field, or gives it another type.
    """
    value = field(message, path)
    if not isinstance(value, kind):
        raise DataError(f"the bag's definition has no field {path} of type {kind.__name__}")
    return value


def _is_constant(line: str) -> bool:
    return bool(re.match(r"[A-Za-z]\w*\s+[A-Za-z]\w*\s*=", line))


def _plain(code: str) -> Read:
    packed = struct.Struct("<" + code)

    def read(data: memoryview, at: int) -> tuple[Any, int]:
        return packed.unpack_from(data, at)[0], at + packed.size

    return read


def _time(data: memoryview, at: int) -> tuple[int, int]:
    seconds, nanoseconds = struct.unpack_from("<II", data, at)
    return seconds * 10**9 + nanoseconds, at + 8


def _duration(data: memoryview, at: int) -> tuple[int, int]:
    seconds, nanoseconds = struct.unpack_from("<ii", data, at)
    return seconds * 10**9 + nanoseconds, at + 8


def _string(data: memoryview, at: int) -> tuple[str, int]:
    content, at = _bytes(None)(data, at)
    return bytes(content).decode("utf-8", "replace"), at


def _bytes(fixed: int | None) -> Read:
    def read(data: memoryview, at: int) -> tuple[memoryview, int]:
        length = fixed
        if length is None:
            length = struct.unpack_from("<I", data, at)[0]
            at += 4
        if at + length > len(data):
            raise ValueError("an array is longer than its message")
        return data[at : at + length], at + length

    return read


def _array(one: Read, fixed: int | None) -> Read:
    def read(data: memoryview, at: int) -> tuple[list[Any], int]:
        length = fixed
        if length is None:
            length = struct.unpack_from("<I", data, at)[0]
            at += 4
        if length > len(data) - at:
            raise ValueError("an array is longer than its message")
        values = []
        for _ in range(length):
            value, at = one(data, at)
            values.append(value)
        return values, at

    return read
