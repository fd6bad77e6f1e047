"""The command `dashboard` refuses a bad port in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli.main import main

pytest.importorskip("starlette")


def test_an_invalid_port_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    assert main(["dashboard", "--port", "70000"]) == 2
    assert "--port: 70000 is not a port" in capsys.readouterr().err
