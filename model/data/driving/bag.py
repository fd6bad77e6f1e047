"""Reads a ROS1 bag (format 2.0) sequentially, from a file or an archive, without ROS and without the bag's index.

A bag is a sequence of records. Each record has a header of `name=value` fields, and data. Chunks hold the messages and
may be compressed. The reader leaves damaged records out, notes them, and continues at the next chunk that it finds. A
bag has no checksum, so the reader cannot detect flipped bytes inside a message.
"""

from __future__ import annotations

import bz2
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.data.formats.stream import FileStream, Stream
from model.errors import DataError

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, BAG_HEADER, INDEX, CHUNK, CHUNK_INFO, CONNECTION = 2, 3, 4, 5, 6, 7
LONGEST_HEADER = 1 << 20
LARGEST_CHUNK = 1 << 30
SPARE = 4 << 20  # bytes: the least limit for a decompressed chunk, since the size in its header may be damaged
LOOK = 1 << 20  # bytes of one read in a search for the next chunk
CHUNK_HEADER = (30, 80)  # least and largest length of a chunk header in bytes
U32 = struct.Struct("<I")
COMPRESSIONS = (b"none", b"bz2", b"lz4")


@dataclass(frozen=True)
class Connection:
    """A connection of a bag: topic, type and definition of its messages."""

    id: int
    topic: str
    type: str
    definition: str


@dataclass(frozen=True)
class Message:
    """A message, not decoded."""

    connection: Connection
    time_ns: int  # time of recording; the stamp of the message itself is in `data`
    data: memoryview


@dataclass(frozen=True)
class Chunk:
    """A chunk that was read completely."""

    offset: int
    next_offset: int  # of the record after it
    content: memoryview


@dataclass
class Bag:
    """A reader of a bag, with the connections found so far.

    Args:
        stream: the bytes of the bag.
        connections: the connections known from the index or an earlier run. A bag holds each only once.
        note: called for each damage with its kind and a line that gives the place.
    """

    stream: Stream
    connections: dict[int, Connection] = field(default_factory=dict)
    note: Callable[[str, str], None] = lambda kind, line: None
    _back: bytes = b""

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.stream.name

    def begin(self) -> None:
        """Read the magic number.

        Raises:
            DataError: the file is not a bag, or has another version.
        """
        magic = self._read(len(MAGIC))
        if magic != MAGIC:
            raise not_a_bag(self.name, magic + self._read(8))

    def chunks(self, end: int | None = None) -> Iterator[Chunk]:
        """Yield the chunks from the stream's position up to the offset `end`, or to the end of the bag."""
        while end is None or self._offset < end:
            offset = self._offset
            try:
                head = self._header()
                if head is None:
                    if offset <= len(MAGIC):
                        self.note(
                            "cut off", f"{self.name} is cut off: it ends at byte {offset}, before its first record"
                        )
                    return
                op = head.get(b"op", b"\0")[0]
                length = U32.unpack(self._exactly(4))[0]
                if op == CHUNK:
                    chunk = self._chunk(offset, head, length)
                    if chunk is not None:
                        yield chunk
                elif op == CONNECTION:
                    if length > LONGEST_HEADER:
                        raise _DamagedError(f"a connection of {length} bytes")
                    self._connect(head, self._exactly(length))
                elif op in (BAG_HEADER, INDEX, CHUNK_INFO):
                    self._skip(length)
                else:
                    raise _DamagedError(f"a record of unknown type {op}")
            except _EndError:
                self.note("cut off", f"{self.name} is cut off: it ends at byte {self._offset}, inside a record")
                return
            except _DamagedError as error:
                found = self._find_chunk()
                where = f"reading continues at byte {self._offset}" if found else "no further chunk was found"
                self.note("damaged", f"{self.name}: byte {offset}: {error}; {where}")
                if not found:
                    return

    def messages(self, chunk: Chunk, wanted: Callable[[Connection], bool]) -> Iterator[Message]:
        """Yield the wanted messages of a chunk up to its first damaged record."""
        content, at, end = chunk.content, 0, len(chunk.content)
        where = f"{self.name}: byte {chunk.offset}"
        unknown = 0
        while at < end:
            try:
                head, data_at = _fields(content, at)
                length = U32.unpack_from(content, data_at)[0]
                start, at = data_at + 4, data_at + 4 + length
                if at > end:
                    raise ValueError
                op = head[b"op"][0]
                if op == CONNECTION:
                    self._connect(head, content[start:at])
                    continue
                if op != MESSAGE:
                    continue
                connection = self.connections.get(U32.unpack(head[b"conn"])[0])
                seconds, nanoseconds = struct.unpack("<II", head[b"time"])
            except (struct.error, ValueError, KeyError, IndexError, _DamagedError):
                self.note("damaged", f"{where}: the chunk has a damaged record; the rest of the chunk is left out")
                return
            if connection is None:
                unknown += 1
            elif wanted(connection):
                yield Message(connection, seconds * 10**9 + nanoseconds, content[start:at])
        if unknown:
            self.note("unknown", f"{where}: {unknown} messages of a topic without a definition; left out")

    @property
    def _offset(self) -> int:
        return self.stream.offset - len(self._back)

    def _read(self, count: int) -> bytes:
        if not self._back:
            return self.stream.read(count)
        got, self._back = self._back[:count], self._back[count:]
        return got + self.stream.read(count - len(got)) if len(got) < count else got

    def _exactly(self, count: int) -> bytes:
        got = self._read(count)
        if len(got) < count:
            raise _EndError
        return got

    def _skip(self, count: int) -> None:
        if count > LARGEST_CHUNK:
            raise _DamagedError(f"a record of {count} bytes")
        taken = min(count, len(self._back))
        self._back = self._back[taken:]
        if self.stream.skip(count - taken) < count - taken:
            raise _EndError

    def _header(self) -> dict[bytes, bytes] | None:
        prefix = self._read(4)
        if not prefix:
            return None
        if len(prefix) < 4:
            raise _EndError
        length = U32.unpack(prefix)[0]
        if not 4 < length <= LONGEST_HEADER:
            raise _DamagedError(f"a header of {length} bytes")
        try:
            return _fields(memoryview(prefix + self._exactly(length)), 0)[0]
        except ValueError:
            raise _DamagedError("an invalid header") from None

    def _chunk(self, offset: int, head: dict[bytes, bytes], length: int) -> Chunk | None:
        compression, size = head.get(b"compression", b""), head.get(b"size", b"")
        if compression not in COMPRESSIONS or len(size) != 4 or length > LARGEST_CHUNK:
            raise _DamagedError(f"a chunk of {length} bytes, compression {compression.decode('ascii', 'replace')!r}")
        expected = U32.unpack(size)[0]
        if expected > LARGEST_CHUNK:
            raise _DamagedError(f"a chunk whose header gives {expected} bytes")
        packed, most = self._exactly(length), max(expected, SPARE)
        try:
            content = _unpack(compression, packed, most + 1)
        except Exception as error:
            if isinstance(error, DataError):
                raise
            self.note("chunk", f"{self.name}: byte {offset}: a damaged {compression.decode()} chunk; left out")
            return None
        if len(content) != expected:
            actual = f"more than {most}" if compression != b"none" and len(content) > most else f"{len(content)}"
            line = f"{self.name}: byte {offset}: a chunk of {actual} bytes whose header gives {expected}"
            self.note("chunk", f"{line}; its readable records are kept")
        return Chunk(offset, self._offset, memoryview(content))

    def _connect(self, head: dict[bytes, bytes], data: bytes | memoryview) -> None:
        try:
            more = _fields(memoryview(U32.pack(len(data)) + bytes(data)), 0)[0]
            number = U32.unpack(head[b"conn"])[0]
            known = Connection(
                number, head[b"topic"].decode(), more[b"type"].decode(), more[b"message_definition"].decode()
            )
        except (ValueError, KeyError, struct.error):
            raise _DamagedError("an invalid connection") from None
        self.connections.setdefault(number, known)

    def _find_chunk(self) -> bool:
        """Search for the next chunk header; return whether one was found."""
        window = b""
        while True:
            block = self._read(LOOK)
            window += block
            at = _chunk_header_in(window)
            if at is not None:
                self._back = window[at:] + self._back
                return True
            if not block:
                return False
            window = window[-2 * CHUNK_HEADER[1] :]


@dataclass(frozen=True)
class Index:
    """The index at the end of a bag that was closed properly."""

    connections: dict[int, Connection]
    offsets: list[int]  # of the chunks, in order
    counts: list[dict[int, int]]  # number of messages by connection, for each chunk


def read_index(path: Path) -> Index | None:
    """Read the index at the end of a bag; return None if it has no valid one.

    Raises:
        DataError: the file is not a bag.
    """
    stream = FileStream(path)
    try:
        bag = Bag(stream)
        bag.begin()
        head = bag._header()
        if head is None or head.get(b"op") != bytes([BAG_HEADER]):
            return None
        index_pos = struct.unpack("<Q", head[b"index_pos"])[0]
        counts = [U32.unpack(head[name])[0] for name in (b"conn_count", b"chunk_count")]
        if not len(MAGIC) < index_pos < path.stat().st_size:
            return None
        stream.skip(index_pos - stream.offset)
        infos: list[tuple[int, dict[int, int]]] = []
        while (head := bag._header()) is not None:
            data = bag._exactly(U32.unpack(bag._exactly(4))[0])
            if head[b"op"][0] == CONNECTION:
                bag._connect(head, data)
            elif head[b"op"][0] == CHUNK_INFO:
                pairs = struct.unpack(f"<{len(data) // 4}I", data)
                infos.append(
                    (struct.unpack("<Q", head[b"chunk_pos"])[0], dict(zip(pairs[::2], pairs[1::2], strict=True)))
                )
    except (_EndError, _DamagedError, KeyError, ValueError, struct.error, IndexError):
        return None
    finally:
        stream.close()
    if [len(bag.connections), len(infos)] != counts:
        return None
    infos.sort(key=lambda info: info[0])
    return Index(bag.connections, [offset for offset, _ in infos], [count for _, count in infos])


def not_a_bag(name: str, first: bytes) -> DataError:
    """Return the error for a file that is not a bag."""
    if first.startswith((b"#ROSBAG V", b"#ROSRECORD V")):
        version = first.split(b"V", 1)[1].split(b"\n")[0].decode("ascii", "replace")
        return DataError(f"{name}: byte 0: the bag has version {version}, not 2.0; convert it with rosbag migrate")
    return DataError(f"{name} is not a bag (it begins with {first[:8]!r})" if first else f"{name} is empty")


class _EndError(Exception):
    """The bytes end inside a record."""


class _DamagedError(Exception):
    """A record is damaged."""


def _unpack(compression: bytes, packed: bytes, most: int) -> bytes:
    """Decompress a chunk up to a limit in bytes, since 177 bytes of bz2 can become 200 MB.

    Raises:
        ValueError: the chunk is cut off. A library may raise any other exception for a damaged chunk.
    """
    if compression == b"none":
        return packed
    unpacker: Any = bz2.BZ2Decompressor() if compression == b"bz2" else _lz4()
    content: bytes = unpacker.decompress(packed, most)
    if not unpacker.eof and len(content) < most:
        raise ValueError("cut off")
    return content


def _lz4() -> Any:
    try:
        from lz4.frame import LZ4FrameDecompressor
    except ImportError:
        raise DataError(
            "the bag has lz4 compression, which needs an extra; run: pip install 'pixel-orch[data]'"
        ) from None
    return LZ4FrameDecompressor()


def _fields(content: memoryview, at: int) -> tuple[dict[bytes, bytes], int]:
    """Read the header at an offset; return its fields and the offset of its end.

    Raises:
        ValueError: the bytes are not a header.
    """
    if at + 4 > len(content):
        raise ValueError("cut off")
    end = at + 4 + U32.unpack_from(content, at)[0]
    if end > len(content):
        raise ValueError("longer than the remaining data")
    at += 4
    found = {}
    while at < end:
        if at + 4 > end:
            raise ValueError("a field is cut off")
        field_end = at + 4 + U32.unpack_from(content, at)[0]
        if field_end > end:
            raise ValueError("a field is longer than its header")
        name, equals, value = bytes(content[at + 4 : field_end]).partition(b"=")
        if not equals:
            raise ValueError("a field without =")
        found[name] = value
        at = field_end
    return found, end


def _chunk_header_in(window: bytes) -> int | None:
    """Find the start of a chunk header by its field `op=5` and the bytes around it; None if there is none."""
    at = window.find(b"op=\x05")
    while at >= 0:
        for start in range(max(0, at - CHUNK_HEADER[1]), at - 3):
            length = U32.unpack_from(window, start)[0]
            if not CHUNK_HEADER[0] <= length <= CHUNK_HEADER[1] or start + 8 + length > len(window):
                continue
            try:
                head, data_at = _fields(memoryview(window), start)
            except ValueError:
                continue
            length = U32.unpack_from(window, data_at)[0]
            if (
                head.get(b"compression") in COMPRESSIONS
                and len(head.get(b"size", b"")) == 4
                and length <= LARGEST_CHUNK
            ):
                return start
        at = window.find(b"op=\x05", at + 1)
    return None
