"""Docs that cannot go stale: links and anchors lead somewhere, commands parse, files are read by the real readers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.local import load_faults
from infra.local.cloud.faults import parse_faults
from model.cli.flags import parser as model_parser
from orchestrator.cli.flags import OF_THE_MODEL, parser
from orchestrator.cli.main import split_words
from orchestrator.plan.settings_file import read_file
from tests.support.doc_blocks import LANGUAGES, ROOT, Block, anchors, blocks, commands, links, pages, spans

PAGES = pages()
BLOCKS = [block for page in PAGES for block in blocks(page)]
TO_RUN = [block for block in BLOCKS if block.why_not_run is None]


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_leads_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} points to {path}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} points to {path}#{anchor}"


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def check_command(words: Sequence[str], where: object) -> None:
    """Give a command to the parser that would read it; a program that is not ours needs a mark.

    Raises:
        SystemExit: the parser refuses it.
        AssertionError: there is no parser for it.
    """
    if words[0] == "pixel-orch" and words[1] not in OF_THE_MODEL:
        parser().parse_args(split_words(list(words[1:]))[0])
    elif words[0] == "pixel-orch":
        model_parser("pixel-orch").parse_args(list(words[1:]))
    elif list(words[:3]) == ["python", "-m", "model"]:
        model_parser("python -m model").parse_args(list(words[3:]))
    elif words[0] == "make":
        assert set(words[1:]) <= make_targets(), f"{where}: make has no {words[1:]}"
    else:
        assert list(words) == ["pip", "install", "."], f"{where}: say why this is not run: <!-- not run: ... -->"


@pytest.mark.parametrize("block", TO_RUN, ids=str)
def test_every_command_of_a_block_parses(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block}: {block.language} is a language that no test reads"
    for words in commands(block):
        check_command(words, block)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_command_in_a_sentence_is_there_with_its_flags(page: Path) -> None:
    """A sentence may leave out what is needed (`launch --resume`), so that only the names are compared."""
    if page.name == "CHANGELOG.md":
        return  # it names what older versions had
    made = parser()
    subs = made._commands()  # type: ignore[attr-defined]  # the parser has no other list of them
    for span in spans(page):
        words = split_words(span.split())[0]
        if len(words) < 2 or words[0] != "pixel-orch" or not re.fullmatch(r"[a-z][a-z-]*", words[1]):
            continue
        assert words[1] in subs, f"{page.name}: `{span}`"
        if words[1] in OF_THE_MODEL:
            continue
        known = {name for action in every_action(subs[words[1]]) for name in action.option_strings}
        for word in words[2:]:
            if re.fullmatch(r"--[a-z-]+", word):
                assert word in known, f"{page.name}: `{span}`: {words[1]} has no {word}"


def every_action(sub):  # type: ignore[no-untyped-def]  # argparse's own classes
    """Yield the arguments of a command, and of the commands in it."""
    for action in sub._actions:
        yield action
        for inner in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            yield from every_action(inner)


@pytest.mark.parametrize("block", [block for block in TO_RUN if block.language == "yaml"], ids=str)
def test_every_yaml_block_is_read_by_its_reader(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "block.yaml"
    file.write_text(block.text)
    if re.search(r"^faults:", block.text, flags=re.MULTILINE):
        assert parse_faults(load_faults(file))
    else:
        assert read_file(str(file))


@pytest.mark.parametrize("block", [block for block in TO_RUN if block.language == "python"], ids=str)
def test_every_python_block_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in TO_RUN if block.language == "python"], ids=str)
def test_every_python_block_runs(block: Block, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block.text],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_has_commands_to_check() -> None:
    assert [words for block in blocks(ROOT / "README.md") for words in commands(block)]


def test_the_readers_notice_what_is_wrong(tmp_path: Path) -> None:
    page = ROOT / "README.md"
    with pytest.raises(SystemExit):
        check_command(["pixel-orch", "launch", "--no-such-flag"], page)
    with pytest.raises(SystemExit):
        check_command(["python", "-m", "model", "train", "--no-such-flag"], page)
    with pytest.raises(AssertionError, match="say why"):
        check_command(["aws", "configure"], page)
    with pytest.raises(AssertionError, match="make has no"):
        check_command(["make", "coffee"], page)


def test_every_make_target_that_is_named_is_there() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    named = set(re.findall(r"run: make ([a-z-]+)", workflow))
    for page in PAGES:
        named |= {word for span in spans(page) for word in re.findall(r"^make ([a-z-]+)$", span)}
        named |= set(re.findall(r"^    make ([a-z-]+)", page.read_text(), flags=re.MULTILINE))
    assert named >= {"lint", "test", "test-all", "docs"}
    assert named <= make_targets()


def test_every_picture_is_shown() -> None:
    shown = {(page.parent / path).resolve() for page in PAGES for path, _ in links(page)}
    assert set((ROOT / "docs" / "images").iterdir()) <= shown


def test_every_decision_is_listed() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    for page in (ROOT / "docs" / "decisions").glob("0*.md"):
        assert page.name in index


def test_no_page_names_a_machine(tmp_path: Path) -> None:
    for page in [*PAGES, *(ROOT / "docs" / "images").glob("*.svg")]:
        assert not re.search(r"(^|[\s(`\"'>])/(work|tmp|root|home)/[a-z]", page.read_text()), page.name
