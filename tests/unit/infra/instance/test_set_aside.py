"""What an earlier run left in the user's folder hides nothing of this one, and is none of its outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from infra.instance.outputs.mirror import sealed_state
from infra.instance.trainer_files import found_in_code, link_outputs, listed
from infra.instance.watch import Watch

PROGRAM = """
import glob, json, os, re
step = max([int(re.findall("[0-9]+", name)[0]) for name in glob.glob("checkpoint-*.pt")] + [0])
print("begins at", step, [open(name).read() for name in sorted(glob.glob("checkpoint-*.pt"))])
folder = os.environ["PIXEL_ORCH_OUT"] if os.environ.get("METRICS") == "out" else "."
with open(folder + "/metrics.jsonl", "a") as file:
    file.write(json.dumps({"step": step + 1}) + "\\n")
with open("checkpoint-%d.pt" % (step + 1), "w") as file:
    file.write("new")
"""


def run(root: Path, sent: dict[str, str], restored: dict[str, str], **more: Any) -> dict[str, Any]:
    """Run the program in a folder with those files, and with more in its job; return what is told of it."""
    for folder in ("agent", "out", "code"):
        (root / folder).mkdir(exist_ok=True)
    for name, text in sent.items():
        (root / "code" / name).write_text(text)
    for name, text in restored.items():
        (root / "out" / name).write_text(text)
    (root / "code" / "train.py").write_text(PROGRAM)
    job = {"command": ["python3", "train.py"], "env": {}, "path_first": "/usr/bin", **more}
    watch = Watch(str(root), job)
    watch.start_trainer()
    assert watch.trainer is not None
    assert watch.trainer.wait(30) == 0
    watch.metrics.is_over()
    watch.state["trainer"] = {"state": "exited", "exit_code": 0}
    watch.mirror.look()
    return {name: Path(path).read_text() for name, path, _ in listed(str(root), watch.state)}


def test_metrics_of_before_do_not_take_those_of_the_run(tmp_path: Path) -> None:
    run(tmp_path, {"metrics.jsonl": '{"step": 900}\n'}, {})
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1}]
    assert (tmp_path / "agent" / "set-aside" / "metrics.jsonl").read_text() == '{"step": 900}\n'


def test_a_checkpoint_that_was_sent_is_no_output_and_can_be_read(tmp_path: Path) -> None:
    found = run(tmp_path, {"checkpoint-5.pt": "sent"}, {})
    assert found == {"checkpoint-6.pt": "new"}
    assert "begins at 5 ['sent']" in (tmp_path / "out" / "trainer.log").read_text()


def test_it_does_not_hide_the_runs_own_of_the_same_name(tmp_path: Path) -> None:
    found = run(tmp_path, {"checkpoint-5.pt": "sent"}, {"checkpoint-5.pt": "of this run"})
    assert found == {"checkpoint-5.pt": "of this run", "checkpoint-6.pt": "new"}
    assert "begins at 5 ['of this run']" in (tmp_path / "out" / "trainer.log").read_text()


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoint-5.pt"])
def test_a_link_or_a_folder_of_that_name_breaks_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "agent").mkdir()
    (tmp_path / "out" / "checkpoint-5.pt").write_text("of this run")
    os.symlink("nowhere", tmp_path / "code" / name)
    for _ in range(2):  # the second time for a set-up that is repeated
        link_outputs(str(tmp_path), has_metrics=False, say=print)
        assert os.readlink(tmp_path / "code" / name) == str(tmp_path / "out" / name)
    (tmp_path / "code" / name).unlink()
    (tmp_path / "code" / name).mkdir()
    link_outputs(str(tmp_path), has_metrics=False, say=print)
    assert (tmp_path / "code" / name).is_dir()
    assert isinstance(found_in_code(str(tmp_path)), dict)


def outputs(root: Path) -> set[str]:
    return set(sealed_state(str(root))["files"])


@pytest.mark.parametrize("place", ["code", "out"])
def test_the_metrics_of_a_program_of_the_users_are_one_of_its_outputs_and_it_goes_on_with_them(
    tmp_path: Path, place: str
) -> None:
    """What is measured is cleaned and cut: the program's own file has more, and its next start may read it."""
    before = '{"step": 1, "note": "from the machine before"}\n'
    run(tmp_path, {"metrics.jsonl": before}, {}, metrics={"patterns": {}}, env={"METRICS": place})
    path = tmp_path / place / "metrics.jsonl"
    assert outputs(tmp_path) >= {("work" if place == "code" else "out") + "/metrics.jsonl"}
    assert not path.is_symlink()
    assert path.read_text().splitlines()[-1] == '{"step": 1}'
    assert (tmp_path / "code" / "metrics.jsonl").read_text().startswith(before)


def test_the_metrics_of_the_bundled_trainer_are_sent_by_line_only(tmp_path: Path) -> None:
    run(tmp_path, {}, {})
    assert "out/metrics.jsonl" not in outputs(tmp_path)
