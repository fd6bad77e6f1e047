"""The words of `data ...` on the command line; `model.cli.data` does what they say. Nothing heavy is imported."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Add = Callable[[str, str, str], argparse.ArgumentParser]
CROPS = ("middle", "bottom", "whole")


def add_commands(add: Add) -> None:
    """Add `prepare`, `list`, `info`, `verify` and `preview`.

    Args:
        add: makes one from its name, what it does, and an example's words behind `data`.
    """
    add_prepare(add("prepare", "make shards of a data set; goes on where it was interrupted", "prepare mnist-static"))
    listing = add("list", "list the data sets: what is known by name, and what is prepared here", "list")
    _output(listing)
    info = add("info", "say all that is known of a data set: files, checksums, terms, recipe", "info cifar10")
    _named(info)
    _output(info)
    verify = add("verify", "compare every byte of a prepared data set with its manifest", "verify cifar10")
    _named(verify)
    preview = add(
        "preview", "draw a grid of images, with what is known of them", "preview cifar10 --out cifar10.png --count 64"
    )
    _named(preview)
    preview.add_argument("--out", metavar="PNG", required=True, help="picture to write")
    preview.add_argument("--count", metavar="N", type=_count, default=36, help="images (default: 36)")
    preview.add_argument("--split", choices=("train", "valid", "test"), default="train", help="default: train")


def add_prepare(command: argparse.ArgumentParser) -> None:
    """Add the words of `data prepare`."""
    command.add_argument("name", metavar="NAME", help="see: data list")
    command.add_argument(
        "--source", metavar="PATH|URL", help="its files, their folder, or a mirror; else they are fetched"
    )
    command.add_argument(
        "--out", metavar="DIR", help="where to (default: NAME in $PIXEL_ORCH_DATA or ~/.pixel-orch/data)"
    )
    command.add_argument("--unverified", action="store_true", help="take files that are not the published ones")
    command.add_argument("--levels", metavar="K", type=_levels, default=256, help="levels of a colour (default: 256)")
    command.add_argument(
        "--holdout", metavar="N", type=_whole, help="cifar10: training images to validate on (default: 0)"
    )
    command.add_argument("--size", metavar="PX", type=_side, help="images, driving: side (driving: 64 if not given)")
    command.add_argument("--channels", type=int, choices=(1, 3), default=3, help="images: gray or colour (default: 3)")
    driving = command.add_argument_group("driving")
    driving.add_argument(
        "--cameras", default="center", metavar="LIST", help="of left,center,right; or all (default: center)"
    )
    driving.add_argument("--stride", metavar="N", type=_positive, default=1, help="every N-th frame (default: 1)")
    driving.add_argument("--min-speed", metavar="M/S", type=_number, default=0.0, help="leave out slower frames")
    driving.add_argument("--crop", choices=CROPS, default="middle", help="square in the middle, at the bottom, or none")
    driving.add_argument("--max-gap-ms", metavar="MS", type=_number, default=200.0, help="telemetry further off is NaN")
    driving.add_argument("--jobs", metavar="N", type=_positive, default=1, help="processes (default: 1)")


def _named(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME|DIR", help="a known name, or a prepared folder")


def _output(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")


def _whole(text: str) -> int:
    return _between(text, 0, 10**9)


def _positive(text: str) -> int:
    return _between(text, 1, 10**6)


def _count(text: str) -> int:
    return _between(text, 1, 1024)


def _side(text: str) -> int:
    return _between(text, 4, 1024)


def _levels(text: str) -> int:
    return _between(text, 2, 256)


def _between(text: str, least: int, most: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
    return number


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e9:  # nan is not either
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return number
