"""Reads the scalars of TensorBoard's event files, without TensorBoard.

A file is a sequence of TFRecords: length (uint64), its masked CRC-32C, the bytes, their masked CRC-32C. The bytes are a
protocol buffer `Event`: wall_time = 1 (double), step = 2 (int64), summary = 5. A `Summary` has values = 1, each with
tag = 1 and simple_value = 2 (float) or tensor = 8.
https://github.com/tensorflow/tensorboard/tree/master/tensorboard/compat/proto
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from infra.instance.metrics.growing import Growing
from infra.instance.metrics.values import UNIX_TIMES, clean, number, whole

HEAD_BYTES, FOOT_BYTES = 12, 4
MOST_RECORD_BYTES = 1 << 16  # a scalar takes a hundred; images and graphs are passed over without being read
MOST_VALUES = 256  # of one event
LOOK_BYTES = 1 << 20
MASK = 0xA282EAD8


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


TABLE = _table()


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C of some bytes, masked as TFRecord does it."""
    crc, table = 0xFFFFFFFF, TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + MASK) & 0xFFFFFFFF


class EventFile:
    """One event file, which grows.

    Args:
        file: whose records they are.
    """

    def __init__(self, file: Growing) -> None:
        self.file = file
        self.skipped = 0  # records that are damaged
        self._damaged_at: tuple[int, int] | None = None  # no record can be found behind a damaged length

    def records(self, most_bytes: int) -> Iterator[bytes]:
        """Yield the new records. One that is not whole yet is waited for."""
        while most_bytes > 0 and self._damaged_at != (self.file.times_anew, self.file.offset):
            data = self.file.look(LOOK_BYTES)
            done = 0
            for record, end in self._whole(data):
                done = end
                if record is not None:
                    yield record
            self.file.advance(data[:done])
            most_bytes -= done
            if done == 0 and not self._pass_large(data):
                return

    def _whole(self, data: bytes) -> Iterator[tuple[bytes | None, int]]:
        """Yield (record, its end) of the whole small records; None for a damaged one."""
        place = 0
        while place + HEAD_BYTES <= len(data):
            length = self._length(data, place)
            if length is None:
                if place == 0:
                    self.skipped += 1
                    self._damaged_at = (self.file.times_anew, self.file.offset)
                return
            end = place + HEAD_BYTES + length + FOOT_BYTES
            if length > MOST_RECORD_BYTES or end > len(data):
                return
            record = data[place + HEAD_BYTES : end - FOOT_BYTES]
            is_right = masked_crc(record) == struct.unpack_from("<I", data, end - FOOT_BYTES)[0]
            self.skipped += not is_right
            yield (record if is_right else None), end
            place = end

    def _length(self, data: bytes, place: int) -> int | None:
        """Return the length of the record that begins there, None if it is damaged."""
        head = data[place : place + 8]
        if masked_crc(head) != struct.unpack_from("<I", data, place + 8)[0]:
            return None
        return int(struct.unpack("<Q", head)[0])

    def _pass_large(self, data: bytes) -> bool:
        """Move on behind a record that is too large to be a scalar, once it is whole; return whether it did."""
        if len(data) < HEAD_BYTES or self._damaged_at == (self.file.times_anew, self.file.offset):
            return False
        length = self._length(data, 0)
        if length is None or length <= MOST_RECORD_BYTES:
            return False
        end = self.file.offset + HEAD_BYTES + length + FOOT_BYTES
        if end > self.file.size():
            return False
        self.file.skip(end - self.file.offset)
        return True


def scalars(record: bytes) -> tuple[float | None, int | None, dict[str, float]]:
    """Return (wall time, step, scalars by tag) of an event; what is no event holds none."""
    wall_time, step = None, 0
    found: dict[str, float] = {}
    try:
        for field, value in _fields(record):
            if field == 1 and isinstance(value, bytes) and len(value) == 8:
                wall_time = struct.unpack("<d", value)[0]
            elif field == 2 and isinstance(value, int):
                step = value
            elif field == 5 and isinstance(value, bytes):
                for inner, one in _fields(value):
                    if inner == 1 and isinstance(one, bytes) and len(found) < MOST_VALUES:
                        tag, figure = _value(one)
                        if tag and figure is not None:
                            found[clean(tag)] = figure
    except (IndexError, struct.error, ValueError):
        return None, None, {}
    if wall_time is not None and not UNIX_TIMES[0] < wall_time < UNIX_TIMES[1]:
        wall_time = None
    return wall_time, whole(step), found


def _value(data: bytes) -> tuple[str, float | None]:
    """Return (tag, number) of a `Summary.Value`."""
    tag, figure = "", None
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            tag = value.decode("utf-8", "replace")
        elif field == 2 and isinstance(value, bytes) and len(value) == 4:
            figure = number(_short(struct.unpack("<f", value)[0]))
        elif field == 8 and isinstance(value, bytes):
            figure = _tensor(value)
    return tag, figure


FORMATS = {1: "<f", 2: "<d", 3: "<i", 4: "<B", 5: "<h", 6: "<b", 9: "<q", 10: "<?", 19: "<e", 22: "<I", 23: "<Q"}
"""By `DataType`: float, double, int32, uint8, int16, int8, int64, bool, half, uint32, uint64."""


def _short(value: float) -> float:
    """Return a float of 32 bits as it was meant: 0.2, and not 0.20000000298."""
    return float("%.7g" % value)


def _tensor(data: bytes) -> float | None:
    """Return the number of a tensor that holds one, None for another tensor."""
    kind, content, listed = 0, b"", []
    for field, value in _fields(data):
        if field == 1 and isinstance(value, int):
            kind = value
        elif field == 4 and isinstance(value, bytes):
            content = value
        elif field in (5, 6, 7, 10, 11, 16, 17):
            listed += _listed(field, value)
    form = FORMATS.get(kind)
    if form is None:
        return None
    if content:
        return _plain(struct.unpack(form, content)[0]) if len(content) == struct.calcsize(form) else None
    return _plain(listed[0]) if len(listed) == 1 else None


def _plain(value: Any) -> float | None:
    return number(int(value) if isinstance(value, bool) else value)


def _listed(field: int, value: int | bytes) -> list[float]:
    """Return the numbers of a repeated field, packed or not; of a long list the first ones."""
    if isinstance(value, int):
        return [value]
    form = {5: "<f", 6: "<d"}.get(field)
    if form is not None:
        size = struct.calcsize(form)
        return [struct.unpack_from(form, value, place)[0] for place in range(0, min(len(value), 2 * size), size)]
    found: list[float] = []
    place = 0
    while place < len(value) and len(found) < 2:
        one, place = _varint(value, place)
        found.append(_signed(one))
    return found


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (number, value) of a message's fields; fixed and delimited ones as bytes.

    Raises:
        ValueError, IndexError: it is no message.
    """
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, _signed(value)
            continue
        if kind == 2:
            size, place = _varint(data, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("an unknown kind of field")
        if size > len(data) - place:
            raise ValueError("a field is longer than its message")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
