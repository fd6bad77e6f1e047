"""The command `report`: it writes each form, and needs the drawing library only for HTML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from tests.support.report_runs import Had, write_run


def test_the_command_prints_each_form(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    write_run(home, "one", [Had()])
    for form, begins in (("json", "{"), ("csv", "run,"), ("markdown", "## Runs"), ("table", "Runs (measured")):
        assert main(["report", "one", "-o", form]) == 0
        assert capsys.readouterr().out.startswith(begins)
    assert main(["report", "--html", str(tmp_path / "none" / "r.html")]) == 2
    assert "--html: cannot write" in capsys.readouterr().err
    assert main(["report", "--out", str(tmp_path / "r.txt")]) == 0
    assert "one" in (tmp_path / "r.txt").read_text()


def test_without_the_drawing_library_the_error_names_the_extra(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    write_run(home, "one", [Had()])
    assert main(["report", "--html", str(home / "r.html")]) == 2
    assert "pip install 'pixel-orch[report]'" in capsys.readouterr().err


def test_only_html_imports_the_drawing_library(home: Path) -> None:
    write_run(home, "one", [Had()])
    code = (
        "import sys; from orchestrator.cli.main import main; main(['report']); "
        "print(sorted({'matplotlib', 'numpy', 'boto3', 'torch'} & set(sys.modules)))"
    )
    import os

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env={**os.environ, "PIXEL_ORCH_HOME": str(home)})  # fmt: skip
    assert shown.stdout.strip().splitlines()[-1] == "[]"
