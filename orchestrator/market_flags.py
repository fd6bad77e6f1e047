"""The flags of the commands about money: prices, compare. Kept out of `cli.py`, which only says that they exist."""

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
