"""JSON from outside: what is out of bounds is refused in one line, and nothing else is raised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.runs.bounded_json import MOST_DEPTH, MOST_LINE_BYTES, BadJsonError, loads, objects
from orchestrator.runs.files import read_jsonl


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested"),
        ('{"a":' * 100_000, "nested"),
        ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "nested"),
        ('{"step": ' + "1" * 400 + "}", "digits"),
        ('{"step": ' + "9" * 4_000 + "}", "digits"),
        ('{"step": ' + "9" * 5_000 + "}", "digits"),
        ('{"step": 3', "Expecting"),
        (b'{"step": "\xff"}', "UTF-8"),
        ('"' + "x" * MOST_LINE_BYTES + '"', "allowed"),
        ("", "Expecting"),
    ],
)
def test_what_is_out_of_bounds_is_refused_in_one_line(text: str | bytes, why: str) -> None:
    with pytest.raises(BadJsonError, match=why) as caught:
        loads(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1" * 400 + ".0"])
def test_a_number_that_is_not_finite_is_none(number: str) -> None:
    assert loads(f'{{"loss": {number}, "step": 3}}') == {"loss": None, "step": 3}


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert loads('{"name": "a\\ud800b", "face": "\\ud83d\\ude00"}') == {"name": "a?b", "face": "\U0001f600"}
    assert loads('{"name": "a\ud800b"}') == {"name": "a?b"}


@pytest.mark.parametrize(
    "value",
    [{"step": 3, "speed": 1.5e300, "names": ["a", "é", None, True]}, [[[]]], "x", 10**17, -(10**16), 0.1, {}],
)
def test_what_is_within_the_bounds_is_read_as_it_is(value: Any) -> None:
    assert loads(json.dumps(value)) == value
    assert loads(json.dumps(value, ensure_ascii=False).encode()) == value


def test_a_bad_line_hides_no_other(tmp_path: Path) -> None:
    bad = ["[" * 100_000, '{"step": ' + "1" * 4_000 + "}", '{"torn": ', "[1]", "7", "\x00", "x" * (3 * MOST_LINE_BYTES)]
    lines = ['{"step": 1}', *bad, '{"step": 2}']
    assert [line["step"] for line in objects(lines)] == [1, 2]
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(lines) + "\n")
    assert [line["step"] for line in read_jsonl(path)] == [1, 2]
    path.write_bytes(b'{"step": 1}\n' + b"y" * (2 * MOST_LINE_BYTES + 2))
    assert [line["step"] for line in read_jsonl(path)] == [1]
    assert list(read_jsonl(tmp_path / "none")) == []
