"""`orchestrator.launch(...)`: what the command line does, for a program of one's own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cli.flags import parser
from orchestrator.cli.launch import dry_run
from orchestrator.cli.launch import launch as launch_command
from orchestrator.clock import SystemClock
from orchestrator.errors import SpecError
from orchestrator.report.summary import summary_json
from orchestrator.runs.home import fresh_name, home_from_environment
from orchestrator.runs.store import RunStore


@dataclass(frozen=True)
class RunResult:
    """What a run came to. `details` is the object that `pixel-orch launch -o json` prints.

    Of a dry run it is the plan that `launch --dry-run -o json` prints: `requests`, `offers` and so on.
    """

    run: str
    state: str  # SUCCEEDED, FAILED, CANCELLED or STOPPED; RUNNING and the like after `detach=True`; PLANNED: dry run
    reason: str
    steps: int
    cost_usd: float
    folder: Path
    checkpoint: Path | None
    details: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether all steps are done."""
        return self.state == "SUCCEEDED"


def launch(
    *,
    instance: str | Sequence[str],
    spot: bool = True,
    cloud: str = "aws",
    name: str | None = None,
    command: Sequence[str] = (),
    workdir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    budget_usd: float | str | None = None,
    region: str | Sequence[str] = (),
    detach: bool = False,
    quiet: bool = False,
    **flags: Any,
) -> RunResult:
    """Launch a run, lead it to its end, and return what it came to. Rents without asking, as `-y` does.

    Args:
        instance: EC2 type, or several in order of preference.
        spot: the spot market; False for on-demand.
        cloud: "aws", or "local" for the embedded cloud.
        name: the run's name; made up if None.
        command: of a program of your own, which runs in `workdir`; empty for the bundled trainer.
        workdir: the folder to send.
        settings: of the bundled trainer, e.g. `{"model": "row-lstm", "steps": 1000}`.
        env: variables for the trainer.
        budget_usd: where the run stops, saved and resumable.
        region: one or several; the configured one by default.
        detach: return as soon as a process in the background leads the run.
        quiet: print nothing; otherwise progress goes to standard error.
        flags: any other option of `pixel-orch launch`, with underscores: `max_price=0.3`, `strategy="any"`. With
            `dry_run=True` nothing is created: `state` is PLANNED and `details` is the plan, which is also printed to
            standard error unless `quiet`. `sync_dry_run=True` does the same for the files that would be sent.

    Raises:
        SpecError: it cannot work as asked; nothing was created.
        PixelOrchError: AWS refused before anything was rented. A run that fails later is a result, not an error.
    """
    args = parser().parse_args(["launch"])
    unknown = sorted(set(flags) - set(vars(args)))
    if unknown:
        raise SpecError(f"launch(): unknown option {', '.join(unknown)}; `pixel-orch launch --help` lists them")
    if flags.get("resume"):
        raise SpecError(f"launch(): resume: give it to the command line: pixel-orch launch --resume {flags['resume']}")
    if isinstance(command, str):
        raise SpecError(f"launch(): command: give its words in a list: {command.split()!r}")
    given: dict[str, Any] = {
        "instance": instance if isinstance(instance, str) else ",".join(instance),
        "spot": spot,
        "on_demand": not spot,
        "cloud": cloud,
        "name": name or fresh_name(Path(workdir).resolve().name if workdir else "run"),
        "workdir": None if workdir is None else str(workdir),
        "set": [f"{key}={value}" for key, value in (settings or {}).items()],
        "env": [f"{key}={value}" for key, value in (env or {}).items()],
        "budget": budget_usd,
        "region": [region] if isinstance(region, str) else list(region),
        "detach": detach,
        "yes": True,
        "output": "quiet" if quiet else "none",
    }
    for key, value in {**flags, **given}.items():
        setattr(args, key, value)
    if args.dry_run or args.sync_dry_run:
        return _planned(args, command, quiet=quiet)
    launch_command(args, list(command))
    return result(given["name"])


def _planned(args: argparse.Namespace, command: Sequence[str], *, quiet: bool) -> RunResult:
    planned = dry_run(args, list(command))
    if not quiet:
        print(planned.text, file=sys.stderr)
    folder = home_from_environment() / "runs" / planned.run
    return RunResult(planned.run, "PLANNED", "", 0, 0.0, folder, None, planned.details)


def result(run: str) -> RunResult:
    """Return what a run of this home has come to so far.

    Raises:
        SpecError: there is no such run.
    """
    store = RunStore.open(home_from_environment(), run)
    details = summary_json(store, SystemClock().now())
    return RunResult(
        run=run,
        state=details["state"],
        reason=details["reason"],
        steps=details["steps"],
        cost_usd=details["cost_usd"],
        folder=store.folder,
        checkpoint=Path(details["checkpoint"]) if details["checkpoint"] else None,
        details=details,
    )
