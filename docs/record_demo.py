"""Records the demo and other screens in terminals, and draws them: `python -m docs.record_demo [FOLDER]`.

It writes recordings in asciinema's format (version 2) into a folder, `build` if none is given, and from them pictures
into `docs/images/`, which a browser shows without a script: `demo.svg`, which moves, and one for each screen in
`SCREENS`. Paths of this machine do not get into them. It takes two minutes, or four on a machine that is busy.
"""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import select
import struct
import sys
import tempfile
import termios
import time
from dataclasses import dataclass
from pathlib import Path

from docs.cast_to_svg import still_of, svg_of

COLUMNS, ROWS = 80, 24
LAUNCH = "pixel-orch launch --cloud local --instance p2.xlarge --spot -y --interrupt-after"
COMMAND = tuple(f"{LAUNCH} 20".split())
SHORT = tuple(f"{LAUNCH} 5 --steps 700".split())
LONGEST_S = 600.0
ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "images"
PICTURE = PICTURES / "demo.svg"


@dataclass(frozen=True)
class Still:
    """A picture of one screen: the last frame of a command that has some words on it, "" for its last one."""

    name: str
    command: tuple[str, ...]
    columns: int = COLUMNS
    rows: int = ROWS
    words: str = ""


NOTICE = "AWS ends this machine"
SCREENS = (
    Still("terminal-live-40", SHORT, columns=40, words=NOTICE),
    Still("terminal-status", ("pixel-orch", "status"), rows=40),
    Still("terminal-status-40", ("pixel-orch", "status"), columns=40, rows=40),
    Still("terminal-report", ("pixel-orch", "report"), rows=60),
    Still(
        "terminal-prices-40",
        ("pixel-orch", "prices", "--instance", "g4dn.xlarge,g5.xlarge", "--offline"),
        columns=40,
        rows=40,
    ),
    Still("terminal-compare", ("pixel-orch", "compare", "g4dn.xlarge", "g5.xlarge"), rows=60),
)
"""They are taken after the demo, in its home. `terminal-live` is a frame of the demo itself."""


def record(command: tuple[str, ...], home: str, columns: int = COLUMNS, rows: int = ROWS) -> list[tuple[float, str]]:
    """Run a command in a terminal, and return what it printed: (seconds since its start, text).

    Args:
        command: its words; the program is looked for beside this Python first.
        home: the home folder, so that nothing of the user's is shown.
        columns: of the terminal.
        rows: of the terminal.

    Raises:
        TimeoutError: it runs for longer than ten minutes.
    """
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        bins = Path(sys.executable).parent
        kept = {name: os.environ[name] for name in ("PYTHONPATH", "LANG", "LC_ALL") if name in os.environ}
        path = f"{bins}:{os.environ['PATH']}"
        os.execvpe(  # noqa: S606 - no shell is wanted
            command[0],
            command,
            {**kept, "PATH": path, "HOME": home, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        )
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    began, events = time.monotonic(), []
    while True:
        if time.monotonic() - began > LONGEST_S:
            raise TimeoutError("the demo runs for more than ten minutes")
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # Linux: the other side is closed
            data = b""
        if not data:
            break
        events.append((time.monotonic() - began, decoder.decode(data)))
    os.waitpid(child, 0)
    return events


def cast_of(
    events: list[tuple[float, str]], command: tuple[str, ...] = COMMAND, columns: int = COLUMNS, rows: int = ROWS
) -> str:
    """Return a recording as asciinema writes it."""
    head = {"version": 2, "width": columns, "height": rows, "title": " ".join(command)}
    lines = [json.dumps(head), *(json.dumps([round(at, 3), "o", text]) for at, text in events)]
    return "\n".join([*lines, ""])


def without_paths(text: str, home: str) -> str:
    """Return a text with the folders of this machine as a user has them."""
    for path in {str(Path(sys.prefix).resolve().parent), str(Path(sys.prefix).parent), str(ROOT)}:
        text = text.replace(path, "~/pixel-orch")
    return text.replace(home, "~")


def recorded(command: tuple[str, ...], home: str, columns: int = COLUMNS, rows: int = ROWS) -> str:
    """Return the recording of a command, which is shown behind a prompt, without the paths of this machine."""
    events = [(at, without_paths(text, home)) for at, text in record(command, home, columns, rows)]
    return cast_of([(0.0, f"$ {' '.join(command)}\r\n"), *events], command, columns, rows)


def main() -> None:
    """Record, and write the recordings and the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        cast = recorded(COMMAND, home)
        (folder / "demo.cast").write_text(cast)
        PICTURE.write_text(svg_of(cast))
        (PICTURES / "terminal-live.svg").write_text(still_of(cast, NOTICE))
        for still in SCREENS:
            cast = recorded(still.command, home, still.columns, still.rows)
            (folder / f"{still.name}.cast").write_text(cast)
            (PICTURES / f"{still.name}.svg").write_text(still_of(cast, still.words))


if __name__ == "__main__":
    main()
