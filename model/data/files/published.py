"""Finds the source of a data set, or downloads its published files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TextIO

from model.config.data_recipe import Options
from model.config.datasets import Registered, data_root
from model.data.digest import sha256_of
from model.data.files.download import fetch_all
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


def given(options: Options) -> Path | None:
    """Return the path in --source; None if the files are to be downloaded.

    Raises:
        DataError: the path does not exist.
    """
    if options.source is None or "://" in options.source:
        return None
    return own(options)[0]


def download(entry: Registered, options: Options, stream: TextIO | None = None) -> Path:
    """Download the published files of a data set, or find those that were; return their folder.

    Raises:
        DataError: a file cannot be downloaded.
    """
    if options.source is not None and options.unverified:  # accept any content under these names
        unproven = [replace(file, bytes=None, sha256=None, md5=None, urls=(), infohash=None) for file in entry.files]
        entry = replace(entry, files=tuple(unproven))
    folder = data_root() / "downloads" / entry.name
    fetch_all(entry, folder, mirror=options.source, stream=stream)
    return folder


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
