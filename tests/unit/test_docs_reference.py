"""The reference is generated: it is not stale, it has every flag, key and public name, and its files are read."""

from __future__ import annotations

from pathlib import Path

import pytest

import orchestrator
from docs.make_reference import FOLDER, all_commands, pages, shown
from docs.reference_yaml import EXAMPLES, FILES, write_files
from model.config import TrainConfig
from orchestrator.plan.settings import spec_from
from orchestrator.plan.settings_file import KEYS, FileSettings, read_file

PAGES = pages()
STALE = "the committed page is stale: make reference"


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_what_the_code_says(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name], STALE


def test_every_page_of_the_folder_is_generated() -> None:
    assert {path.name for path in FOLDER.glob("*.md")} == set(PAGES)


def test_the_command_line_page_has_every_flag_of_every_command() -> None:
    parts = PAGES["cli.md"].split("\n## ")
    for words, _, sub in all_commands():
        part = next(part for part in parts if part.startswith(f"{words}\n"))
        for action in sub._actions:
            for flag in action.option_strings if shown(action) else ():
                assert f"`{flag}`" in part or f"`{flag} " in part, f"{words} {flag}"


def test_the_yaml_page_has_every_key_and_setting() -> None:
    page = PAGES["yaml.md"]
    for name in [
        *(key.replace("_", "-") for key in KEYS),
        *(name for name in TrainConfig.model_fields if name != "facts"),
    ]:
        assert f"\n| `{name}` |" in page, name


@pytest.mark.parametrize("key", KEYS)
def test_the_example_of_a_key_is_read(key: str, tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(EXAMPLES[key])
    assert list(read_file(str(file))) == [key]


def test_the_whole_files_are_launches(tmp_path: Path) -> None:
    for path, title in zip(write_files(tmp_path), FILES, strict=True):
        spec = spec_from({}, (), FileSettings(read_file(str(path))))
        assert spec.regions, title


def test_the_python_page_has_every_public_name() -> None:
    for name in orchestrator.__all__:
        assert f"\n## orchestrator.{name}\n" in PAGES["python.md"]
