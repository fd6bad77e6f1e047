"""TensorBoard's event files, written byte by byte from the description of the format."""

from __future__ import annotations

import struct


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of RFC 3720, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 & -(crc & 1))
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    """Return the checksum of a TFRecord."""
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    """Return a TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(value: int) -> bytes:
    """Return a variable-length integer."""
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def delimited(field: int, data: bytes) -> bytes:
    """Return a field of bytes."""
    return varint(field << 3 | 2) + varint(len(data)) + data


def event(wall_time: float, step: int, *values: bytes) -> bytes:
    """Return an Event with a summary of these values."""
    summary = b"".join(delimited(1, value) for value in values)
    return b"\x09" + struct.pack("<d", wall_time) + b"\x10" + varint(step) + delimited(5, summary)


def simple(tag: str, value: float) -> bytes:
    """Return a value as `add_scalar` writes it."""
    return delimited(1, tag.encode()) + b"\x15" + struct.pack("<f", value)


def tensor(tag: str, kind: int, body: bytes) -> bytes:
    """Return a value with a TensorProto of a DataType; `body` is its content as a field."""
    return delimited(1, tag.encode()) + delimited(8, b"\x08" + varint(kind) + body)


def scalar_record(wall_time: float, step: int, **values: float) -> bytes:
    """Return the record of some scalars."""
    return record(event(wall_time, step, *(simple(tag, value) for tag, value in values.items())))


def version_record(wall_time: float) -> bytes:
    """Return the first record of each event file."""
    return record(b"\x09" + struct.pack("<d", wall_time) + delimited(3, b"brain.Event:2"))
