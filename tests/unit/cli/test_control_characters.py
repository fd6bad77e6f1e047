"""What a machine or a name says never acts on the terminal: control characters are spelled."""

from __future__ import annotations

import io
import json
import re
import sys
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli.console import Screen, say_error, visible_output
from orchestrator.cli.main import main
from orchestrator.cli.run_view import RunView
from orchestrator.clock import SystemClock
from orchestrator.dashboard.state import snapshot
from orchestrator.engine.progress_lines import ProgressLines
from orchestrator.errors import TrainingError
from orchestrator.formatting import one_line, table, visible, wrapped
from orchestrator.runs import events as ev
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, Had, write_run

NOW = BORN + 10**5
EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[H12:00:00 fg: SUCCEEDED, nothing is billed"
"""As `escapes/t.py` prints it: it clears the screen and writes a false line."""
SPELLED = "\\x1b]0;owned\\x07\\x1b[2J\\x1b[H12:00:00 fg: SUCCEEDED, nothing is billed"
RAW = ["\x1b", "\x07", "\x08", "\r", "\x9b", "\x7f", "\u202e", "\u2066", "\u200b", "\u2028", "\ufeff", "\U000e0041"]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def raw_in(text: str) -> list[str]:
    """Return the characters of a text that could act on a terminal, our own colours and erasing aside."""
    left = re.sub(r"\x1b\[(?:0|1|2|1;2|32|1;32|33|36|1;31)m", "", text.replace("\r\x1b[K", ""))
    return [c for c in left if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


@pytest.fixture
def evil(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home whose run holds control characters wherever a machine can say something."""
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setattr(SystemClock, "now", lambda self: NOW)
    word = "".join(RAW) + EVIL
    lines = [json.dumps({"event": "start", "device_name": word}), *(
        json.dumps({"step": step, "images_per_s": 10.0, "wall_s": float(step)}) for step in range(1, 9))]  # fmt: skip
    progress = ev.Progress(at=BORN + 95, attempt=1, step=50, images_per_s=10.0, device=word)
    store = write_run(
        home, "one", [Had(zone=word, instance_type=word, reason=word, lines=lines, extra=[progress])],
        trainer=None, command=("python", word), workdir=str(home),
    )  # fmt: skip
    store.append(ev.CheckpointRefused(at=BORN + 99, name=word, reason=f"{word}\n{word}"))
    store.append(ev.AttemptLost(at=BORN + 99, attempt=1, instance_id=word, reason=word))
    store.append(ev.StateChanged(at=BORN + 5000, state="FAILED", reason=word))
    bar = "10%\r20%\r100%|\u2588\u2588|\nlast\r\n"
    store.log_path(1).write_bytes(f"epoch 1\n{word}\n{bar}".encode() + b"\x9b2J")
    return home


COMMANDS = [["status"], ["status", "one"], ["report"], ["report", "one"], ["report", "-o", "csv"],
            ["report", "-o", "markdown"], ["status", "-o", "json"], ["report", "-o", "json"],
            ["runs", "prune", "one", "--dry-run"], ["down", "one", "-y"], ["attach", "one"]]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "pipe"])
def test_no_command_passes_one_on(
    evil: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], is_terminal: bool
) -> None:
    out, err = (Terminal() if is_terminal else io.StringIO() for _ in range(2))
    monkeypatch.setenv("COLUMNS", "100")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", out)
        patched.setattr(sys, "stderr", err)
        assert main(words) in (0, 1)
    assert raw_in(out.getvalue() + err.getvalue()) == []
    assert "one" in out.getvalue()


@pytest.mark.parametrize("words", [["status", EVIL], ["report", EVIL], ["down", f"{EVIL}*"], [EVIL], ["logs", EVIL],
                                   ["launch", "--instance", EVIL, "--spot", "-y", "--cloud", "local"]])  # fmt: skip
def test_an_error_spells_what_it_repeats(evil: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code: object = 2
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    assert code == 2
    shown = capsys.readouterr()
    assert raw_in(shown.out + shown.err) == []
    assert "owned" in shown.err


# -- the view of a run


def test_the_view_of_a_run_spells_each_field_in_one_line(evil: Path) -> None:
    stream, said = Terminal(), []
    view = RunView(Screen(stream, lambda: NOW), 900, SystemClock())
    lines = ProgressLines(said.append, 900, SystemClock())
    for event in RunStore(evil, "one").events():
        view.event(event)
        lines.event(event)
    view.screen.live(EVIL)
    assert raw_in(stream.getvalue() + "".join(said)) == []
    assert not [line for line in stream.getvalue().splitlines() if line.startswith("12:00:00 fg")]
    assert SPELLED in " ".join(stream.getvalue().split())


def test_the_last_lines_of_a_trainer_are_set_off_from_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    say_error(str(TrainingError("it ended", f"{EVIL}\npixel-orch: SUCCEEDED")))
    assert raw_in(stream.getvalue()) == []
    assert "  pixel-orch: SUCCEEDED" in stream.getvalue().splitlines()


# -- logs


def logs_on(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what `logs` writes to a terminal."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        assert main(["logs", "one"]) == 0
    return stream.getvalue()


def test_logs_on_a_terminal_are_spelled_and_a_bar_is_shown_at_its_newest(
    evil: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = logs_on(Terminal(), monkeypatch)
    assert "\x1b" not in shown
    assert raw_in(shown) == []
    lines = shown.splitlines()
    assert lines[0] == "epoch 1"
    assert lines[1].endswith(SPELLED)
    assert lines[2:4] == ["100%|\u2588\u2588|", "last"]


def test_colours_in_a_log_are_left_out_on_a_terminal(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    write_run(home, "one", [Had()]).log_path(1).write_bytes(b"\x1b[1m14/20\x1b[0m \x1b[38;5;2m--\x1b[m \x1b[2J\n")
    assert logs_on(Terminal(), monkeypatch) == "14/20 -- \\x1b[2J\n"


def test_logs_in_a_pipe_are_the_bytes(evil: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["logs", "one"]) == 0
    assert capfdbinary.readouterr().out == RunStore(evil, "one").log_path(1).read_bytes()


def test_a_followed_bar_is_the_live_line_and_an_endless_line_is_broken(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.cli.logs import LONGEST_LINE_BYTES
    from orchestrator.cli.logs import Terminal as Sink

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    sink = Sink(Screen(stream), is_live=True)
    for percent in range(0, 101, 25):
        sink.feed(f"\r{percent}%".encode())
    sink.feed(b"\ndone\n")
    assert stream.getvalue() == "0%" + "".join(f"\r\x1b[K{p}%" for p in (25, 50, 75, 100)) + "\r\x1b[K100%\ndone\n"
    sink.feed(b"x" * (3 * LONGEST_LINE_BYTES))
    assert len(sink._rest) <= LONGEST_LINE_BYTES


# -- the door


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text())
def test_nothing_that_acts_goes_through(text: str) -> None:
    for shown in (visible(text), one_line(text), wrapped(text, 30), table(["A"], [[text]], width=40)):
        assert raw_in(shown) == []
        shown.encode()
    assert "\n" not in one_line(text)
    if text.isprintable():
        assert visible(text) == text or raw_in(text)
    assert visible(visible(text)) == visible(text)


def test_letters_of_all_languages_stay() -> None:
    text = "größer 漢字 עברית ελ é 🙂 ▌█ “x” …\n\tindented"
    assert visible(text) == text
    assert visible("a\x1b[2Jb\u202ec\r\n") == "a\\x1b[2Jb\\u202ec\\r\n"
    assert one_line("a\tb\nc") == "a\\tb\\nc"
    assert visible("\ud800") == "\\ud800"


def test_the_door_is_closed_again_and_does_not_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with visible_output(), visible_output():
        print("\x1b[2J", "\\", flush=True)
        sys.stdout.writelines(["\r", "x"])
        assert not sys.stdout.isatty()
    assert sys.stdout is out
    assert out.getvalue() == "\\x1b[2J \\\n\\rx"


# -- pages and tables


def test_the_dashboard_gets_no_control_characters_and_sets_texts_only(evil: Path) -> None:
    seen = snapshot(evil, NOW)
    assert raw_in(json.dumps(seen, ensure_ascii=False)) == []
    folder = Path(sys.modules["orchestrator.dashboard.state"].__file__ or "").parent
    script = "".join(path.read_text() for path in folder.glob("*.js"))
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in script


@pytest.mark.slow
def test_the_page_escapes_whatever_a_machine_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    word = "<img src=x onerror=alert(1)>\"'&\x1b[2J\u202e $a^{b$ font: 1px A"
    lines = [json.dumps({"event": "start", "device_name": word, "batch_size": 4, "images_per_epoch": 100})]
    lines += [json.dumps({"step": s, "images_per_s": 10.0, "wall_s": float(s), "bits_per_dim": 3.0}) for s in range(9)]
    write_run(home, "one", [Had(zone=word, instance_type=word, reason=word, lines=lines)],
              trainer=None, command=(word,), workdir=str(home))  # fmt: skip
    out = home / "page.html"
    assert main(["report", "--html", str(out)]) == 0
    page = out.read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert raw_in(page) == []
    assert page.count("<svg") == page.count("</svg>") > 0
    for svg in page.split("<svg")[1:]:
        ElementTree.fromstring(f'<svg xmlns:xlink="x" {svg.partition("</svg>")[0]}</svg>')  # noqa: S314  (our own)


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t=", " =", "\r@"])
def test_a_cell_is_never_a_formula(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                   begin: str) -> None:  # fmt: skip
    import csv

    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    text = f'{begin}cmd|" /C calc"!A0'
    write_run(home, "one", [Had()], trainer=None, command=(text,), workdir=str(home))
    assert main(["report", "-o", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["workload"] == "'" + one_line(text)
    assert float(row["cost_usd"]) > 0
