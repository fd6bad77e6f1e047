"""How long a machine is kept for the outputs of its ended program: until they are at home or in S3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.instance.watch import Watch

JOB = {
    "command": ["true"], "env": {}, "path_first": "", "owner_timeout_s": 2.0, "stop_timeout_s": 9.0,
    "metadata_poll_s": 5.0, "shutdown": ["true"], "keep_outputs_s": 1800.0,
}  # fmt: skip
PLACE = {"bucket": "b", "prefix": "p", "region": "us-east-1", "python": "python3"}
TOLD = {"state": 3, "home": 1, "is_final": True, "new_files": 2}


def ended(root: Path, told: dict[str, Any] | None, ledger: dict[str, Any] | None, **job: Any) -> Watch:
    """Return a watch process whose program has ended."""
    for name in ("agent", "out", "code"):
        (root / name).mkdir()
    watch = Watch(str(root), {**JOB, **job})
    watch.state["trainer"] = {"state": "exited", "exit_code": 0}
    (root / "agent" / "owner").write_text("")
    if told is not None:
        (root / "agent" / "outputs" / "told.json").write_text(json.dumps(told))
    if ledger is not None:
        (root / "agent" / "s3.json").write_text(json.dumps(ledger))
    return watch


def stored(number: int, *, is_final: bool) -> dict[str, Any]:
    return {"stored": [], "problem": "", "done": True, "outputs": {"state": number, "is_final": is_final, "bytes": 1}}


@pytest.mark.parametrize(
    ("told", "ledger", "job", "expected"),
    [
        (TOLD, None, {}, (1800.0, True)),
        ({**TOLD, "home": 3, "new_files": 0}, None, {}, (2.0, True)),
        (TOLD, None, {"s3": PLACE}, (1800.0, False)),
        (TOLD, stored(2, is_final=False), {"s3": PLACE}, (1800.0, False)),
        (TOLD, stored(3, is_final=False), {"s3": PLACE}, (1800.0, False)),
        (TOLD, stored(3, is_final=True), {"s3": PLACE}, (2.0, True)),
        ({**TOLD, "is_final": False}, stored(3, is_final=True), {"s3": PLACE}, (1800.0, False)),
        ({**TOLD, "state": 4}, stored(3, is_final=True), {"s3": PLACE}, (1800.0, False)),
        ({**TOLD, "home": 3, "new_files": 0}, stored(2, is_final=False), {"s3": PLACE}, (2.0, False)),
        (TOLD, {"stored": [], "problem": "", "done": True}, {"s3": PLACE}, (1800.0, False)),
        (TOLD, None, {"s3": PLACE, "keep_outputs_s": 60.0}, (60.0, False)),
    ],
)
def test_it_is_kept_while_they_are_nowhere_else(
    tmp_path: Path, told: dict[str, Any], ledger: dict[str, Any] | None, job: dict[str, Any], expected: Any
) -> None:
    """Expected: how long the owner may be silent, and whether S3 has all."""
    watch = ended(tmp_path, told, ledger, **job)
    assert (watch.allowed_silence_s(), watch.is_uploaded()) == expected


@pytest.mark.parametrize(
    ("after_s", "keep_s", "may"), [(301.0, 1800.0, False), (1801.0, 1800.0, True), (301.0, 9, True)]
)
def test_a_limit_that_is_reached_waits_for_them_so_long(
    tmp_path: Path, after_s: float, keep_s: float, may: bool
) -> None:
    watch = ended(tmp_path, TOLD, stored(2, is_final=False), s3=PLACE, keep_outputs_s=keep_s)
    now = watch.started_at
    watch.ended_at = now - after_s
    assert watch.may_shut_down() == may
    (tmp_path / "agent" / "owner").write_text("0.0")
    watch.changes.seen.clear()
    assert watch.guaranteed_s() == 0.0
    assert watch.may_shut_down(), "no money is left"
