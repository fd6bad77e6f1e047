"""The line that is shown for each event."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.report.event_text import event_words
from orchestrator.runs import events as ev
from orchestrator.runs import output_events as out

ASKED: dict[str, Any] = {
    "at": 0, "attempt": 1, "client_token": "t", "instance_type": "g5.xlarge",
}  # fmt: skip
OF: dict[str, Any] = {"at": 0, "attempt": 1, "instance_id": "i-1"}
FILE: dict[str, Any] = {"at": 0, "attempt": 1, "step": 9, "name": "checkpoint-9.pt", "sha256": "a" * 64,
                        "size_bytes": 430_000}  # fmt: skip
PRICE: dict[str, Any] = {"region": "us-east-1", "market": "spot", "price_usd_h": 0.25}
REFUSED: dict[str, Any] = {"scope": "pool", "message": ""}
EXIT: dict[str, Any] = {"at": 0, "attempt": 1, "last_step": 9}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (ev.LaunchRequested(**ASKED, **PRICE, zone="us-east-1a"),
         "requesting g5.xlarge (spot) in us-east-1a at $0.2500/h"),
        (ev.LaunchRequested(**ASKED, **PRICE, zone="any"), "requesting any of g5.xlarge (spot) at up to $0.2500/h"),
        (ev.LaunchFailed(**ASKED, **REFUSED, zone="us-east-1a", code="UnauthorizedOperation"),
         "  refused: UnauthorizedOperation in us-east-1a"),
        (ev.LaunchFailed(**ASKED, **REFUSED, zone="any", code="InsufficientInstanceCapacity"),
         "  refused: InsufficientInstanceCapacity in all zones"),
        (ev.HostReady(**OF, python="python3", setup_s=9.5, data_s=2.0, data_how="fetched"),
         "  host ready after 9.5 s of set-up, code synced, data fetched after 2.0 s"),
        (ev.TrainerStarted(at=0, attempt=1, resumed_from=9), "  training from step 10 (resumed)"),
        (ev.InterruptionNoticed(**OF, ends_at=100.0),
         "INTERRUPTION NOTICE: 90 s left for i-1; saving a checkpoint"),
        (ev.CheckpointPulled(**FILE), "  checkpoint-9.pt downloaded (0.43 MB, sha256 aaaaaaaa)"),
        (ev.CheckpointStored(**FILE), "  checkpoint-9.pt stored in S3"),
        (out.ExtraOutputsPulled(at=0, attempt=1, files=2, size_bytes=20_000, left="big.bin"),
         "  2 other files downloaded (0.02 MB, in outputs/); not downloaded: big.bin"),
        (ev.TrainerExited(**EXIT, exit_code=143, asked=True), "  trainer stopped on request at step 9 (exit code 143)"),
        (ev.TrainerExited(**EXIT, exit_code=0, asked=False), "  trainer finished at step 9 (exit code 0)"),
        (ev.TrainerExited(**EXIT, exit_code=1, asked=False), "  trainer failed at step 9 (exit code 1)"),
        (ev.AttemptLost(**OF, reason="interruption notice"), "  attempt 1 lost: interruption notice"),
        (ev.TerminateRequested(**OF, reason=""), "  terminating i-1"),
        (ev.InstanceEnded(**OF, ended_at=0, ended_by="pixel-orch", reason=""), "  i-1 terminated (by pixel-orch)"),
        (ev.InstanceEnded(**OF, ended_at=0, ended_by="instance", reason=""), "  i-1 terminated (by itself)"),
        (ev.StateChanged(at=0, state="RECOVERING"), "RECOVERING: trying the next pool"),
        (ev.StateChanged(at=0, state="RUNNING"), ""),
        (ev.Progress(at=0, attempt=1, step=9), ""),
    ],
)  # fmt: skip
def test_an_event_has_its_line(event: ev.Event, text: str) -> None:
    assert event_words(event, 10.0) == text


def test_warnings_name_the_time_that_is_left() -> None:
    full = event_words(ev.DiskFull(at=0, folder="/home/ada", gives_up_at=130.0), 10.0)
    assert "DISK OF THIS MACHINE IS FULL (/home/ada)" in full
    assert full.endswith("Free some space within 2m00s")
    assert "EXPIRE in 2 min" in event_words(ev.CredentialsExpiring(at=0, ends_at=130.0), 10.0)
