"""`orchestrator.launch(...)`: `pixel-orch launch` as a function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.clock import SystemClock
from orchestrator.cloud.connect import cloud_of
from orchestrator.engine.interrupt_once import interruption
from orchestrator.engine.lead import lead, lead_in_background
from orchestrator.engine.progress_lines import ProgressLines
from orchestrator.errors import SpecError
from orchestrator.formatting import visible
from orchestrator.plan.launch_preparation import (
    LaunchRequest,
    check_account,
    check_home,
    create_run,
    prepare_launch,
    read_request,
)
from orchestrator.plan.preview import DryRun, dry_run, not_sent, sync_dry_run, title_of, unused_gpus
from orchestrator.plan.settings_file import LAUNCH_SETTINGS
from orchestrator.report.summary import summary_json
from orchestrator.runs.home import fresh_name, home_from_environment
from orchestrator.runs.store import RunStore


@dataclass(frozen=True)
class RunResult:
    """The result of a run. `details` is the object that `pixel-orch launch -o json` prints.

    Of a dry run it is the plan that `launch --dry-run -o json` prints: `requests`, `offers` and so on.
    """

    run: str
    state: str  # SUCCEEDED, FAILED, CANCELLED or STOPPED; RUNNING and the like after `detach=True`; PLANNED: dry run
    reason: str
    steps: int  # 0 also where the program does not tell them: `details["steps"]` is then None
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
    instance: str | Sequence[str] = (),
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
    """Launch a run, lead it to its end, and return its result. Rents without asking, as `-y` does.

    Ctrl-C stops it in the main thread, `pixel-orch stop` in any thread.

    Args:
        instance: EC2 type, or several: the cheapest is tried first. Instead of it `gpu="T4"`, `gpu="A10G:4"`.
        spot: the spot market; False for on-demand.
        cloud: "aws", or "local" for the embedded cloud.
        name: name of the run; generated if None.
        command: of your own program, which runs in `workdir`; empty for the bundled trainer.
        workdir: the folder to send.
        settings: of the bundled trainer, for example `{"model": "row-lstm", "steps": 1000}`.
        env: variables for the trainer.
        budget_usd: stop, saved and resumable, before more than this is billed.
        region: one or several; the configured one by default.
        detach: return as soon as a background process leads the run.
        quiet: print nothing; otherwise progress goes to standard error.
        flags: any other option of `pixel-orch launch`, with underscores: `max_price=0.3`, `setup="make"`. With
            `dry_run=True` nothing is created: `state` is PLANNED, `details` the plan; `sync_dry_run=True`: the files.

    Raises:
        SpecError: the settings cannot work; nothing was created.
        PixelOrchError: AWS refused before anything was rented. A run that fails later is a result, not an error.
    """
    _check_options(flags, command)
    given = {
        **flags,
        "instance": _joined(instance),
        ("spot" if spot else "on_demand"): True,
        "cloud": cloud,
        "name": name or fresh_name(Path(workdir).resolve().name if workdir else "run"),
        "workdir": None if workdir is None else str(workdir),
        "set": _pairs(settings),
        "env": _pairs(env),
        "budget": budget_usd,
        "region": [region] if isinstance(region, str) else list(region),
        "detach": detach,
    }
    home, say = home_from_environment(), _to_nobody if quiet else _to_standard_error
    request = _read(given, command, home, say)
    if flags.get("dry_run") or flags.get("sync_dry_run"):
        return _planned(sync_dry_run(request) if flags.get("sync_dry_run") else dry_run(request, home), home, say)
    _launch(request, home, is_detached=detach, say=say)
    return result(request.spec.run)


def _read(given: Mapping[str, Any], command: Sequence[str], home: Path, say: Callable[[str], None]) -> LaunchRequest:
    request = read_request(given, list(command), home)
    if request.sources:
        say(f"settings: {'; '.join(map(str, request.sources))}")
    return request


def _joined(names: str | Sequence[str]) -> str | None:
    return names if isinstance(names, str) else ",".join(names) if names else None


def _pairs(values: Mapping[str, Any] | None) -> list[str]:
    return [f"{key}={value}" for key, value in (values or {}).items()]


def _check_options(flags: Mapping[str, Any], command: Sequence[str]) -> None:
    """Raise SpecError for what only the command line can do, and for options that do not exist."""
    unknown = sorted(set(flags) - LAUNCH_SETTINGS)
    if unknown:
        raise SpecError(f"launch(): unknown option {', '.join(unknown)}; `pixel-orch launch --help` lists them")
    if flags.get("resume"):
        raise SpecError(f"launch(): resume: give it to the command line: pixel-orch launch --resume {flags['resume']}")
    if isinstance(command, str):
        raise SpecError(f"launch(): command: give its words in a list: {command.split()!r}")


def _launch(request: LaunchRequest, home: Path, *, is_detached: bool, say: Callable[[str], None]) -> None:
    check_account(request.spec)
    check_home(request, home)
    with cloud_of(request.spec, home) as cloud:
        prepared, clock = prepare_launch(request, cloud, home), SystemClock()
        extra = interruption(prepared, clock.now)  # before the run is created: it may fail
        run = create_run(prepared)
        if is_detached:
            lead_in_background(run)
            return
        spec = run.plan.spec
        seen = request.look.lines() if request.look else []
        for line in (f"{spec.run} on {title_of(cloud, spec)}", *not_sent(run.tree), *seen, *unused_gpus(run.plan)):
            say(line)
        lead(run, watchers=(ProgressLines(say, spec.steps, clock), *extra), say=say)


def _planned(planned: DryRun, home: Path, say: Callable[[str], None]) -> RunResult:
    say(planned.text)
    return RunResult(planned.run, "PLANNED", "", 0, 0.0, home / "runs" / planned.run, None, planned.details)


def _to_nobody(text: str) -> None:
    """Print nothing."""


def _to_standard_error(text: str) -> None:
    with suppress(OSError, ValueError):  # it was closed: the run is still led to its end
        print(visible(text), file=sys.stderr, flush=True)


def result(run: str) -> RunResult:
    """Return the result so far of a run of this home.

    Raises:
        SpecError: there is no such run.
    """
    store = RunStore.open(home_from_environment(), run)
    details = summary_json(store, SystemClock().now())
    return RunResult(
        run=run,
        state=details["state"],
        reason=details["reason"],
        steps=details["steps"] or 0,
        cost_usd=details["cost_usd"],
        folder=store.folder,
        checkpoint=Path(details["checkpoint"]) if details["checkpoint"] else None,
        details=details,
    )
