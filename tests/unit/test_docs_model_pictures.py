"""The pictures of the bundled model: their script's commands are real, and each picture is on a page."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="the pictures are made with the trainer's packages")

from docs.make_model_pictures import IMAGES, MOST_BYTES, ROOT, TRAININGS, commands, pictures
from model.cli.flags import parser

PICTURES = [picture for name in TRAININGS for picture in pictures(name)]


@pytest.mark.parametrize("name", TRAININGS)
def test_its_commands_are_read_by_the_trainer(name: str) -> None:
    for words in commands(name, Path("out")):
        parser("python -m model").parse_args(words)


@pytest.mark.parametrize("picture", PICTURES)
def test_each_picture_is_there_and_on_a_page(picture: str) -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "model.md").read_text()
    assert f"images/{picture})" in text
    assert (IMAGES / picture).stat().st_size <= MOST_BYTES


def test_no_picture_of_the_model_is_made_by_hand() -> None:
    there = {path.name for prefix in ("demo-", "row-lstm-", "multiscale-") for path in IMAGES.glob(f"{prefix}*")}
    assert there == set(PICTURES)
    assert len(set(PICTURES)) == len(PICTURES)
