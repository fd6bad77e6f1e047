"""Docs that cannot go stale: links lead somewhere, commands parse, every decision is listed."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from orchestrator.cli.flags import OF_THE_MODEL, parser
from orchestrator.cli.main import split_words

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "*.md"], capture_output=True, text=True, check=True
    ).stdout.split()
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def commands(page: Path) -> list[str]:
    """Return the `pixel-orch ...` lines of a page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip().startswith("pixel-orch ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_in_a_shell_block_parses(page: Path) -> None:
    for command in commands(page):
        words = shlex.split(command, comments=True)[1:]
        if words[0] not in OF_THE_MODEL:
            parser().parse_args(split_words(words)[0])


def test_the_readme_has_commands_to_check() -> None:
    assert commands(ROOT / "README.md")


def test_every_decision_is_listed() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    for page in (ROOT / "docs" / "decisions").glob("0*.md"):
        assert page.name in index


def test_no_page_names_a_machine(tmp_path: Path) -> None:
    for page in PAGES:
        assert not re.search(r"(^|[\s(`\"'])/(work|tmp|root|home)/[a-z]", page.read_text()), page.name
