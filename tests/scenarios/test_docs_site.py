"""The documentation site is built and loads nothing from elsewhere; commands that rent nothing run. Slow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.doc_blocks import ROOT, blocks, commands, pages

LOOKS_ONLY = ("compare", "status", "report", "completion")
NAMES_A_RUN = ("my-run", "first", "RUN")


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    if find_spec("mkdocs") is None or find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: pip install -e '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = sorted((tmp_path / "site").rglob("*.html"))
    assert len(built) > 30
    loaded = r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?((?:https?:)?//[^"'> ]+)"""
    for page in built:
        foreign = [url for url in re.findall(loaded, page.read_text()) if "rel=canonical" not in url]
        assert not foreign, f"{page.name} loads {foreign}"
    overview = (tmp_path / "site" / "index.html").read_text()
    assert "images/demo.svg" in overview
    assert "quick-start.html" in overview


def rents_nothing(words: list[str]) -> bool:
    """Return whether a command only looks: it can be run on a machine without runs."""
    if words[0] != "pixel-orch" or set(words) & set(NAMES_A_RUN):
        return False
    is_rehearsal = words[1] == "launch" and {"--dry-run", "--sync-dry-run"} & set(words) and "local" in words
    return words[1] in LOOKS_ONLY or bool(is_rehearsal)


@pytest.mark.slow
def test_the_commands_that_only_look_run(tmp_path: Path) -> None:
    found = {
        " ".join(words): words
        for page in pages()
        for block in blocks(page)
        for words in commands(block)
        if rents_nothing(words)
    }
    assert len(found) > 5
    env = {**os.environ, "PIXEL_ORCH_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    for line, words in found.items():
        given = [str(tmp_path / word) if word.endswith((".html", ".csv")) else word for word in words[1:]]
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *given],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
