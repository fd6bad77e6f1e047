"""Every command and its flags, for argparse. Imports nothing that takes time: `--help` must be quick."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from orchestrator.cli import flags_market as market_flags
from orchestrator.version import VERSION

DESCRIPTION = """\
Train on AWS GPU spot instances: finds the cheapest capacity, sends the code,
trains, brings every checkpoint home, survives interruption, ends the machine,
and says what it cost and how fast it was. `--cloud local` does all of it on
this machine, without AWS."""

EXAMPLES = {
    "launch": "pixel-orch launch --cloud local --instance p2.xlarge --spot -y\n"
    "  pixel-orch launch -t g4dn.xlarge,g5.xlarge --spot --max-price 0.35 --budget 5\n"
    "  pixel-orch launch -t g4dn.xlarge --spot --workdir . -- python my_train.py",
    "status": "pixel-orch status my-run",
    "logs": "pixel-orch logs -f my-run",
    "attach": "pixel-orch attach my-run",
    "stop": "pixel-orch stop my-run && pixel-orch launch --resume my-run -y",
    "pull": "pixel-orch pull my-run --out ./results",
    "ssh": "pixel-orch ssh my-run -- nvidia-smi",
    "down": "pixel-orch down 'digits-*' -y",
    "sweep": "pixel-orch sweep --dry-run || pixel-orch sweep -y",
    "report": "pixel-orch report --html report.html",
    "bench": "pixel-orch bench -t g4dn.xlarge,g5.xlarge --spot --steps 200 --budget 2 -y",
    "dashboard": "pixel-orch dashboard --port 8765",
    "prices": "pixel-orch prices -t g4dn.xlarge,g5.xlarge --region us-east-1 --days 30",
    "compare": "pixel-orch compare g2.2xlarge p2.xlarge",
    "check": "pixel-orch check --cloud local",
    "runs": "pixel-orch runs prune --older-than 30d --dry-run",
    "setup": "pixel-orch setup --region us-east-1 --budget-alarm 20 --email you@example.org",
    "teardown": "pixel-orch teardown --dry-run",
    "completion": 'eval "$(pixel-orch completion bash)"',
    "train": "pixel-orch train --steps 300 --out ./out",
    "evaluate": "pixel-orch evaluate --checkpoint out/checkpoint-300.pt",
    "sample": "pixel-orch sample --checkpoint out/checkpoint-300.pt --out samples.png",
    "complete": "pixel-orch complete --checkpoint F --image test:0 --occlude bottom --out completed.png",
    "figures": "pixel-orch figures --checkpoint out/checkpoint-300.pt --out figures",
}
OF_THE_MODEL = ("train", "evaluate", "sample", "complete", "figures", "data")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=80)


class _Parser(argparse.ArgumentParser):
    """Guesses what was meant by a command or a flag that there is not."""

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # as the one above it
        """Parse; what is left over is named, with what is most like it."""
        given, left = self.parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}{self._guess(str(given.command), left[0])}")
        return given

    def _guess(self, command: str, word: str) -> str:
        if not word.startswith("-"):
            return "; a program of your own stands behind --" if command in ("launch", "bench") else ""
        sub = self._commands()[command]
        known = {name.lstrip("-"): name for action in sub._actions for name in action.option_strings}
        near = _near(word.partition("=")[0].lstrip("-"), known)
        return f"; did you mean {known[near]}?" if near else f"; pixel-orch {command} --help lists the flags"

    def _commands(self) -> dict[str, argparse.ArgumentParser]:
        found = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return dict(found[0].choices) if found else {}

    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong; of a list of all commands only the nearest."""
        unknown = re.match(r"argument COMMAND: invalid choice: '(.*?)' \(", message)
        if unknown:
            near = _near(unknown[1], self._commands())
            hint = f"did you mean {near}?" if near else "pixel-orch --help lists them"
            message = f"there is no command {unknown[1]!r}; {hint}"
        super().error(message)


def _near(word: str, known: Iterable[str]) -> str:
    """Return what is most like a word, "" if nothing is."""
    import difflib

    return next(iter(difflib.get_close_matches(word, known, n=1)), "")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = _Parser(prog="pixel-orch", description=DESCRIPTION, formatter_class=_Formatter)
    top.add_argument("--version", action="version", version=f"pixel-orch {VERSION}")
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser
    )

    def add(name: str, text: str, aliases: Sequence[str] = ()) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            aliases=list(aliases),
            epilog=f"example:\n  {EXAMPLES[name]}",
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        sub.set_defaults(command=name)
        return sub

    _launch_flags(add("launch", "rent a machine, train on it, bring the checkpoints home, end it"))
    _looking(add)
    _ending(add)
    _market(add)
    _house(add)
    for name, text in (
        ("train", "train the bundled model on this machine"),
        ("evaluate", "likelihood of a checkpoint in nats and bits/dim"),
        ("sample", "draw images from a checkpoint into a PNG grid"),
        ("complete", "fill in the hidden part of an image, several times"),
        ("figures", "predictive distributions, samples, completions and the training curve"),
        ("data", "prepare, check and look at data sets"),
    ):
        commands.add_parser(name, help=text, add_help=False)
    return top


Add = Callable[..., argparse.ArgumentParser]
"""(name, what it does, aliases) -> the parser of a command."""


def _looking(add: Add) -> None:
    sub = add("status", "show all runs, or one run in full")
    sub.add_argument("run", metavar="RUN", nargs="?", help="a run's name")
    _output(sub)
    sub = add("logs", "print what the trainer printed")
    sub.add_argument("run", metavar="RUN", help="a run's name")
    sub.add_argument("-f", "--follow", action="store_true", help="go on until the run is over")
    sub = add("attach", "take over a run whose process died, or follow one that is led")
    sub.add_argument("run", metavar="RUN", nargs="?", help="a run's name")
    sub.add_argument("-a", "--all", action="store_true", help="lead every run that nobody leads, in one process")
    _output(sub)
    sub = add("pull", "bring home what the instance has and we have not")
    sub.add_argument("run", metavar="RUN", help="a run's name")
    sub.add_argument("--out", metavar="DIR", help="copy the newest checkpoint and samples there")
    _output(sub)
    sub = add("ssh", "log in to a run's machine, or run a command there (after --)")
    sub.add_argument("run", metavar="RUN", nargs="?", help="a run's name")
    sub.add_argument("--add-include", action="store_true", help="make `ssh pixel-orch-RUN` work, by ~/.ssh/config")


def _ending(add: Add) -> None:
    sub = add("stop", "save a checkpoint, bring it home, end the machine; launch --resume goes on")
    sub.add_argument("run", metavar="RUN", help="a run's name")
    _output(sub)
    sub = add("down", "end runs and their machines")
    sub.add_argument("runs", metavar="RUN", nargs="*", help="names, or globs such as 'digits-*'")
    sub.add_argument("-a", "--all", action="store_true", help="all runs")
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask")
    _output(sub)
    sub = add("sweep", "find by tag what is still billed though nobody leads it, and end it")
    _cloud(sub)
    sub.add_argument(
        "--dry-run",
        action="store_true",
        help="only say what there is; exit code 1 if something (so without -y in cron)",
    )
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask: end it")
    _output(sub)


def _market(add: Add) -> None:
    sub = add("report", "compare runs and instance types by measured speed and actual price", aliases=["cost-report"])
    market_flags.report(sub)
    market_flags.bench(add("bench", "run a few steps on each of several types, side by side, and compare their cost"))
    market_flags.dashboard(add("dashboard", "show the runs live in a browser, on this machine only; changes nothing"))
    for name, text in (
        ("prices", "what machines cost: spot history, on-demand, the lowest over zones and regions"),
        ("compare", "instance types side by side: GPU, rates, memory, prices; needs no account"),
    ):
        sub = add(name, text)
        getattr(market_flags, name)(sub)
        _output(sub)


def _house(add: Add) -> None:
    sub = add("check", "say what is there and what is missing; creates nothing")
    sub.add_argument("-t", "--instance", metavar="TYPE", help="whose quota and zones to look at (default: g4dn.xlarge)")
    _cloud(sub)
    _output(sub)
    sub = add("runs", "forget runs that are over: `runs prune`")
    actions = sub.add_subparsers(dest="action", metavar="prune", required=True)
    sub = actions.add_parser(
        "prune",
        description="Remove the folders of runs that are over, with their checkpoints.",
        epilog=f"example:\n  {EXAMPLES['runs']}",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    sub.add_argument("runs", metavar="RUN", nargs="*", help="names, or globs such as 'digits-*'")
    sub.add_argument("--older-than", metavar="TIME", help="only those created so long ago: 30d, 12h")
    sub.add_argument("--keep-last", metavar="N", type=int, help="keep the newest N that are over")
    sub.add_argument("--dry-run", action="store_true", help="only say which")
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask")
    _output(sub)
    sub = add("setup", "make what stands between runs: bucket, role, security group, budget alarm")
    _standing(sub)
    sub.add_argument("--budget-alarm", metavar="USD", help="of the account in a month; with --email")
    sub.add_argument("--email", metavar="ADDRESS", help="who is told at 80 %% of it, and when it is foreseen")
    sub.add_argument("--ssm", action="store_true", help="let machines be reached through SSM (launch --via-ssm)")
    sub = add("teardown", "remove what setup made; the bucket only if it is empty, or if told")
    _standing(sub)
    sub.add_argument("--delete-bucket-data", action="store_true", help="the bucket too, with every checkpoint in it")
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask")
    sub = add("completion", "print what makes a shell complete commands, flags and names of runs")
    sub.add_argument("shell", choices=("bash", "zsh", "fish"), help="whose")


def _standing(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--stack-name", metavar="NAME", default="pixel-orch", help="default: pixel-orch")
    _cloud(sub)
    sub.add_argument("--dry-run", action="store_true", help="print what would be done")
    _output(sub)


def _output(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("-o", "--output", choices=("table", "json"), default="table", help="the format (default: table)")


def _cloud(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--cloud", metavar="aws|local", help="AWS (the default), or the embedded cloud on this machine")
    sub.add_argument("--region", metavar="REGION", action="append", help="an AWS region (default: the configured one)")
    sub.add_argument("--profile", metavar="NAME", help="of ~/.aws/config (default: AWS_PROFILE)")


def _launch_flags(sub: argparse.ArgumentParser) -> None:
    where = sub.add_argument_group("where")
    where.add_argument(
        "-t", "--instance", "--instance-type", metavar="TYPE", help="EC2 type, or several: a,b,c; no default"
    )
    where.add_argument("--spot", "--use-spot", action="store_true", help="spot: cheaper, may be interrupted")
    where.add_argument("--on-demand", action="store_true", help="on-demand; give this or --spot")
    where.add_argument("--max-price", metavar="USD", help="highest spot price per hour")
    _cloud(where)  # type: ignore[arg-type]  # a group has add_argument too
    where.add_argument("--strategy", metavar="price|any", help="cheapest pool first, or EC2 chooses among all of them")
    where.add_argument("--ami", metavar="ID", help="image (default: AWS's Base Deep Learning AMI)")
    where.add_argument("--allow-cpu", action="store_true", help="go on, on the CPU, where the GPU cannot be used")
    door = sub.add_argument_group("network and access")
    door.add_argument("--subnet", metavar="ID", action="append", help="subnet (default: those of the default VPC)")
    door.add_argument("--private", action="store_true", help="no public address; reach it by --via-ssm or a proxy")
    door.add_argument("--via-ssm", action="store_true", help="SSH through AWS Systems Manager; no open port")
    door.add_argument("--ssh-proxy", metavar="COMMAND", help="ProxyCommand: %%h %%p, %%i instance, %%r region")
    door.add_argument("--ssh-cidr", metavar="CIDR", help="who may connect (default: this machine only; none: nobody)")
    door.add_argument("--login-user", metavar="USER", help="default: what the image's name says")
    door.add_argument("--key", metavar="FILE", help="private key of your own (default: one made for the run)")
    door.add_argument("--disk-size", metavar="GIB", type=int, help="root disk, encrypted gp3 (default: 100)")
    door.add_argument("--instance-profile", metavar="NAME", help="IAM role of the machine (default: that of setup)")
    door.add_argument("--tag", metavar="K=V", action="append", help="a tag on all that is created")
    what = sub.add_argument_group("what")
    what.add_argument("--model", metavar="NAME", help="network of the bundled trainer")
    what.add_argument("--dataset", metavar="NAME", help="data set of the bundled trainer; prepared on the machine")
    what.add_argument("--data-bucket", metavar="s3://B/P", help="where in S3 it lies prepared, or is to be put")
    what.add_argument("--prepare", metavar="K=V", action="append", help="setting of data prepare there: size=32")
    what.add_argument("--steps", metavar="N", type=int, help="optimizer steps")
    what.add_argument("--set", metavar="KEY=VALUE", action="append", help="any other setting of the trainer")
    what.add_argument("--checkpoint-every", metavar="N", type=int, help="steps between two checkpoints")
    what.add_argument("--env", metavar="K[=V]", action="append", help="variable for the trainer; K alone: as set here")
    what.add_argument("--env-file", metavar="FILE", help="variables for the trainer, K=V lines")
    what.add_argument("--workdir", metavar="DIR", help="folder of a program of your own; its command follows --")
    what.add_argument("--include", metavar="PATH", action="append", help="send it although git ignores it")
    how = sub.add_argument_group("how")
    how.add_argument("-n", "--name", metavar="NAME", help="the run's name (default: made up)")
    how.add_argument("-f", "--file", metavar="FILE", help="YAML with these settings; flags win")
    how.add_argument("-y", "--yes", action="store_true", help="do not ask before renting")
    how.add_argument("-d", "--detach", action="store_true", help="go on in the background: status, logs -f, attach")
    how.add_argument("-r", "--retry-until-up", action="store_true", help="no capacity: ask again for up to a day")
    how.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped, ended or failed")
    how.add_argument(
        "--from",
        metavar="PLACE",
        dest="start_from",
        help="begin with a checkpoint: of a run, a file, a folder, s3://B/P",
    )
    how.add_argument(
        "--dry-run", "--dryrun", action="store_true", help="print the plan, request for request; create nothing"
    )
    how.add_argument("--sync-dry-run", action="store_true", help="print the files that would be sent")
    how.add_argument("--bucket", metavar="NAME", help="S3 as a second home of the checkpoints: survives this machine")
    how.add_argument(
        "--owner-timeout",
        metavar="TIME",
        help="the machine saves and ends itself when it has not heard of us for so long (default: 30m)",
    )
    how.add_argument("--budget", metavar="USD", help="stop, saved and resumable, before more than this is billed")
    how.add_argument("--max-duration", metavar="TIME", help="the same after so long: 90m, 12h, 2d, or seconds")
    how.add_argument(
        "-i",
        "--idle-minutes-to-autostop",
        metavar="MIN",
        help="the same when the trainer has written nothing for so long",
    )
    how.add_argument("--faults", metavar="FILE", help="embedded cloud: what goes wrong (YAML; see infra/README.md)")
    how.add_argument(
        "--interrupt-after",
        metavar="S",
        type=float,
        help="embedded cloud: interrupt once, S seconds after the first step or at half of the steps",
    )
    _output(how)  # type: ignore[arg-type]
