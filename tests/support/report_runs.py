"""Writes run folders for tests: events and metrics as the engine and a trainer write them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.config import TrainConfig
from orchestrator.runs.events import (
    CheckpointPulled,
    Event,
    InstanceEnded,
    InstanceStarted,
    InterruptionNoticed,
    PriceSeen,
    Progress,
    RunCreated,
    StateChanged,
    TrainerStarted,
)
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore

BORN = 1_790_000_000.0
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f61738"
    "550000000049454e44ae426082"
)


@dataclass
class Had:
    """One attempt to write."""

    instance_type: str = "g4dn.xlarge"
    market: str = "spot"
    price_usd_h: float = 0.21
    zone: str = "us-east-1a"
    first_step: int = 1
    last_step: int = 100
    images_per_s: float = 1000.0
    seconds: float = 1800.0
    ended_by: str | None = "pixel-orch"
    reason: str = ""
    lines: list[str] | None = None  # the lines of the metrics; None: generated
    extra: list[Event] = field(default_factory=list)


def write_run(home: Path, name: str, attempts: list[Had], *, cloud: str = "AWS", born: float = BORN,
              **spec: Any) -> RunStore:  # fmt: skip
    """Write a run's folder and return its store."""
    asked: dict[str, Any] = {
        "run": name,
        "cloud": "aws" if cloud == "AWS" else "local",
        "instances": tuple(had.instance_type for had in attempts) or ("g4dn.xlarge",),
        "market": attempts[0].market if attempts else "spot",
        "regions": ("us-east-1",),
        "trainer": TrainConfig(steps=1000),
    }
    store = RunStore.create(home, RunSpec(**{**asked, **spec}))
    events: list[Event] = [RunCreated(at=born, run=name, cloud=cloud)]
    at = born + 10
    for number, had in enumerate(attempts, 1):
        events += _events(number, had, at)
        folder = store.attempt_folder(number)
        if had.lines is None or had.lines:
            text = "\n".join(metrics(had, at) if had.lines is None else had.lines)
            (folder / "metrics.jsonl").write_text(text + "\n")
        at += had.seconds + 30
    if attempts and attempts[-1].ended_by:
        events.append(StateChanged(at=at, state="SUCCEEDED"))
    with (store.folder / "events.jsonl").open("w") as file:
        for event in events:
            file.write(json.dumps(event.to_json(), separators=(",", ":")) + "\n")  # as `RunStore.append` does
    return store


def _events(number: int, had: Had, at: float) -> list[Event]:
    name = f"i-{number}"
    events: list[Event] = [
        InstanceStarted(
            at=at, attempt=number, instance_id=name, instance_type=had.instance_type, zone=had.zone,
            region=had.zone[:-1], market=had.market, price_usd_h=had.price_usd_h, disk_gib=100, public_addresses=1,
        ),
        TrainerStarted(at=at + 60, attempt=number, resumed_from=had.first_step - 1),
        Progress(at=at + 70, attempt=number, step=had.last_step, device="NVIDIA T4"),
        CheckpointPulled(
            at=at + 80, attempt=number, step=had.last_step, name=f"checkpoint-{had.last_step}.pt", sha256="0",
            size_bytes=5_000_000,
        ),
        *had.extra,
    ]  # fmt: skip
    if had.market == "spot":
        hours = range(math.ceil(had.seconds / 3600))
        events += [PriceSeen(at=at + 90, attempt=number, hour=h, price_usd_h=had.price_usd_h) for h in hours]
    if had.ended_by == "aws":
        events.append(InterruptionNoticed(at=at + 100, attempt=number, instance_id=name, ends_at=at + had.seconds))
    if had.ended_by:
        events.append(
            InstanceEnded(
                at=at + had.seconds, attempt=number, instance_id=name, ended_at=at + had.seconds,
                ended_by=had.ended_by, reason=had.reason or "Server.SpotInstanceTermination" * (had.ended_by == "aws"),
            )  # type: ignore[arg-type]
        )  # fmt: skip
    return events


def metrics(had: Had, at: float) -> list[str]:
    """Return a trainer's metrics: the first step slow, the others steady; a validation every 50 steps."""
    start = {"event": "start", "device_name": "NVIDIA T4", "batch_size": 32, "images_per_epoch": 1257,
             "resumed_from": had.first_step - 1}  # fmt: skip
    lines: list[dict[str, Any]] = [start]
    wall_s = 5.0
    for step in range(had.first_step, had.last_step + 1):
        wall_s += 32 / had.images_per_s
        bits = 2 + 3 / step
        speed = had.images_per_s / (10 if step == had.first_step else 1)
        lines.append({"step": step, "nats": 88.7 * bits, "bits_per_dim": bits, "images_per_s": speed,
                      "wall_s": round(wall_s, 6), "time": at + 60 + wall_s})  # fmt: skip
        if step % 50 == 0:
            lines.append({"step": step, "split": "valid", "nats": 89 * bits, "bits_per_dim": bits + 0.01})
    return [json.dumps(line) for line in lines]
