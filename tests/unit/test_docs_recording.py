"""The picture of the demo: a terminal is recorded, and drawn without a script."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree  # our own files

import pytest

from docs.cast_to_svg import LAST_S, frames, still_of, svg_of
from docs.record_demo import NOTICE, PICTURE, PICTURES, SCREENS, cast_of, record, without_paths

SVG = "{http://www.w3.org/2000/svg}"


def cast(*events: tuple[float, str], columns: int = 20, rows: int = 3) -> str:
    head = {"version": 2, "width": columns, "height": rows, "title": "a < b"}
    return "\n".join([json.dumps(head), *(json.dumps([at, "o", text]) for at, text in events)])


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - as above


def test_what_was_on_the_screen_is_in_the_picture() -> None:
    svg = svg_of(cast((0.0, "one & two\r\n"), (2.0, "\x1b[31mred\x1b[0m plain\r\n")))
    assert texts(svg) == ["one & two", "red", "plain"]
    assert 'fill="#ff7b72"' in svg


def test_blocks_are_rectangles_of_their_height() -> None:
    svg = svg_of(cast((0.0, "▀▀ ▄ █")))
    assert texts(svg) == []
    drawn = ElementTree.fromstring(svg).find(f"{SVG}defs/{SVG}g")  # noqa: S314 - as above
    assert drawn is not None
    shapes = [(part.get("x"), part.get("width"), part.get("height")) for part in drawn]
    assert shapes == [("0", "16", "8.5"), ("24", "8", "8.5"), ("40", "8", "17")]


def test_waits_are_cut_and_the_end_stays() -> None:
    found = frames([[0.0, "o", "a"], [300.0, "o", "b"], [300.1, "o", "c"], [600.0, "o", "d"]], 5, 1)
    assert ["".join(cell[0] for cell in lines[0]).strip() for lines, _ in found] == ["a", "abc", "abcd"]
    assert sum(shown for _, shown in found) <= 2 + LAST_S


def test_an_interruption_is_held_although_the_next_line_comes_at_once() -> None:
    found = frames([[0.0, "o", "INTERRUPTION NOTICE\r\n"], [0.1, "o", "saved\r\n"], [0.2, "o", "end"]], 20, 3)
    assert found[0][1] > 1


def test_a_line_that_is_there_twice_is_drawn_once() -> None:
    svg = svg_of(cast((0.0, "first\r\n"), (5.0, "second\r\n")))
    assert len(texts(svg)) == 2
    assert svg.count("<use") == 3  # first, then first and second


def test_a_still_is_the_last_screen_with_its_words_and_no_taller() -> None:
    told = cast((0.0, "first\r\n"), (5.0, "\x1b[2J\x1b[Hsecond\r\n"), (9.0, "\x1b[2J\x1b[Hthird"))
    svg = still_of(told, "second")
    assert texts(svg) == ["second"]
    assert 'viewBox="0 0 184 41"' in svg  # one line of 17 between two margins of 12
    assert "animation" not in svg
    with pytest.raises(ValueError, match="no screen has 'fourth'"):
        still_of(told, "fourth")


def test_a_program_is_recorded_in_a_terminal_of_its_width(tmp_path: Path) -> None:
    program = "import os, sys; print(os.get_terminal_size(), sys.stdout.isatty(), os.environ['HOME'])"
    events = record(("python", "-c", program), str(tmp_path))
    printed = "".join(text for _, text in events)
    assert "columns=80, lines=24" in printed
    assert "True" in printed
    assert cast_of(events).startswith('{"version": 2, "width": 80')
    assert str(tmp_path) not in without_paths(printed, str(tmp_path))


def test_every_screen_has_its_picture() -> None:
    for name in ("terminal-live", *(still.name for still in SCREENS)):
        words = " ".join(texts((PICTURES / f"{name}.svg").read_text()))
        assert "pixel-orch" in words or NOTICE in words, name


def test_the_committed_picture_shows_the_demo_and_nothing_of_a_machine() -> None:
    words = " ".join(texts(PICTURE.read_text()))
    for part in ("pixel-orch launch --cloud local", "INTERRUPTION NOTICE", "(resumed)", "on-demand price"):
        assert part in words
    assert os.path.expanduser("~/") not in words
    assert "<script" not in PICTURE.read_text()
