"""The flags of the commands about money: report, prices, compare. `flags.py` says that they exist."""

from __future__ import annotations

import argparse

DEFAULT_DAYS = 7  # as `prices.DEFAULT_DAYS`, which `--help` must not import


def prices(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `prices`."""
    sub.add_argument("-t", "--instance", metavar="TYPE", help="types: a,b,c (default: one of each GPU)")
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


def bench(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `bench`."""
    where = sub.add_argument_group("where")
    where.add_argument("-t", "--instance", metavar="TYPE", help="EC2 types to compare: a,b,c")
    where.add_argument("--spot", "--use-spot", action="store_true", help="spot: cheaper, may be interrupted")
    where.add_argument("--on-demand", action="store_true", help="on-demand; give this or --spot")
    where.add_argument("--cloud", metavar="aws|local", help="AWS (the default), or the embedded cloud on this machine")
    where.add_argument(
        "--region", metavar="REGION", action="append", help="an AWS region (default: the configured one)"
    )
    where.add_argument("--profile", metavar="NAME", help="of ~/.aws/config (default: AWS_PROFILE)")
    where.add_argument("--max-price", metavar="USD", help="highest spot price per hour")
    where.add_argument("--ami", metavar="ID", help="image (default: AWS's Base Deep Learning AMI)")
    where.add_argument("--subnet", metavar="ID", action="append", help="subnet (default: those of the default VPC)")
    what = sub.add_argument_group("what")
    what.add_argument("--steps", metavar="N", type=int, default=200, help="steps on each (default: %(default)s)")
    what.add_argument("--warmup-steps", metavar="N", type=int, help="that do not count (default: a fifth)")
    what.add_argument(
        "--full-steps", metavar="N", type=int, help="of the whole training, for EST (default: the trainer's)"
    )
    what.add_argument("--target", metavar="BITS", type=float, help="bits/dim to reach (default: what all have reached)")
    what.add_argument("--model", metavar="NAME", help="network of the bundled trainer")
    what.add_argument("--dataset", metavar="NAME", help="data set of the bundled trainer")
    what.add_argument("--data-bucket", metavar="s3://B/P", help="where in S3 it lies prepared, or is to be put")
    what.add_argument("--prepare", metavar="K=V", action="append", help="setting of data prepare there: size=32")
    what.add_argument("--set", metavar="KEY=VALUE", action="append", help="any other setting of the trainer")
    what.add_argument("--env", metavar="K[=V]", action="append", help="variable for the trainer; K alone: as set here")
    what.add_argument("--env-file", metavar="FILE", help="variables for the trainer, K=V lines")
    what.add_argument("--workdir", metavar="DIR", help="folder of a program of your own")
    what.add_argument(
        "--command",
        metavar="TEXT",
        dest="command_line",
        help="what to run there (or after --); it writes metrics.jsonl",
    )
    how = sub.add_argument_group("how")
    how.add_argument("-n", "--name", metavar="NAME", help="of the bench; its runs are called NAME-TYPE")
    how.add_argument("-f", "--file", metavar="FILE", help="YAML as for launch; flags win")
    how.add_argument("--budget", metavar="USD", help="for all types together: each gets its share")
    how.add_argument("-y", "--yes", action="store_true", help="do not ask before renting")
    how.add_argument("--html", metavar="FILE", help="also write the report as one page")
    how.add_argument("--faults", metavar="FILE", help="embedded cloud: API calls that fail (YAML; see infra/README.md)")
    how.add_argument("-o", "--output", choices=("table", "json"), default="table", help="the format (default: table)")


def dashboard(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `dashboard`."""
    sub.add_argument("--port", metavar="N", type=int, default=0, help="on 127.0.0.1 (default: a free one)")
