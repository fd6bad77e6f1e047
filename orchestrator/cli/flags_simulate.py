"""The flags of `simulate`."""

from __future__ import annotations

import argparse

from orchestrator.cli.flags_shared import output_flag, plain_flag


def simulate(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `simulate`."""
    where = sub.add_argument_group("the market")
    where.add_argument(
        "--traces", metavar="DIR", help="folder of traces ZONE_TYPE.json (docs/deadline.md has the form)"
    )
    where.add_argument(
        "--price-history", metavar="TYPE", help="of `pixel-orch prices` instead: a,b,c; prices, no capacity"
    )
    where.add_argument("--market", metavar="NAME", help="a generated market instead: calm, mixed, scarce, zones")
    where.add_argument("--inverted", action="store_true", help="1 means interrupted in these traces, not available")
    where.add_argument(
        "--pools",
        choices=("each", "region", "all"),
        default="each",
        help="each trace by itself (default), or those of one type together: in a region, or everywhere",
    )
    where.add_argument(
        "--spot-price",
        metavar="SHARE",
        type=float,
        default=0.33,
        help="of on-demand, where the traces have no prices (default: %(default)s)",
    )
    where.add_argument(
        "--free-first-hour", action="store_true", help="AWS bills no spot instance lost in its first hour"
    )
    where.add_argument("--archive", metavar="DIR", help="traces to learn from (default: the counts that are shipped)")
    what = sub.add_argument_group("the job")
    what.add_argument("--work", metavar="TIME", default="24h", help="training, a list: 12h,24h (default: %(default)s)")
    what.add_argument(
        "--slack", metavar="SHARE", default="0.25", help="time beyond it, a list: 0.1,0.25 (default: %(default)s)"
    )
    what.add_argument(
        "--changeover", metavar="TIME", default="5m", help="boot, set-up, restore, a list (default: %(default)s)"
    )
    what.add_argument(
        "--checkpoint-every", metavar="TIME", help="a loss takes that much (default: it saves at the notice)"
    )
    how = sub.add_argument_group("how")
    how.add_argument("--policy", metavar="NAME", default="all", help="a list of policies (default: all)")
    how.add_argument("--starts", metavar="N", type=int, default=300, help="jobs of each cell (default: %(default)s)")
    how.add_argument("--seed", metavar="N", type=int, default=0, help="of the starts (default: %(default)s)")
    how.add_argument("--plot", metavar="FILE", help="also draw cost against slack: PNG, SVG or PDF")
    output_flag(how)
    plain_flag(how)


def plan(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `plan`."""
    work = sub.add_argument_group("the work (one of these)")
    work.add_argument("--images", metavar="N", help="images to train on: 50M, 200k")
    work.add_argument("--steps", metavar="N", type=int, help="steps of the bundled trainer")
    work.add_argument("--work", metavar="TIME", help="hours of training, the same on every type")
    what = sub.add_argument_group("what is trained")
    what.add_argument("--model", metavar="NAME", help="network of the bundled trainer")
    what.add_argument("--dataset", metavar="NAME", help="data set")
    what.add_argument("--set", metavar="KEY=VALUE", action="append", help="any other setting of the trainer")
    limits = sub.add_argument_group("limits")
    limits.add_argument("--deadline", metavar="TIME", help="as in launch: 18:00, 24h, a date; needed")
    limits.add_argument("--budget", metavar="USD", help="what all of it may cost")
    limits.add_argument("--changeover", metavar="TIME", help="boot, set-up, restore (default: measured, else 5m)")
    where = sub.add_argument_group("where")
    where.add_argument("-t", "--instance", metavar="TYPE", help="types: a,b,c (default: one of each GPU)")
    where.add_argument("--gpu", metavar="NAME[:N]", help="every type with N of this GPU: T4, A10G:4")
    where.add_argument("--spot-advisor", metavar="FILE", help="spot-advisor-data.json of AWS: interruptions by type")
    where.add_argument("--policy", metavar="NAME", help="a list of policies (default: planned,greedy,on-demand)")
    where.add_argument("--plot", metavar="FILE", help="also draw cost against the chance: PNG, SVG or PDF")
    output_flag(where)
    plain_flag(where)
