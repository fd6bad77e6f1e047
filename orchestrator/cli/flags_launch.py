"""The flags of `launch`."""

from __future__ import annotations

import argparse

from orchestrator.cli.flags_shared import Flags, market_flags, output_flag, plain_flag, trainer_flags


def launch(sub: argparse.ArgumentParser) -> None:
    """Add the flags of `launch`."""
    _where(sub.add_argument_group("where"))
    _network(sub.add_argument_group("network and access"))
    _what(sub.add_argument_group("what"))
    how = sub.add_argument_group("how")
    _how(how)
    _limits(how)
    _embedded(how)
    output_flag(how)
    plain_flag(how)


def _where(sub: Flags) -> None:
    sub.add_argument(
        "-t", "--instance", "--instance-type", metavar="TYPE", help="EC2 type, or several: a,b,c; no default"
    )
    sub.add_argument("--gpu", metavar="NAME[:N]", help="every type with N of this GPU, in place of --instance: A10G:4")
    market_flags(sub)
    sub.add_argument("--nodes", metavar="N", help="train on N machines as one group; MIN:MAX lets it shrink and grow")
    sub.add_argument("--slots", metavar="N", type=int, help="processes on each machine (default: one for each GPU)")
    sub.add_argument("--strategy", metavar="price|any", help="cheapest pool first, or EC2 chooses among all of them")
    sub.add_argument("--allow-cpu", action="store_true", help="train on the CPU where the GPU cannot be used")


def _network(sub: Flags) -> None:
    sub.add_argument("--private", action="store_true", help="no public address; needs --via-ssm or a proxy")
    sub.add_argument("--via-ssm", action="store_true", help="SSH through AWS Systems Manager; no open port")
    sub.add_argument("--ssh-proxy", metavar="COMMAND", help="ProxyCommand: %%h %%p, %%i instance, %%r region")
    sub.add_argument("--ssh-cidr", metavar="CIDR", help="who may connect (default: this machine; none: no address)")
    sub.add_argument("--login-user", metavar="USER", help="user to log in as (default: the image's)")
    sub.add_argument("--key", metavar="FILE", help="your own private key (default: a new one for the run)")
    sub.add_argument("--disk-size", metavar="GIB", type=int, help="root disk, encrypted gp3 (default: 100)")
    sub.add_argument("--instance-profile", metavar="NAME", help="IAM role of the instance (default: that of setup)")
    sub.add_argument("--tag", metavar="K=V", action="append", help="tag for everything that is created")


def _what(sub: Flags) -> None:
    trainer_flags(sub)
    sub.add_argument("--steps", metavar="N", type=int, help="optimizer steps")
    sub.add_argument("--checkpoint-every", metavar="N", type=int, help="steps between two checkpoints")
    sub.add_argument("--workdir", metavar="DIR", help="folder of your own program; its command follows --")
    sub.add_argument(
        "--include", metavar="PATH", action="append", help="send it although git ignores it or it may be secret"
    )
    sub.add_argument(
        "--metric", metavar="N=PATTERN", dest="metrics", action="append", help="value in your program's log; repeatable"
    )
    sub.add_argument("--stop-signal", metavar="SIGNAL", help="tells your program to save and end (default: SIGTERM)")
    sub.add_argument("--setup", metavar="CMD", help="run on the machine, in the folder, before your program starts")
    sub.add_argument("--image", metavar="URI", help="run your program in this Docker image, with the machine's GPUs")
    sub.add_argument("--no-setup", action="store_true", help="do not install requirements.txt and the like")
    _outputs(sub)


def _outputs(sub: Flags) -> None:
    sub.add_argument(
        "--outputs", metavar="GLOB", action="append", help="only these files of your program are outputs: 'results/**'"
    )
    sub.add_argument("--ignore-outputs", metavar="GLOB", action="append", help="these files are no outputs")
    sub.add_argument("--download", metavar="WHICH", help="newest (default), all, or none: with --bucket, S3 only")
    sub.add_argument("--download-every", metavar="TIME", help="how often (default: for a tenth of the price)")
    sub.add_argument(
        "--keep-outputs-for", metavar="TIME", help="keep the machine so long for what cannot be downloaded (30m)"
    )


def _how(sub: Flags) -> None:
    sub.add_argument("-n", "--name", metavar="NAME", help="name of the run (default: generated)")
    sub.add_argument("-f", "--file", metavar="FILE", help="YAML file with these settings; flags win")
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask before renting")
    sub.add_argument("-d", "--detach", action="store_true", help="lead it in the background: status, logs -f, attach")
    sub.add_argument(
        "--notify", metavar="URL", help="webhook: told of interruption, recovery, 80 %% of the budget, end"
    )
    sub.add_argument(
        "--export", metavar="TRACKER", action="append", help="metrics and bill go to mlflow, wandb or tensorboard"
    )
    sub.add_argument("-r", "--retry-until-up", action="store_true", help="no capacity: ask again for up to a day")
    sub.add_argument("--resume", metavar="RUN", help="continue a run that was stopped, cancelled or has failed")
    sub.add_argument(
        "--from", metavar="PLACE", dest="start_from", help="initial checkpoint: a run, a file, a folder, s3://B/P"
    )
    sub.add_argument("--dry-run", "--dryrun", action="store_true", help="print every request; create nothing")
    sub.add_argument("--sync-dry-run", action="store_true", help="print the files that would be sent")
    sub.add_argument("--bucket", metavar="NAME", help="also store checkpoints in S3: they survive this machine")


def _limits(sub: Flags) -> None:
    sub.add_argument(
        "--owner-timeout",
        metavar="TIME",
        help="the instance saves and terminates itself after so long without contact (default: 30m)",
    )
    sub.add_argument("--budget", metavar="USD", help="stop, saved and resumable, before more than this is billed")
    sub.add_argument("--deadline", metavar="TIME", help="be done by 18:00, in 12h or at a date; takes both markets")
    sub.add_argument("--policy", metavar="NAME", help="how it chooses (default: planned; docs/deadline.md has them)")
    sub.add_argument("--work", metavar="TIME", help="how long the training takes, until it is measured")
    sub.add_argument("--spot-advisor", metavar="FILE", help="spot-advisor-data.json of AWS, for a deadline")
    sub.add_argument("--max-duration", metavar="TIME", help="stop after so long: 90m, 12h, 2d, or seconds")
    sub.add_argument(
        "-i",
        "--idle-minutes-to-autostop",
        metavar="MIN",
        help="stop when the trainer has written nothing for so long",
    )


def _embedded(sub: Flags) -> None:
    sub.add_argument("--faults", metavar="FILE", help="embedded cloud: faults to apply (YAML; see infra/README.md)")
    sub.add_argument(
        "--interrupt-after",
        metavar="S",
        type=float,
        help="embedded cloud: interrupt once, S seconds after the first step (or the start, without steps), or at half",
    )
