"""Draws a recorded terminal as an animated SVG without scripts: `python -m docs.cast_to_svg demo.cast demo.svg`.

Each frame is one screen. Lines that are alike are drawn once and shown again; the frames lie below one another, and the
picture shows one at a time, at least three times as fast. Blocks (the bars, the samples) are drawn as rectangles, so
that no font decides how they look.
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

import pyte

CELL_W, CELL_H, FONT_PX, PAD = 8.0, 17, 13.2, 12
LEAST_SPEED = 3.0  # seconds of the recording in a second of the picture
MOST_S = 35.0  # of the picture, without what is held; a longer recording is shown faster
SHOWN_S = 0.3  # each frame is shown for so long, at least
LONGEST_S = 1.0  # and at most
HELD = ("INTERRUPTION NOTICE", "RECOVERING", "(resumed)")
HELD_S = 1.5  # what is held stays for so long when it appears
LAST_S = 8.0  # the end is there to be read
FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
LOOK = (
    f"text{{font:{FONT_PX}px {FONTS};white-space:pre}}.b{{font-weight:700}}"
    "rect{shape-rendering:crispEdges}"  # else hairlines between the halves of a picture
)
INK, PAPER = "#d8dee4", "#14181d"
NAMED = {
    "black": "#3b4350", "red": "#ff7b72", "green": "#7ee787", "brown": "#e3b341", "blue": "#79c0ff",
    "magenta": "#d2a8ff", "cyan": "#76e3ea", "white": "#d8dee4", "brightblack": "#8b949e", "brightred": "#ffa198",
    "brightgreen": "#aff5b4", "brightbrown": "#f2cc60", "brightblue": "#a5d6ff", "brightmagenta": "#e2c5ff",
    "brightcyan": "#b3f0ff", "brightwhite": "#ffffff",
}  # fmt: skip
EIGHTHS = "▁▂▃▄▅▆▇█"

Line = tuple[tuple[str, str, str, bool], ...]
"""A line of the screen: for each cell the character, its colour, the colour behind it, whether it is bold."""


def svg_of(cast: str) -> str:
    """Return the moving picture of a recording in asciinema's format, version 2."""
    head, *events = [json.loads(line) for line in cast.splitlines() if line]
    screens = frames(events, head["width"], head["height"])
    height = head["height"] * CELL_H
    return _picture(head, screens, height, style(screens, height, sum(shown for _, shown in screens)))


def still_of(cast: str, words: str = "") -> str:
    """Return the picture of one screen: the last one that has the words on it, without the empty lines below.

    Raises:
        ValueError: no screen has them.
    """
    head, *events = [json.loads(line) for line in cast.splitlines() if line]
    found = [
        lines for lines, _ in frames(events, head["width"], head["height"]) if any(words in text(row) for row in lines)
    ]
    if not found:
        raise ValueError(f"{head['title']}: no screen has {words!r}")
    rows = max(number for number, line in enumerate(found[-1], 1) if drawn(line))
    return _picture(head, [(found[-1][:rows], LAST_S)], rows * CELL_H, LOOK)


def _picture(head: dict[str, Any], screens: list[tuple[list[Line], float]], height: int, css: str) -> str:
    known: dict[Line, int] = {}
    for lines, _ in screens:
        for line in lines:
            known.setdefault(line, len(known))
    width = head["width"] * CELL_W + 2 * PAD
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height + 2 * PAD}" '
        f'viewBox="0 0 {width:g} {height + 2 * PAD}" role="img">',
        f"<title>{escape(head['title'])}</title>",
        f"<style>{css}</style>",
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
        "<defs>",
        *(f'<g id="l{number}">{drawn(line)}</g>' for line, number in known.items() if drawn(line)),
        "</defs>",
        f'<svg x="{PAD}" y="{PAD}" width="{head["width"] * CELL_W:g}" height="{height}"><g class="f">',
        *strip(screens, known, height),
        "</g></svg></svg>",
        "",
    ])  # fmt: skip


def text(line: Line) -> str:
    """Return what a line says."""
    return "".join(cell[0] for cell in line)


def style(screens: list[tuple[list[Line], float]], height: int, total: float) -> str:
    """Return the style: which frame is shown when. Who wants less motion sees the last frame."""
    moves, at = [], 0.0
    for number, (_, shown) in enumerate(screens):
        moves.append(f"{100 * at / total:.3f}%{{transform:translateY({-number * height}px)}}")
        at += shown
    last = f"transform:translateY({-(len(screens) - 1) * height}px)"
    return (
        f"{LOOK}.f{{animation:f {total:.1f}s steps(1) infinite}}"
        f"@keyframes f{{{''.join(moves)}100%{{{last}}}}}"
        f"@media(prefers-reduced-motion:reduce){{.f{{animation:none;{last}}}}}"
    )


def strip(screens: list[tuple[list[Line], float]], known: dict[Line, int], height: int) -> list[str]:
    """Return the frames, one below the other."""
    found = []
    for number, (lines, _) in enumerate(screens):
        for row, line in enumerate(lines):
            if drawn(line):
                found.append(f'<use href="#l{known[line]}" y="{number * height + row * CELL_H}"/>')
    return found


def frames(events: list[list[object]], columns: int, rows: int) -> list[tuple[list[Line], float]]:
    """Return the screens that differ, and for how many seconds each is shown."""
    screen = pyte.Screen(columns, rows)
    stream = pyte.Stream(screen)
    found: list[tuple[list[Line], float]] = []
    since, held = 0.0, set[str]()
    speed = max(LEAST_SPEED, float(str(events[-1][0])) / MOST_S)
    for number, (at, _, printed) in enumerate(events):
        stream.feed(str(printed))
        is_last = number + 1 == len(events)
        following = float(str(at if is_last else events[number + 1][0]))
        seen = {words for words in HELD if any(words in row for row in screen.display)}
        if following - since < SHOWN_S * speed and not seen - held and not is_last:
            continue
        shown = HELD_S if seen - held else min(max((following - since) / speed, SHOWN_S), LONGEST_S)
        held |= seen
        lines = [line_of(screen, row) for row in range(rows)]
        if found and found[-1][0] == lines:
            shown = min(found.pop()[1] + shown, LONGEST_S)
        found.append((lines, LAST_S if is_last else shown))
        since = following
    return found


def line_of(screen: pyte.Screen, row: int) -> Line:
    """Return a line of the screen."""
    cells = []
    for column in range(screen.columns):
        cell = screen.buffer[row][column]
        ink, paper = colour(cell.fg, INK), colour(cell.bg, "")
        if cell.reverse:
            ink, paper = paper or PAPER, ink
        cells.append((cell.data, ink, paper, bool(cell.bold)))
    return tuple(cells)


def colour(name: str, default: str) -> str:
    """Return a colour of pyte as CSS has it."""
    return default if name == "default" else NAMED.get(name, f"#{name}")


def drawn(line: Line) -> str:
    """Return the SVG of a line: what is behind it, blocks, texts of one colour each."""
    parts = []
    for begin, end in spans(line, lambda cell: cell[2]):
        if line[begin][2]:
            parts.append(rectangle(begin, end, 0, 1, line[begin][2]))
    for begin, end in spans(line, lambda cell: (cell[0] if is_block(cell[0]) else "", cell[1])):
        if is_block(line[begin][0]):
            top, bottom = block(line[begin][0])
            parts.append(rectangle(begin, end, top, bottom, line[begin][1]))
    for begin, end in spans(line, lambda cell: (is_block(cell[0]), cell[1], cell[3])):
        said = text(line[begin:end])
        if is_block(line[begin][0]) or not said.strip():
            continue
        first, said = begin + len(said) - len(said.lstrip()), said.strip()
        bold = ' class="b"' if line[begin][3] else ""
        parts.append(
            f'<text x="{first * CELL_W:g}" y="13" textLength="{len(said) * CELL_W:g}" fill="{line[begin][1]}"{bold}>'
            f"{escape(said, quote=False)}</text>"
        )
    return "".join(parts)


def spans(line: Line, alike):  # type: ignore[no-untyped-def]  # a key of a cell, as in itertools.groupby
    """Yield (first column, column after the last) of neighbouring cells that are alike."""
    begin = 0
    for column in range(1, len(line) + 1):
        if column == len(line) or alike(line[column]) != alike(line[begin]):
            yield begin, column
            begin = column


def is_block(letter: str) -> bool:
    """Return whether a character is drawn as a rectangle."""
    return letter == "▀" or (letter in EIGHTHS and letter != "")


def block(letter: str) -> tuple[float, float]:
    """Return the top and the bottom of a block, as shares of a cell's height."""
    return (0.0, 0.5) if letter == "▀" else (1 - (EIGHTHS.index(letter) + 1) / 8, 1.0)


def rectangle(begin: int, end: int, top: float, bottom: float, fill: str) -> str:
    """Return a rectangle over some cells of a line."""
    return (
        f'<rect x="{begin * CELL_W:g}" y="{top * CELL_H:g}" width="{(end - begin) * CELL_W:g}" '
        f'height="{(bottom - top) * CELL_H:g}" fill="{fill}"/>'
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(svg_of(Path(sys.argv[1]).read_text()))
