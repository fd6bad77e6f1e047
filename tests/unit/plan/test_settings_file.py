"""Where settings files are looked for, and which of them wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.plan.settings_file import settings_file


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Run with this home, in an empty folder."""
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return home


def test_settings_are_found_where_people_look(at_home: Path, tmp_path: Path) -> None:
    mine = tmp_path / "config" / "pixel-orch" / "config.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("region: us-west-2\nspot: true\n")
    Path("pixel-orch.yaml").write_text("region: eu-west-1\n")
    assert settings_file(None) == {"region": "eu-west-1", "spot": True}
    Path("named.yaml").write_text("region: us-east-2\n")
    assert settings_file("named.yaml") == {"region": "us-east-2"}, "a file that is named stands alone"
