"""`orchestrator.launch(...)`: `pixel-orch launch` as a function."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from orchestrator.clock import Clock, SystemClock
from orchestrator.cloud.connect import cloud_of
from orchestrator.cloud.quotes import age_words, quote, quoted_json
from orchestrator.engine.interrupt_once import interruption
from orchestrator.engine.lead import lead, lead_in_background
from orchestrator.engine.progress_lines import ProgressLines
from orchestrator.errors import SpecError
from orchestrator.export.elsewhere import export_elsewhere
from orchestrator.export.trackers import TRACKERS, check_trackers
from orchestrator.formatting import visible
from orchestrator.market import catalog
from orchestrator.market.comparison import compare, comparison_json
from orchestrator.market.gpus import any_types_with
from orchestrator.market.spot_prices import (
    DEFAULT_DAYS,
    cheapest_zones,
    check_days,
    chosen_regions,
    chosen_types,
    ranked,
    recorded_regions,
)
from orchestrator.notebook import NotebookView, notebook
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
from orchestrator.plan.validators import check_cloud
from orchestrator.report.bill import bill_of
from orchestrator.report.records import row_of
from orchestrator.report.run_card import run_card
from orchestrator.report.summary import samples_of, summary_json
from orchestrator.runs import bounded_json
from orchestrator.runs.files import read_bounded
from orchestrator.runs.generations import generations_of
from orchestrator.runs.home import fresh_name, home_from_environment
from orchestrator.runs.listing import read_all
from orchestrator.runs.store import RunStore

LOOK_EVERY_S = 0.5
MOST_METRICS_BYTES = 1 << 30
MOST_PICTURE_BYTES = 8 << 20


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

    def refresh(self) -> RunResult:
        """Return the result as of now."""
        return result(self.run)

    def wait(self, timeout_s: float | None = None, *, quiet: bool = False) -> RunResult:
        """Wait until the run is over, or no process leads it any more; return its result then.

        In a notebook its card is shown meanwhile, unless `quiet`. Ctrl-C ends the waiting, and not the run.

        Raises:
            TimeoutError: it goes on after `timeout_s` seconds.
        """
        clock, store = SystemClock(), self._store()
        over_at = None if timeout_s is None else clock.now() + timeout_s
        view = None if quiet or store.state().is_final else _view_of(store, clock)
        try:
            while True:
                if store.state().is_final or store.owner_pid() is None:
                    return self.refresh()
                if over_at is not None and clock.now() >= over_at:
                    raise TimeoutError(f"{self.run} is not over after {timeout_s:g} s")
                if view is not None:
                    view.refresh()
                clock.sleep(LOOK_EVERY_S)
        finally:
            if view is not None:
                view.refresh(at_once=True)

    def stop(self, timeout_s: float | None = None) -> RunResult:
        """Save a checkpoint, download it, end the machine, as `pixel-orch stop` does; return the result then.

        Raises:
            SpecError: no process leads the run; `pixel-orch attach` or `pixel-orch stop` takes over.
            TimeoutError: it goes on after `timeout_s` seconds.
        """
        store = self._store()
        if store.state().is_final:
            return self.refresh()
        pid = store.owner_pid()
        if pid is None:
            raise SpecError(f"{self.run}: no process leads it; give `pixel-orch stop {self.run}`")
        store.request_stop("STOPPED")
        if not store.has_shared_owner() and pid != os.getpid():
            os.kill(pid, signal.SIGTERM)
        return self.wait(timeout_s)

    def logs(self, lines: int = 100) -> str:
        """Return the last lines of the program's output, of the newest machine that has some; of a group its first."""
        store = self._store()
        numbers = [member.number for one in reversed(generations_of(store.state())) for member in one.members]
        return next((text for number in numbers if (text := store.log_tail(number, lines))), "")

    @property
    def metrics(self) -> Metrics:
        """What the program has measured so far, a mapping for each line, in order; `attempt` is the attempt's number.

        With pandas, `metrics.dataframe()`.
        """
        store, found = self._store(), Metrics()
        for one in generations_of(store.state()):
            with suppress(OSError):
                lines = read_bounded(store.metrics_path(one.lead.number), MOST_METRICS_BYTES).splitlines()
                found += [{**line, "attempt": one.number} for line in bounded_json.objects(lines)]
        return found

    @property
    def bill(self) -> dict[str, float | bool | None]:
        """What the run has cost so far, in dollars, by its parts; `is_estimate` while a machine runs.

        `on_demand` is what the same time would have cost, None where that price is not known.
        """
        return bill_of(row_of(self._store(), SystemClock().now()))

    def export(self, *trackers: str) -> list[str]:
        """Write the run into trackers, as `pixel-orch export` does; return where it is found in each.

        Args:
            trackers: "mlflow", "wandb", "tensorboard"; those of `launch(export=...)` if none is given.

        Raises:
            SpecError: a tracker is unknown or not named, or its package is missing.
            ExportError: a tracker does not answer, or refuses.
        """
        store = self._store()
        names = check_trackers(trackers or store.spec().program.export, flag="export()")
        if not names:
            raise SpecError(f"export(): name a tracker: {', '.join(TRACKERS)}")
        return [export_elsewhere(store, name).checked() for name in names]

    @property
    def samples(self) -> list[Path]:
        """The pictures that the bundled trainer has drawn so far, the newest last."""
        return [path for _, path in samples_of(self._store())]

    def _store(self) -> RunStore:
        return RunStore.open(self.folder.parent.parent, self.run)

    def _repr_html_(self) -> str:
        """Return the run for a notebook, as of now."""
        if self.state == "PLANNED":
            return f"<pre>{escape(repr(self))}</pre>"
        return _card_of(self._store())


class Metrics(list[dict[str, Any]]):
    """Measurements, a mapping for each line."""

    def dataframe(self) -> Any:
        """Return them as a pandas DataFrame.

        Raises:
            SpecError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise SpecError("metrics.dataframe() needs pandas: pip install pandas") from None
        return pandas.DataFrame(self)


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
        quiet: print nothing; otherwise progress goes to standard error, and in a notebook into one output that changes.
        flags: any other option of `pixel-orch launch`, with underscores: `max_price=0.3`, `deadline="12h"`. With
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
        view = None if say is _to_nobody else _view_of(run.store, clock)
        tell = say if view is None else view.say
        seen = request.look.lines() if request.look else []
        for line in (f"{spec.run} on {title_of(cloud, spec)}", *not_sent(run.tree), *seen, *unused_gpus(run.plan)):
            tell(line)
        views = () if view is None else (view,)
        try:
            lead(run, watchers=(ProgressLines(tell, spec.steps, clock, run.store.events()), *views, *extra), say=tell)
        finally:
            if view is not None:
                view.refresh(at_once=True)


def _view_of(store: RunStore, clock: Clock) -> NotebookView | None:
    """Return what shows a run in the notebook, None outside of one."""
    show = notebook()
    return None if show is None else NotebookView(show, lambda: _card_of(store), clock)


def _card_of(store: RunStore) -> str:
    """Return a run as HTML, as of now."""
    png, steps = b"", None
    with suppress(OSError, IndexError):
        png = read_bounded(samples_of(store)[-1][1], MOST_PICTURE_BYTES)
    with suppress(SpecError):
        steps = store.spec().steps
    return run_card(summary_json(store, SystemClock().now()), png, steps=steps)


def _planned(planned: DryRun, home: Path, say: Callable[[str], None]) -> RunResult:
    say(planned.text)
    return RunResult(planned.run, "PLANNED", "", 0, 0.0, home / "runs" / planned.run, None, planned.details)


def _to_nobody(text: str) -> None:
    """Print nothing."""


def _to_standard_error(text: str) -> None:
    with suppress(OSError, ValueError):  # it was closed: the run is still led to its end
        print(visible(text), file=sys.stderr, flush=True)


def list_runs() -> list[RunResult]:
    """Return all runs of this home, the oldest first. One that cannot be read is named on standard error."""
    found, broken = read_all(home_from_environment(), _result_of)
    for one in broken:
        _to_standard_error(f"{one.text}; left out")
    return found


def compare_types(*types: str, gpu: str | None = None) -> dict[str, Any]:
    """Return instance types side by side, as `pixel-orch compare -o json` prints them. Asks nobody.

    Args:
        types: EC2 types.
        gpu: all types with this GPU too: "T4", "A10G:4".

    Raises:
        SpecError: no type is given, or one is unknown.
    """
    of_gpu = () if gpu is None else any_types_with(gpu)
    names = tuple(dict.fromkeys([*(catalog.find(name, flag="types").name for name in types), *of_gpu]))
    if not names:
        raise SpecError("compare_types(): no instance type is given; for example compare_types('g4dn.xlarge')")
    now = SystemClock().now()
    quoted = quote(home_from_environment(), "aws", names, recorded_regions(names), now, is_offline=True)
    return comparison_json(compare(names, quoted.rows, "; ".join(age_words(quoted.rows, now))))


def get_prices(
    *types: str,
    gpu: str | None = None,
    region: str | Sequence[str] = (),
    cloud: str = "aws",
    days: int = DEFAULT_DAYS,
    offline: bool = False,
    profile: str | None = None,
) -> dict[str, Any]:
    """Return prices of instance types, as `pixel-orch prices -o json` prints them; each says where it comes from.

    Args:
        types: EC2 types.
        gpu: in place of them, all types with this GPU.
        region: one or several, or "all"; those with a recorded price by default.
        cloud: "aws", or "local" for the embedded cloud.
        days: of the spot price history, at most 90.
        offline: ask nobody: cached and recorded prices.
        profile: of ~/.aws/config.

    Raises:
        SpecError: a type, a region or the number of days cannot be.
    """
    home, now = home_from_environment(), SystemClock().now()
    check_days(days, flag="days")
    names = chosen_types(",".join(types) or None, gpu)
    regions = chosen_regions([region] if isinstance(region, str) else list(region))
    quoted = quote(home, check_cloud(cloud), names, regions, now, days=days, is_offline=offline, profile=profile)
    return quoted_json(ranked(cheapest_zones(quoted.rows)), quoted, now, days)


def result(run: str) -> RunResult:
    """Return the result so far of a run of this home.

    Raises:
        SpecError: there is no such run.
    """
    return _result_of(RunStore.open(home_from_environment(), run))


def _result_of(store: RunStore) -> RunResult:
    details = summary_json(store, SystemClock().now())
    return RunResult(
        run=store.run,
        state=details["state"],
        reason=details["reason"],
        steps=details["steps"] or 0,
        cost_usd=details["cost_usd"],
        folder=store.folder,
        checkpoint=Path(details["checkpoint"]) if details["checkpoint"] else None,
        details=details,
    )
