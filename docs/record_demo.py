"""Records the demo in a terminal of 80 columns, and draws it: `python -m docs.record_demo [FOLDER]`.

It writes `demo.cast` (asciinema's format, version 2) into a folder, `build` if none is given, and from it
`docs/images/demo.svg`, which shows it in a browser without a script. Paths of this machine do not get into it. It takes
as long as the demo, 1 to 3 minutes.
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
from pathlib import Path

from docs.cast_to_svg import svg_of

COLUMNS, ROWS = 80, 24
COMMAND = (
    "pixel-orch",
    "launch",
    "--cloud",
    "local",
    "--instance",
    "p2.xlarge",
    "--spot",
    "-y",
    "--interrupt-after",
    "20",
)
LONGEST_S = 600.0
ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "demo.svg"


def record(command: tuple[str, ...], home: str) -> list[tuple[float, str]]:
    """Run a command in a terminal, and return what it printed: (seconds since its start, text).

    Args:
        command: its words; the program is looked for beside this Python first.
        home: the home folder, so that nothing of the user's is shown.

    Raises:
        TimeoutError: it runs for longer than ten minutes.
    """
    child, terminal = pty.fork()
    if child == 0:
        bins = Path(sys.executable).parent
        kept = {name: os.environ[name] for name in ("PYTHONPATH", "LANG", "LC_ALL") if name in os.environ}
        path = f"{bins}:{os.environ['PATH']}"
        os.execvpe(  # noqa: S606 - no shell is wanted
            command[0],
            command,
            {**kept, "PATH": path, "HOME": home, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        )
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
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


def cast_of(events: list[tuple[float, str]]) -> str:
    """Return a recording as asciinema writes it."""
    head = {"version": 2, "width": COLUMNS, "height": ROWS, "title": " ".join(COMMAND)}
    lines = [json.dumps(head), *(json.dumps([round(at, 3), "o", text]) for at, text in events)]
    return "\n".join([*lines, ""])


def without_paths(text: str, home: str) -> str:
    """Return a text with the folders of this machine as a user has them."""
    for path in {str(Path(sys.prefix).resolve().parent), str(Path(sys.prefix).parent), str(ROOT)}:
        text = text.replace(path, "~/pixel-orch")
    return text.replace(home, "~")


def main() -> None:
    """Record, and write both files."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        events = [(at, without_paths(text, home)) for at, text in record(COMMAND, home)]
    cast = cast_of([(0.0, f"$ {' '.join(COMMAND)}\r\n"), *events])
    (folder / "demo.cast").write_text(cast)
    PICTURE.write_text(svg_of(cast))


if __name__ == "__main__":
    main()
