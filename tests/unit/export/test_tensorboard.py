"""A run as TensorBoard events, read back by TensorBoard's own reader."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import main
from orchestrator.export.trackers import export, is_installed
from tests.support.report_runs import BORN, PNG, Had, write_run

pytestmark = pytest.mark.skipif(not is_installed("tensorboard"), reason="tensorboard is not installed")
NOW = BORN + 100_000


@pytest.fixture(autouse=True)
def _default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIXEL_ORCH_TENSORBOARD", raising=False)


def read(folder: str) -> Any:
    """Return what TensorBoard reads of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(folder, size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    return found


def test_tensorboard_reads_each_step_once_the_bill_the_pictures_and_the_texts(home: Path) -> None:
    store = write_run(
        home, "digits", [Had(ended_by="aws", seconds=600, last_step=60), Had(first_step=41, last_step=80)]
    )
    (store.folder / "samples-80.png").write_bytes(PNG)
    folder = export(store, "tensorboard", NOW)
    assert Path(folder).parent == home / "tensorboard"
    found = read(folder)
    assert [one.step for one in found.Scalars("nats")] == list(range(1, 81))
    assert found.Scalars("bill/total_usd")[0].value > 0
    (picture,) = found.Images("samples")
    assert (picture.encoded_image_string, picture.width, picture.height) == (PNG, 1, 1)
    (tags,) = found.Tensors("run/tags")
    assert "| state | SUCCEEDED |" in tags.tensor_proto.string_val[0].decode()


def test_a_second_export_replaces_the_first_and_nothing_else(home: Path) -> None:
    store = write_run(home, "digits", [Had(last_step=60)])
    folder = Path(export(store, "tensorboard", NOW))
    (folder / "notes.txt").write_text("of a person")
    shutil.rmtree(store.folder)
    export(write_run(home, "digits", [Had(last_step=30)]), "tensorboard", NOW)
    assert [one.step for one in read(str(folder)).Scalars("nats")] == list(range(1, 31))
    assert sorted(path.suffix for path in folder.iterdir() if "tfevents" not in path.name) == [".txt"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing is left beside it"


def test_markup_of_a_stranger_is_text_in_the_tables(home: Path) -> None:
    store = write_run(home, "own", [Had(last_step=1)], trainer=None, command=("python", "<img src=x>|`", "\x1b[2J"))
    (params,) = read(export(store, "tensorboard", NOW)).Tensors("run/params")
    text = params.tensor_proto.string_val[0].decode()
    assert "\\<img src=x\\>\\|\\`" in text
    assert "\x1b" not in text


def test_the_command_says_where_and_how_it_is_looked_at(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setenv("PIXEL_ORCH_TENSORBOARD", str(tmp_path / "team"))
    write_run(home, "digits", [Had()])
    assert main(["export", "digits", "--to", "tensorboard"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"digits: tensorboard: {tmp_path}/team/digits-")
    assert last == f"tensorboard --logdir {tmp_path}/team"
    monkeypatch.setenv("PIXEL_ORCH_TENSORBOARD", "here")
    assert main(["export", "digits", "--to", "tensorboard"]) == 2
    assert "'here' depends on the current folder" in capsys.readouterr().err
