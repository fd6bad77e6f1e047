"""Reads a tar strictly and in order. Python's tarfile treats a damaged header as the end, without an error.

Supported formats: ustar, GNU (long names, sizes above 8 GB) and pax (path, size).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from model.data.formats.stream import CutError, Stream
from model.errors import DataError

BLOCK = 512
LONGEST_NAME = 1 << 20
LARGEST = 1 << 62  # largest size of a member in bytes; a larger one is damage
LARGEST_READ = 1 << 30  # largest size of a member that is read at once, as an image
DIGITS = re.compile("[0-9]{1,20}")
NEEDED = ("path", "size")  # fields of a pax header that are used
FILES, FOLDER, LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL = b"0\x007", b"5", b"L", b"K", b"x", b"g"


@dataclass
class Member:
    """A file in a tar. It can be read only until the next one is requested."""

    name: str
    size: int
    offset: int  # of the header
    tar: Stream
    left: int = 0

    def __post_init__(self) -> None:
        self.left = self.size

    @property
    def offset_in(self) -> int:
        """Number of bytes of the file read so far."""
        return self.size - self.left

    def read(self, count: int = -1) -> bytes:
        """Read some bytes, or the rest.

        Raises:
            CutError: the tar ends inside the file, or the file is too large to be read at once.
        """
        wanted = self.left if count < 0 else min(count, self.left)
        if wanted > LARGEST_READ:
            place = f"{self.tar.name}: byte {self.offset}"
            raise CutError(f"{place}: {self.name} of {self.size:,} bytes is too large; the tar is damaged")
        got = self.tar.read(wanted)
        self.left -= len(got)
        if len(got) < wanted:
            raise CutError(f"{self.tar.name} is cut off: it ends at byte {self.tar.offset} inside {self.name}")
        return got


class MemberStream:
    """A member as a stream, for a bag in a tar. It ends early where the tar ends or is damaged."""

    def __init__(self, member: Member) -> None:
        self.name, self._member = f"{member.tar.name}:{member.name}", member
        self.damage: CutError | None = None  # the reason for an early end

    @property
    def offset(self) -> int:
        """Number of bytes read so far."""
        return self._member.offset_in

    def read(self, count: int) -> bytes:
        """Return the next bytes; fewer than requested only at the end of the member or at damage."""
        try:
            got = b"" if self.damage else self._member.tar.read(min(count, self._member.left))
        except CutError as error:
            got, self.damage = b"", error
        self._member.left -= len(got)
        return got

    def skip(self, count: int) -> int:
        """Skip bytes by reading them; return how many were skipped."""
        try:
            skipped = 0 if self.damage else self._member.tar.skip(min(count, self._member.left))
        except CutError as error:
            skipped, self.damage = 0, error
        self._member.left -= skipped
        return skipped


def members(tar: Stream) -> Iterator[Member]:
    """Yield the files of a tar in order.

    Raises:
        CutError: the tar is cut off, or a header is damaged.
        DataError: a name points outside the folder, or a member is a link or a device.
    """
    name, size = "", None
    while True:
        offset = tar.offset
        head = tar.read(BLOCK)
        if not head.strip(b"\0"):
            if len(head) < BLOCK:
                raise CutError(f"{tar.name} is cut off: it ends at byte {tar.offset} without the end mark of a tar")
            return
        if len(head) < BLOCK:
            raise CutError(f"{tar.name} is cut off: it ends at byte {tar.offset} inside a header")
        _check(tar.name, offset, head)
        kind, length = head[156:157], _number(head[124:136], tar.name, offset)
        if kind in (LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL):
            if length > LONGEST_NAME:
                raise CutError(f"{tar.name}: byte {offset}: a header of {length} bytes; the tar is damaged")
            content = tar.read(length)
            tar.skip(-length % BLOCK)
            if kind == LONG_NAME:
                name = content.rstrip(b"\0").decode("utf-8", "replace")
            elif kind == PAX:
                fields = _pax(content, tar.name, offset)
                name, size = fields.get("path", name), int(fields["size"]) if "size" in fields else size
            continue
        prefix = head[345:500].split(b"\0")[0] if head[257:263] == b"ustar\0" else b""
        plain = b"/".join(part for part in (prefix, head[:100].split(b"\0")[0]) if part).decode("utf-8", "replace")
        member = Member(name or plain, length if size is None else size, offset, tar)
        if member.size > LARGEST:
            raise CutError(f"{tar.name}: byte {offset}: a file of {member.size} bytes; the tar is damaged")
        name, size = "", None
        _refuse(tar.name, member, kind)
        if kind in FILES:
            padding = -member.size % BLOCK
            yield member
            if tar.skip(member.left + padding) < member.left + padding:
                raise CutError(f"{tar.name} is cut off: it ends at byte {tar.offset} inside {member.name}")


def _check(tar: str, offset: int, head: bytes) -> None:
    stored = _number(head[148:156], tar, offset)
    if sum(head[:148]) + 8 * 32 + sum(head[156:]) != stored:
        what = "is not a tar" if offset == 0 else "is damaged"
        raise CutError(f"{tar} {what}: byte {offset}: the checksum of the header differs")


def _number(field: bytes, tar: str, offset: int) -> int:
    if field[0] & 0x80:  # GNU: a binary number, for values too large for octal digits
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    try:
        return int(digits if digits.isdigit() else b"none", 8)  # int() would accept signs and underscores
    except ValueError:
        what = "is not a tar" if offset == 0 else "is damaged"
        raise CutError(f"{tar} {what}: byte {offset}: a header field is not a number") from None


def _pax(content: bytes, tar: str, offset: int) -> dict[str, str]:
    fields: dict[str, str] = {}
    while content:
        digits, _, rest = content.partition(b" ")
        try:
            length = int(digits)
            name, equals, raw = rest[: length - len(digits) - 2].partition(b"=")
            key = name.decode("utf-8")
            # Others, such as the attributes of macOS's tar, may hold any bytes.
            value = raw.decode("utf-8") if key in NEEDED else ""
            if not equals or length <= len(digits) + 1 or (key == "size" and not DIGITS.fullmatch(value)):
                raise ValueError
        except ValueError:
            raise CutError(f"{tar}: byte {offset}: an invalid pax header; the tar is damaged") from None
        fields[key] = value
        content = content[length:]
    return fields


def _refuse(tar: str, member: Member, kind: bytes) -> None:
    name = member.name
    if name.startswith("/") or ".." in name.split("/"):
        raise DataError(f"{tar}: byte {member.offset}: the name {name!r} points outside the folder; not read")
    if kind in FILES or kind == FOLDER:
        return
    what = "a link" if kind in (b"1", b"2") else "not a file"
    raise DataError(f"{tar}: byte {member.offset}: {name!r} is {what}; not read")
