"""`python -m model`: every bad input is one line on stderr and exit code 2, and the good ones do what they say."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from model.__main__ import main
from model.config import TrainConfig
from model.training.checkpoint import load, path_of

pytestmark = pytest.mark.usefixtures("trainers_signals")
torch.set_num_threads(1)

SMALL = ["hidden=2", "layers=1", "head=3", "samples=1", "device=cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three steps."""
    out = tmp_path_factory.mktemp("trained")
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    words = [word for setting in SMALL for word in ("--set", setting)]
    assert main(["train", "--steps", "3", "--out", str(out), *words]) == 0
    for signum, handler in before.items():
        signal.signal(signum, handler)
    return path_of(out, 3)


def call(*words: str | Path) -> int:
    try:
        return main([str(word) for word in words])
    except SystemExit as leaving:
        return int(leaving.code or 0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "required"),
        (("fly",), "invalid choice"),
        (("train", "--steps", "0"), "steps = 0"),
        (("train", "--steps", "many"), "steps = many"),
        (("train", "--model", "gan"), "invalid choice"),
        (("train", "--set", "hidden"), "not KEY=VALUE"),
        (("train", "--set", "hiden=4"), "did you mean hidden?"),
        (("train", "--set", "hidden=0"), "hidden = 0 in --set is not valid; give a whole number at least 1"),
        (
            ("train", "--dataset", "photos-16", "--set", "hidden=2"),
            "hidden = 2 in --set: photos-16 has 3 colours; give at least that many feature maps",
        ),
        (
            ("train", "--dataset", "photos-16", "--set", "head=2"),
            "head = 2 in --set: photos-16 has 3 colours; give at least that many feature maps",
        ),
        (("train", "--multiscale", "3"), "multiscale = 3 in --set: small images of digits can have 4, 2, 1 rows"),
        (("train", "--set", "hidden=4", "--set", "hidden=5"), "give it once"),
        (("train", "--config", "none.json"), "cannot read the config none.json"),
        (("train", "--config", "c.json", "--steps", "3"), "--config and flags both give settings"),
        (("train", "--out", "/dev/null/out", "--set", "samples=0"), "cannot write to /dev/null/out"),
        (("train", "--preset", "digits-rwo"), "no preset 'digits-rwo'; did you mean digits-row"),
        (("train", "--config", "c.json", "--preset", "digits-row"), "--config and flags both give settings"),
        (("train", "--frobnicate"), "unrecognized: --frobnicate"),
        (("evaluate",), "required"),
        (("evaluate", "--checkpoint", "none.pt"), "no checkpoint at none.pt"),
        (("evaluate", "--checkpoint", "none.pt", "--split", "all"), "invalid choice"),
        (("sample", "--checkpoint", "none.pt", "--out", "a.png"), "no checkpoint at none.pt"),
        (
            ("sample", "--checkpoint", "none.pt", "--out", "a.png", "--count", "0"),
            "argument --count: '0' is not a whole number from 1 to 1024",
        ),
        (
            ("sample", "--checkpoint", "none.pt", "--out", "a.png", "--temperature", "-1"),
            "'-1' is not a number above 0, at most 100: it divides the logits, so that a small one "
            "draws the most likely levels and 100 draws all levels almost alike",
        ),
        *(
            (
                ("sample", "--checkpoint", "none.pt", "--out", "a.png", f"--temperature={text}"),
                f"'{text}' is not a number",
            )
            for text in ("0", "0.0", "nan", "inf", "-inf", "1e308", "1e999", "-1e-310", "1e-400", "101", "warm")
        ),
        (
            ("sample", "--checkpoint", "none.pt", "--out", "a.png", "--temperature", "1e-310"),
            "no checkpoint at none.pt",
        ),
        (
            (
                "complete",
                "--checkpoint",
                "none.pt",
                "--image",
                "test:0",
                "--occlude",
                "top",
                "--out",
                "a.png",
                "--temperature",
                "1e308",
            ),
            "at most 100: it divides the logits",
        ),
        (("sample", "--checkpoint", "none.pt", "--out", "a.png", "--seed", "x"), "'x' is not a whole number from 0"),
        (("sample", "--checkpoint", "none.pt", "--out", "a.png", "--engine", "steam"), "invalid choice"),
        (
            ("complete", "--checkpoint", "none.pt", "--image", "test:0", "--occlude", "top"),
            "nothing to write; give --out PNG, --animate FILE, or both",
        ),
        (("sample", "--checkpoint", "none.pt"), "nothing to write; give --out PNG, --animate FILE, or both"),
        (
            ("sample", "--checkpoint", "none.pt", "--animate", "a.mp4"),
            "--animate a.mp4: an animation ends in .gif or .png; give another name",
        ),
        (
            ("sample", "--checkpoint", "none.pt", "--animate", "none/a.gif"),
            "cannot write none/a.gif: there is no folder none; give another --animate",
        ),
        (("sample", "--checkpoint", "none.pt", "--out", "/"), "cannot write /: it is a folder; give another --out"),
        (
            ("sample", "--checkpoint", "none.pt", "--out", "a.png", "--animate", "./a.png"),
            "--out and --animate are both a.png; give two names",
        ),
        (("sample", "--checkpoint", "none.pt", "--animate", "a.gif"), "no checkpoint at none.pt"),
        (
            ("complete", "--checkpoint", "none.pt", "--image", "test:0", "--occlude", "top", "--animate", "a"),
            "--animate a: an animation ends in .gif or .png; give another name",
        ),
        (("figures", "--checkpoint", "none.pt"), "nothing to write; give --out DIR, --animate FILE, or both"),
        (("figures", "--checkpoint", "none.pt", "--animate", "a.gif"), "there is no none.pt"),
        (("figures", "--checkpoint", ".", "--animate", "a.webp"), "an animation ends in .gif or .png"),
        (
            ("complete", "--checkpoint", "none.pt", "--image", "test:0", "--occlude", "top", "--out", "a.png"),
            "no checkpoint at none.pt",
        ),
        (("figures", "--checkpoint", "none.pt", "--out", "figures"), "no checkpoint at none.pt"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("python -m model")
    assert ": error: " in err
    assert says in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "--set", "device=cuda", "--out", tmp_path) == 2
    assert "sees no GPU here; use device auto or cpu" in capsys.readouterr().err


def test_without_torch_it_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert call("train", "--out", tmp_path) == 2
    assert "torch not installed; install the extra: pip install 'pixel-orch[train]'" in capsys.readouterr().err


def test_the_name_in_errors_is_the_callers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PIXEL_ORCH_PROG", "pixel-orch")
    assert call("train", "--steps", "0") == 2
    assert capsys.readouterr().err.startswith("pixel-orch train: error: steps = 0")
    assert call("train", "--nonsense") == 2
    assert capsys.readouterr().err.startswith("pixel-orch train: error: unrecognized")


def test_the_environment_gives_folder_and_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(steps=2, hidden=2, layers=1, head=3, samples=0, device="cpu")
    (tmp_path / "config.json").write_text(config.model_dump_json())
    monkeypatch.setenv("PIXEL_ORCH_CONFIG", str(tmp_path / "config.json"))
    monkeypatch.setenv("PIXEL_ORCH_OUT", str(tmp_path / "out"))
    assert call("train") == 0
    assert path_of(tmp_path / "out", 2).exists()


def test_a_preset_lies_beneath_the_flags(tmp_path: Path) -> None:
    words = [
        "--preset",
        "digits-row",
        "--steps",
        "2",
        "--set",
        "hidden=3",
        "--set",
        "samples=0",
        "--out",
        str(tmp_path),
    ]
    assert call("train", *words) == 0
    made = load(path_of(tmp_path, 2)).train_config
    assert (made.model, made.layers, made.hidden, made.steps) == ("row-lstm", 3, 3, 2)


@pytest.mark.parametrize("command", ["train", "evaluate", "sample", "complete", "figures"])
def test_help_has_an_example_and_fits_80_columns(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert call(command, "--help") == 0
    text = capsys.readouterr().out
    assert f"python -m model {command} --" in text.split("example:")[1]
    assert max(len(line) for line in text.splitlines()) <= 80


def test_evaluate_gives_the_same_numbers_to_a_person_and_a_program(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", "--checkpoint", trained, "-o", "json") == 0
    score = json.loads(capsys.readouterr().out)
    assert (score["split"], score["images"], score["step"]) == ("test", 360, 3)
    assert score["bits_per_dim"] == pytest.approx(score["nats"] / 64 / 0.6931471805599453)
    assert 0 < score["nats_se"] < 5
    assert call("evaluate", "--checkpoint", trained) == 0
    table = capsys.readouterr().out
    assert f"{score['nats']:.2f} +- {score['nats_se']:.2f}" in table
    assert "360 images" in table


def test_sample_draws_a_picture_that_a_person_can_see(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        assert call("sample", "--checkpoint", trained, "--out", tmp_path / name, "--count", "5", "--seed", "3") == 0
    assert "5 images drawn by the checkpoint of step 3" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (3 * 68 + 4, 2 * 68 + 4)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert call("sample", "--checkpoint", trained, "--out", tmp_path / "none" / "a.png", "--count", "1") == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_one_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.pt").write_bytes(trained.read_bytes()[:-100])
    assert call("evaluate", "--checkpoint", tmp_path / "c.pt") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "damaged" in err
