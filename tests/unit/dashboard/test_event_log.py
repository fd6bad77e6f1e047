"""Events that are passed over change nothing of the state."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from orchestrator.dashboard import event_log
from orchestrator.dashboard.event_log import EventLog, telling
from orchestrator.runs.events import CheckpointPulled, Event, GpuSeen, Progress, StateChanged, TrainerStarted
from tests.support.report_runs import BORN, Had, write_run


def a_story(seed: int) -> list[Event]:
    """Return events in which now and then a step, the time or the device goes back."""
    chance = random.Random(seed)
    told: list[Event] = []
    at, step = BORN + 100.0, 0
    for _ in range(chance.randrange(1, 60)):
        at += chance.choice([10, 10, 10, 0.25, -500])
        step = max(0, step + chance.choice([5, 5, 5, 0, -30]))
        number = chance.choice([1, 1, 1, 2, 3])
        device = chance.choice(["T4", "T4", None])
        told.append(
            chance.choice(
                [
                    Progress(at=at, attempt=number, step=step, device=device, values={"loss": chance.random()}),
                    Progress(at=at, attempt=number, step=step, device=device, images_per_s=1.5, unit="epoch"),
                    GpuSeen(at=at, attempt=number, facts={"name": "T4", "looks": step}),
                    StateChanged(at=at, state=chance.choice(["RUNNING", "RECOVERING"])),
                    TrainerStarted(at=at, attempt=number, resumed_from=step),
                    CheckpointPulled(
                        at=at, attempt=number, step=step, name=f"checkpoint-{step}.pt", sha256="0", size_bytes=1
                    ),
                ]
            )
        )
    return told


@pytest.mark.parametrize("seed", range(200))
def test_the_state_is_that_of_all_events(home: Path, seed: int) -> None:
    had = Had(ended_by="aws", extra=a_story(seed))
    store = write_run(home, "one", [had, Had(first_step=50, ended_by=None, extra=a_story(seed + 1000))])
    log = EventLog(store)
    log.look()
    assert log.state == store.state()
    for event in a_story(seed + 2000):
        store.append(event)
        if seed % 3 == 0:
            log.look()
    log.look()
    assert log.state == store.state()


def test_most_of_a_long_progress_is_passed_over_and_nothing_that_is_damaged(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [Progress(at=BORN + n, attempt=1, step=n, device="T4") for n in range(1000)]
    lines = [json.dumps(event.to_json(), separators=(",", ":")).encode() for event in told]
    assert telling(lines) == [lines[0], lines[-1]]
    torn = lines[500][:-20]
    assert telling([*lines[:500], torn, torn + lines[501], *lines[502:]]) == [
        lines[0], torn, torn + lines[501], lines[-1],
    ]  # fmt: skip
    store = write_run(home, "one", [Had(ended_by=None)])
    with (store.folder / "events.jsonl").open("ab") as file:
        file.write(b"\n".join([*lines, torn, b""]))
    read: list[object] = []
    real = event_log.from_json
    monkeypatch.setattr(event_log, "from_json", lambda raw: read.append(raw) or real(raw))
    log = EventLog(store)
    log.look()
    assert (len(read) < 20, log.state.unread_lines) == (True, 1)
