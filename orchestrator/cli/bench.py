"""`bench`: launches each type for a few steps, side by side, and estimates the cost of a training on each.

Each type, and with `--nodes` each group of machines, is an ordinary `launch` in its own process: a failure of one does
not affect the others, each terminates its instances on every exit path, and the launches of a bench that is killed end
by themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from orchestrator.cli.colour import say
from orchestrator.cli.console import Screen, confirm, require_terminal, say_settings
from orchestrator.cli.flags import parser
from orchestrator.cli.report import report_of, write_html
from orchestrator.clock import SystemClock
from orchestrator.cloud.connect import check_credentials, embedded_endpoint, start_embedded
from orchestrator.cloud.quotes import quote
from orchestrator.engine.signals import stop_signals
from orchestrator.errors import SpecError
from orchestrator.formatting import money, number, prose_width
from orchestrator.market.scaling import node_counts
from orchestrator.market.spot_prices import lowest, recorded_regions
from orchestrator.plan.first_look import look
from orchestrator.plan.job import tree_for
from orchestrator.plan.launch_preparation import read_faults, refuse_taken_name
from orchestrator.plan.preview import filled, what_is_sent
from orchestrator.plan.settings import spec_from
from orchestrator.plan.settings_file import FileSettings, Source, read_settings
from orchestrator.plan.validators import check_amount, check_instances, split_command
from orchestrator.report import metrics
from orchestrator.report.bench import (
    BenchRow,
    as_json,
    as_text,
    bench_row,
    beside_estimates,
    common_target,
    gpu_words,
    with_efficiency,
)
from orchestrator.report.groups import named
from orchestrator.report.metrics import Digest
from orchestrator.report.records import Record, record_of
from orchestrator.runs.generations import generations_of
from orchestrator.runs.home import fresh_name, home_from_environment, make_home
from orchestrator.runs.spec import RunSpec, check_name
from orchestrator.runs.store import RunStore

PRINT_LIVE_EVERY_S = 1.0
PRINT_EVERY_S = 10.0
WARMUP_SHARE = 0.2
LOG_LINES = 20  # measurements of the whole bench
MOST_NAME_LENGTH = 40


@dataclass
class Child:
    """The launch of one type, or of one group of machines of it."""

    instance_type: str
    spec: RunSpec
    words: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    nodes: int = 1

    @property
    def label(self) -> str:
        """What is launched, in words."""
        return self.instance_type if self.nodes == 1 else named(self.instance_type, self.nodes)


def bench(args: argparse.Namespace, command: Sequence[str]) -> int:
    """Do `pixel-orch bench`; 0 if every type was measured, 1 if some were not."""
    home, clock = home_from_environment(), SystemClock()
    if args.command_line is not None:
        if command:
            raise SpecError("--command and a command after -- are both given; give one of them")
        command = split_command(args.command_line, "--command")
    if args.steps < 2:
        raise SpecError(f"--steps: {args.steps} is too few; give at least 2, as the first step is warm-up")
    warmup = round(args.steps * WARMUP_SHARE) if args.warmup_steps is None else args.warmup_steps
    if not 0 <= warmup < args.steps:
        raise SpecError(f"--warmup-steps: {warmup} leaves none of {args.steps} steps to measure; give less")
    name = check_name(args.name) if args.name else fresh_name("bench")
    files = read_settings(args.file)
    children = prepare_children(home, name, args, command, files=files)
    faults = read_faults(args.faults, is_embedded=args.cloud == "local")
    say_settings(files.sources)
    _agree(args, children, home, files.sources)
    make_home(home)
    screen = Screen(sys.stderr if args.output == "json" else sys.stdout)
    kept: AbstractContextManager[object] = embedded_endpoint(home) if args.cloud == "local" else nullcontext()
    with kept:
        for fault in faults:
            start_embedded(home).add_fault(fault)
        code = _run(children, home, screen, clock)
    now = clock.now()
    rows, records = _rows(children, home, now, args, warmup)
    _conclude(args, name, rows, records=records, home=home, now=now)
    return code or (0 if all(not row.says for row in rows) else 1)


def prepare_children(
    home: Path, name: str, args: argparse.Namespace, command: Sequence[str], *, files: FileSettings
) -> list[Child]:
    """Return the launches: one for each type and number of machines, with its share of the budget by its machines.

    Raises:
        SpecError: one of them could not work as asked.
    """
    names = check_instances(args.instance or "")
    counts: tuple[int | None, ...] = (None,) if args.nodes is None else node_counts(args.nodes)
    machines = len(names) * sum(count or 1 for count in counts)
    return [
        prepare_child(home, name, one, args, command, share=machines, nodes=count, files=files)
        for one in names
        for count in counts
    ]


def prepare_child(
    home: Path,
    name: str,
    instance_type: str,
    args: argparse.Namespace,
    command: Sequence[str],
    *,
    share: int,
    nodes: int | None = None,
    files: FileSettings | None = None,
) -> Child:
    """Return the launch of one type, its flags checked as `launch` checks them.

    Args:
        home: the orchestrator's folder.
        name: of the bench.
        instance_type: of the catalog.
        args: the flags of `bench`.
        command: of a program of the user's own; empty for the bundled trainer.
        share: the machines of all launches, between which the budget is shared.
        nodes: machines of the launch; None: as the settings say.
        files: the settings of files; None reads them.

    Raises:
        SpecError: the launch could not work as asked.
    """
    end = instance_type.replace(".", "-") + ("" if nodes is None else f"-x{nodes}")
    run = check_name(f"{name[: MOST_NAME_LENGTH - len(end) - 1]}-{end}")
    words = ["launch", "--instance", instance_type, "-n", run, "-y", "-o", "json"]
    words += ["--spot"] if args.spot else []
    words += ["--on-demand"] if args.on_demand else []
    for key in ("cloud", "profile", "workdir", "max_price", "ami", "env_file", "file"):
        value = getattr(args, key)
        words += [] if value is None else ["--" + key.replace("_", "-"), value]
    for key in ("region", "subnet", "env"):
        for value in getattr(args, key) or []:
            words += ["--" + key, value]
    files = read_settings(args.file) if files is None else files
    asked = args.budget if args.budget is not None else files.values.get("budget")
    if asked is not None:
        budget = check_amount(asked, flag="--budget", example="5")
        words += ["--budget", str((budget * (nodes or 1) / share).quantize(Decimal("0.000001")))]
    words += _trainer_words(args) if not command else []
    given = parser().parse_args(words)
    group = {} if nodes is None else {"nodes": str(nodes)}
    spec = spec_from({**vars(given), **group}, command, files)
    refuse_taken_name(home, run)
    words += [] if nodes is None else ["--nodes", str(nodes)]
    after = ["--", *command] if command else []
    log = home / "benches" / name / f"{instance_type}{'' if nodes is None else f'-x{nodes}'}.log"
    return Child(instance_type, spec, [*words, *after], log, nodes=spec.group.max_nodes)


def _trainer_words(args: argparse.Namespace) -> list[str]:
    """Return the bundled trainer's flags: it measures often and draws no samples."""
    given = {text.partition("=")[0].strip() for text in args.set or []}
    own = {
        "log_every": max(1, args.steps // LOG_LINES),
        "validate_every": max(1, args.steps // 4),
        "samples": 0,
    }
    words = ["--steps", str(args.steps)]
    words += [] if "checkpoint_every" in given else ["--checkpoint-every", str(args.steps)]
    for flag, value in (("--model", args.model), ("--dataset", args.dataset), ("--data-bucket", args.data_bucket)):
        words += [] if value is None else [flag, value]
    for text in args.prepare or []:
        words += ["--prepare", text]
    for text in [*(args.set or []), *(f"{key}={value}" for key, value in own.items() if key not in given)]:
        words += ["--set", text]
    return words


def _agree(args: argparse.Namespace, children: Sequence[Child], home: Path, sources: Sequence[Source]) -> None:
    """Show what would be rented and ask, unless `-y` is given.

    Raises:
        SpecError: stdin is not a terminal, or the answer is no.
    """
    if children[0].spec.cloud == "aws":
        from orchestrator.plan.planner import refuse_retired

        for child in children:
            refuse_retired(child.spec)
        check_credentials(args.profile)
    if args.yes:
        return
    require_terminal()
    names = list(dict.fromkeys(child.instance_type for child in children))
    now = SystemClock().now()
    best = lowest(quote(home, "aws", names, recorded_regions(names), now, is_offline=True).rows)
    for name in names:
        print(f"{name:14} lowest spot price known ${money(best[name].rank_usd_h if name in best else None)}/h")
    spec, tree = children[0].spec, tree_for(children[0].spec)
    for line in what_is_sent(spec, tree, sources, look(spec, tree)):
        print(filled(line))
    limit = f", at most ${args.budget}" if args.budget else ""
    machines = sum(child.nodes for child in children)
    several = "" if machines == len(names) else f" ({', '.join(child.label for child in children)})"
    if not confirm(f"Rent {machines} instances side by side{several}{limit}?", default=True):
        raise SpecError("not started; nothing was created")


def _run(children: Sequence[Child], home: Path, screen: Screen, clock: SystemClock) -> int:
    """Start all launches and wait until the last has ended; none is left behind. Return 130 if interrupted."""
    code, told_at, passed_on = 0, 0.0, 0
    received: list[str] = []
    try:
        with stop_signals(lambda name, count: received.append(name)):
            for child in children:
                child.log.parent.mkdir(parents=True, exist_ok=True)
                with child.log.open("wb") as log:
                    child.process = subprocess.Popen(
                        [sys.executable, "-m", "orchestrator.cli", *child.words],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,  # Ctrl-C reaches this process, which passes it on
                        env={**os.environ, "PIXEL_ORCH_HOME": str(home), "PYTHONPATH": _path()},
                    )
            what = "types" if all(child.nodes == 1 for child in children) else "groups"
            screen.line(f"{len(children)} {what} side by side: {', '.join(child.label for child in children)}")
            while any(child.process is not None and child.process.poll() is None for child in children):
                if len(received) > passed_on:
                    passed_on, code = len(received), 130
                    screen.line("Stopping: every instance is terminated. (Again: at once.)")
                    _signal(children, signal.SIGINT)
                if clock.now() - told_at >= (PRINT_LIVE_EVERY_S if screen.is_terminal else PRINT_EVERY_S):
                    told_at = clock.now()
                    _print_states(children, home, screen)
                clock.sleep(0.2)
    finally:
        _signal(children, signal.SIGTERM)
        for child in children:
            if child.process is not None:
                child.process.wait()
        _end_what_is_left(children, home)
    return code


def _path() -> str:
    own = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    return f"{own}{os.pathsep}{before}" if before else own


def _signal(children: Sequence[Child], number: int) -> None:
    for child in children:
        if child.process is not None and child.process.poll() is None:
            os.kill(child.process.pid, number)


def _print_states(children: Sequence[Child], home: Path, screen: Screen) -> None:
    words = []
    for child in children:
        state = RunStore(home, child.spec.run).state()
        words.append(f"{child.label} {state.state.lower() or 'starting'} {number(state.step)}")
    text = "; ".join(words)
    if screen.is_terminal:
        screen.live(text)
    else:
        screen.line(text)


def _end_what_is_left(children: Sequence[Child], home: Path) -> None:
    """End the runs of launches that were killed: their instances may still be running."""
    left = []
    for child in children:
        store = RunStore(home, child.spec.run)
        if (store.folder / "spec.json").exists() and not store.state().is_final:
            left.append(child.spec.run)
    if left:
        words = [sys.executable, "-m", "orchestrator.cli", "down", *left, "-y"]
        environment = {**os.environ, "PIXEL_ORCH_HOME": str(home), "PYTHONPATH": _path()}
        subprocess.run(words, env=environment, check=False, stdout=subprocess.DEVNULL)


def _rows(
    children: Sequence[Child], home: Path, now: float, args: argparse.Namespace, warmup: int
) -> tuple[list[BenchRow], list[Record]]:
    records: dict[str, Record] = {}
    digests: dict[str, Digest] = {}
    attempts: dict[str, int | None] = {}
    for child in children:
        store = RunStore(home, child.spec.run)
        if (store.folder / "spec.json").exists():
            records[child.spec.run] = record_of(store, now)
            attempts[child.spec.run], digests[child.spec.run] = _digest(store, warmup, child.spec)
    target = args.target if args.target is not None else common_target(list(digests.values()))
    rows = []
    for child in children:
        record = records.get(child.spec.run)
        digest = digests.get(child.spec.run, Digest())
        rows.append(
            bench_row(
                child.instance_type,
                record.row if record else None,
                digest,
                full_steps=args.full_steps or _full_steps(child.spec),
                target_bits=target,
                says=_says(child, record, digest),
                gpu=_gpu(record),
                attempt=attempts.get(child.spec.run),
                nodes=child.nodes,
            )
        )
    return beside_estimates(with_efficiency(rows), children[0].spec.trainer), list(records.values())


def _digest(store: RunStore, warmup: int, spec: RunSpec) -> tuple[int | None, Digest]:
    """Digest the metrics of the attempt with the most measurements; return its number too."""
    is_own = spec.trainer is None
    found: list[tuple[int | None, Digest]] = [
        (one.number, metrics.read(store.metrics_path(one.lead.number), skip_until_step=warmup, is_own=is_own))
        for one in generations_of(store.state())
    ]
    return max(found, key=lambda one: (one[1].measured, one[1].lines), default=(None, Digest()))


def _full_steps(spec: RunSpec) -> int | None:
    """Return the steps of a whole training: the default of the bundled trainer's settings."""
    return None if spec.trainer is None else int(type(spec.trainer).model_fields["steps"].default)


def _says(child: Child, record: Record | None, digest: Digest) -> str:
    """Return why a type has no figures or did not succeed; "" if it did."""
    if record is not None and record.row.state == "SUCCEEDED":
        return "; ".join(digest.problems) if digest.images_per_s is None and digest.steps_per_s is None else ""
    if record is not None and record.row.reason:
        return f"{record.row.state}: {record.row.reason.splitlines()[0]}"
    return _last_words(child.log)


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    last = next((line for line in reversed(lines) if "error:" in line), lines[-1] if lines else "it did not start")
    return last.partition("error: ")[2] or last


def _gpu(record: Record | None) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for attempt in record.state.attempts if record else []:
        facts = dict(attempt.gpu) or facts
    return facts


def _conclude(
    args: argparse.Namespace, name: str, rows: list[BenchRow], *, records: list[Record], home: Path, now: float
) -> None:
    built = report_of(records, home, now, "hour-start")
    asked = {row.instance_type for row in rows}
    is_embedded = any(row.is_embedded for row in rows)
    predicted = [row for row in built.predicted if row.instance_type in asked] if is_embedded else []
    notes = _notes(rows, args, built.notes, is_embedded=is_embedded)
    if args.html:
        write_html(Path(args.html), built, records, home)
        notes.append(f"Page: {args.html}")
    notes.append(f"Runs: pixel-orch report {' '.join(record.row.run for record in records)}")
    if args.output == "json":
        print(json.dumps(as_json(name, rows, predicted, notes), allow_nan=False))
        return
    print()
    filled_notes = [textwrap.fill(note, prose_width(), break_on_hyphens=False) for note in notes]
    say(as_text(rows, predicted, filled_notes), is_plain=args.plain)


def _notes(rows: Sequence[BenchRow], args: argparse.Namespace, own: Sequence[str], *, is_embedded: bool) -> list[str]:
    billed = sum((row.billed_usd for row in rows), Decimal(0))
    share = args.warmup_steps if args.warmup_steps is not None else round(args.steps * WARMUP_SHARE)
    notes = [
        f"Steady state: the first {share} of {args.steps} steps are warm-up. EST is for a whole training"
        + (f" of {args.full_steps:,} steps." if args.full_steps else " of the trainer's default length."),
        f"The bench itself was billed ${money(billed)}, disks included.",
    ]
    notes += _group_notes(rows)
    facts = [f"{row.label}: {gpu_words(row)}" for row in rows if row.gpu]
    if facts:
        notes.append("GPUs: " + "; ".join(facts) + ".")
    if is_embedded:
        notes.append("The embedded cloud measures this machine, whatever the type; compare the predicted figures.")
    return [*notes, *own]


def _group_notes(rows: Sequence[BenchRow]) -> list[str]:
    """Say what the figures of groups are, where there are groups of several machines."""
    if all(row.nodes == 1 for row in rows):
        return []
    notes = ["$ are of all machines of a group. EFF is images/s of a machine over that in the smallest group measured."]
    whys: dict[str, list[str]] = {}
    for row in rows:
        if row.estimate_basis:
            has_figure = row.estimated_images_per_s is not None
            why = f"one GPU is {row.estimate_basis}" if has_figure else f"none, {row.estimate_basis}"
            whys.setdefault(why, []).append(row.label)
    notes += [f"Estimate for {', '.join(labels)}: {why}." for why, labels in whys.items()]
    if not whys:
        notes.append("There is no estimate for a program of your own: its gradients are not known.")
    return notes
