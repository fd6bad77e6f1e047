"""The flags of the commands about money: report, prices, compare. `flags.py` says that they exist."""

from __future__ import annotations

import argparse

DEFAULT_DAYS = 7  # as `prices.DEFAULT_DAYS`, which `--help` must not import


def prices(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `prices`."""
    sub.add_argument("-t", "--instance", metavar="TYPE", help="types: a,b,c (default: all that AWS still rents)")
    sub.add_argument("--cloud", metavar="aws|local", help="AWS (the default), or the embedded cloud on this machine")
    sub.add_argument("--region", metavar="REGION", action="append", help="a region, or all (default: those recorded)")
    sub.add_argument("--profile", metavar="NAME", help="of ~/.aws/config (default: AWS_PROFILE)")
    sub.add_argument(
        "--days", metavar="N", type=int, default=DEFAULT_DAYS, help="window, 1 to 90 (default: %(default)s)"
    )
    sub.add_argument("--all-zones", action="store_true", help="every zone, not the cheapest of each region")
    sub.add_argument("--refresh", action="store_true", help="ask although the cache is younger than an hour")
    sub.add_argument("--offline", action="store_true", help="ask nobody: what is cached, else what is recorded")


def compare(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `compare`."""
    sub.add_argument("types", metavar="TYPE", nargs="+", help="instance types; ratios are to the first")


def report(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `report`."""
    sub.add_argument("runs", metavar="RUN", nargs="*", help="names of runs; all of them by default")
    sub.add_argument("--html", metavar="FILE", help="write one self-contained page: charts, tables, samples")
    sub.add_argument("--out", metavar="FILE", help="write there instead of to the terminal")
    sub.add_argument(
        "--billing-rule",
        choices=("hour-start", "in-effect"),
        default="hour-start",
        help="which spot price a second costs: that of its instance-hour's start (default), or the one in effect",
    )
    sub.add_argument(
        "-o",
        "--output",
        choices=("table", "json", "csv", "markdown"),
        default="table",
        help="the format (default: table)",
    )
