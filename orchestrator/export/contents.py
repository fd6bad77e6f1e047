"""What a tracker gets of a run: read from its folder alone, under names that it takes, without secrets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.export.names import Secrets, safe_name
from orchestrator.export.points import Point, points_of
from orchestrator.formatting import cut
from orchestrator.report.bill import bill_of
from orchestrator.report.records import record_of
from orchestrator.report.rows import RunRow
from orchestrator.report.summary import samples_of
from orchestrator.runs.files import read_bounded
from orchestrator.runs.home import home_id
from orchestrator.runs.spec import EMBEDDED_TITLE, RunSpec
from orchestrator.runs.state import RunState
from orchestrator.runs.store import RunStore
from orchestrator.version import VERSION

MOST_SAMPLES = 8  # grids
MOST_SAMPLE_BYTES = 1 << 20
PNG = b"\x89PNG\r\n\x1a\n"
MOST_REASON = 200


@dataclass(frozen=True)
class Samples:
    """A grid of samples."""

    step: int
    name: str
    png: bytes


@dataclass(frozen=True)
class Contents:
    """A run as it is written into a tracker."""

    id: str  # the same at each export: by it the tracker's run is found again
    run: str
    state: str
    is_over: bool
    is_embedded: bool
    began_at: float  # unix seconds
    seen_at: float  # of the newest event
    steps: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    figures: Mapping[str, float]  # of the bill, and of the whole run
    curves: Mapping[str, tuple[Point, ...]]
    settled_step: int | None = None  # None: no step will be trained again; else: none up to this one
    samples: tuple[Samples, ...] = field(default=(), repr=False)

    @property
    def settled(self) -> dict[str, tuple[Point, ...]]:
        """The points that no later export contradicts, for a tracker that cannot replace one."""
        last = self.settled_step
        if last is None:
            return dict(self.curves)
        some = {name: tuple(one for one in points if one.step <= last) for name, points in self.curves.items()}
        return {name: points for name, points in some.items() if points}


def contents_of(store: RunStore, now: float) -> Contents:
    """Return what is exported of a run as of now.

    Args:
        store: of the run; reading it needs no lock.
        now: unix seconds.

    Raises:
        SpecError: the run cannot be read.
    """
    spec, record = store.spec(), record_of(store, now)
    state, secrets = record.state, Secrets(spec.env)
    curves = points_of(store, state)
    settled = None if state.is_final else max([0, *state.checkpoints, *state.stored])
    return Contents(
        id=_id(store, state),
        run=spec.run,
        state=state.state,
        is_over=state.is_final,
        is_embedded=spec.is_embedded,
        began_at=state.created_at,
        seen_at=max(state.updated_at, state.created_at),
        steps=record.row.steps,
        params=_params(spec, state, secrets),
        tags=_tags(spec, record.row, secrets),
        figures=_figures(record.row),
        curves={safe_name(secrets.hide(name)): points for name, points in curves.items()},
        settled_step=settled,
        samples=_samples(store),
    )


def _id(store: RunStore, state: RunState) -> str:
    """Return the run's id: its name and a hash. Another home has another, and so has a later run of the same name."""
    text = f"{home_id(store.home, write=False)} {store.run} {state.created_at}"
    return f"{store.run}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _params(spec: RunSpec, state: RunState, secrets: Secrets) -> dict[str, str]:
    """Return what the run was asked to do. Only what is named here leaves this machine."""
    first = state.attempts[0] if state.attempts else None
    asked: dict[str, object] = {
        "instance_type": first.instance_type if first else ",".join(spec.instances),
        "market": first.market if first else spec.market,
        "region": first.region if first else ",".join(spec.regions),
        "cloud": EMBEDDED_TITLE if spec.is_embedded else "AWS",
        "pixel_orch_version": VERSION,
    }
    if spec.trainer is not None:
        asked |= {f"trainer.{key}": value for key, value in spec.trainer.model_dump(exclude={"facts"}).items()}
        asked["seed"] = spec.trainer.seed
    else:
        asked["folder"] = Path(spec.workdir).name if spec.workdir else ""
        asked["image"] = spec.program.image or ""
    found = {key: secrets.hide(value) for key, value in asked.items()}
    if spec.command:
        found["command"] = secrets.words(spec.command)
    return {key: value for key, value in found.items() if value}


def _tags(spec: RunSpec, row: RunRow, secrets: Secrets) -> dict[str, str]:
    """Return what changes while a run goes on, or when it is resumed."""
    machines = [f"{a.machines} {a.market} {a.zone}" for a in row.attempts]
    limits = spec.limits
    tags: dict[str, object] = {
        "state": row.state,
        "reason": cut(secrets.hide(row.reason), MOST_REASON),  # hidden first: half of a secret is one too
        "attempts": len(row.attempts),
        "interruptions": row.interruptions,
        "machines": "; ".join(machines),
        "device": row.device,
        "unit": row.unit,
        "metrics_source": row.metrics_source,
        "bill_is_estimate": "yes" if row.is_estimate else "no",
        "budget_usd": "" if limits.budget_usd is None else limits.budget_usd,
        "s3": f"s3://{spec.bucket}/{spec.bucket_prefix}" if spec.bucket else "",
        "report": f"pixel-orch report {spec.run}",
    }
    if spec.is_embedded:
        tags["note"] = "embedded cloud: nothing was paid; the speed is that of a CPU on the user's machine"
    return {key: text for key, value in tags.items() if (text := secrets.hide(value))}


def _figures(row: RunRow) -> dict[str, float]:
    """Return the bill and the figures of the whole run; those that are not known are left out."""
    bill = bill_of(row)
    figures = {f"bill/{part}_usd": value for part, value in bill.items() if part != "is_estimate"}
    on_demand = bill["on_demand"]
    if on_demand is not None:
        figures["bill/saving_usd"] = float(on_demand) - float(row.cost_usd)
    figures |= {
        "run/images_per_s": row.images_per_s,
        "run/seconds_per_step": row.seconds_per_step,
        "run/usd_per_step": None if row.usd_per_step is None else float(row.usd_per_step),
        "run/machine_s": row.machine_s,
        "run/interruptions": row.interruptions,
        "run/steps_lost": row.steps_lost,
    }
    return {name: float(value) for name, value in figures.items() if value is not None}


def _samples(store: RunStore) -> tuple[Samples, ...]:
    """Return the newest grids of samples, those that are pictures and small enough."""
    found = []
    for step, path in samples_of(store)[-MOST_SAMPLES:]:
        with suppress(OSError):
            png = read_bounded(path, MOST_SAMPLE_BYTES)
            if png.startswith(PNG):
                found.append(Samples(step, path.name, png))
    return tuple(found)
