"""Settings of a program of the user's own: patterns for its log, and the signal that it handles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.config import TrainConfig
from orchestrator.cli.main import main
from orchestrator.errors import SpecError
from orchestrator.plan.program_settings import check_metrics, check_stop_signal
from orchestrator.plan.settings import resumed_spec, spec_from
from orchestrator.plan.settings_file import FileSettings, read_settings
from orchestrator.runs.store import RunStore

LOSS = "loss=loss[=: ]+([0-9.eE+-]+)"
FLAGS = {"instance": "p2.xlarge", "spot": True, "cloud": "local", "name": "a"}


def spec_of(tmp_path: Path, files: FileSettings | None = None, **flags: Any) -> Any:
    given = {**FLAGS, "workdir": str(tmp_path), **flags}
    return spec_from(given, ["python", "t.py"], files or FileSettings({}))


def test_patterns_and_the_signal_come_back_from_the_runs_folder(tmp_path: Path, home: Path) -> None:
    spec = spec_of(tmp_path, metrics=[LOSS, r"epoch=Epoch (\d+)"], stop_signal="usr1")
    assert dict(spec.program.metric_patterns) == {"loss": "loss[=: ]+([0-9.eE+-]+)", "epoch": r"Epoch (\d+)"}
    assert spec.program.stop_signal == "SIGUSR1"
    RunStore.create(home, spec)
    assert RunStore(home, "a").spec().program == spec.program
    assert spec_of(tmp_path).program.stop_signal == "SIGTERM"


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("metrics:\n  loss: 'loss ([0-9.]+)'\n", {"loss": "loss ([0-9.]+)"}),
        ("metrics:\n- 'loss=loss ([0-9.]+)'\n- 'step=(\\d+)/'\n", {"loss": "loss ([0-9.]+)", "step": r"(\d+)/"}),
        ("metrics: 'loss=loss ([0-9.]+)'\n", {"loss": "loss ([0-9.]+)"}),
    ],
)
def test_a_file_may_have_them_as_a_mapping_a_list_or_one(tmp_path: Path, text: str, patterns: dict[str, str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert dict(spec_of(tmp_path, read_settings(str(file))).program.metric_patterns) == patterns


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["loss"], "is not NAME=PATTERN; give for example --metric 'loss=loss"),
        (["=x(.)"], "is not a name"),
        (["loss="], "is not NAME=PATTERN"),
        (["loss=loss [0-9.]+"], "has no group; put ( ) around the number"),
        (["loss=loss ("], "is no regular expression: missing )"),
        (["loss=(?:a)+"], "has no group"),
        (["loss=" + "(" * 400], "is no regular expression"),
        (["loss=(a{99999999999})"], "is no regular expression"),
        (["loss=(" + "a" * 600 + ")"], "at most 500 characters"),
        (["loss=(a)", "loss=(b)"], "is given twice"),
        ([f"m{n}=(a)" for n in range(40)], "at most 32"),
        ({"loss": 5}, "give a regular expression"),
        ({"lo\x1b[2Jss": "(a)"}, "is not a name"),
    ],
)
def test_a_bad_pattern_is_one_line(given: Any, words: str) -> None:
    with pytest.raises(SpecError) as error:
        check_metrics(given, None)
    text = str(error.value)
    assert words in text
    assert text.startswith("--metric") and len(text.splitlines()) == 1 and text.isprintable()


def test_the_bundled_trainer_needs_none() -> None:
    with pytest.raises(SpecError, match="writes its metrics itself"):
        check_metrics([LOSS], TrainConfig())
    assert check_metrics(None, TrainConfig()) == {}


@pytest.mark.parametrize("name", ["SIGKILL", "9", "SIGSTOP", "TERMINATE", "", "SIGRTMIN", "sig\x1b"])
def test_a_signal_that_no_program_can_handle_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"--stop-signal: .* is not a signal that a program can handle"):
        check_stop_signal(name)


def test_a_resumed_run_keeps_its_patterns(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, metrics=[LOSS])
    assert resumed_spec({}, [], spec).program == spec.program
    with pytest.raises(SpecError, match="--metric: cannot change"):
        resumed_spec({"metrics": [LOSS]}, [], spec)


def test_a_bad_pattern_ends_a_launch_with_2_before_anything_is_made(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["launch", "--cloud", "local", "-t", "p2.xlarge", "--spot", "-y", "--workdir", str(tmp_path)]
    assert main([*words, "--metric", "loss=loss [0-9]+", "--", "python", "t.py"]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "has no group" in said.err
    assert not (home / "runs").exists()
