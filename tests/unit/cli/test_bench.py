"""The command `bench` refuses bad input in one line, before anything starts."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from orchestrator.cli.main import main

LOCAL = ["bench", "--cloud", "local", "--spot", "-y", "--instance", "p2.xlarge,g5.xlarge"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bench", "--cloud", "local", "--spot", "-y"], "names no instance type"),
        ([*LOCAL[:-1], "p2.xlarge,p9.huge"], "unknown instance type"),
        ([*LOCAL, "--steps", "1"], "--steps"),
        ([*LOCAL, "--warmup-steps", "200"], "--warmup-steps"),
        ([*LOCAL, "--budget", "0"], "--budget"),
        ([*LOCAL, "--set", "learning_rat=1"], "learning_rate"),
        ([*LOCAL, "--faults", "missing.yaml"], "--faults"),
        ([*LOCAL, "--on-demand"], "two markets"),
        ([*LOCAL, "-n", "Bad Name"], "is not a run's name"),
        ([*LOCAL, "--command", "python x.py"], "needs --workdir"),
        ([*LOCAL, "--command", "a", "--", "b"], "give one of them"),
        (["bench", "--cloud", "local", "--spot", "--instance", "p2.xlarge"], "pass -y"),
        (["bench", "--cloud", "mars", "--spot", "-y", "--instance", "p2.xlarge"], "unknown cloud"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(words) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "home").exists()
