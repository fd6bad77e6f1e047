"""Finds or downloads the source files of a data set and compares them with the published checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from model.config.data_recipe import Options
from model.config.datasets import Registered, SourceFile, data_root
from model.data.digest import sha256_of
from model.data.files.download import fetch_all
from model.data.files.fingerprint import of_folder
from model.errors import DataError
from model.meter import Meter


def own(options: Options) -> list[Path]:
    """Return the path of the user's own files.

    Raises:
        DataError: the path does not exist.
    """
    path = Path(options.source or "").expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist; check --source")
    return [path]


def published_files(entry: Registered, options: Options, stream: TextIO | None = None) -> list[Path]:
    """Find the published files of a data set in --source, or download them.

    Raises:
        DataError: a file is missing and cannot be downloaded.
    """
    source = options.source
    if source is not None and "://" not in source:
        return _in(Path(source).expanduser(), entry)
    if source is not None and options.unverified:  # accept any content under these names
        unproven = [replace(file, bytes=None, sha256=None, md5=None, urls=(), infohash=None) for file in entry.files]
        entry = replace(entry, files=tuple(unproven))
    return fetch_all(entry, data_root() / "downloads" / entry.name, mirror=source, stream=stream)


def _in(place: Path, entry: Registered) -> list[Path]:
    if not place.exists():
        raise DataError(f"{place} does not exist; check --source")
    if place.is_file():
        if len(entry.files) == 1:
            return [place]
        names = ", ".join(file.name for file in entry.files)
        raise DataError(f"{entry.name} needs {len(entry.files)} files ({names}); give their folder with --source")
    found = []
    for file in entry.files:
        candidates = [place / file.name, place / file.name.removesuffix(".gz")]
        path = next((path for path in candidates if path.exists()), None)
        if path is None and entry.kind == "cifar":
            others = [place / other.name for other in entry.also]
            path = next((path for path in others if path.exists()), place)
        if path is None:
            raise DataError(f"{place} has no {file.name}; pixel-orch data info {entry.name} lists the files to give")
        found.append(path)
    return found


def proven(
    path: Path,
    known: Iterable[SourceFile],
    *,
    unverified: bool,
    reads: Callable[[str], bool] = lambda _: True,
    stream: TextIO | None = None,
) -> tuple[dict[str, Any], bool]:
    """Compare a file with the published size and checksum.

    Args:
        path: the file or folder.
        known: the published files.
        unverified: whether a file other than the published one is accepted.
        reads: returns whether a preparation reads a file of this name, for a folder.
        stream: the stream for progress output.

    Returns:
        The description of the file for the manifest, and whether it is a published file.

    Raises:
        DataError: the file is not the published one and `unverified` is false.
    """
    if path.is_dir():
        if not unverified:
            raise DataError(
                f"{path} is a folder, which has no checksum to compare; pass --unverified to use it unchecked"
            )
        return of_folder(path, reads), False
    wanted = next((file for file in known if file.name == path.name), None)
    size = path.stat().st_size
    if wanted is None and not unverified:
        raise DataError(f"{path} is not one of the published files with a known checksum; pass --unverified to use it")
    if wanted is not None and wanted.bytes not in (None, size) and not unverified:
        raise DataError(f"{path} has {size:,} bytes, the published one {wanted.bytes:,}; fetch it again")
    algorithm = "sha256" if wanted is None or wanted.sha256 or not wanted.md5 else "md5"
    got = hashed(path, algorithm, stream)
    published = wanted is not None and got in (wanted.sha256, wanted.md5)
    if not published and not unverified:
        expected = wanted and (wanted.sha256 or wanted.md5)
        raise DataError(f"{path} is not the published file: its {algorithm} is {got}, not {expected}; fetch it again")
    return {"name": path.name, "bytes": size, algorithm: got}, published


def hashed(path: Path, algorithm: str, stream: TextIO | None) -> str:
    """Hash a file and show the progress.

    Raises:
        DataError: the file cannot be read.
    """
    meter = Meter(f"checking {path.name}", path.stat().st_size, "B", stream=stream)
    try:
        return sha256_of(path, algorithm, meter.add)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the file") from None
    finally:
        meter.close()
