"""Downloads published files: tries mirrors in turn, resumes partial files and verifies each complete file.

A file without a server is available by BitTorrent: aria2c fetches it if installed, else the error gives the link.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from model.config.datasets import Registered, SourceFile
from model.data.digest import sha256_of
from model.data.files.disk import space
from model.errors import DataError
from model.meter import Meter

BLOCK = 1 << 20
AGENT = "pixel-orch/0.1 (data prepare)"
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP status codes of temporary errors
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
OFF_THE_NET = (http.client.HTTPException, OSError)  # URLError, connection resets, timeouts


@dataclass(frozen=True)
class Patience:
    """How often to try and how long to wait."""

    tries: int = 6  # attempts in a row without a new byte, over all mirrors
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    timeout_s: float = 30.0  # for a response, and between two bytes
    sleep: Callable[[float], None] = time.sleep


def fetch_all(
    entry: Registered,
    folder: Path,
    *,
    mirror: str | None = None,
    stream: TextIO | None = None,
    patience: Patience | None = None,
) -> list[Path]:
    """Fetch the missing files of a data set.

    Args:
        entry: the data set.
        folder: the folder to write to.
        mirror: the address of a further mirror, tried before the known ones.
        stream: the stream for progress output.
        patience: how often to try and how long to wait.

    Returns:
        The paths of all files.

    Raises:
        DataError: a file cannot be fetched; the message says how to obtain it.
    """
    missing = [file for file in entry.files if not (folder / file.name).exists()]
    _make(folder)
    space(folder, sum((file.bytes or 0) - _size(_part(folder, file)) for file in missing))
    for file in missing:
        urls = [f"{mirror.rstrip('/')}/{file.name}"] if mirror else []
        urls += file.urls
        if urls:
            fetch(file, urls, folder, stream=stream, patience=patience)
        else:
            torrent(entry, file, folder)
    return [folder / file.name for file in entry.files]


def fetch(
    file: SourceFile, urls: list[str], folder: Path, *, stream: TextIO | None = None, patience: Patience | None = None
) -> Path:
    """Fetch one file. The file gets its final name when it is complete and verified.

    Raises:
        DataError: no mirror has the published file.
    """
    patience = patience or Patience()
    path, part = folder / file.name, _part(folder, file)
    meter = Meter(f"fetching {file.name}", file.bytes, "B", stream=stream)
    meter.skip(_size(part))
    reasons: dict[str, str] = {}
    excluded: set[str] = set()  # mirrors without the file, or with another one
    failures, at = 0, 0
    try:
        while failures < patience.tries and len(excluded) < len(urls):
            url = urls[at % len(urls)]
            at += 1
            if url in excluded:
                continue
            before = _size(part)
            try:
                _transfer(url, part, file, meter, patience.timeout_s, alone=len(excluded) == len(urls) - 1)
                _verify(file, part)
                part.replace(path)
                _tag(part).unlink(missing_ok=True)
                return path
            except _OtherError as error:
                reasons[url] = str(error)
                excluded.add(url)
            except _WrongError as error:
                reasons[url] = str(error)
                if not before:  # else the halves may be of two files: try again from the beginning
                    excluded.add(url)
                _discard(part, meter)
            except urllib.error.HTTPError as error:
                reasons[url] = f"HTTP {error.code}"
                if error.code not in PASSING:
                    excluded.add(url)
            except OFF_THE_NET as error:
                if isinstance(error, OSError) and error.errno in OF_THE_DISK:
                    raise DataError(
                        f"cannot write {part}: {error.strerror}; free space or allow writing, then run it again"
                    ) from None
                reasons[url] = _reason(error)
            if _size(part) > before:
                failures = 0
                continue
            failures += 1
            if len(excluded) < len(urls) and failures < patience.tries:
                patience.sleep(min(patience.longest_wait_s, patience.first_wait_s * 2 ** (failures - 1)))
    finally:
        meter.close()
    details = "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
    raise DataError(f"cannot fetch {file.name} ({details}); try later, or give the file with --source")


def torrent(entry: Registered, file: SourceFile, folder: Path) -> None:
    """Fetch a file that is available only by BitTorrent.

    Raises:
        DataError: aria2c is not installed or failed; the message says how to obtain the file.
    """
    hint = f"{entry.how} {file.name}" + (f", {file.bytes:,} bytes" if file.bytes else "")
    checksum = f", SHA-256 {file.sha256}" if file.sha256 else f", MD5 {file.md5}" if file.md5 else ""
    program = shutil.which("aria2c")
    if file.magnet is None or program is None:
        link = f": {file.magnet} (aria2c is used if it is installed)" if file.magnet else ""
        raise DataError(f"{file.name} cannot be fetched. {hint}{checksum}{link}")
    words = [
        program,
        "--seed-time=0",
        "--check-integrity=true",
        "--bt-stop-timeout=600",
        f"--dir={folder}",
        file.magnet,
    ]
    code = subprocess.run(words, check=False).returncode
    found = next((path for path in sorted(folder.rglob(file.name)) if path.is_file()), None)
    if code or found is None:
        raise DataError(f"aria2c ended with {code} and {file.name} is missing. {hint}{checksum}")
    try:
        _verify(file, found)
    except _WrongError as error:
        raise DataError(f"{found} {error}; remove it and run it again") from None
    found.replace(folder / file.name)


class _WrongError(Exception):
    """The downloaded bytes differ from the published file; the partial file is discarded."""


class _OtherError(Exception):
    """A mirror has another file; the partial file from a different mirror is kept."""


def _transfer(url: str, part: Path, file: SourceFile, meter: Meter, timeout_s: float, *, alone: bool) -> None:
    """Fetch the missing rest of a file. The download resumes only if the server confirms that the file is unchanged.

    Args:
        url: the address of the file on a mirror.
        part: the partial file, which is appended to.
        file: the published file.
        meter: counts the bytes.
        timeout_s: for a response, and between two bytes.
        alone: whether no other mirror is left.
    """
    have, tag = _size(part), _read_tag(part, url)
    if have and (file.bytes is None or have < file.bytes) and tag is None and file.sha256 is None and file.md5 is None:
        _discard(part, meter)  # nothing could show that both halves are of the same file
        have = 0
    if file.bytes is not None and have == file.bytes:
        return
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag:
            headers["If-Range"] = tag
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - an address from the registry or the user
    with _open(request, timeout_s, have, file) as answer:
        resumes = have and answer.status == 206 and _begins_at(answer.headers.get("Content-Range", "")) == have
        length = answer.headers.get("Content-Length") if resumes or answer.status != 206 else None
        total = (have if resumes else 0) + int(length) if length and length.isdigit() else None
        if file.bytes is not None and total not in (None, file.bytes):
            raise _OtherError(f"has {total:,} bytes, the published file {file.bytes:,}")
        if have and not resumes:
            if file.bytes is not None and total is None and not alone:  # possibly a login page
                raise _OtherError("cannot resume and does not give the length of its file")
            _discard(part, meter)  # the server has another file now, or cannot resume
            have = 0
            if answer.status == 206:
                raise _WrongError("does not resume at the requested byte")
        _write_tag(part, url, answer.headers.get("ETag") or answer.headers.get("Last-Modified"))
        with part.open("ab") as out:
            while block := answer.read(BLOCK):
                out.write(block)
                have += len(block)
                meter.add(len(block))
                if file.bytes is not None and have > file.bytes:
                    raise _WrongError(f"sends more than the {file.bytes:,} bytes of the published file")
            out.flush()
            os.fsync(out.fileno())
    if total is not None and have < total:
        raise ConnectionError(f"ended after {have:,} of {total:,} bytes")
    whole = getattr(answer, "chunked", False) and not resumes  # a truncated chunked response raises an exception
    if whole and file.bytes is not None and have < file.bytes:
        raise _WrongError(f"has {have:,} bytes, the published file {file.bytes:,}")


def _open(request: urllib.request.Request, timeout_s: float, have: int, file: SourceFile) -> Any:
    """Open the response. Status 416 means that the server has another file or that the partial file is too long."""
    try:
        return urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310 - see above
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        kind = _OtherError if file.bytes is not None and have < file.bytes else _WrongError
        raise kind(f"has no more than {have:,} bytes") from None


def _verify(file: SourceFile, path: Path) -> None:
    size = path.stat().st_size
    if file.bytes is not None and size < file.bytes:
        raise ConnectionError(f"ended after {size:,} of {file.bytes:,} bytes")
    for algorithm, wanted in (("sha256", file.sha256), ("md5", file.md5)):
        if wanted:
            got = sha256_of(path, algorithm)
            if got != wanted:
                raise _WrongError(f"has another file: its {algorithm} is {got}, not {wanted}")
            return


def _begins_at(content_range: str) -> int:
    unit, _, rest = content_range.partition(" ")
    first = rest.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else -1


def _part(folder: Path, file: SourceFile) -> Path:
    return folder / f"{file.name}.part"


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_tag(part: Path, url: str) -> str | None:
    """Return the tag of the file from the start of the download; None if it is weak or of another mirror."""
    try:
        known = json.loads(_tag(part).read_text(encoding="utf-8"))
        tag = known["tag"] if known["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return tag if isinstance(tag, str) and not tag.startswith("W/") else None


def _write_tag(part: Path, url: str, tag: str | None) -> None:
    _tag(part).write_text(json.dumps({"url": url, "tag": tag}), encoding="utf-8")


def _discard(part: Path, meter: Meter) -> None:
    meter.skip(-_size(part))
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write to {folder}: {error.strerror or error}; set PIXEL_ORCH_DATA to another"
        ) from None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__).splitlines()[0][:100]
