"""The summary of a run, read from its folder alone: one JSON object for programs, one text for people."""

from __future__ import annotations

import os
import re
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.clock import iso
from orchestrator.errors import SpecError
from orchestrator.formatting import (
    counted,
    figure,
    megabytes,
    money,
    number,
    one_line,
    price,
    prose_width,
    span,
    table,
    wrapped,
)
from orchestrator.report import build
from orchestrator.report.as_of import seen_at
from orchestrator.report.gpu_use import gpu_words
from orchestrator.report.records import row_of
from orchestrator.report.rows import MemberRow, RunRow
from orchestrator.report.series import main_keys
from orchestrator.report.text import duration_words, start_of
from orchestrator.runs import bounded_json
from orchestrator.runs.checked import is_step
from orchestrator.runs.files import open_regular
from orchestrator.runs.state import RunState
from orchestrator.runs.store import RunStore

MOST_VALUES = 6  # that a person is shown
TAIL_BYTES = 1 << 14  # holds the last lines of a metrics file
SAMPLES_NAME = re.compile(r"samples-([0-9]{1,12})\.png")


def newest_checkpoint(store: RunStore) -> Path | None:
    """Return the newest downloaded checkpoint whose digest is right."""
    for _, pulled in sorted(store.state().checkpoints.items(), reverse=True):
        if store.is_whole(pulled):
            return store.checkpoint_path(pulled)
    return None


def summary_json(store: RunStore, now: float) -> dict[str, Any]:
    """Return the one object that `launch -o json` prints last. Fields are never removed; new ones may be added."""
    row = row_of(store, now)
    checkpoint = newest_checkpoint(store)
    samples = newest_samples(store)
    return {
        "run": row.run,
        "state": row.state,
        "reason": row.reason,
        "cloud": row.cloud,
        "attempts": [
            {
                "instance_id": a.instance_id,
                "instance_type": a.instance_type,
                "zone": a.zone,
                "region": a.region,
                "market": a.market,
                "price_usd_h": float(a.price_usd_h),
                "started_at": iso(a.started_at),
                "ended_at": iso(a.ended_at) if a.ended_at is not None else None,
                "ended_by": a.ended_by,
                "first_step": a.first_step,
                "last_step": a.last_step,
                "images_per_s": a.images_per_s,
                "billed_usd": float(a.billed_usd),
                "nodes": a.nodes,
                "members": [member_json(one) for one in a.members],
            }
            for a in row.attempts
        ],
        "checkpoint": str(checkpoint) if checkpoint else None,
        "samples": str(samples) if samples else None,
        "outputs": _outputs_json(store),
        "steps": row.steps if row.is_measured else None,
        "steps_are": "epochs" if row.unit == "epoch" else "steps",
        "seconds_per_step": row.seconds_per_step,
        "usd_per_step": None if row.usd_per_step is None else float(row.usd_per_step),
        "usd_per_epoch": None if row.usd_per_epoch is None else float(row.usd_per_epoch),
        "metrics_source": row.metrics_source or None,
        "metrics": dict(row.values),
        "images_per_s": row.images_per_s or 0.0,
        "cost_usd": float(row.cost_usd),
        "cost_is_estimate": row.is_estimate,
        "data_s": row.data_s,
        "data_usd": float(row.data_usd),
        "setup": next((a.user_setup_how for a in reversed(store.state().attempts) if a.user_setup_how), None),
        "user_setup_s": row.user_setup_s,
        "user_setup_usd": float(row.user_setup_usd),
        "device": row.device,
        "interruptions": row.interruptions,
        "deadline": _deadline_json(store),
        "folder": str(store.folder),
    }


def member_json(one: MemberRow) -> dict[str, Any]:
    """Return one machine of an attempt. `billed_usd` over all members of all attempts adds up to the run's cost."""
    return {
        "instance_id": one.instance_id,
        "rank": one.rank,
        "instance_type": one.instance_type,
        "zone": one.zone,
        "market": one.market,
        "price_usd_h": float(one.price_usd_h),
        "started_at": iso(one.started_at),
        "ended_at": None if one.ended_at is None else iso(one.ended_at),
        "ended_by": one.ended_by,
        "lost_because": one.lost_because or None,
        "billed_usd": float(one.billed_usd),
    }


def _outputs_json(store: RunStore) -> dict[str, Any] | None:
    """Return the newest state of the outputs here, None if there is none."""
    state = store.state()
    if state.outputs is None:
        return None
    lost = [attempt.outputs_lost for attempt in state.attempts if attempt.outputs_lost is not None]
    return {
        "folder": str(store.outputs),
        "files": state.outputs.all_files,
        "bytes": state.outputs.all_bytes,
        "lost_files": sum(one.files for one in lost),
    }


def defects_of(store: RunStore, now: float) -> list[str]:
    """Return what of a run cannot be read or cannot be right, one line each."""
    seen = seen_at(store.state(), now)
    return [*store.defects(seen.state), *seen.remarks]


def steps_done(store: RunStore, state: RunState) -> int:
    """Return the last step known here: from events and checkpoints and, until the run ends, from its metrics."""
    known = max((attempt.last_step for attempt in state.attempts), default=0)
    if state.is_final or not state.attempts:
        return known
    lead = state.lead or state.attempts[-1]
    return max([known, *_last_steps(store.metrics_path(lead.number))])


def _last_steps(path: Path) -> list[int]:
    """Return the steps in the last lines of a metrics file; incomplete lines are skipped."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    return [step for line in bounded_json.objects(lines) if is_step(step := line.get("step"))]


def newest_samples(store: RunStore) -> Path | None:
    """Return the newest sample grid that is downloaded."""
    found = samples_of(store)
    return found[-1][1] if found else None


def samples_of(store: RunStore) -> list[tuple[int, Path]]:
    """Return (step, path) of the sample grids that are downloaded, by step; no link, folder or other name counts."""
    found = []
    with suppress(OSError):
        for entry in os.scandir(store.folder):
            name = SAMPLES_NAME.fullmatch(entry.name)
            if name is not None and entry.is_file(follow_symlinks=False):
                found.append((int(name[1]), store.folder / entry.name))
    return sorted(found)


def summary_text(store: RunStore, now: float) -> str:
    """Return the summary that a terminal shows at the end of a run, no wider than the terminal."""
    row, width = row_of(store, now), prose_width()
    head = ["ATT", "TYPE", "ZONE", "$/H", "STEPS", "IMAGES/S", "ENDED BY", "BILLED $"]
    rows = [
        [
            str(a.number),
            a.machines,
            a.zone,
            price(float(a.usd_h)),
            f"{a.first_step}-{a.last_step}" if a.last_step >= a.first_step else "-",
            number(a.images_per_s),
            a.ended_by or "-",
            ("~" if a.is_estimate else "") + money(a.billed_usd) + ("*" if a.has_free else ""),
        ]
        for a in row.attempts
    ]
    title = f"{row.run}: {row.state}" + (f" ({row.reason.splitlines()[0]})" if row.reason else "")
    lines = ["", wrapped(title, width, indent="  "), ""]
    if rows:
        lines += [
            table(head, rows, right="ATT $/H STEPS IMAGES/S BILLED $", drop=("ZONE", "$/H", "ENDED BY", "IMAGES/S")),
            "",
        ]
    lines += member_lines(row, now)
    quality = (
        f", {row.nats:.2f} nats, {row.bits_per_dim:.3f} bits/dim (validation)" if row.nats and row.bits_per_dim else ""
    )
    lines += _training_lines(row, quality, width)
    lines += [wrapped(line, width, indent=" " * 12) for line in _cost_lines(store, row)]
    checkpoint, samples = newest_checkpoint(store), newest_samples(store)
    outputs = store.state().outputs
    if outputs is not None:
        size = f"{counted(outputs.all_files, 'file')}, {megabytes(outputs.all_bytes)}"
        lines.append(f"outputs     {size}: {store.outputs}")
    lines += _node_lines(store)
    if checkpoint or outputs is None:
        lines.append(f"checkpoint  {checkpoint or 'none'}")
    if samples:
        lines.append(f"samples     {samples}")
    lines.append(f"report      pixel-orch report {row.run}")
    lines += [wrapped(f"problem     {defect}", width, indent=" " * 12) for defect in defects_of(store, now)]
    lines += ["", *(textwrap.fill(note, width) for note in build([row], now).notes)]
    return "\n".join(lines)


def member_lines(row: RunRow, now: float) -> list[str]:
    """Return each machine of the newest attempt of a group, and what is known of slow ones; [] without a group."""
    newest = row.attempts[-1] if row.attempts else None
    if newest is None or not newest.is_group or len(newest.members) < 2:
        return []
    head = ["NODE", "INSTANCE", "ZONE", "MARKET", "STATE", "SINCE", "BILLED $"]
    cells = [
        [
            "-" if one.rank is None else str(one.rank),
            one.instance_id,
            one.zone,
            one.market,
            one.state,
            span(max(0.0, now - one.state_since)),
            ("~" if one.ended_at is None else "") + money(one.billed_usd) + ("*" if one.is_free else ""),
        ]
        for one in newest.members
    ]
    lines = [f"Attempt {newest.number}: its machines"] if len(row.attempts) > 1 else []
    lines.append(table(head, cells, right="NODE SINCE BILLED $", drop=("ZONE", "MARKET", "BILLED $", "SINCE")))
    width = prose_width()
    lines += [wrapped(f"{one.words[0].upper()}{one.words[1:]}", width, indent="  ") for one in newest.slow_nodes]
    return [*lines, ""]


def _cost_lines(store: RunStore, row: RunRow) -> list[str]:
    """Return what was paid for what, and how the GPU was used."""
    lines = [f"cost        {'~' if row.is_estimate else ''}${money(row.cost_usd)} {duration_words(row)}"]
    if row.on_demand_usd:
        other_usd = row.volume_usd + row.address_usd + row.data_out_usd
        lines.append(f"            of which ${money(other_usd)} for disk, address and data out")
        if any(a.has_free for a in row.attempts):
            lines.append("            *: AWS does not bill an instance that it interrupts in its first hour")
        lines.append(f"            on-demand price of the same time: ${money(row.on_demand_usd)}")
    if row.to_first_step_usd:
        lines.append(f"            before {start_of([row])} (boot, set-up): ${money(row.to_first_step_usd)}")
    if row.group_wait_s >= 1:
        waited = f"${money(row.group_wait_usd)} for {span(row.group_wait_s)} of machine time"
        lines.append(f"            waiting for the group: {waited}")
    if row.data_s:
        lines.append(f"data        ready after {row.data_s:.1f} s of set-up: ${money(row.data_usd)} of the cost")
    if row.user_setup_s:
        lines.append(f"setup       {row.user_setup_s:.1f} s of your own: ${money(row.user_setup_usd)} of the cost")
    due = deadline_words(store)
    if due:
        lines.append(f"deadline    {due}")
    gpu = next((words for one in reversed(store.state().attempts) if (words := gpu_words(one.gpu))), "")
    if gpu:
        lines.append(f"gpu         {gpu}")
    return lines


def deadline_words(store: RunStore) -> str:
    """Return whether a deadline was kept, "" for a run without one."""
    kept = _deadline_json(store)
    if kept is None:
        return ""
    when = f"{kept['at']} (policy {kept['policy']})"
    early_s = kept["early_s"]
    if early_s is None:
        return f"{when}: not done yet"
    return f"{when}: kept, {span(early_s)} early" if early_s >= 0 else f"{when}: missed by {span(-early_s)}"


def _deadline_json(store: RunStore) -> dict[str, Any] | None:
    """Return the deadline of a run and by how much it was kept (below zero: missed), None without one."""
    try:
        deadline = store.spec().deadline
    except SpecError:
        return None
    if deadline is None:
        return None
    state = store.state()
    early_s = deadline.at - state.updated_at if state.state == "SUCCEEDED" else None
    return {"at": iso(deadline.at), "policy": deadline.policy, "early_s": early_s}


def _node_lines(store: RunStore) -> list[str]:
    """Return where the outputs of the other nodes of a group are."""
    others = sorted((rank, one) for rank, one in store.state().node_outputs.items() if rank and one.all_files)
    return [
        f"  node {rank:<4} {counted(one.all_files, 'file')}, {megabytes(one.all_bytes)}: "
        f"{store.node_folder(rank) / store.outputs.name}"
        for rank, one in others
    ]


def _training_lines(row: RunRow, quality: str, width: int) -> list[str]:
    """Return what was trained, how fast, and what the program measured."""
    if not row.is_measured:
        lines = [wrapped(f"metrics     {_unmeasured_words(row)}", width, indent=" " * 12)]
    else:
        lines = [
            f"{'epochs' if row.unit == 'epoch' else 'steps '}      {row.steps}{quality}",
            f"speed       {_speed_words(row)}",
        ]
        lines = [wrapped(line, width, indent=" " * 12) for line in lines]
    shown = [f"{one_line(key)} {figure(row.values[key])}" for key in main_keys(row.values)[:MOST_VALUES]]
    if shown:
        lines.append(wrapped(f"values      {', '.join(shown)}", width, indent=" " * 12))
    if row.metrics_source:
        lines.append(wrapped(f"read from   {one_line(row.metrics_source)}", width, indent=" " * 12))
    return lines


def _unmeasured_words(row: RunRow) -> str:
    if row.values:
        return "without steps: the program tells none"
    return "none found, so that steps and speed are not known (see docs/report.md)"


def _speed_words(row: RunRow) -> str:
    if row.images_per_s is not None:
        return f"{number(row.images_per_s)} images/s on {row.device or 'an unnamed device'}"
    if row.seconds_per_step is None:
        return "none: no step was trained" if row.is_untrained else "not measured"
    if row.unit == "epoch":
        return f"{number(row.seconds_per_step)} s and ${money(row.usd_per_step)} an epoch"
    words = f"{number(1 / row.seconds_per_step)} steps/s, ${money(row.usd_per_1000_steps)} for 1,000 steps"
    return f"{words}, ${money(row.usd_per_epoch)} an epoch" if row.usd_per_epoch else words
