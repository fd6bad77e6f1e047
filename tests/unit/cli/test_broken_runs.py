"""One run that cannot be read never hides the others, whatever lies in its folder."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.clock import SystemClock
from orchestrator.dashboard.state import snapshot
from orchestrator.engine.supervisor import Supervisor
from orchestrator.plan.planner import measured_speeds
from orchestrator.runs.listing import read_all
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, PNG, Had, write_run

NOW = BORN + 10**5


def _replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = folder / name
        if path.is_dir():
            for one in path.rglob("*"):
                one.unlink()
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        make(path)

    return do


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _renamed(folder: Path) -> None:
    folder.rename(folder.with_name("Not A\x1b[2JName"))


def _lock_folder(folder: Path) -> None:
    (folder / "lock").unlink()
    (folder / "lock").mkdir()


def _lock_fifo(folder: Path) -> None:
    (folder / "lock").unlink()
    os.mkfifo(folder / "lock")


def _attempts(folder: Path) -> None:
    _replaced("attempts/1", lambda path: None)(folder)
    _replaced("attempts", Path.touch)(folder)


def _samples(folder: Path) -> None:
    for name in ("samples-.png", "samples-\u00b2.png", "samples-1-2.png", "samples-4\x1b[2J.png"):
        (folder / name).write_bytes(PNG)
    (folder / "samples-5.png").symlink_to("/dev/zero")


BROKEN: dict[str, Callable[[Path], None]] = {
    "no spec": lambda folder: (folder / "spec.json").unlink(),
    "the spec is a folder": _replaced("spec.json", Path.mkdir),
    "the spec is a link loop": _replaced("spec.json", _loop),
    "the spec is a FIFO": _replaced("spec.json", os.mkfifo),
    "the events are a folder": _replaced("events.jsonl", Path.mkdir),
    "the events are a FIFO": _replaced("events.jsonl", os.mkfifo),
    "the events are a link loop": _replaced("events.jsonl", _loop),
    "the events are a device": _replaced("events.jsonl", lambda path: path.symlink_to("/dev/zero")),
    "its name is no run's name": _renamed,
}
ODD: dict[str, Callable[[Path], None]] = {
    "the spec is garbage": lambda folder: (folder / "spec.json").write_bytes(b"\x00\xff{"),
    "the spec is nested": lambda folder: (folder / "spec.json").write_text("[" * 100_000),
    "the spec is another run's": lambda folder: (folder / "spec.json").write_bytes(
        (folder / "spec.json").read_bytes().replace(b'"bad"', b'"good"')
    ),
    "the events are junk": lambda folder: (folder / "events.jsonl").write_bytes(os.urandom(5000)),
    "the metrics are a folder": _replaced("attempts/1/metrics.jsonl", Path.mkdir),
    "the metrics are a FIFO": _replaced("attempts/1/metrics.jsonl", os.mkfifo),
    "the metrics are hostile": lambda folder: (folder / "attempts/1/metrics.jsonl").write_text(
        "[" * 100_000 + '\n{"step": 3, "images_per_s": ' + "1" * 400 + '}\n{"step": ' + "7" * 4000 + "}\n"
    ),
    "the digest is a FIFO": lambda folder: os.mkfifo(folder / "attempts/1/digest.json"),
    "the checkpoints are a file": _replaced("checkpoints", Path.touch),
    "the lock is a folder": _lock_folder,
    "the lock is a FIFO": _lock_fifo,
    "the attempts are a file": _attempts,
    "samples have hostile names": _samples,
    "the last sample is a folder": lambda folder: (folder / "samples-9.png").mkdir(),
}


@pytest.fixture
def good_and_bad(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home of two runs, and the time a day later."""
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setattr(SystemClock, "now", lambda self: NOW)
    write_run(home, "good", [Had("g5.xlarge", images_per_s=900)])
    write_run(home, "bad", [Had("g6.xlarge")])
    return home


@pytest.mark.parametrize("how", [*BROKEN, *ODD])
def test_the_other_runs_are_listed_and_the_bad_one_says_why(
    good_and_bad: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    folder = good_and_bad / "runs" / "bad"
    {**BROKEN, **ODD}[how](folder)
    assert main(["status"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "good SUCCEEDED" in text
    assert ("UNREADABLE" in text) == (how in BROKEN)
    assert "\x1b" not in text
    if how in BROKEN:
        assert ": cannot be read: " in text
    for words in (["report"], ["report", "-o", "markdown"], ["report", "-o", "csv"]):
        assert main(words) == 0
        shown = capsys.readouterr().out
        assert "good" in shown
        assert ("UNREADABLE" in shown or "cannot be read" in shown) or how not in BROKEN
        assert "\x1b" not in shown
    seen = snapshot(good_and_bad, NOW)
    assert "good" in [row["run"] for row in seen["runs"]]
    assert len(seen["runs"]) == 2
    json.loads(json.dumps(seen, allow_nan=False))


@pytest.mark.parametrize("how", [*BROKEN, "the spec is garbage", "the lock is a folder", "the checkpoints are a file"])
def test_programs_get_a_row_with_an_error(good_and_bad: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    {**BROKEN, **ODD}[how](good_and_bad / "runs" / "bad")
    assert main(["status", "-o", "json"]) == 0
    rows = {row["run"] == "good": row for row in json.loads(capsys.readouterr().out)}
    assert "error" not in rows[True]
    assert rows[False]["error"]
    assert main(["report", "-o", "json"]) == 0
    report = {row["run"] == "good": row for row in json.loads(capsys.readouterr().out)["runs"]}
    assert report[True]["cost_usd"] > 0
    if how in BROKEN:
        assert "cannot be read" in rows[False]["error"]
        assert report[False] == rows[False]
        main(["report", "-o", "csv"])
        lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert lines[-1]["problems"] == report[False]["error"].replace("\x1b", "\\x1b")
    else:
        assert any(rows[False]["error"].split(" ")[0] in problem for problem in report[False]["problems"])
        assert rows[False]["cost_usd"] > 0, "its events are read: its bill is shown"


@pytest.mark.slow
@pytest.mark.parametrize("how", [*BROKEN, *ODD])
def test_the_page_is_written(good_and_bad: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    pytest.importorskip("matplotlib")
    if how not in ("no spec", "the metrics are hostile", "samples have hostile names", "the last sample is a folder"):
        return
    {**BROKEN, **ODD}[how](good_and_bad / "runs" / "bad")
    out = good_and_bad / "page.html"
    assert main(["report", "--html", str(out)]) == 0
    assert "good" in out.read_text()


@pytest.mark.parametrize("how", [*BROKEN, *ODD])
def test_commands_that_act_go_on_with_the_others(
    good_and_bad: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(Supervisor, "lead", lambda self, stores: {store.run: "SUCCEEDED" for store in stores})
    write_run(good_and_bad, "open", [Had(ended_by=None)])
    write_run(good_and_bad, "worst", [Had(ended_by=None)])
    {**BROKEN, **ODD}[how](good_and_bad / "runs" / "bad")
    ended: list[str] = []
    monkeypatch.setattr("orchestrator.cli.down.end_run", lambda store, home: ended.append(store.run))
    assert main(["down", "-a", "-y", "-o", "json"]) == (1 if how in BROKEN else 0)
    assert {"open", "worst"} <= set(ended)
    assert "good" not in ended
    assert "Traceback" not in capsys.readouterr().err
    assert main(["attach", "--all", "-o", "json"]) == 0
    assert {"open", "worst"} <= set(json.loads(capsys.readouterr().out)["runs"])
    assert main(["cleanup", "--cloud", "local", "--dry-run", "-o", "json"]) == 0
    assert main(["runs", "prune", "good", "-y", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["removed"] == ["good"]


def test_a_bad_run_does_not_change_what_a_launch_ranks_by(good_and_bad: Path) -> None:
    spec = RunStore(good_and_bad, "good").spec().model_copy(update={"instances": ("g5.xlarge", "g6.xlarge")})
    assert measured_speeds(good_and_bad, spec).keys() == {"g5.xlarge", "g6.xlarge"}
    BROKEN["the events are a FIFO"](good_and_bad / "runs" / "bad")
    assert measured_speeds(good_and_bad, spec) == {"g5.xlarge": pytest.approx(900, rel=0.2)}


def test_a_run_that_cannot_be_read_is_one_line_when_it_is_named(
    good_and_bad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BROKEN["the events are a FIFO"](good_and_bad / "runs" / "bad")
    for words in (["status", "bad"], ["logs", "bad"], ["attach", "bad"], ["report", "bad"], ["pull", "bad"]):
        assert main(words) == 2
        shown = capsys.readouterr().err
        assert "RUN: bad cannot be read: events.jsonl: it is a FIFO, not a file" in shown
        assert len(shown.splitlines()) == 1


def test_a_failure_that_nobody_thought_of_is_a_row_too(good_and_bad: Path) -> None:
    def read(store: RunStore) -> str:
        if store.run == "bad":
            raise ZeroDivisionError("by zero\nsecond line")
        return store.run

    found, broken = read_all(good_and_bad, read)
    assert found == ["good"]
    assert [one.text for one in broken] == ["bad: cannot be read: ZeroDivisionError: by zero"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_without_permission_is_a_row(good_and_bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = good_and_bad / "runs" / "bad"
    folder.chmod(0)
    try:
        assert main(["status"]) == 0
        assert "bad: cannot be read: spec.json: Permission denied" in " ".join(capsys.readouterr().out.split())
    finally:
        folder.chmod(0o700)


def test_a_file_among_the_runs_and_a_folder_in_the_making_are_no_runs(good_and_bad: Path) -> None:
    (good_and_bad / "runs" / "notes.txt").write_text("x")
    (good_and_bad / "runs" / ".new-run-123").mkdir()
    assert sorted(store.run for store in RunStore.folders(good_and_bad)) == ["bad", "good"]
