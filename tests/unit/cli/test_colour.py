"""Tables in a terminal: coloured where there is colour, the same words where there is none."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout

import pyte
import pytest

from orchestrator.cli.colour import coloured, say
from orchestrator.cli.main import main

TABLE = """Runs (measured, billed)
RUN      STATE      STEPS      $  ON-DEM $
digits   SUCCEEDED    120  0.003     0.009
RUNNING  FAILED         -      -         -

Billed: ~$0.003 = instances $0.003.
On-demand price of the same time: $0.009; saved 66 %.
  pixel-orch attach digits"""


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def shown(sent: str) -> pyte.Screen:
    screen = pyte.Screen(80, 24)
    pyte.Stream(screen).feed(sent.replace("\n", "\r\n"))
    return screen


def test_states_headings_and_savings_are_coloured(terminal: Terminal) -> None:
    with redirect_stdout(terminal):
        say(TABLE)
    screen = shown(terminal.getvalue())
    assert [line.rstrip() for line in screen.display if line.strip()] == [x for x in TABLE.split("\n") if x]
    rows = screen.buffer
    assert rows[0][0].bold
    assert rows[1][0].bold
    assert rows[2][9].fg == "green"
    assert rows[3][9].fg == "red"
    assert rows[3][0].fg == "default", "a run may be called RUNNING"
    assert rows[6][TABLE.split("\n")[6].index("saved")].fg == "green"


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM", "plain"])
def test_without_colour_the_words_are_the_same(name: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    if name != "plain":
        monkeypatch.setenv(name, "dumb" if name == "TERM" else "1")
    with redirect_stdout(terminal):
        say(TABLE, is_plain=name == "plain")
    assert terminal.getvalue() == TABLE + "\n"


def test_a_pipe_gets_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setenv("FORCE_COLOR", "1")
    with redirect_stdout(pipe):
        say(TABLE)
    assert pipe.getvalue() == TABLE + "\n"


def test_what_a_table_holds_cannot_act_on_the_terminal(terminal: Terminal) -> None:
    with redirect_stdout(terminal):
        say("RUN  STATE\n\x1b[2Jgone  FAILED")
    assert "\x1b[2J" not in terminal.getvalue()
    assert r"\x1b[2Jgone" in "".join(shown(terminal.getvalue()).display)
    assert "\x1b" not in coloured("\x1b]0;owned\x07").plain


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize(
    "words", ["prices --offline", "compare g4dn.xlarge g5.xlarge g2.2xlarge", "compare g2.2xlarge p2.xlarge"]
)
def test_prices_and_comparisons_fit_the_terminal(
    words: str, width: int, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with redirect_stdout(terminal):
        assert main(words.split()) == 0
    text = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    assert "g2.2xlarge" in text or "g4dn.xlarge" in text
    assert max(map(len, text.splitlines())) <= width, text
