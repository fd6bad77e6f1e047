"""Opens the files of a data set as a source of images, by the kind of the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from model.config.data_recipe import Options
from model.config.datasets import Registered
from model.data.driving.folder import is_read
from model.data.driving.source import open_driving, paths_of
from model.data.files.fingerprint import same
from model.data.files.published import hashed, own, proven, published_files
from model.data.formats import cifar
from model.data.formats.builtin import of_name
from model.data.formats.cifar import BINARY, PICKLES
from model.data.formats.mnist import from_amat, from_idx
from model.data.formats.npz import NpzImages
from model.data.formats.pictures import SUFFIXES, PictureFiles
from model.data.manifest import Image, Manifest
from model.data.source import Opened
from model.errors import DataError


def open_source(entry: Registered, options: Options, folder: Path, *, stream: TextIO | None = None) -> Opened:
    """Open the source of a data set.

    Raises:
        DataError: a file is missing, is damaged or is not the published one.
    """
    if entry.kind == "builtin":
        return Opened(of_name(entry.name), list, [], lambda: True)
    if entry.kind == "rosbag":
        return open_driving(entry, options, folder, stream=stream)
    paths = own(options) if entry.own else published_files(entry, options, stream)
    known = [] if entry.own else [*entry.files, *entry.also]
    allowed, reads = options.unverified or entry.own, _reads(entry)
    files = [proven(path, known, unverified=allowed, reads=reads, stream=stream) for path in paths]
    plan = [file for file, _ in files]
    return Opened(
        _source(entry, options, paths),
        lambda: plan,
        plan,
        lambda: not entry.own and all(published for _, published in files),
        entry.binarise,
    )


def same_files(entry: Registered, options: Options, manifest: Manifest, *, stream: TextIO | None = None) -> bool:
    """Return whether a data set was prepared from the files that --source names.

    An address is not accessed and counts as the same. Published files are compared by size only.

    Raises:
        DataError: a file does not exist or cannot be read.
    """
    if options.source is None or "://" in options.source or entry.kind == "builtin":
        return True
    if manifest.published and not Path(options.source).expanduser().exists():
        return True  # the prepared data set no longer needs its files
    if entry.kind == "rosbag":
        paths = paths_of(entry, options)
    else:
        paths = own(options) if entry.own else published_files(entry, options)
    sizes = {file.bytes for file in (*entry.files, *entry.also)}
    if manifest.published and all(path.is_file() and path.stat().st_size in sizes for path in paths):
        return True
    return len(paths) == len(manifest.sources) and all(
        same(known, path, _reads(entry), lambda path, algorithm: hashed(path, algorithm, stream))
        for known, path in zip(manifest.sources, paths, strict=True)
    )


def _reads(entry: Registered) -> Callable[[str], bool]:
    """Return the function that selects the files to read from a folder, by name."""
    if entry.kind == "rosbag":
        return is_read
    if entry.kind == "cifar":
        return {*BINARY, *PICKLES}.__contains__
    return lambda name: name.lower().endswith(SUFFIXES)


def _source(entry: Registered, options: Options, paths: list[Path]) -> Any:
    facts = entry.facts
    by_name = {path.name.removesuffix(".gz"): path for path in paths}
    if entry.kind == "idx":
        return from_idx(by_name, binarise=str(entry.binarise), seed=0)
    if entry.kind == "amat":
        return from_amat({file.split or "": by_name[file.name] for file in entry.files})
    if entry.kind == "cifar":
        return cifar.read(paths[0], holdout=options.holdout or 0, levels=options.levels)
    if entry.kind == "pictures":
        if not options.size:
            raise DataError("images need --size PIXELS: the side length that all images are resized to")
        image = Image(options.size, options.size, options.channels, options.levels)
        return PictureFiles([(None, path) for path in paths], image, resize=True)
    if facts is None:
        raise DataError(f"{entry.name} has no sizes in datasets.json; add them")
    splits = [(file.split or "train", path) for file, path in zip(entry.files, paths, strict=True)]
    if entry.kind == "npz-zip":
        return NpzImages(splits, side=facts.height, levels=options.levels)
    image = Image(facts.height, facts.width, facts.channels, options.levels)
    return PictureFiles([(split, path) for split, path in splits], image, resize=False)
