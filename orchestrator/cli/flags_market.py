"""The flags of the commands about cost: prices, compare, report, bench, dashboard."""

from __future__ import annotations

import argparse

from orchestrator.cli.flags_shared import cloud_flags, market_flags, output_flag, plain_flag, trainer_flags

DEFAULT_DAYS = 7  # as in `market.spot_prices`, which `--help` must not import


def prices(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `prices`."""
    sub.add_argument("-t", "--instance", metavar="TYPE", help="types: a,b,c (default: one of each GPU)")
    sub.add_argument("--gpu", metavar="NAME[:N]", help="every type with N of this GPU: T4, A10G:4")
    cloud_flags(sub, region="region, or all (default: those with recorded prices)")
    sub.add_argument(
        "--days", metavar="N", type=int, default=DEFAULT_DAYS, help="window, 1 to 90 (default: %(default)s)"
    )
    sub.add_argument("--all-zones", action="store_true", help="every zone, not the cheapest of each region")
    sub.add_argument("--refresh", action="store_true", help="ask although the cache is younger than an hour")
    sub.add_argument("--offline", action="store_true", help="send no request: cached prices, else recorded ones")
    output_flag(sub)
    plain_flag(sub)


def compare(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `compare`."""
    sub.add_argument("types", metavar="TYPE", nargs="*", help="instance types; ratios are to the first")
    sub.add_argument("--gpu", metavar="NAME[:N]", help="every type with N of this GPU: T4, A10G:4")
    sub.add_argument("--nodes", metavar="N,N", help="estimate groups of so many machines: 1,2,4")
    sub.add_argument("--model", metavar="NAME", help="with --nodes: network of the bundled trainer")
    sub.add_argument("--dataset", metavar="NAME", help="with --nodes: data set")
    sub.add_argument(
        "--set", metavar="KEY=VALUE", action="append", help="with --nodes: any other setting of the trainer"
    )
    output_flag(sub)
    plain_flag(sub)


def report(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `report`."""
    sub.add_argument("runs", metavar="RUN", nargs="*", help="names of runs (default: all)")
    sub.add_argument("--html", metavar="FILE", help="write one self-contained page: charts, tables, samples")
    sub.add_argument("--out", metavar="FILE", help="write to this file instead of the terminal")
    sub.add_argument(
        "--billing-rule",
        choices=("hour-start", "in-effect"),
        default="hour-start",
        help="spot price of a second: that at its instance-hour's start (default), or the one in effect",
    )
    output_flag(sub, "csv", "markdown")
    plain_flag(sub)


def bench(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `bench`."""
    where = sub.add_argument_group("where")
    where.add_argument("-t", "--instance", metavar="TYPE", help="EC2 types to compare: a,b,c")
    where.add_argument("--nodes", metavar="N,N", help="each type in groups of so many machines: 1,2,4")
    market_flags(where)
    what = sub.add_argument_group("what")
    what.add_argument("--steps", metavar="N", type=int, default=200, help="steps on each type (default: %(default)s)")
    what.add_argument("--warmup-steps", metavar="N", type=int, help="steps that do not count (default: a fifth)")
    what.add_argument(
        "--full-steps", metavar="N", type=int, help="steps of a whole training, for EST (default: the trainer's)"
    )
    what.add_argument("--target", metavar="BITS", type=float, help="bits/dim to reach (default: what all have reached)")
    trainer_flags(what)
    what.add_argument("--workdir", metavar="DIR", help="folder of your own program")
    what.add_argument(
        "--command",
        metavar="TEXT",
        dest="command_line",
        help="its command (or after --); it writes metrics.jsonl",
    )
    how = sub.add_argument_group("how")
    how.add_argument("-n", "--name", metavar="NAME", help="name of the bench; its runs are called NAME-TYPE[-xN]")
    how.add_argument("-f", "--file", metavar="FILE", help="YAML file as for launch; flags win")
    how.add_argument("--budget", metavar="USD", help="limit for all types together, in equal shares")
    how.add_argument("-y", "--yes", action="store_true", help="do not ask before renting")
    how.add_argument("--html", metavar="FILE", help="also write the report as one page")
    how.add_argument("--faults", metavar="FILE", help="embedded cloud: faults to apply (YAML; see infra/README.md)")
    output_flag(how)
    plain_flag(how)


def dashboard(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `dashboard`."""
    sub.add_argument("--port", metavar="N", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
