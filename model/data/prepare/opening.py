"""Opens the files of a data set as a source of images, by the kind of the files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from model.config.data_recipe import Options
from model.config.datasets import Registered
from model.data.driving.folder import is_read
from model.data.driving.source import open_driving, paths_of
from model.data.files.contents import Contents, find_contents
from model.data.files.fingerprint import of_folder, same
from model.data.files.packages import Packages, find_packages
from model.data.files.published import download, given, hashed, own
from model.data.formats import cifar
from model.data.formats.builtin import of_name
from model.data.formats.cifar import BINARY, PICKLES
from model.data.formats.mnist import from_amat, from_idx
from model.data.formats.npz import NpzImages
from model.data.formats.pictures import SUFFIXES, PictureFiles
from model.data.manifest import LIST, Image, Manifest
from model.data.source import Opened
from model.errors import DataError

IN_MEMORY = ("idx", "amat", "cifar")  # kinds whose files are read whole


def open_source(entry: Registered, options: Options, folder: Path, *, stream: TextIO | None = None) -> Opened:
    """Open the source of a data set.

    Raises:
        DataError: a file is missing, is damaged or is not the published one.
    """
    if entry.kind == "builtin":
        return Opened(of_name(entry.name), list, [], lambda: True)
    if entry.kind == "rosbag":
        return open_driving(entry, options, folder, stream=stream)
    if entry.kind == "pictures":
        return _open_pictures(options, own(options)[0], stream)
    found = _found(entry, options, stream)
    for line in found.remarks:
        print(f"  {line}", file=stream or sys.stderr)
    return Opened(
        found.source(),
        lambda: found.sources,
        found.sources,
        lambda: found.published,
        entry.binarise,
        left_out=found.left_out,
    )


@dataclass(frozen=True)
class _Found:
    """The files of a published data set."""

    sources: list[dict[str, Any]]
    published: bool
    source: Callable[[], Any]  # reads the files
    left_out: dict[str, int]
    remarks: list[str]


def _found(entry: Registered, options: Options, stream: TextIO | None) -> _Found:
    """Find the files of a published data set in --source, or download them.

    Raises:
        DataError: a file is missing, is damaged or is not the published one.
    """
    place = given(options) or download(entry, options, stream)
    if entry.kind not in IN_MEMORY:
        packages = find_packages(entry, place, unverified=options.unverified, stream=stream)
        return _Found(
            packages.sources,
            packages.published,
            lambda: _of_packages(entry, options, packages),
            packages.left_out.counts,
            [],
        )
    groups = [list(BINARY), list(PICKLES)] if entry.kind == "cifar" else [_names(entry)]
    contents = find_contents(entry, place, groups, unverified=options.unverified, stream=stream)
    of_source = _reads(entry) if entry.kind == "cifar" else None
    return _Found(
        contents.sources(stream, of_source),
        contents.published,
        lambda: _of_contents(entry, options, contents),
        contents.left_out.counts,
        contents.remarks(),
    )


def _open_pictures(options: Options, path: Path, stream: TextIO | None) -> Opened:
    if not options.size:
        raise DataError("images need --size PIXELS: the side length that all images are resized to")
    image = Image(options.size, options.size, options.channels, options.levels)
    if path.is_dir():
        known = of_folder(path, _is_picture)
    else:
        known = {"name": path.name, "bytes": path.stat().st_size, "sha256": hashed(path, "sha256", stream)}
    return Opened(PictureFiles([(None, path)], image, resize=True), lambda: [known], [known], lambda: False)


def same_files(entry: Registered, options: Options, manifest: Manifest, *, stream: TextIO | None = None) -> bool:
    """Return whether a data set was prepared from the files that --source names.

    An address is not accessed and counts as the same. Published files under their own names are compared by size only.

    Raises:
        DataError: a file does not exist or cannot be read.
    """
    if options.source is None or "://" in options.source or entry.kind == "builtin":
        return True
    if manifest.published and not Path(options.source).expanduser().exists():
        return True  # the prepared data set no longer needs its files
    if entry.kind in ("rosbag", "pictures"):
        paths = paths_of(entry, options) if entry.kind == "rosbag" else own(options)
        sizes = {file.bytes for file in entry.files}
        if manifest.published and all(path.is_file() and path.stat().st_size in sizes for path in paths):
            return True
        return len(paths) == len(manifest.sources) and all(
            same(known, path, _reads(entry), lambda path, algorithm: hashed(path, algorithm, stream))
            for known, path in zip(manifest.sources, paths, strict=True)
        )
    place = own(options)[0]
    candidates = [place] if place.is_file() else [place / str(known["name"]) for known in manifest.sources]
    if manifest.published and [_size(path) for path in candidates] == [known["bytes"] for known in manifest.sources]:
        return True
    found = _found(entry, replace(options, unverified=True), stream)
    return [_bare(one, manifest) for one in found.sources] == [_bare(one, manifest) for one in manifest.sources]


def _bare(known: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    """Return what tells a file, without its name, and the list of a folder only where the manifest has one."""
    listed = all(LIST in one for one in manifest.sources)
    return {key: value for key, value in known.items() if key != "name" and (listed or key != LIST)}


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _names(entry: Registered) -> list[str]:
    return [file.name.removesuffix(".gz") for file in entry.files]


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _reads(entry: Registered) -> Callable[[str], bool]:
    """Return the function that selects the files to read from a folder, by name."""
    if entry.kind == "rosbag":
        return is_read
    return {*BINARY, *PICKLES}.__contains__ if entry.kind == "cifar" else _is_picture


def _of_contents(entry: Registered, options: Options, contents: Contents) -> Any:
    files = contents.read()
    if entry.kind == "idx":
        return from_idx(files, binarise=str(entry.binarise), seed=0)
    if entry.kind == "amat":
        return from_amat({file.split or "": files[file.name] for file in entry.files})
    return cifar.read(files, holdout=options.holdout or 0, levels=options.levels)


def _of_packages(entry: Registered, options: Options, packages: Packages) -> Any:
    facts = entry.facts
    if facts is None:
        raise DataError(f"{entry.name} has no sizes in datasets.json; add them")
    if entry.kind == "npz-zip":
        return NpzImages(packages.files, side=facts.height, levels=options.levels)
    image = Image(facts.height, facts.width, facts.channels, options.levels)
    return PictureFiles([(split, path) for split, path in packages.files], image, resize=False)
