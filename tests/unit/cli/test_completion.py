"""`completion`: what a shell is told that may follow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from tests.support.report_runs import Had, write_run


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Run with this home, in an empty folder."""
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return home


def completed(line: str, home: Path) -> list[str]:
    """Return what a shell is told may follow."""
    env = {**os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    env.update(PIXEL_ORCH_HOME=str(home), _ARGCOMPLETE_STDOUT_FILENAME=str(home / "answer"))
    subprocess.run([sys.executable, "-m", "orchestrator.cli"], env=env, check=False, timeout=20)
    return [word.strip() for word in (home / "answer").read_text().split("\n")]


@pytest.mark.slow
def test_a_shell_completes_commands_runs_and_types(at_home: Path) -> None:
    write_run(at_home, "digits-1", [Had()])
    assert "launch" in completed("pixel-orch la", at_home)
    assert completed("pixel-orch report di", at_home) == ["digits-1"]
    assert "p2.xlarge" in completed("pixel-orch launch --instance p2.", at_home)
    assert "A10G" in completed("pixel-orch launch --gpu A1", at_home)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_part_names_the_program(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "pixel-orch" in capsys.readouterr().out
