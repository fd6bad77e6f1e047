"""The home: its schema file, and the refusal of a home that a newer program wrote."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.cli.flags import OF_THE_MODEL, parser
from orchestrator.cli.main import main
from orchestrator.errors import SpecError
from orchestrator.runs.home import SCHEMA, make_home, schema_of

COMMANDS = [
    ["status"],
    ["status", "x"],
    ["logs", "x"],
    ["report"],
    ["compare", "p2.xlarge"],
    ["prices", "--instance", "p2.xlarge", "--cloud", "local"],
    ["launch", "--cloud", "local", "--instance", "p2.xlarge", "--spot", "-y"],
    ["launch", "--cloud", "local", "--instance", "p2.xlarge", "--spot", "--dry-run"],
    ["launch", "--resume", "x", "-y"],
    ["bench", "--cloud", "local", "--instance", "p2.xlarge", "--spot", "-y"],
    ["attach", "x"],
    ["attach", "--all"],
    ["stop", "x"],
    ["pull", "x"],
    ["ssh", "x"],
    ["down", "x", "-y"],
    ["cleanup", "--cloud", "local", "-y"],
    ["check", "--cloud", "local"],
    ["setup", "--cloud", "local"],
    ["teardown", "--cloud", "local", "-y"],
    ["runs", "prune", "x", "-y"],
    ["dashboard", "--port", "0"],
    ["export", "x", "--to", "tensorboard"],
    ["plan", "--work", "1h", "--deadline", "4h", "-t", "g4dn.xlarge"],
]


@pytest.fixture
def newer(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home that a newer program wrote."""
    (home / "schema").write_text(f"{SCHEMA + 1}\n")
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home.parent))
    monkeypatch.chdir(home.parent)
    return home


def test_the_list_has_every_command_that_reads_the_home() -> None:
    named = set(re.findall(r"^    ([a-z]+)(?: |$)", parser().format_help(), re.MULTILINE))
    assert named - set(OF_THE_MODEL) - {"completion", "simulate"} == {words[0] for words in COMMANDS}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_refuses_a_newer_home_in_one_line(
    newer: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert " ".join(err.split()) == (
        f"pixel-orch {words[0]}: error: PIXEL_ORCH_HOME: a newer pixel-orch wrote {newer} "
        f"(schema {SCHEMA + 1}; this one reads up to {SCHEMA}); "
        "upgrade pixel-orch, or set PIXEL_ORCH_HOME to another folder"
    )
    assert [path.name for path in newer.iterdir()] == ["schema"], "nothing is written into it"


def test_the_api_refuses_a_newer_home(newer: Path) -> None:
    with pytest.raises(SpecError, match="a newer pixel-orch wrote"):
        api.launch(instance="p2.xlarge", cloud="local")
    with pytest.raises(SpecError, match="a newer pixel-orch wrote"):
        api.result("x")
    with pytest.raises(SpecError, match="a newer pixel-orch wrote"):
        make_home(newer)


def test_help_and_completion_work_beside_a_newer_home(newer: Path) -> None:
    line = "pixel-orch status "
    env = {**os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    env["_ARGCOMPLETE_STDOUT_FILENAME"] = str(newer.parent / "answer")
    for words in (["--help"], []):
        extra = env if not words else dict(os.environ)
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *words], env=extra, check=False, capture_output=True, timeout=20
        )
        assert (done.returncode, done.stderr) == (0, b"")


def test_make_home_writes_the_schema_once(tmp_path: Path) -> None:
    home = make_home(tmp_path / "new" / "home")
    assert (home / "schema").read_text() == f"{SCHEMA}\n"
    assert schema_of(home) == SCHEMA
    before = (home / "schema").stat()
    make_home(home)
    assert (home / "schema").stat().st_mtime_ns == before.st_mtime_ns


def test_a_program_of_a_later_schema_marks_the_home_that_it_writes_into(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_home(home)
    monkeypatch.setattr("orchestrator.runs.home.SCHEMA", SCHEMA + 1)
    make_home(home)
    monkeypatch.undo()
    with pytest.raises(SpecError, match=f"schema {SCHEMA + 1}; this one reads up to {SCHEMA}"):
        make_home(home)


def test_a_home_without_the_file_is_schema_1(tmp_path: Path) -> None:
    assert schema_of(tmp_path) == schema_of(tmp_path / "missing") == 1
    (tmp_path / "file").write_text("")
    assert schema_of(tmp_path / "file" / "home") == 1


@pytest.mark.parametrize("content", [b"", b"x\n", b"-1", b"0", b"1.5", b"\xff\xfe", b"9" * 100])
def test_a_damaged_schema_file_is_one_clear_line(
    home: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "schema").write_bytes(content)
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    assert main(["status"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(
        f"pixel-orch status: error: PIXEL_ORCH_HOME: {home / 'schema'} is damaged: expected a number"
    )
    assert "Traceback" not in said


def test_a_schema_that_cannot_be_read_is_one_clear_line(home: Path) -> None:
    (home / "schema").mkdir()
    with pytest.raises(SpecError, match=r"cannot read .*/schema \(Is a directory\); make it readable"):
        schema_of(home)
