"""Flags that several commands take."""

from __future__ import annotations

from typing import Any, Protocol


class Flags(Protocol):
    """A parser, or a group of its flags."""

    def add_argument(self, *names: str, **words: Any) -> Any:
        """Add a flag."""
        ...


def output_flag(sub: Flags, *formats: str) -> None:
    """Add `-o`: table, JSON, and what else the command can write."""
    choices = ("table", "json", *formats)
    sub.add_argument("-o", "--output", choices=choices, default="table", help="output format (default: table)")


def plain_flag(sub: Flags) -> None:
    """Add `--plain`, for a command that draws in a terminal."""
    sub.add_argument("--plain", action="store_true", help="lines only, as in a pipe: no live view, no colour")


def cloud_flags(sub: Flags, *, region: str = "AWS region (default: the configured one)") -> None:
    """Add the flags that say which cloud, region and account."""
    sub.add_argument("--cloud", metavar="aws|local", help="AWS (default), or the embedded cloud on this machine")
    sub.add_argument("--region", metavar="REGION", action="append", help=region)
    sub.add_argument("--profile", metavar="NAME", help="profile of ~/.aws/config (default: AWS_PROFILE)")


def market_flags(sub: Flags) -> None:
    """Add the flags that say what is rented."""
    sub.add_argument("--spot", "--use-spot", action="store_true", help="spot market: cheaper, may be interrupted")
    sub.add_argument("--on-demand", action="store_true", help="on-demand market; give this or --spot")
    sub.add_argument("--max-price", metavar="USD", help="highest spot price per hour")
    cloud_flags(sub)
    sub.add_argument("--ami", metavar="ID", help="image (default: AWS's Base Deep Learning AMI)")
    sub.add_argument("--subnet", metavar="ID", action="append", help="subnet (default: those of the default VPC)")


def trainer_flags(sub: Flags) -> None:
    """Add the flags that say what is trained."""
    sub.add_argument("--model", metavar="NAME", help="network of the bundled trainer")
    sub.add_argument("--dataset", metavar="NAME", help="data set; prepared on the instance")
    sub.add_argument("--data-bucket", metavar="s3://B/P", help="S3 place of the prepared data set, read or filled")
    sub.add_argument("--prepare", metavar="K=V", action="append", help="setting of data prepare there: size=32")
    sub.add_argument("--set", metavar="KEY=VALUE", action="append", help="any other setting of the trainer")
    sub.add_argument("--env", metavar="K[=V]", action="append", help="variable for the trainer; K alone: as set here")
    sub.add_argument("--env-file", metavar="FILE", help="variables for the trainer, K=V lines")
