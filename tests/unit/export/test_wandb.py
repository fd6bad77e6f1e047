"""A run in Weights & Biases: offline, with the file that `wandb sync` would send read back.

Slow: it starts a process.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.export.trackers import export, is_installed
from tests.support.report_runs import BORN, PNG, Had, write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed("wandb"), reason="wandb takes 100 MB: make test-exports"),
]
NOW = BORN + 100_000
BLOCK = 32768  # of the log's format, https://github.com/google/leveldb/blob/main/doc/log_format.md
HEAD = 7  # the file begins with as many bytes of wandb's own
LIMIT_S = 30.0
WHOLE, FIRST, LAST = 1, 2, 4


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")


def pieces(data: bytes) -> Iterator[bytes]:
    """Yield the records of a log."""
    at, parts = HEAD, b""
    while at + HEAD <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEAD:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        body = data[at + HEAD : at + HEAD + size]
        at += HEAD + size
        parts = body if kind in (WHOLE, FIRST) else parts + body
        if kind in (WHOLE, LAST):
            yield parts


def records(place: str) -> list[Any]:
    """Return what was written into the folder of an offline run.

    wandb's own process writes the end of the file a moment after the export has returned.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = Path(place.partition(" (")[0]).glob("*.wandb")
    give_up_at = time.monotonic() + LIMIT_S
    while True:
        found = [Record.FromString(piece) for piece in pieces(path.read_bytes())]
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        assert time.monotonic() < give_up_at, "the file has no end"
        time.sleep(0.05)


def of_kind(place: str, kind: str) -> list[Any]:
    """Return the records of one kind."""
    return [getattr(one, kind) for one in records(place) if one.WhichOneof("record_type") == kind]


def row(items: Any) -> dict[str, str]:
    """Return the values of a row of the history or of the summary, as JSON."""
    return {item.key or "/".join(item.nested_key): item.value_json for item in items}


def test_each_step_is_a_row_and_the_bill_is_in_the_summary(home: Path) -> None:
    store = write_run(
        home, "digits", [Had(ended_by="aws", seconds=600, last_step=60), Had(first_step=41, last_step=80)]
    )
    (store.folder / "samples-80.png").write_bytes(PNG)
    place = export(store, "wandb", NOW)
    rows = [row(one.item) for one in of_kind(place, "history")]
    assert [int(one["_step"]) for one in rows] == list(range(1, 81))
    assert {"nats", "valid/nats", "images_per_s"} <= rows[49].keys()
    summary: dict[str, str] = {}
    for one in of_kind(place, "summary"):
        summary |= row(one.update)
    assert float(summary["bill/total_usd"]) > 0
    assert summary["pixel_orch/state"] == '"SUCCEEDED"'
    run = of_kind(place, "run")[0]
    assert (run.display_name, run.project) == ("digits", "pixel-orch")
    assert "seed" in {one.key for one in run.config.update}
    folder = Path(place.partition(" (")[0])
    assert [path.name for path in folder.rglob("*.png")] == ["samples-80.png"]


def test_a_second_export_replaces_the_folder_of_the_first(home: Path) -> None:
    store = write_run(home, "digits", [Had(last_step=20)])
    first = export(store, "wandb", NOW)
    second = export(store, "wandb", NOW)
    folders = [path.name for path in (home / "wandb").glob("offline-run-*")]
    assert folders == [Path(second.partition(" (")[0]).name]
    assert len(of_kind(second, "history")) == 20
    assert first != second or len(folders) == 1


def test_nothing_of_this_machine_is_in_it(home: Path) -> None:
    import socket

    store = write_run(home, "digits", [Had(last_step=3)], env={"KEY": "sk-value-of-env"})
    written = b"".join(one.SerializeToString() for one in records(export(store, "wandb", NOW)))
    for secret in (b"sk-value-of-env", str(home).encode(), f'"{socket.gethostname()}"'.encode(), b"orchestrator"):
        assert secret not in written
