"""What can be asked of a data set's preparation. No torch and no numpy here: laptops check it that have neither."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from model.config.data_flags import add_prepare
from model.config.datasets import REGISTRY, Registered
from model.errors import DataError

SHARD_BYTES = 100 << 20
DRIVING_SIZE = 64  # pixels of a side of a frame, if nothing else is asked for


@dataclass(frozen=True)
class Options:
    """What can be asked for beside the name. What is None, or the default, is the data set's own choice."""

    source: str | None = None  # a file, a folder or an address
    out: Path | None = None
    unverified: bool = False  # take files whose checksum is not the published one
    holdout: int | None = None  # cifar10: training images held back for validation
    levels: int = 256  # K
    size: int | None = None  # pixels of a side: images, driving
    channels: int = 3  # images
    cameras: str = "center"  # driving, as are those below
    stride: int = 1
    min_speed: float = 0.0  # m/s
    crop: str = "middle"
    max_gap_ms: float = 200.0
    jobs: int = 1
    shard_bytes: int = SHARD_BYTES
    stretch_bytes: int = 4 << 30  # of a bag, for one process
    commit_bytes: int = 256 << 20  # read from a bag between two commits: what a kill costs

    def asked(self, entry: Registered) -> dict[str, Any]:
        """Say what changes the images: with the same files and this, the shards are the same byte for byte."""
        names = {"cifar": ("holdout", "levels"), "png-tar": ("levels",), "npz-zip": ("levels",)}
        names |= {"pictures": ("levels", "size", "channels")}
        names |= {"rosbag": ("levels", "size", "cameras", "stride", "min_speed", "crop", "max_gap_ms")}
        asked = {name: getattr(self, name) for name in names.get(entry.kind, ())}
        return {**asked, "size": asked["size"] or DRIVING_SIZE} if entry.kind == "rosbag" else asked


def find(name: str) -> Registered:
    """Find a data set by its name.

    Raises:
        DataError: there is none of it; the nearest are named.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    near = difflib.get_close_matches(name, REGISTRY, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see: pixel-orch data list"
    raise DataError(f"no data set {name!r}; {hint}")


def check(entry: Registered, options: Options) -> None:
    """Refuse options that this data set has no use for, rather than ignore them.

    Raises:
        DataError: one is given that changes nothing.
    """
    default, has = Options(), options.asked(entry)
    for name in ("holdout", "levels", "size", "channels", "cameras", "stride", "min_speed", "crop", "max_gap_ms"):
        if name not in has and getattr(options, name) != getattr(default, name):
            raise DataError(f"--{name.replace('_', '-')} means nothing for {entry.name}; leave it out")
    if entry.own and options.source is None:
        raise DataError(f"{entry.name} are files of your own; give them with --source PATH")


def options_of(args: argparse.Namespace) -> Options:
    """Return what the words of `data prepare` ask for."""
    return Options(
        source=args.source,
        out=Path(args.out) if args.out else None,
        unverified=args.unverified,
        holdout=args.holdout,
        levels=args.levels,
        size=args.size,
        channels=args.channels,
        cameras=args.cameras,
        stride=args.stride,
        min_speed=args.min_speed,
        crop=args.crop,
        max_gap_ms=args.max_gap_ms,
        jobs=args.jobs,
    )


def words_of(pairs: Mapping[str, str]) -> list[str]:
    """Return settings as words of the command line: `size=32` is `--size=32`, `unverified=true` is `--unverified`."""
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
    """Return the options that these settings are.

    Raises:
        DataError: one is unknown, is not what it should be, or means nothing for this data set.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    add_prepare(parser)
    options = options_of(parser.parse_args([name, *words_of(pairs)]))
    check(find(name), options)
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DataError(message)
