"""The live view of a run, as a virtual terminal shows it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pyte
import pytest

from orchestrator.cli.console import Screen, as_called
from orchestrator.cli.half_blocks import half_blocks
from orchestrator.cli.live_panel import RunPanel, sparkline
from orchestrator.cli.live_screen import live_view
from orchestrator.cli.run_view import RunView
from orchestrator.runs import events as ev

START = 1_700_000_000.0
HOSTILE = "\x1b[2Jgone\x9b31m\u202e"


class VirtualTerminal(io.StringIO):
    """A terminal whose screen can be read."""

    encoding = "utf-8"

    def __init__(self, columns: int, rows: int = 24) -> None:
        super().__init__()
        self.screen = pyte.Screen(columns, rows)
        self.parser = pyte.Stream(self.screen)
        self.sent = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.sent += text
        self.parser.feed(text.replace("\n", "\r\n"))
        return len(text)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen, without blanks at the ends and empty lines."""
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def row(self, label: str) -> str:
        """Return what stands in the row of a label."""
        return next((line.removeprefix(label).strip() for line in self.lines if line.startswith(f"{label} ")), "")


@pytest.fixture(params=[80, 40])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> VirtualTerminal:
    """Give a terminal of 80, and one of 40 columns."""
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return VirtualTerminal(request.param)


def launched(market: str = "spot") -> list[ev.Event]:
    """Return the events of a run until its machine is there."""
    return [
        ev.RunCreated(at=START, run="digits-1", cloud="embedded cloud"),
        ev.StateChanged(at=START, state="PROVISIONING"),
        ev.InstanceStarted(at=START + 1, attempt=1, instance_id="i-1", instance_type="g4dn.xlarge", zone="us-east-1a",
                           region="us-east-1", market=market, price_usd_h=0.1578),
    ]  # fmt: skip


def trains() -> list[ev.Event]:
    """Return the events that follow, until some steps are done."""
    told = [
        ev.InstanceRunning(at=START + 10, attempt=1, instance_id="i-1"),
        ev.HostReady(at=START + 40, attempt=1, instance_id="i-1", python="3.11", setup_s=30.0),
        ev.TrainerStarted(at=START + 40, attempt=1, resumed_from=0),
        ev.StateChanged(at=START + 40, state="RUNNING"),
    ]
    steps = [
        ev.Progress(at=START + 50 + 5 * n, attempt=1, step=1 + 100 * n, images_per_s=412.0, steps_per_s=20.0,
                    values={"loss": 2.0 - 0.1 * n, "accuracy": 0.1 * n})
        for n in range(6)
    ]  # fmt: skip
    saved = ev.CheckpointPulled(at=START + 76, attempt=1, step=500, name="checkpoint-500.pt", sha256="0" * 64,
                                size_bytes=10)  # fmt: skip
    return [*told, *steps, saved]


def shown(terminal: VirtualTerminal, panel: RunPanel, now: float, *lines: str) -> list[str]:
    """Draw a view, print lines above it, and return the screen as it is then."""
    screen = Screen(terminal, lambda: now)
    with live_view(screen, lambda is_unicode: panel.rows(now, is_unicode=is_unicode)):
        for line in lines:
            screen.line(line)
        return terminal.lines


def panel_of(
    *events: ev.Event, budget: str | None = "0.5", steps: int | None = 5000, log: str = "step 501"
) -> RunPanel:
    return RunPanel("digits-1", steps, Decimal(budget) if budget else None, events, lambda number: log)


def test_a_training_run_shows_its_state_machine_cost_progress_loss_checkpoint_and_log(
    terminal: VirtualTerminal,
) -> None:
    panel = panel_of(*launched(), *trains())
    lines = shown(terminal, panel, START + 80, "  host ready")
    wide = terminal.screen.columns == 80
    assert "host ready" in lines[0], "events scroll above it"
    assert all(len(line) < terminal.screen.columns for line in lines[1:])
    assert lines[1].startswith("run     digits-1  RUNNING  1m20s")
    assert lines[2].startswith("machine g4dn.xlarge spot in us-east")
    step = next(line for line in lines if line.startswith("step"))
    assert "501/5,000" in step
    assert not wide or ("━" in step and "412 images/s" in step and "~3m45s left" in step)
    cost = next(line for line in lines if line.startswith("cost"))
    assert re.search(r"~\$0\.00\d+ of \$0\.500", cost)
    loss = next(line for line in lines if line.startswith("loss"))
    assert "1.5  █▇▅▄▂▁" in loss
    assert not wide or "accuracy 0.5" in loss
    assert any(line.startswith("saved   checkpoint-500.pt here, 4s ago") for line in lines)
    assert lines[-1] == "log     step 501"
    assert terminal.lines == lines[:1], "at its end the view is gone, and what was printed stays"


def test_a_notice_counts_down(terminal: VirtualTerminal) -> None:
    notice = ev.InterruptionNoticed(at=START + 80, attempt=1, instance_id="i-1", ends_at=START + 200)
    panel = panel_of(*launched(), *trains(), notice)
    for left, words in ((110, "1m50s"), (10, "10s"), (-5, "now")):
        shown_lines = shown(terminal, panel, START + 200 - left)
        notice_line = next(line for line in shown_lines if line.startswith("notice"))
        assert "AWS ends this machine" in notice_line
        assert words in notice_line


@pytest.mark.parametrize(
    ("more", "after_s", "phase"),
    [
        ([], 30, "the machine boots  29s"),
        ([ev.InstanceRunning(at=START + 10, attempt=1, instance_id="i-1")], 30, "set-up  20s"),
        ([ev.SetupProgress(at=START + 20, attempt=1, words="pip: torch")], 31, "set-up: pip: torch  30s"),
        (trains()[:3], 45, "until the first step  5s"),
    ],
)  # fmt: skip
def test_what_is_silent_has_a_phase_and_its_time(
    terminal: VirtualTerminal, more: list[ev.Event], after_s: float, phase: str
) -> None:
    panel = panel_of(*launched())
    for event in more:
        panel.event(event)
    lines = shown(terminal, panel, START + after_s)
    found = next(line for line in lines if line.startswith("phase"))
    assert found == f"phase   {phase}"


def test_nothing_that_a_machine_says_reaches_the_terminal_but_as_letters(terminal: VirtualTerminal) -> None:
    setup = ev.SetupProgress(at=START + 20, attempt=1, words=HOSTILE)
    values = ev.Progress(at=START + 90, attempt=1, step=600, values={HOSTILE: 1.0})
    for events in ([setup], [*trains(), values]):
        panel = panel_of(*launched(), log=HOSTILE)
        for event in events:
            panel.event(event)
        shown(terminal, panel, START + 95, HOSTILE)
    assert "\\x1b[2Jgone" in terminal.sent, "it was shown"
    for letters in ("\x1b[2J", "\x9b", "\u202e"):
        assert letters not in terminal.sent


def test_the_colours_of_a_program_are_not_spelled_in_the_view(terminal: VirtualTerminal) -> None:
    log = "\x1b[1m14/20\x1b[0m \x1b[32m--\x1b[0m loss: 0.5"
    assert shown(terminal, panel_of(*launched(), *trains(), log=log), START + 80)[-1] == "log     14/20 -- loss: 0.5"


def test_no_colour_where_none_is_wanted(terminal: VirtualTerminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def colours() -> list[str]:
        terminal.sent = ""
        shown(terminal, panel_of(*launched(), *trains()), START + 80)
        return re.findall(r"\x1b\[[\d;]*(?:3[0-7]|9[0-7])m", terminal.sent)

    assert colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours()


def test_a_terminal_without_utf_8_gets_ascii(terminal: VirtualTerminal) -> None:
    terminal.encoding = "ascii"  # type: ignore[misc]  # as a stream of Python says it
    lines = shown(terminal, panel_of(*launched(), *trains()), START + 80)
    assert all(line.replace("…", "").isascii() for line in lines)
    assert any("#*=" in line for line in lines), "the course of the loss"


@pytest.mark.parametrize("how", ["pipe", "plain", "dumb"])
def test_without_a_terminal_to_draw_in_there_are_only_lines(
    how: str, monkeypatch: pytest.MonkeyPatch, terminal: VirtualTerminal
) -> None:
    monkeypatch.setenv("TERM", "dumb" if how == "dumb" else "xterm")
    stream = io.StringIO() if how == "pipe" else terminal
    screen = Screen(stream, lambda: START, is_plain=how == "plain")
    with live_view(screen, lambda is_unicode: panel_of(*launched()).rows(START, is_unicode=is_unicode)):
        screen.plain("a line")
    assert (stream.getvalue() if how == "pipe" else terminal.sent) == "a line\n"


def test_a_terminal_that_is_closed_does_not_end_the_run(terminal: VirtualTerminal) -> None:
    panel = panel_of(*launched(), *trains())
    screen = Screen(terminal, lambda: START)
    with live_view(screen, lambda is_unicode: panel.rows(START + 80, is_unicode=is_unicode)):
        terminal.write = lambda text: (_ for _ in ()).throw(OSError(5, "Input/output error"))  # type: ignore[method-assign,assignment]
        screen.line("the run goes on")


def test_80_percent_of_the_budget_are_seen(terminal: VirtualTerminal) -> None:
    panel = panel_of(*launched(), *trains(), budget="0.004")
    found = next(row for row in panel.rows(START + 80) if row.label == "cost")
    assert found.style == "notice"
    assert found.done is not None
    assert found.done > 0.8


def test_a_program_without_steps_or_measurements_runs_for_some_time(terminal: VirtualTerminal) -> None:
    started = ev.TrainerStarted(at=START + 40, attempt=1, resumed_from=0, is_own=True)
    panel = panel_of(*launched(), *trains()[:2], started, steps=None, budget=None)
    lines = shown(terminal, panel, START + 100)
    assert any("the program runs; no meas" in line for line in lines)
    assert any(line.startswith("cost    ~$0.0") and line.endswith("so far") for line in lines)


def test_a_program_that_says_how_much_there_is_to_do_has_a_share_and_a_time_left(terminal: VirtualTerminal) -> None:
    events = [*launched(), *trains()[:4]]
    for number in (1, 3):
        events.append(
            ev.Progress(at=START + 40 + 10 * number, attempt=1, step=number, steps_per_s=0.1, unit="epoch", total=20)
        )
    lines = shown(terminal, panel_of(*events, steps=None, budget=None), START + 75)
    row = next(line for line in lines if line.startswith("epoch "))
    assert "3/20" in row
    assert "~2m50s left" in row, row


def test_a_sparkline_has_the_course_of_many_values() -> None:
    assert sparkline([1.0], 24) == ""
    assert sparkline([3.0, 3.0], 24) == "▁▁"
    assert sparkline([float(n) for n in range(800)], 8) == "▁▂▃▄▅▆▇█"


@pytest.fixture
def called_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the program be called as `env/bin/pixel-orch`, which no folder of PATH has."""
    program = tmp_path / "env" / "bin" / "pixel-orch"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.argv", [str(program)])
    as_called.cache_clear()
    yield
    as_called.cache_clear()


@pytest.mark.usefixtures("called_by_path")
def test_a_command_is_shown_as_it_must_be_typed(terminal: VirtualTerminal) -> None:
    screen = Screen(terminal, lambda: START)
    screen.plain("pixel-orch attach a\npixel-orch stop: error: pixel-orch report x")
    shown_words = "env/bin/pixel-orch attach a pixel-orch stop: error: env/bin/pixel-orch report x"
    assert " ".join(terminal.sent.split()) == shown_words
    pipe = io.StringIO()
    Screen(pipe, lambda: START).plain("pixel-orch attach a")
    assert pipe.getvalue() == "pixel-orch attach a\n", "a script that reads it is not surprised"


def test_a_picture_is_drawn_by_half_blocks_and_what_is_none_is_left_out(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = image.new("RGB", (60, 40), "black")
    picture.paste("white", (0, 0, 30, 40))
    picture.save(tmp_path / "samples-1.png")
    text = half_blocks(tmp_path / "samples-1.png", 30)
    assert text is not None
    lines = text.plain.splitlines()
    assert lines == ["▀" * 30] * 10
    assert str(text.spans[0].style) == "#ffffff on #ffffff"
    assert str(text.spans[-1].style) == "#000000 on #000000"
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "link.png").symlink_to(tmp_path / "samples-1.png")
    for name in ("text.png", "link.png", "missing.png"):
        assert half_blocks(tmp_path / name, 30) is None


def test_what_the_view_shows_does_not_scroll_and_a_validation_does(terminal: VirtualTerminal) -> None:
    now = START + 80
    screen, clock = Screen(terminal, lambda: now), Stands(now)
    view = RunView(screen, 5000, clock, launched())
    score = ev.Progress(at=START + 77, attempt=1, step=520, values={"nats": 80.0, "valid/nats": 82.5})
    with live_view(screen, lambda is_unicode: panel_of(*launched(), *trains()).rows(now, is_unicode=is_unicode)):
        for event in (*trains(), score, replace(score, at=START + 78, step=530)):
            view.event(event)
        lines = terminal.lines
    text = "\n".join(lines)
    assert text.count("validation: nats 82.5") == 1
    assert "downloaded" not in text
    plain = io.StringIO()
    view = RunView(Screen(plain, lambda: now), 5000, clock, launched())
    for event in trains():
        view.event(event)
    assert "checkpoint-500.pt downloaded" in plain.getvalue(), "a pipe gets every line"


class Stands:
    """A clock that stands."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits")
