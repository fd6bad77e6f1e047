"""The main job with the real trainer.

Interrupted, resumed, and equal in every bit to the same run without interruption.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stage import Stage, last_json, staged

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

STEPS = 360
SMALL = [
    "--set",
    "hidden=8",
    "--set",
    "layers=2",
    "--set",
    "head=16",
    "--set",
    "samples=4",
    "--set",
    "validate_every=90",
]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage."""
    yield from staged(tmp_path)


def weights(path: Path | str) -> dict[str, object]:
    """Return everything that a checkpoint holds, less the digest and what tells of the run's history in time."""
    loaded: dict[str, object] = torch.load(path, weights_only=True)
    return loaded


def same(one: object, two: object) -> bool:
    """Return whether two trees of tensors and plain values are equal in every bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return isinstance(two, (list, tuple)) and len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def test_interrupted_and_resumed_through_the_embedded_cloud_is_equal_in_every_bit(stage: Stage) -> None:
    code, said = stage.run(
        "launch",
        "--cloud",
        "local",
        "--instance",
        "p2.xlarge",
        "--spot",
        "-y",
        "-n",
        "tiny",
        "-o",
        "json",
        "--steps",
        str(STEPS),
        "--checkpoint-every",
        "60",
        "--interrupt-after",
        "0.7",
        *SMALL,
    )
    assert code == 0, said
    answer = last_json(said)
    assert answer["state"] == "SUCCEEDED"
    assert len({a["instance_id"] for a in answer["attempts"]}) >= 2
    first, second = answer["attempts"][:2]
    assert 0 < first["last_step"] < STEPS
    assert second["first_step"] == first["last_step"] + 1
    assert (first["ended_by"], second["ended_by"]) == ("aws", "pixel-orch")
    assert Path(answer["samples"]).read_bytes().startswith(b"\x89PNG")
    assert answer["images_per_s"] > 0
    assert answer["device"]

    plain = stage.work.parent / "plain"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "model",
            "train",
            "--out",
            str(plain),
            "--steps",
            str(STEPS),
            "--set",
            "checkpoint_every=60",
            *SMALL,
        ],
        check=True,
        capture_output=True,
    )
    ours, theirs = weights(answer["checkpoint"]), weights(plain / f"checkpoint-{STEPS}.pt")
    assert ours.keys() == theirs.keys()
    differing = [key for key in ours if not same(ours[key], theirs[key])]
    assert differing == []


def test_a_run_from_anothers_checkpoint_ends_as_one_run_would_have(stage: Stage) -> None:
    words = ["launch", "--cloud", "local", "--instance", "p2.xlarge", "--spot", "-y", "-o", "json"]
    settings = [*SMALL, "--set", "schedule=constant"]  # the cosine's rate depends on the number of steps
    short = stage.run(*words, "-n", "short", "--steps", "90", *settings)
    begun = stage.run(*words, "-n", "longer", "--steps", "150", *settings, "--from", str(stage.home / "runs" / "short"))
    whole = stage.run(*words, "-n", "whole", "--steps", "150", *settings)
    assert [code for code, _ in (short, begun, whole)] == [0, 0, 0], (short, begun, whole)
    longer = last_json(begun[1])
    assert longer["attempts"][0]["first_step"] == 91
    ours, theirs = weights(longer["checkpoint"]), weights(last_json(whole[1])["checkpoint"])
    assert [key for key in ours if not same(ours[key], theirs[key])] == []


def test_the_model_commands_work_on_what_came_home(stage: Stage) -> None:
    code, said = stage.run(
        "launch",
        "--cloud",
        "local",
        "--instance",
        "g4dn.xlarge",
        "--on-demand",
        "-y",
        "-n",
        "tiny",
        "-o",
        "json",
        "--steps",
        "60",
        *SMALL,
    )
    assert code == 0, said
    checkpoint = last_json(said)["checkpoint"]
    code, said = stage.run("evaluate", "--checkpoint", checkpoint, "-o", "json")
    assert code == 0, said
    assert last_json(said)["images"] == 360
    picture = stage.work / "s.png"
    code, said = stage.run("sample", "--checkpoint", checkpoint, "--out", str(picture), "--count", "4")
    assert code == 0, said
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, said = stage.run("evaluate", "--checkpoint", str(stage.work / "missing.pt"))
    assert code == 2
    assert "Traceback" not in said
    damaged = stage.work / "damaged.pt"
    damaged.write_bytes(Path(checkpoint).read_bytes()[:-100])
    code, said = stage.run("sample", "--checkpoint", str(damaged), "--out", str(picture))
    assert code == 2
    assert len(said.strip().splitlines()) == 1
