"""Every command and its flags, for argparse. Imports nothing slow: `--help` must be quick."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable, Sequence
from typing import NoReturn

from orchestrator.cli import flags_launch, flags_market, flags_simulate
from orchestrator.cli.flags_shared import cloud_flags, output_flag, plain_flag
from orchestrator.formatting import nearest, shortened
from orchestrator.version import VERSION

DESCRIPTION = """\
Train on AWS GPU spot instances: finds the cheapest capacity, sends the code,
trains, downloads every checkpoint, survives interruption, terminates the
instance, and reports cost and speed. `--cloud local` does all of it on this
machine, without AWS."""

EXAMPLES = {
    "launch": "pixel-orch launch --cloud local --instance p2.xlarge --spot -y\n"
    "  pixel-orch launch -t g4dn.xlarge,g5.xlarge --spot --max-price 0.35 --budget 5\n"
    "  pixel-orch launch -t g4dn.xlarge --spot --workdir . -- python my_train.py",
    "status": "pixel-orch status my-run",
    "logs": "pixel-orch logs -f my-run",
    "attach": "pixel-orch attach my-run",
    "stop": "pixel-orch stop my-run && pixel-orch launch --resume my-run -y",
    "pull": "pixel-orch pull my-run --out ./results",
    "ssh": "pixel-orch ssh my-run -- nvidia-smi\n  pixel-orch ssh my-run -N -L 6006:localhost:6006",
    "down": "pixel-orch down 'digits-*' -y",
    "cleanup": "pixel-orch cleanup --dry-run || pixel-orch cleanup -y",
    "report": "pixel-orch report --html report.html",
    "export": "pixel-orch export digits-1a2b --to mlflow --to tensorboard",
    "bench": "pixel-orch bench -t g4dn.xlarge,g5.xlarge --spot --steps 200 --budget 2 -y",
    "dashboard": "pixel-orch dashboard --port 8765",
    "prices": "pixel-orch prices -t g4dn.xlarge,g5.xlarge --region us-east-1 --days 30",
    "compare": "pixel-orch compare g2.2xlarge p2.xlarge",
    "plan": "pixel-orch plan --images 50M --deadline 24h --budget 20",
    "simulate": "pixel-orch simulate --market mixed --work 12h,24h --slack 0.1,0.25,0.5,1",
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
SSH_VALUES = (
    ("L", "PORT:HOST:PORT", "as ssh: what connects to PORT here reaches HOST:PORT from there"),
    ("R", "PORT:HOST:PORT", "as ssh: what connects to PORT there reaches HOST:PORT from here"),
    ("D", "PORT", "as ssh: a SOCKS proxy on PORT here"),
    ("o", "OPTION", "as ssh: any option of ssh_config; -f -t -T -v -A -X -Y -g -C too"),
)
SSH_LETTERS = "fntTvqAaXYgC46"  # flags of OpenSSH without a value that `ssh` passes through
OLD_CLEANUP = "sweep"  # the name of `cleanup` in 0.1; an alias for one version
OF_THE_MODEL = ("train", "evaluate", "sample", "complete", "figures", "data")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=80)


class _Parser(argparse.ArgumentParser):
    """Suggests the nearest command or flag for one that does not exist."""

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # as in argparse
        """Parse; an unknown flag is named, with the nearest known one."""
        given, left = self.parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}{self._guess(str(given.command), left[0])}")
        return given

    def _guess(self, command: str, word: str) -> str:
        if not word.startswith("-"):
            return "; the command of your own program follows --" if command in ("launch", "bench") else ""
        sub = self._commands()[command]
        known = {name.lstrip("-"): name for action in sub._actions for name in action.option_strings}
        near = nearest(word.partition("=")[0].lstrip("-"), known)
        return f"; did you mean {known[near]}?" if near else f"; pixel-orch {command} --help lists the flags"

    def _commands(self) -> dict[str, argparse.ArgumentParser]:
        found = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return dict(found[0].choices) if found else {}

    def error(self, message: str) -> NoReturn:
        """Print one line; for an unknown command it names the nearest one, not all of them."""
        unknown = re.match(r"argument COMMAND: invalid choice: '(.*?)' \(", message)
        if unknown:
            near = nearest(unknown[1], self._commands())
            hint = f"did you mean {near}?" if near else "pixel-orch --help lists them"
            message = f"there is no command {unknown[1]!r}; {hint}"
        super().error(shortened(message))


class _Command(argparse.ArgumentParser):
    """The parser of one command."""

    def error(self, message: str) -> NoReturn:
        """Print usage and error; a value of many characters is cut."""
        super().error(shortened(message))


@functools.cache  # 15 ms to build; parsing does not change it
def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = _Parser(prog="pixel-orch", description=DESCRIPTION, formatter_class=_Formatter)
    top.add_argument("--version", action="version", version=f"pixel-orch {VERSION}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Command)

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

    flags_launch.launch(add("launch", "rent an instance, train on it, download the checkpoints, terminate it"))
    _run_commands(add)
    _end_commands(add)
    _cost_commands(add)
    _account_commands(add)
    for name, text in (
        ("train", "train the bundled model on this machine"),
        ("evaluate", "likelihood of a checkpoint in nats and bits/dim"),
        ("sample", "draw images from a checkpoint into a PNG grid, or as an animation"),
        ("complete", "complete the hidden part of an image, several times"),
        ("figures", "predictions, samples, completions and the training curve; samples over training"),
        ("data", "prepare, verify and preview data sets"),
    ):
        commands.add_parser(name, help=text, add_help=False)
    return top


Add = Callable[..., argparse.ArgumentParser]
"""(name, what it does, aliases) -> the parser of a command."""


def _run_commands(add: Add) -> None:
    sub = add("status", "show all runs, or one run in full")
    sub.add_argument("run", metavar="RUN", nargs="?", help="a run's name")
    sub.add_argument("-w", "--watch", action="store_true", help="show it live, until Ctrl-C or the end of the run")
    output_flag(sub)
    plain_flag(sub)
    sub = add("logs", "print the trainer's output")
    sub.add_argument("run", metavar="RUN", help="a run's name")
    sub.add_argument("-f", "--follow", action="store_true", help="continue until the run is over")
    sub.add_argument("--node", metavar="K", type=int, default=0, help="of a group: of its K-th machine, from 0")
    sub = add("attach", "take over a run whose process has ended, or follow one that is led")
    sub.add_argument("run", metavar="RUN", nargs="?", help="a run's name")
    sub.add_argument("-a", "--all", action="store_true", help="lead every run that no process leads, in this one")
    output_flag(sub)
    plain_flag(sub)
    sub = add("pull", "download checkpoints, samples and outputs that are not on this machine yet")
    sub.add_argument("run", metavar="RUN", help="a run's name")
    sub.add_argument("--out", metavar="DIR", help="also copy the newest checkpoint, samples and outputs there")
    output_flag(sub)
    sub = add("ssh", "log in to a run's instance, run a command there (after --), or forward ports")
    sub.add_argument("run", metavar="RUN", nargs="?", help="a run's name")
    sub.add_argument("--node", metavar="K", type=int, default=0, help="of a group: its K-th machine, from 0")
    for letter, metavar, text in SSH_VALUES:
        sub.add_argument(f"-{letter}", metavar=metavar, action="append", dest=f"ssh_{letter}", help=text)
    sub.add_argument("-N", action="store_true", dest="ssh_N", help="run nothing there: forward only, until Ctrl-C")
    for letter in SSH_LETTERS:
        sub.add_argument(f"-{letter}", action="count", dest=f"ssh_{letter}", help=argparse.SUPPRESS)
    sub.add_argument("--add-include", action="store_true", help="let `ssh pixel-orch-RUN` work: adds to ~/.ssh/config")


def _end_commands(add: Add) -> None:
    sub = add("stop", "save a checkpoint, download it, terminate; launch --resume continues")
    sub.add_argument("run", metavar="RUN", help="a run's name")
    output_flag(sub)
    plain_flag(sub)
    sub = add("down", "end runs and terminate their instances")
    sub.add_argument("runs", metavar="RUN", nargs="*", help="names, or globs such as 'digits-*'")
    sub.add_argument("-a", "--all", action="store_true", help="all runs")
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask")
    output_flag(sub)
    sub = add("cleanup", "find orphaned instances by tag and what runs have left, and end it", aliases=[OLD_CLEANUP])
    cloud_flags(sub)
    sub.add_argument(
        "--dry-run",
        action="store_true",
        help="only list them; exit code 1 if there are some (as without -y in cron)",
    )
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask: end it")
    output_flag(sub)


def _cost_commands(add: Add) -> None:
    sub = add("report", "compare runs and instance types by measured speed and actual price", aliases=["cost-report"])
    flags_market.report(sub)
    sub = add("export", "write runs into MLflow, Weights & Biases or TensorBoard, again and again")
    sub.add_argument("runs", metavar="RUN", nargs="+", help="names of runs")
    sub.add_argument(
        "--to", metavar="TRACKER", action="append", help="mlflow, wandb or tensorboard (default: those of --export)"
    )
    output_flag(sub)
    flags_market.bench(add("bench", "run a few steps on each of several types, side by side, and compare their cost"))
    flags_market.dashboard(add("dashboard", "show the runs live in a browser on this machine; changes nothing"))
    for name, text in (
        ("prices", "prices of instance types: spot history, on-demand, lowest zone and region"),
        ("compare", "instance types side by side: GPU, rates, memory, prices; needs no account"),
    ):
        getattr(flags_market, name)(add(name, text))
    flags_simulate.plan(add("plan", "which type, pools and policy are in time and in budget, before a launch"))
    flags_simulate.simulate(add("simulate", "what a job with a deadline costs under each policy, on spot markets"))


def _account_commands(add: Add) -> None:
    sub = add("check", "check credentials, quotas, images and permissions; creates nothing")
    sub.add_argument("-t", "--instance", metavar="TYPE", help="type to check quota and zones of (default: g4dn.xlarge)")
    sub.add_argument("--gpu", metavar="NAME[:N]", help="check the types with N of this GPU: T4, A10G:4")
    cloud_flags(sub)
    output_flag(sub)
    sub = add("runs", "remove runs that are over: `runs prune`")
    actions = sub.add_subparsers(dest="action", metavar="prune", required=True)
    sub = actions.add_parser(
        "prune",
        description="Remove the folders of runs that are over, with their checkpoints.",
        epilog=f"example:\n  {EXAMPLES['runs']}",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    sub.add_argument("runs", metavar="RUN", nargs="*", help="names, or globs such as 'digits-*'")
    sub.add_argument("--older-than", metavar="TIME", help="only runs created so long ago: 30d, 12h")
    sub.add_argument("--keep-last", metavar="N", type=int, help="keep the newest N of them")
    sub.add_argument("--dry-run", action="store_true", help="only list them")
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask")
    output_flag(sub)
    sub = add("setup", "create what runs share: bucket, role, security group, budget alarm")
    _stack_flags(sub)
    sub.add_argument("--budget-alarm", metavar="USD", help="monthly limit of the account; with --email")
    sub.add_argument("--email", metavar="ADDRESS", help="who is notified at 80 %% of it, and when it is forecast")
    sub.add_argument("--ssm", action="store_true", help="allow access through SSM (launch --via-ssm)")
    sub = add("teardown", "remove what setup created; the bucket only if it is empty")
    _stack_flags(sub)
    sub.add_argument(
        "--delete-bucket-data", action="store_true", help="also remove the bucket and all checkpoints in it"
    )
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask")
    sub = add("completion", "print the shell code that completes commands, flags and names of runs")
    sub.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")


def _stack_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--stack-name", metavar="NAME", default="pixel-orch", help="stack name (default: pixel-orch)")
    cloud_flags(sub)
    sub.add_argument("--dry-run", action="store_true", help="print what would be done")
    output_flag(sub)
