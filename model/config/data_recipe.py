"""The options of a data set's preparation. No torch or numpy is imported: laptops without them check the options."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from model.config.data_flags import CAMERAS, add_prepare
from model.config.datasets import REGISTRY, Registered
from model.errors import DataError

SHARD_BYTES = 100 << 20
DRIVING_SIZE = 64  # default side length of a frame, in pixels


@dataclass(frozen=True)
class Options:
    """The options beside the name. None or the default means the data set's own choice."""

    source: str | None = None  # a file, a folder or a URL
    out: Path | None = None
    unverified: bool = False  # accept files whose checksum differs from the published one
    holdout: int | None = None  # cifar10: training images held back for validation
    levels: int = 256  # K
    size: int | None = None  # images, driving: side length in pixels
    channels: int = 3  # images
    cameras: str = "center"  # driving, like the options below
    topics: tuple[str, ...] = ()  # `camera=topic`; empty: cameras are known by the names of their topics
    stride: int = 1
    min_speed: float = 0.0  # m/s
    crop: str = "middle"
    max_gap_ms: float = 200.0
    jobs: int = 1
    shard_bytes: int = SHARD_BYTES
    stretch_bytes: int = 4 << 30  # part of a bag that one process reads
    commit_bytes: int = 256 << 20  # bytes of a bag between two commits: the work that a kill loses

    def asked(self, entry: Registered) -> dict[str, Any]:
        """Return the options that affect the images: the same files and options give byte-identical shards."""
        names = {"cifar": ("holdout", "levels"), "png-tar": ("levels",), "npz-zip": ("levels",)}
        names |= {"pictures": ("levels", "size", "channels")}
        names |= {"rosbag": ("levels", "size", "cameras", "stride", "min_speed", "crop", "max_gap_ms")}
        asked = {name: getattr(self, name) for name in names.get(entry.kind, ())}
        if entry.kind == "rosbag":
            given = {"topics": sorted(self.topics)} if self.topics else {}  # absent in what 0.1.0 prepared
            return {**asked, "size": asked["size"] or DRIVING_SIZE, **given}
        return asked


def find(name: str) -> Registered:
    """Return the registered data set of a name.

    Raises:
        DataError: the name is unknown; the message gives the closest names.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    near = difflib.get_close_matches(name, REGISTRY, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see: pixel-orch data list"
    raise DataError(f"no data set {name!r}; {hint}")


def check(entry: Registered, options: Options) -> None:
    """Refuse options that do not apply to this data set instead of ignoring them.

    Raises:
        DataError: an option does not apply, or the source of the user's own files is missing.
    """
    default, has = Options(), options.asked(entry)
    for name in ("holdout", "levels", "size", "channels", "cameras", "stride", "min_speed", "crop", "max_gap_ms"):
        if name not in has and getattr(options, name) != getattr(default, name):
            raise DataError(f"--{name.replace('_', '-')} does not apply to {entry.name}; omit it")
    if options.topics and entry.kind != "rosbag":
        raise DataError(f"--topic does not apply to {entry.name}; omit it")
    wanted = CAMERAS if options.cameras == "all" else options.cameras.split(",")
    for given in options.topics:
        camera = given.partition("=")[0]
        if camera not in wanted:
            names = ",".join(one for one in CAMERAS if one in (*wanted, camera))
            raise DataError(f"--topic {given}: {camera} is not among --cameras; add it: --cameras {names}")
    if entry.own and options.source is None:
        raise DataError(f"{entry.name} reads your own files; give them with --source PATH")


def options_of(args: argparse.Namespace) -> Options:
    """Convert the parsed arguments of `data prepare` to options."""
    return Options(
        source=args.source,
        out=Path(args.out) if args.out else None,
        unverified=args.unverified,
        holdout=args.holdout,
        levels=args.levels,
        size=args.size,
        channels=args.channels,
        cameras=args.cameras,
        topics=tuple(dict.fromkeys(topic for topics in args.topic for topic in topics)),
        stride=args.stride,
        min_speed=args.min_speed,
        crop=args.crop,
        max_gap_ms=args.max_gap_ms,
        jobs=args.jobs,
    )


def words_of(pairs: Mapping[str, str]) -> list[str]:
    """Convert settings to command-line arguments: `size=32` is `--size=32`, `unverified=true` is `--unverified`."""
    flags = {"true": True, "yes": True, "false": False, "no": False}
    words = []
    for key, value in pairs.items():
        word = "--" + key.replace("_", "-")
        if value.lower() in flags:
            words += [word] if flags[value.lower()] else []
        else:
            words.append(f"{word}={value}")
    return words


def checked(name: str, pairs: Mapping[str, str]) -> Options:
    """Convert settings to options and check them.

    Raises:
        DataError: a setting is unknown, has an invalid value, or does not apply to this data set.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    add_prepare(parser)
    options = options_of(parser.parse_args([name, *words_of(pairs)]))
    check(find(name), options)
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DataError(message)
