"""What a person sees in a terminal: how wide, at which time, at which cost; and what a pipe gets."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.console import Screen
from orchestrator.cli.main import main
from orchestrator.cli.run_view import RunView
from orchestrator.clock import SystemClock
from orchestrator.errors import TrainingError
from orchestrator.formatting import counted, megabytes, money, span, table, wrapped
from orchestrator.market.billing import total_usd
from orchestrator.report.summary import summary_text
from orchestrator.runs.events import Event, InstanceEnded, Progress, StateChanged
from orchestrator.runs.store import RunStore
from tests.support.memory import Machine
from tests.support.report_runs import BORN, Had, write_run
from tests.support.story import Story

LONG = "pixelcnn-with-a-rather-long-name-"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Give a terminal of 60 columns."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


class Now:
    """A clock that stands."""

    def __init__(self, now: float) -> None:
        self.moment = now

    def now(self) -> float:
        """Return unix seconds."""
        return self.moment

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.moment += seconds


def spent(text: str) -> str:
    """Return the dollars that the live line names."""
    return re.findall(r"~\$([\d.]+) so far", text)[-1]


# -- so far


def test_so_far_is_the_bill_of_all_attempts_with_disk_address_and_the_least_of_60_s(
    home: Path, terminal: Terminal
) -> None:
    store = write_run(home, "two", [Had(ended_by="aws", seconds=600), Had(ended_by=None, first_step=101)])
    events = store.events()
    state = store.state()
    clock = Now(state.attempts[-1].started_at + 5)
    view = RunView(Screen(terminal, clock.now), 900, clock, events)
    view.tick(state.attempts[-1], 120, 70.0)
    assert spent(terminal.getvalue()) == money(total_usd(state.attempts, clock.now()))
    assert total_usd(state.attempts, clock.now()) > total_usd(state.attempts[1:], clock.now()), "both attempts"


def test_so_far_is_the_bill_at_every_look_over_an_interruption(home: Path, terminal: Terminal) -> None:
    amounts: list[float] = []

    class Looks(RunView):
        def tick(self, attempt: Any, step: int, images_per_s: float | None) -> None:
            super().tick(attempt, step, images_per_s)
            if attempt.first_step_at is not None:
                amounts.append(float(spent(terminal.getvalue())))
                bill = total_usd(story.store.state().attempts, story.clock.now())
                assert amounts[-1] == pytest.approx(float(bill), rel=0.01)

    def fate(number: int, machine: Machine) -> None:
        if number == 1:
            story.later(70, lambda: story.cloud.interrupt(machine))

    story = Story(home, fate)
    engine = story.engine()
    engine.journal.watchers = (Looks(Screen(terminal, story.clock.now), 100, story.clock, story.store.events()),)
    engine.run()
    assert len(story.store.state().attempts) == 2
    assert len(set(amounts)) > 5


# -- the time of an event


def test_a_past_event_is_printed_with_its_own_time_and_another_day_with_its_date() -> None:
    stream = io.StringIO()
    now = time.mktime((2026, 9, 13, 12, 0, 0, 0, 0, -1))
    view = RunView(Screen(stream, lambda: now), 10, Now(now))
    lost = {"attempt": 1, "instance_id": "i-1", "ended_by": "aws", "reason": ""}
    view.event(InstanceEnded(at=now - 3600, ended_at=now - 3600, **lost))  # type: ignore[arg-type]
    view.event(InstanceEnded(at=now - 86400, ended_at=now - 86400, **lost))  # type: ignore[arg-type]
    first, second = stream.getvalue().splitlines()
    assert first.startswith("11:00:00   i-1 terminated")
    assert second.startswith("2026-09-12 12:00:00   i-1 terminated")


def test_a_followed_run_has_a_progress_line_in_a_terminal_and_none_in_a_pipe(home: Path, terminal: Terminal) -> None:
    seen: list[Event] = [Progress(at=BORN + 95, attempt=1, step=140, images_per_s=900.0)]
    store = write_run(home, "led", [Had(ended_by=None, extra=seen)])
    clock, pipe = Now(BORN + 200), io.StringIO()
    for stream in (terminal, pipe):
        view = RunView(Screen(stream, clock.now), 900, clock)
        for event in store.events():
            view.event(event)
        view.show_progress()
    assert "step 140/900" in terminal.getvalue().rpartition("\n")[2]
    assert "900 images/s" in terminal.getvalue()
    assert "step 140" not in pipe.getvalue()
    view = RunView(Screen(terminal, clock.now), 900, clock)
    for event in [*store.events(), InstanceEnded(at=BORN + 201, attempt=1, instance_id="i-1", ended_at=BORN + 201,
                                                 ended_by="pixel-orch", reason="")]:  # fmt: skip
        view.event(event)
    view.show_progress()
    assert terminal.getvalue().endswith("terminated (by pixel-orch)\n"), "nothing trains any more"


# -- width


@pytest.mark.parametrize("width", [40, 60, 80, 132])
def test_the_live_line_fits_the_terminal_and_is_written_in_place(
    home: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    store = write_run(home, "led", [Had(ended_by=None)])
    clock = Now(BORN + 200)
    view = RunView(Screen(terminal, clock.now), 100_000, clock, store.events())
    for step in (101, 102):
        view.tick(store.state().attempts[0], step, 1234.5)
    first, second = terminal.getvalue().split("\r\x1b[K")
    assert max(len(first), len(second)) < width
    assert "\n" not in terminal.getvalue()
    assert "step 102/100000" in second
    assert "so far" in second, "the figures stay; the bar gives way"
    assert ("[" in second) == (width >= 80)
    assert ("images/s" in second) == (width >= 60)


def test_a_dumb_terminal_gets_plain_lines_without_escapes(
    home: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    store = write_run(home, "led", [Had(ended_by=None)])
    clock = Now(BORN + 200)
    view = RunView(Screen(terminal, clock.now), 900, clock, store.events())
    for _ in range(25):
        view.tick(store.state().attempts[0], 101, 1234.5)
        clock.sleep(1)
    shown = terminal.getvalue()
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert shown.count("step 101/900") == 3, "every ten seconds"


def test_a_clock_that_is_set_back_does_not_set_back_the_times_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    pipe = io.StringIO()
    Screen(pipe).line("step 1")
    shown = time.strptime(pipe.getvalue()[:8], "%H:%M:%S")
    now = time.localtime(SystemClock().now())
    assert (now.tm_hour * 60 + now.tm_min - shown.tm_hour * 60 - shown.tm_min) % 1440 <= 1


def test_a_line_is_broken_between_words_in_a_terminal_and_left_whole_in_a_pipe(terminal: Terminal) -> None:
    text = "Stopping: checkpoint, pull, terminate. (Again: terminate at once.) " + "leave " * 10
    Screen(terminal).line(text)
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert {word for line in lines for word in line.split()} == {lines[0].split()[0], *text.split()}
    pipe = io.StringIO()
    Screen(pipe).line(text)
    assert pipe.getvalue().splitlines()[0].endswith(text.rstrip() + " ")


def test_what_has_no_blanks_is_not_broken() -> None:
    path = "/a/very/long/path/with-hyphens/" + "x" * 80
    assert path in wrapped(f"free some space on {path} then go on", 40).splitlines()


def test_an_error_is_broken_between_words_at_the_terminals_width(
    home: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    assert main(["status", "Bad Name"]) == 2
    whole = capsys.readouterr().err
    assert len(whole.splitlines()) == 1, "a pipe gets one line"
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["status", "Bad Name"]) == 2
    lines = terminal.getvalue().splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 60
    assert " ".join(terminal.getvalue().split()) == " ".join(whole.split())


def test_lengths_of_time_and_sizes_have_a_unit_that_fits() -> None:
    assert [span(s) for s in (8, 192, 7500, 359_999, 360_000, 5_980_920)] == [
        "8s", "3m12s", "2h05m", "99h59m", "4d04h", "69d05h"
    ]  # fmt: skip
    assert [megabytes(size) for size in (1, 812, 9_999, 10_000, 5_310_000)] == [
        "1 byte", "812 bytes", "9,999 bytes", "0.01 MB", "5.31 MB"
    ]  # fmt: skip


# -- tables


def test_names_of_runs_are_whole_at_80_columns_in_a_pipe_and_in_a_narrow_terminal(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setenv("TERM", "xterm")
    names = [f"{LONG}{number:04d}" for number in range(3)]
    write_run(home, names[0], [Had(ended_by=None)])
    write_run(home, names[1], [Had("p5.48xlarge", seconds=90_000)], cloud="embedded cloud")
    write_run(home, names[2], [Had()])
    with RunStore(home, names[2]).owned():
        RunStore(home, names[2]).append(StateChanged(at=BORN + 9999, state="RUNNING"))
        for command in (["status"], ["report", *names]):
            assert main(command) == 0
            pipe = capsys.readouterr().out
            for name in names:
                assert name in pipe
            assert "…" not in pipe.split("\n\n")[0], "a pipe is not cut"
            for width in (60, 80, 200):
                screen = Terminal()
                monkeypatch.setenv("COLUMNS", str(width))
                with monkeypatch.context() as patched:
                    patched.setattr(sys, "stdout", screen)
                    assert main(command) == 0
                shown = re.sub(r"\x1b\[[\d;]+m", "", screen.getvalue())
                assert all(name in shown for name in names), shown
                assert "…" not in shown.split("\n\n")[0], shown
                assert max(map(len, shown.split("\n\n")[0].splitlines())) <= width, shown
                if command == ["status"]:
                    assert f"pixel-orch attach {names[0]}" in shown.splitlines()[-1]
                    assert (str(os.getpid()) in shown) == (width >= 80)
                    assert ("embedded" in shown) == (width == 200)


def test_what_is_left_out_of_a_table_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = table(["RUN", "STATE", "CLOUD"], [["a" * 20, "RUNNING", "embedded"]], width=30, drop=("CLOUD",))
    assert "embedded" not in shown
    assert "(no room for CLOUD" in shown


def test_one_is_no_plural(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert [counted(n, "file") for n in (0, 1, 2, 1200)] == ["0 files", "1 file", "2 files", "1,200 files"]
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    write_run(home, "over", [Had()])
    assert main(["runs", "prune", "over", "-y"]) == 0
    assert "removed 1 run, " in capsys.readouterr().out


# -- letters


@pytest.mark.slow
def test_a_stream_of_a_narrow_encoding_gets_ascii_rather_than_an_error(home: Path) -> None:
    write_run(home, "p" * 40, [Had()], trainer=None, command=("python3", "train.py", "--x" * 40), workdir=str(home),
              cloud="embedded cloud")  # fmt: skip
    for encoding in ("latin-1", "ascii"):
        done = subprocess.run(
            [sys.executable, "-c", "from orchestrator.cli.main import main; main(['report']); print('cut\\u2026')"],
            capture_output=True, check=False,
            env={**os.environ, "PIXEL_ORCH_HOME": str(home), "PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.endswith(b"cut...\n")
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    Screen(stream).plain("cut… ü 漢")
    assert raw.getvalue() == "cut... ü ?\n".encode("latin-1")


# -- why it failed, what it cost, for how long


def test_the_reason_of_a_failure_holds_the_last_words_of_the_trainer(home: Path) -> None:
    def fate(number: int, machine: Machine) -> None:
        machine.crashes_at_step = 37

    error = TrainingError("the trainer ended by itself with exit code 1", "Traceback\nValueError: x\n\n")
    assert error.reason == "the trainer ended by itself with exit code 1: ValueError: x"
    nothing = TrainingError("the trainer ended by itself with exit code 1")
    assert nothing.reason == "the trainer ended by itself with exit code 1"
    story = Story(home, fate)
    (story.store.attempt_folder(1) / "trainer.log").write_text("Traceback (most recent call last)\nValueError: x\n\n")
    with pytest.raises(TrainingError):
        story.engine().run()
    state = story.store.state()
    assert state.reason == "the trainer ended by itself with exit code 1: ValueError: x"
    assert "exit code 1: ValueError: x)" in " ".join(summary_text(story.store, story.clock.now()).split())


def test_the_head_of_a_summary_is_broken_between_words(home: Path) -> None:
    store = write_run(home, "over", [Had()])
    reason = "the budget of $0.50 would be spent within a minute; go on with pixel-orch launch --resume over --budget 1"
    store.append(StateChanged(at=BORN + 9999, state="STOPPED", reason=reason))
    shown = summary_text(store, BORN + 10**5)
    assert max(len(line) for line in shown.splitlines() if str(home) not in line) <= 80
    assert reason in " ".join(shown.split())


def test_the_time_beside_the_cost_is_that_of_machines(home: Path) -> None:
    paused = write_run(home, "paused", [Had(seconds=60), Had(first_step=101, last_step=150, seconds=40)])
    paused.append(StateChanged(at=BORN + 7200, state="SUCCEEDED"))
    assert "for 1m40s of instance time (2h00m from start to end)" in summary_text(paused, BORN + 10**5)
    steady = write_run(home, "steady", [Had(seconds=600)])
    assert "for 10m00s of instance time\n" in summary_text(steady, BORN + 10**5)


def test_a_run_that_trained_nothing_names_no_device(home: Path) -> None:
    store = write_run(home, "none", [Had(lines=[], last_step=0, ended_by="aws")])
    assert "no step was trained" in summary_text(store, BORN + 10**5)
    assert "unnamed device" not in summary_text(store, BORN + 10**5)


def test_who_leads_a_run_is_printed_until_it_is_over(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    write_run(home, "over", [Had()])
    assert main(["status", "over"]) == 0
    assert "led by" not in capsys.readouterr().out
    write_run(home, "going", [Had(ended_by=None)])
    assert main(["status", "going"]) == 0
    assert "led by           no process: pixel-orch attach going" in capsys.readouterr().out


def test_status_counts_the_metrics_that_are_at_home(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    store = write_run(home, "going", [Had(ended_by=None)])
    with (store.attempt_folder(1) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 170, "images_per_s": 5}\n{"step": 99')
    assert main(["status", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["step"] == 170
