"""Which files a data set is made from: found, fetched, compared with what was published, and opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from model.data.identity import of_folder, same
from model.data.manifest import Image, Manifest
from model.data.meter import Meter
from model.data.prepare import Opened
from model.data.writer import sha256_of
from model.datasets import Registered, SourceFile, data_root
from model.errors import DataError
from model.recipe import Options


def open_source(entry: Registered, options: Options, folder: Path, *, stream: TextIO | None = None) -> Opened:
    """Open the source of a data set.

    Raises:
        DataError: a file is missing, damaged, or not the published one.
    """
    if entry.kind == "builtin":
        from model.data.sources.builtin import of_name

        return Opened(of_name(entry.name), list, [], lambda: True)
    if entry.kind == "rosbag":
        from model.data.driving.source import open_driving

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


def same_files(entry: Registered, options: Options, there: Manifest, *, stream: TextIO | None = None) -> bool:
    """Say whether what --source names is what a data set was made from; an address is not asked.

    Published files are known by their sizes, wherever they lie.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    if options.source is None or "://" in options.source or entry.kind == "builtin":
        return True
    if there.published and not Path(options.source).expanduser().exists():
        return True  # it was needed once
    if entry.kind == "rosbag":
        from model.data.driving.source import paths_of

        paths = paths_of(entry, options)
    else:
        paths = own(options) if entry.own else published_files(entry, options)
    sizes = {file.bytes for file in (*entry.files, *entry.also)}
    if there.published and all(path.is_file() and path.stat().st_size in sizes for path in paths):
        return True
    return len(paths) == len(there.sources) and all(
        same(known, path, _reads(entry), lambda path, algorithm: _hashed(path, algorithm, stream))
        for known, path in zip(there.sources, paths, strict=True)
    )


def _reads(entry: Registered) -> Callable[[str], bool]:
    """Say which files of a folder are read, by their names."""
    if entry.kind == "rosbag":
        from model.data.driving.folder import is_read

        return is_read
    if entry.kind == "cifar":
        from model.data.sources.cifar import BINARY, PICKLES

        return {*BINARY, *PICKLES}.__contains__
    from model.data.sources.pictures import SUFFIXES

    return lambda name: name.lower().endswith(SUFFIXES)


def _hashed(path: Path, algorithm: str, stream: TextIO | None) -> str:
    meter = Meter(f"checking {path.name}", path.stat().st_size, "B", stream=stream)
    try:
        return sha256_of(path, algorithm, meter.add)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the file") from None
    finally:
        meter.close()


def _source(entry: Registered, options: Options, paths: list[Path]) -> Any:
    facts = entry.facts
    by_name = {path.name.removesuffix(".gz"): path for path in paths}
    if entry.kind == "idx":
        from model.data.sources.mnist import from_idx

        return from_idx(by_name, binarise=str(entry.binarise), seed=0)
    if entry.kind == "amat":
        from model.data.sources.mnist import from_amat

        return from_amat({file.split or "": by_name[file.name] for file in entry.files})
    if entry.kind == "cifar":
        from model.data.sources import cifar

        return cifar.read(paths[0], holdout=options.holdout or 0, levels=options.levels)
    from model.data.sources.pictures import PictureFiles

    if entry.kind == "pictures":
        if not options.size:
            raise DataError("images need --size PIXELS: the side that all of them are brought to")
        image = Image(options.size, options.size, options.channels, options.levels)
        return PictureFiles([(None, path) for path in paths], image, resize=True)
    if facts is None:
        raise DataError(f"{entry.name} has no facts in datasets.json")
    splits = [(file.split or "train", path) for file, path in zip(entry.files, paths, strict=True)]
    if entry.kind == "npz-zip":
        from model.data.sources.npz import NpzImages

        return NpzImages(splits, side=facts.height, levels=options.levels)
    image = Image(facts.height, facts.width, facts.channels, options.levels)
    return PictureFiles([(split, path) for split, path in splits], image, resize=False)


def own(options: Options) -> list[Path]:
    """Name the user's own files.

    Raises:
        DataError: there are none.
    """
    path = Path(options.source or "").expanduser()
    if not path.exists():
        raise DataError(f"there is no {path}; check --source")
    return [path]


def published_files(entry: Registered, options: Options, stream: TextIO | None = None) -> list[Path]:
    """Find the published files of a data set in --source, or fetch them.

    Raises:
        DataError: one is not there and cannot be fetched.
    """
    source = options.source
    if source is not None and "://" not in source:
        return _in(Path(source).expanduser(), entry)
    from model.data.fetch import fetch_all

    if source is not None and options.unverified:  # whatever it has under these names
        unproven = [replace(file, bytes=None, sha256=None, md5=None, urls=(), infohash=None) for file in entry.files]
        entry = replace(entry, files=tuple(unproven))
    return fetch_all(entry, data_root() / "downloads" / entry.name, mirror=source, stream=stream)


def _in(place: Path, entry: Registered) -> list[Path]:
    if not place.exists():
        raise DataError(f"there is no {place}; check --source")
    if place.is_file():
        if len(entry.files) == 1:
            return [place]
        names = ", ".join(file.name for file in entry.files)
        raise DataError(f"{entry.name} needs {len(entry.files)} files ({names}); give their folder with --source")
    found = []
    for file in entry.files:
        near = [place / file.name, place / file.name.removesuffix(".gz")]
        path = next((path for path in near if path.exists()), None)
        if path is None and entry.kind == "cifar":
            others = [place / other.name for other in entry.also]
            path = next((path for path in others if path.exists()), place)
        if path is None:
            raise DataError(
                f"there is no {file.name} in {place}; pixel-orch data info {entry.name} says what is needed"
            )
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
    """Compare a file with what was published of it.

    Args:
        path: of it.
        known: the published ones.
        unverified: whether another one will do.
        reads: which files of a folder are read, by their names.
        stream: for the progress.

    Returns:
        What the manifest says of it, and whether it is a published one.

    Raises:
        DataError: it is another one, and that was not allowed.
    """
    if path.is_dir():
        if not unverified:
            raise DataError(f"{path} is a folder, so its checksum cannot be compared; --unverified takes it as it is")
        return of_folder(path, reads), False
    wanted = next((file for file in known if file.name == path.name), None)
    size = path.stat().st_size
    if wanted is None and not unverified:
        raise DataError(f"{path} is none of the published files, whose checksums are known; --unverified takes it")
    if wanted is not None and wanted.bytes not in (None, size) and not unverified:
        raise DataError(f"{path} has {size:,} bytes, the published one {wanted.bytes:,}; fetch it again")
    algorithm = "sha256" if wanted is None or wanted.sha256 or not wanted.md5 else "md5"
    got = _hashed(path, algorithm, stream)
    published = wanted is not None and got in (wanted.sha256, wanted.md5)
    if not published and not unverified:
        want = wanted and (wanted.sha256 or wanted.md5)
        raise DataError(f"{path} is not the published file: its {algorithm} is {got}, not {want}; fetch it again")
    return {"name": path.name, "bytes": size, algorithm: got}, published
