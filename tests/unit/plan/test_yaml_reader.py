"""A value arrives as it is written, or the error shows what to quote; no file takes long or ends in a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.formatting import one_line
from orchestrator.plan.settings_file import KEYS, TEXTS, read_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the path of a settings file."""
    return tmp_path / "run.yaml"


def refusal(file: Path, text: str | bytes) -> str:
    """Return the one line with which a file is refused."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    with pytest.raises(SpecError) as caught:
        read_file(str(file))
    line = str(caught.value)
    assert "\n" not in line
    assert one_line(line) == line
    assert len(line) < 1500
    assert str(file) in line
    return line


@pytest.mark.parametrize(
    "raw",
    [
        *("on", "off", "yes", "No", "true", "~", "null", "", "12:30", "12:30:45", "0b1", "0x10", "012345", "1_000"),
        *("+5", "-0", "1.10", "1.0e+3", "1e400", "1.", ".5", ".inf", ".nan", "9" * 5000),
        *("2024-01-01", "2024-01-01 10:00:00", "2024-13-45"),
    ],
)
@pytest.mark.parametrize("key", ["env", "tag"])
def test_what_yaml_reads_as_another_value_is_an_error_that_shows_the_quotes(file: Path, key: str, raw: str) -> None:
    text = f"{key}:\n  A: x\n  VALUE: {raw}\n"
    if yaml.compose(text).value[0][1].value[1][1].tag.endswith(":str"):  # as 1e400: YAML 1.1 wants a dot
        file.write_text(text)
        assert read_file(str(file))[key]["VALUE"] == raw
        return
    shown = raw if len(raw) < 60 else raw[:57] + "..."
    assert f'write VALUE: "{shown}"' in refusal(file, text)
    file.write_text(f'{key}:\n  A: x\n  VALUE: "{raw}"\n')
    assert read_file(str(file)) == {key: {"A": "x", "VALUE": raw}}


def test_all_that_is_to_be_quoted_is_shown_at_once(file: Path) -> None:
    text = (
        "cloud: local\ncommand: [python, t.py, 1.10]\nenv:\n  DEBUG: on\n  VERSION: 1.10\n  ZIP: 012345\n  EMPTY:\n"
        "  DAY: 2024-01-01\n  RATE: 1e-4\n  NO: no\n  YES: text\n  TOKEN: 1_000\n  PORT: 8080\n"
    )
    assert refusal(file, text).endswith(
        'write "1.10" in command, DEBUG: "on", VERSION: "1.10", ZIP: "012345", EMPTY: "", DAY: "2024-01-01", '
        '"NO": "no", "YES":, TOKEN: "1_000"'
    )


def test_a_number_with_one_spelling_is_its_text(file: Path) -> None:
    file.write_text("env: {PORT: 8080, RATE: 0.5, BIG: 1e-4, NEGATIVE: -3}\nname: 12\ncommand: [a, 1, 0.25]\n")
    assert read_file(str(file)) == {
        "env": {"PORT": "8080", "RATE": "0.5", "BIG": "1e-4", "NEGATIVE": "-3"},
        "name": "12",
        "command": ["a", "1", "0.25"],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps: 012", 'steps: "012" is not a decimal number'),
        ("steps: 1_000", "is not a decimal number"),
        ("max-duration: 1:30", "is not a decimal number"),
        ("set: {seed: 0x10}", "is not a decimal number"),
        ("steps: 2024-01-01", "must be quoted"),
        ("region:", 'region: ""'),
        ("spot:", "spot has no value"),
        ("name: yes", 'write name: "yes"'),
        ("steps: !!int x", "is not a decimal number"),
        ("spot: !!bool x", "must be quoted"),
        ("budget: !!float x", "is not a decimal number"),
        ("budget: !!timestamp x", "must be quoted"),
        ("env: {A: !!binary aGk=}", 'write A: "aGk="'),
        ("env: !!set {a, b}", "has the tag"),
        ("env: !!python/name:os.system {}", "has the tag"),
        ("env: [a]", "env must be dict"),
        ("env: {a: [b]}", "env must be dict"),
        ("command: [[a]]", "command must be str or list"),
        ("command: {a: b}", "command must be str or list"),
        ("name: [x]", "name must be str"),
        ("set: {1: 2}", 'the key "1" of set must be quoted'),
        ("? [a]\n: b", "a key is a list or a mapping"),
        ("spot: true\nspot: false", "spot is given twice"),
        ("max-price: 1\nmax_price: 2", "max_price is given twice"),
        ("env: {A: x, A: y}", 'env has "A" twice'),
        ("env: &a {A: x}\ntag: *a", "aliases (*a) are not read"),
        ("env:\n  <<: {A: x}", '"<<"'),
        ("[" * 50_000, "inside of each other"),
        ("{" * 1000, "inside of each other"),
        ("- " * 1000 + "x", "inside of each other"),
        ("a: b\n---\nc: d", "document"),
        ('name: "\\ud800"', "half a character"),
        ('env: {A: "\\0"}', "NUL byte"),
        ('env: {"\\udfff": x}', "half a character"),
        ("name: \x01", "special characters are not allowed"),
        ("%YAML 9.9\n---\na: b", "line"),
        ('name: "\\U99999999"', "run.yaml"),
        ("x" * 70_000, "larger than 64 KiB"),
        ("\u202ename: x", "run.yaml"),
    ],
)
def test_a_bad_file_is_one_line(file: Path, text: str, says: str) -> None:
    assert says in refusal(file, text)


def test_a_bomb_of_aliases_is_refused_at_its_first_alias(file: Path) -> None:
    lines = ["env: &a0 [lol]"] + [f"x{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "line 2: aliases (*a0) are not read" in refusal(file, "\n".join(lines))


# -- whatever a file holds

QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PIECES = [
    *("env", "tag", "name", "spot", ": ", "\n", "\n  ", "- ", "[", "]", "{", "}", "&a ", "*a", "!!int ", "!!str "),
    *('"', "'", "|", ">", "#", "? ", "on", "0x1", "1.10", "~", "<<", "%", "@", "\t", "\\", "\ud7ff", "é", "\u202e"),
    *("\x85", "2024-01-01"),
]


@QUICK
@given(parts=st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=40))
def test_any_text_is_settings_or_one_line(file: Path, parts: list[str]) -> None:
    check_any(file, "".join(parts).encode("utf-8", "surrogatepass"))


@QUICK
@given(data=st.binary(max_size=200))
def test_any_bytes_are_settings_or_one_line(file: Path, data: bytes) -> None:
    check_any(file, data)


def read_or_refused(file: Path) -> tuple[dict[str, Any], str]:
    """Return the settings, or the line with which the file is refused."""
    try:
        return read_file(str(file)), ""
    except SpecError as error:
        return {}, str(error)


def check_any(file: Path, data: bytes) -> None:
    """Read a file: its texts can be written down, or it is refused in one line."""
    file.write_bytes(data)
    read, line = read_or_refused(file)
    assert one_line(line) == line
    json.dumps(read, ensure_ascii=False).encode("utf-8")
    assert set(read) <= set(KEYS)


SIMPLE = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30)


@QUICK
@given(env=st.dictionaries(SIMPLE, st.one_of(SIMPLE, st.integers(), st.floats(), st.booleans(), st.none()), max_size=6))
def test_what_a_program_dumps_arrives_as_text_or_is_to_be_quoted(file: Path, env: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump({"env": env}, allow_unicode=True), encoding="utf-8")
    read, line = read_or_refused(file)
    if line:
        assert "write " in line
        assert any(not isinstance(value, str) for value in env.values())
        return
    assert set(read.get("env", {})) == set(env)
    for key, value in read.get("env", {}).items():
        assert value == (env[key] if isinstance(env[key], str) else repr(env[key]))


def test_every_setting_of_text_is_read_as_one() -> None:
    assert {"name", "command", "env", "tag", "region", "workdir"} <= TEXTS
    assert not {"set", "prepare", "steps", "budget", "spot"} & TEXTS
