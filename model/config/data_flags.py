"""The command-line flags of `data ...`; `model.cli.data` runs the commands. Neither torch nor numpy is imported."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Add = Callable[[str, str, str], argparse.ArgumentParser]
CAMERAS = ("left", "center", "right")
CROPS = ("middle", "bottom", "whole")


def add_commands(add: Add) -> None:
    """Add `prepare`, `list`, `info`, `verify` and `preview`.

    Args:
        add: creates a subcommand from its name, its description, and the arguments of an example after `data`.
    """
    add_prepare(
        add("prepare", "prepare a data set as shards; resumes where it was interrupted", "prepare mnist-static")
    )
    listing = add("list", "list the registered data sets and those prepared on this machine", "list")
    _output(listing)
    info = add("info", "show a data set's files, checksums, terms and recipe", "info cifar10")
    _named(info)
    _output(info)
    verify = add("verify", "verify a prepared data set against its manifest", "verify cifar10")
    _named(verify)
    preview = add(
        "preview", "write a grid of images with their values to a PNG", "preview cifar10 --out cifar10.png --count 64"
    )
    _named(preview)
    preview.add_argument("--out", metavar="PNG", required=True, help="image file to write")
    preview.add_argument("--count", metavar="N", type=_count, default=36, help="number of images (default: 36)")
    preview.add_argument("--split", choices=("train", "valid", "test"), default="train", help="default: train")


def add_prepare(command: argparse.ArgumentParser) -> None:
    """Add the flags of `data prepare`."""
    command.add_argument("name", metavar="NAME", help="see: data list")
    command.add_argument(
        "--source", metavar="PATH|URL", help="its files, their folder, or a mirror (default: download)"
    )
    command.add_argument(
        "--out", metavar="DIR", help="output folder (default: NAME in $PIXEL_ORCH_DATA or ~/.pixel-orch/data)"
    )
    command.add_argument(
        "--unverified", action="store_true", help="accept files whose checksums differ from the published ones"
    )
    command.add_argument("--levels", metavar="K", type=_levels, default=256, help="levels of a colour (default: 256)")
    command.add_argument(
        "--holdout", metavar="N", type=_whole, help="cifar10: training images kept for validation (default: 0)"
    )
    command.add_argument(
        "--size", metavar="PX", type=_side, help="images, driving: side length (default for driving: 64)"
    )
    command.add_argument("--channels", type=int, choices=(1, 3), default=3, help="images: gray or colour (default: 3)")
    driving = command.add_argument_group("driving")
    driving.add_argument(
        "--cameras",
        default="center",
        metavar="LIST",
        help="left, center, right with commas between, or all (default: center)",
    )
    driving.add_argument(
        "--topic",
        metavar="CAMERA=TOPIC",
        type=_topics,
        action="append",
        default=[],
        help="topic of a camera, such as center=/usb_cam/image_raw (default: by its name); may be repeated",
    )
    driving.add_argument(
        "--stride", metavar="N", type=_positive, default=1, help="use every N-th frame of each topic (default: 1)"
    )
    driving.add_argument("--min-speed", metavar="M/S", type=_number, default=0.0, help="drop frames at a lower speed")
    driving.add_argument(
        "--crop", choices=CROPS, default="middle", help="square crop from the middle or bottom, or no crop"
    )
    driving.add_argument(
        "--max-gap-ms",
        metavar="MS",
        type=_number,
        default=200.0,
        help="largest time between frame and telemetry; beyond it the value is NaN",
    )
    driving.add_argument("--jobs", metavar="N", type=_positive, default=1, help="number of processes (default: 1)")


def _named(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME|DIR", help="a registered name, or a prepared folder")


def _output(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")


def _topics(text: str) -> list[str]:
    """Read `camera=topic`, or several with commas between."""
    found = []
    for pair in text.split(","):
        camera, _, topic = pair.partition("=")
        camera, topic = camera.strip(), topic.strip().strip("/")
        if camera not in CAMERAS or not topic or not topic.isprintable():
            raise argparse.ArgumentTypeError(
                f"{text!r} is not CAMERA=TOPIC with {', '.join(CAMERAS)} as camera, such as center=/usb_cam/image_raw"
            )
        found.append(f"{camera}=/{topic}")
    return found


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
    if not 0 <= number < 1e9:  # also true of nan
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return number
