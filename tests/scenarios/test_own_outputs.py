"""Programs of a newcomer, without one line for pixel-orch: interrupted, resumed, and all that they wrote is here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.runs.output_events import OutputsLeft, OutputsPulled, OutputsRestored
from orchestrator.runs.output_states import OutputStates
from tests.support.stage import Stage, staged

pytestmark = pytest.mark.slow

EPOCHS = 14
PLAIN = """
import json, os, time
epoch, weight = json.load(open("model.pt")) if os.path.exists("model.pt") else (0, 0.0)
while epoch < 14:
    time.sleep(PAUSE)
    epoch, weight = epoch + 1, weight + 1 / (epoch + 1)
    json.dump([epoch, weight], open("model.pt", "w"))
    print(f"epoch {epoch} loss={1 / epoch:.4f}", flush=True)
    with open("history.csv", "a") as file:
        file.write(f"{epoch},{1 / epoch:.4f}\\n")
"""
FOLDERS = """
import glob, json, os, shutil, time
done = sorted(glob.glob("out/checkpoint-*"), key=lambda name: int(name.split("-")[1]))
epoch = json.load(open(done[-1] + "/trainer_state.json"))["epoch"] if done else 0
assert not done or os.path.getsize(done[-1] + "/model.safetensors") == 100_000
while epoch < 14:
    time.sleep(PAUSE)
    epoch += 1
    folder = f"out/checkpoint-{epoch * 100}"
    os.makedirs(folder)
    open(folder + "/model.safetensors", "wb").write(bytes([epoch]) * 100_000)
    open(folder + "/optimizer.pt", "wb").write(bytes([epoch]) * 200_000)
    json.dump({"epoch": epoch}, open(folder + "/trainer_state.json", "w"))
    for old in sorted(glob.glob("out/checkpoint-*"), key=lambda name: int(name.split("-")[1]))[:-2]:
        shutil.rmtree(old)
"""
LAST = """
import os, time
last = "lightning_logs/version_0/checkpoints/last.ckpt"
os.makedirs(os.path.dirname(last), exist_ok=True)
epoch = int(open(last).read()) if os.path.exists(last) else 0
while epoch < 14:
    time.sleep(PAUSE)
    epoch += 1
    best = os.path.dirname(last) + f"/epoch={epoch}-step={epoch * 10}.ckpt"
    open(best, "w").write(str(epoch))
    if os.path.lexists(last):
        os.unlink(last)
    os.symlink(os.path.basename(best), last)
"""
NAMES = {
    PLAIN: {"model.pt", "history.csv"},
    FOLDERS: {
        f"out/checkpoint-{step}/{name}"
        for step in (1300, 1400)
        for name in ("model.safetensors", "optimizer.pt", "trainer_state.json")
    },
    LAST: {
        "lightning_logs/version_0/checkpoints/last.ckpt",
        *(f"lightning_logs/version_0/checkpoints/epoch={n}-step={n * 10}.ckpt" for n in range(1, 15)),
    },
}
ODD = """
import os
open("with blanks ä\\nand a newline", "w").write("1")
open(b"latin-\\xe4", "wb").write(b"2")
os.makedirs("a/b")
open("a/b/c", "w").write("3")
os.symlink("/etc/hostname", "outside")
os.symlink("b/c", "a/inside")
open(os.path.join(os.environ["PIXEL_ORCH_OUT"], "report.txt"), "w").write("4")
os.makedirs("__pycache__")
open("__pycache__/x.pyc", "w").write("5")
open("half.tmp", "w").write("6")
with open("large.bin", "wb") as file:
    file.truncate(3 << 30)
    file.seek(1 << 30)
    file.write(b"in the middle")
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    yield from staged(tmp_path)


def launched(stage: Stage, source: str, *flags: str, pause_s: float = 0.5) -> str:
    """Launch a program; return what was printed."""
    (stage.work / "train.py").write_text(source.replace("PAUSE", str(pause_s)))
    words = ["launch", "--cloud", "local", "--instance", "p2.xlarge", "--spot", "-y", "-n", "tiny"]
    code, said = stage.run(*words, "--workdir", str(stage.work), *flags, "--", "python", "train.py")
    assert code == 0, said
    stage.check_nothing_is_left()
    return said


def names(stage: Stage) -> set[str]:
    top = stage.store.outputs
    return {str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir()}


CODE = "local/instances/*/home/pixel-orch/tiny/code"  # of an embedded instance, below the home


@pytest.mark.parametrize(
    ("source", "pause_s", "written"),
    [(PLAIN, 0.5, "history.csv"), (LAST, 0.5, "lightning_logs/*/*/epoch=4-*"), (FOLDERS, 1.5, "")],
    ids=["one file", "a link to the last", "folders"],
)
def test_a_program_goes_on_from_what_it_wrote(stage: Stage, source: str, pause_s: float, written: str) -> None:
    """With notice once it has written something there; without once something is here."""
    (stage.work / "train.py").write_text(source.replace("PAUSE", str(pause_s)))
    words = ["launch", "--cloud", "local", "--instance", "p2.xlarge", "--spot", "-y", "-n", "tiny", "--download", "all"]
    process = stage.start(*words, "--workdir", str(stage.work), "--", "python", "train.py")
    if written:
        stage.until(lambda: list(stage.home.glob(f"{CODE}/{written}")), "what it writes")
    else:
        stage.until(lambda: any(isinstance(event, OutputsPulled) for event in stage.store.events()), "a first state")
    stage.embedded().interrupt(stage.instance_id(), notice=bool(written))
    assert process.wait(timeout=120) == 0, stage.said(process)
    stage.check_nothing_is_left()
    state = stage.state()
    assert (state.state, state.interruptions) == ("SUCCEEDED", 1)
    events = stage.store.events()
    assert any(isinstance(event, OutputsRestored) and event.attempt == 2 for event in events)
    assert names(stage) == NAMES[source]
    states = OutputStates(stage.store.folder)
    assert states.damaged(states.newest()) == []
    if source == PLAIN:
        lines = (stage.store.outputs / "history.csv").read_text().splitlines()
        model = json.loads((stage.store.outputs / "model.pt").read_text())
        assert [int(line.split(",")[0]) for line in lines] == list(range(1, EPOCHS + 1)), "no epoch twice, none missing"
        assert model == [EPOCHS, sum(1 / n for n in range(1, EPOCHS + 1))]
    if source == LAST:
        last = stage.store.outputs / "lightning_logs/version_0/checkpoints/last.ckpt"
        assert os.readlink(last) == f"epoch={EPOCHS}-step={EPOCHS * 10}.ckpt"


def test_odd_names_large_files_and_what_cannot_be_taken(stage: Stage) -> None:
    said = launched(stage, ODD)
    expected = {"with blanks ä%0Aand a newline", "latin-%E4", "a/b/c", "a/inside", "report.txt", "large.bin"}
    assert names(stage) == expected
    large = stage.store.outputs / "large.bin"
    assert large.stat().st_size == 3 << 30
    assert large.stat().st_blocks * 512 < 64 << 20, "its holes are holes here"
    with large.open("rb") as file:
        file.seek(1 << 30)
        assert file.read(13) == b"in the middle"
    (left,) = (event for event in stage.store.events() if isinstance(event, OutputsLeft))
    assert (left.files, left.is_loss) == (1, False)
    assert "not taken: outside (a link out of the folder)" in said


def test_patterns_narrow_and_a_pattern_that_matches_nothing_loses_nothing(stage: Stage) -> None:
    launched(stage, ODD.split("with open")[0], "--outputs", "a/**", "--ignore-outputs", "inside")
    assert names(stage) == {"a/b/c"}


def test_a_pattern_that_matches_nothing_is_told_and_all_outputs_come(stage: Stage) -> None:
    said = launched(stage, PLAIN, "--outputs", "resluts/**", pause_s=0.01)
    assert names(stage) == {"model.pt", "history.csv"}
    assert "--outputs resluts/** has matched no file" in said
    assert [event.all_files for event in stage.store.events() if isinstance(event, OutputsPulled)] == [2]
