"""`--image URI`: what is one, and what it excludes."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli.flags import parser
from orchestrator.cli.main import main
from orchestrator.errors import SpecError
from orchestrator.plan.first_look import look
from orchestrator.plan.image_reference import check_image
from orchestrator.plan.job import job_for, tree_for
from orchestrator.plan.settings import resumed_spec, spec_from
from orchestrator.runs.spec import RunSpec

GOOD = [
    "ubuntu",
    "pytorch/pytorch:2.7.0-cuda12.8-cudnn9-runtime",
    "nvcr.io/nvidia/pytorch:25.05-py3",
    "localhost:5000/x",
    "registry:5000/a/b_c__d-e.f:v_1.2",
    "123456789012.dkr.ecr.us-east-1.amazonaws.com/team/train:v1",
    "ghcr.io/me/train@sha256:" + "0" * 64,
    "me/train:1@sha256:" + "a" * 64,
]
BAD = [
    ("", "it is empty"),
    ("  ", "it is empty"),
    ("Pytorch/PyTorch:2.7", "written in lower case"),
    ("https://ghcr.io/me/train", "drop https://"),
    ("docker://me/train", "drop docker://"),
    ("me/train :1", "it has a blank"),
    ("me/train:", "a tag has"),
    ("me/train:1:2", "a tag has"),
    ("me//train", "a repository has"),
    ("/train", "a repository has"),
    ("-v/x", "a repository has"),
    ("--privileged", "a repository has"),
    ("me/train@sha256:12", "a digest is"),
    ("a" * 256, "more than 255 characters"),
    ("a-" * 100_000, "more than 255 characters"),
    ("me/train;reboot", "a repository has"),
    ("me/train\nx", "it has a blank"),
]
WORDS = ["launch", "--instance", "g5.xlarge", "--spot", "--region", "us-east-1", "--workdir"]


@pytest.mark.parametrize("text", GOOD)
def test_references(text: str) -> None:
    assert check_image(text, cloud="aws", is_own=True, has_setup=False) == text


@pytest.mark.parametrize(("text", "says"), BAD, ids=lambda text: text[:30])
def test_what_is_none_is_one_line(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as error:
        check_image(text, cloud="aws", is_own=True, has_setup=False)
    assert "\n" not in str(error.value) and str(error.value).startswith("--image: ") and len(str(error.value)) < 300


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a program and its requirements."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = tmp_path / "project"
    made.mkdir()
    (made / "train.py").write_text("print(1)\n")
    (made / "requirements.txt").write_text("einops\n")
    return made


def spec(folder: Path, *words: str, command: tuple[str, ...] = ("python", "train.py")) -> RunSpec:
    """Return what a launch asks for."""
    return spec_from(vars(parser().parse_args([*WORDS, str(folder), *words])), list(command))


def test_the_image_brings_the_packages_and_is_said(folder: Path) -> None:
    asked = spec(folder, "--image", "me/train:1", "--env", "SEED=1")
    seen = look(asked, tree_for(asked))
    assert seen.lines() == [
        "Image: me/train:1 is pulled on the machine, and brings its packages; not used: requirements.txt"
    ]
    assert seen.as_json()["setup"]["image"] == "me/train:1"
    job = job_for(asked, tree_for(asked))
    assert job.image == "me/train:1" and job.user_setup == {"image": "me/train:1"}
    assert job_for(spec(folder), tree_for(asked)).image is None


def test_what_is_in_the_image_is_not_complained_of(folder: Path) -> None:
    for command in (("deepspeeed", "train.py"), ("/opt/conda/bin/python", "train.py"), ("python", "-m", "megatron.x")):
        asked = spec(folder, "--image", "me/train:1", command=command)
        assert not look(asked, tree_for(asked)).warnings, command
    asked = spec(folder, "--image", "me/train:1", command=("python", "trian.py"))
    with pytest.raises(SpecError, match=r"did you mean train\.py"):
        look(asked, tree_for(asked))


def test_it_excludes_a_setup_the_bundled_trainer_and_the_embedded_cloud(folder: Path, home: Path) -> None:
    with pytest.raises(SpecError, match="--image and --setup exclude each other"):
        spec(folder, "--image", "me/train:1", "--setup", "make")
    flags = vars(parser().parse_args([*WORDS[:-1], "--image", "me/train:1"]))
    with pytest.raises(SpecError, match="--image is for your own program"):
        spec_from(flags, [])
    with pytest.raises(SpecError, match="--image: the embedded cloud cannot run Docker images"):
        spec(folder, "--image", "me/train:1", "--cloud", "local")


def test_on_the_embedded_cloud_nothing_is_created(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    words = [*WORDS, str(folder), "--cloud", "local", "-y", "--image", "x", "--", "python", "train.py"]
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and error.endswith("cannot run Docker images; drop it, or launch on AWS")
    assert not (home / "runs").exists()


def test_a_file_may_name_it_and_a_resumed_run_may_change_it(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("image: me/train:1\n")
    asked = spec(folder, "-f", str(file))
    assert asked.program.image == "me/train:1"
    again = resumed_spec(vars(parser().parse_args(["launch", "--resume", "x", "--image", "me/train:2"])), [], asked)
    assert again.program.image == "me/train:2"
    assert resumed_spec(vars(parser().parse_args(["launch", "--resume", "x"])), [], asked).program.image == "me/train:1"
    with pytest.raises(SpecError, match="exclude each other"):
        resumed_spec(vars(parser().parse_args(["launch", "--resume", "x", "--setup", "make"])), [], asked)
