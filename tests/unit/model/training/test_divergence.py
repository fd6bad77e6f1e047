"""A training that diverges saves nothing of it, and says which checkpoint the next start resumes from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.__main__ import main
from model.config import TrainConfig
from model.data import load as load_data
from model.errors import DivergedError, TrainingError
from model.networks.likelihood import Score
from model.training import checkpoint as checkpoints
from model.training.checkpoint import load, part_not_finite, path_of, save
from model.training.divergence import has_diverged
from model.training.loop import train
from model.training.state import Training
from model.training.stop import StopFlag

torch.set_num_threads(1)

SMALL = TrainConfig(
    steps=8, batch_size=20, hidden=2, layers=1, head=3, checkpoint_every=2, log_every=2, validate_every=9,
    validate_images=20, samples=0, device="cpu", keep_checkpoints=9,
)  # fmt: skip
GUESS = 64 * math.log(17)  # nats of a uniform guess on the digits


def run(out: Path, config: TrainConfig = SMALL) -> int:
    return train(config, out, StopFlag(), began_s=time.monotonic())


def poisoned(at: int, change: Callable[[Training], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the state of a step be changed after the step."""
    advance = Training.advance

    def advance_and_change(self: Training, *args: object, **kwargs: object) -> None:
        advance(self, *args, **kwargs)  # type: ignore[arg-type]
        if self.step == at:
            with torch.no_grad():
                change(self)

    monkeypatch.setattr(Training, "advance", advance_and_change)


def overflow_weights(run: Training) -> None:
    next(run.net.parameters()).view(-1)[0] = math.inf


def overflow_mean(run: Training) -> None:
    assert run.ema is not None
    next(run.ema.parameters()).view(-1)[0] = math.nan


def overflow_optimizer(run: Training) -> None:
    next(iter(run.optimizer.state.values()))["exp_avg_sq"].view(-1)[0] = math.inf


@pytest.mark.parametrize(
    ("change", "part"),
    [(overflow_weights, "weights"), (overflow_mean, "running mean"), (overflow_optimizer, "optimizer state")],
)
def test_no_part_of_a_state_is_saved_that_is_not_finite(
    change: Callable[[Training], None], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(4, change, monkeypatch)
    with pytest.raises(TrainingError) as caught:
        run(tmp_path)
    text = str(caught.value)
    assert f"the {part} became nan or infinite by step 4, and this state was not saved" in text
    assert "the last good checkpoint is checkpoint-2.pt: lower learning_rate (now 0.01) and run again" in text
    assert checkpoints.steps_in(tmp_path) == [2]


def test_before_the_first_checkpoint_there_is_none_to_resume_from(tmp_path: Path) -> None:
    wild = SMALL.model_copy(update={"learning_rate": 1e38, "grad_clip": 0.0, "optimizer": "rmsprop"})
    with pytest.raises(TrainingError, match=r"there is no good checkpoint: .* to start at step 0"):
        run(tmp_path, wild)
    assert checkpoints.steps_in(tmp_path) == []


def test_checkpoints_that_had_diverged_already_are_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def worsen(run: Training) -> None:
        for weight in run.net.parameters():
            weight.mul_(50)

    poisoned(3, worsen, monkeypatch)
    poisoned(7, overflow_weights, monkeypatch)
    with pytest.raises(TrainingError) as caught:
        run(tmp_path)
    text = str(caught.value)
    assert "checkpoint-6.pt had diverged already and is now checkpoint-6.pt.diverged" in text
    assert "the last good checkpoint is checkpoint-2.pt" in text
    assert checkpoints.steps_in(tmp_path) == [2]
    monkeypatch.undo()
    assert run(tmp_path) == 0  # as the message says
    assert load(path_of(tmp_path, 8)).step == 8
    assert (tmp_path / "checkpoint-6.pt.diverged").exists()


def test_a_state_is_good_unless_it_is_worse_than_two_guesses() -> None:
    training = Training(SMALL, load_data("digits"), torch.device("cpu"))
    saved = training.checkpoint()
    assert not has_diverged(saved, SMALL)
    for nats, bad in ((GUESS, False), (1.9 * GUESS, False), (2.1 * GUESS, True), (math.inf, True), (math.nan, True)):
        for progress in (
            {"nats": nats},
            {"window_sum": 3 * nats, "window_steps": 3},
            {"valid": (saved.step, nats)},
        ):
            assert has_diverged(replace(saved, progress={**saved.progress, **progress}), SMALL) == bad
    assert not has_diverged(replace(saved, progress={**saved.progress, "valid": (saved.step + 1, 1e9)}), SMALL)


@pytest.mark.parametrize("nats", [math.nan, math.inf, -math.inf])
@pytest.mark.usefixtures("trainers_signals")
def test_a_validation_that_is_not_finite_is_one_line_and_names_the_step(
    nats: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("model.training.loop.validate", lambda *_: Score(20, nats, nats, nats, nats))
    words = ["--steps", "4", "--set", "batch_size=20", "--set", "validate_every=3", "--set", "checkpoint_every=2"]
    words += ["--set", "hidden=2", "--set", "layers=1", "--set", "samples=0", "--set", "device=cpu"]
    assert main(["train", *words, "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"the validation became {'nan' if math.isnan(nats) else 'infinite'} by step 3" in err
    assert "the last good checkpoint is checkpoint-2.pt" in err
    assert checkpoints.steps_in(tmp_path) == [2]


def test_a_gradient_that_is_not_finite_is_not_forgotten_by_a_second_check() -> None:
    """The error is raised, and what saves the steps on the way out checks again."""
    training = Training(SMALL, load_data("digits"), torch.device("cpu"))
    training.advance()
    training._norms.fill_(math.inf)
    for _ in range(2):
        with pytest.raises(DivergedError, match="the gradient became infinite by step 1"):
            training.check()


def test_the_nats_of_the_last_log_are_kept_over_a_resumption(tmp_path: Path) -> None:
    assert run(tmp_path, SMALL.model_copy(update={"steps": 4, "schedule": "constant"})) == 0
    saved = load(path_of(tmp_path, 4))
    assert saved.progress["window_steps"] == 0
    assert 0 < saved.progress["nats"] < 2 * GUESS
    training = Training(SMALL, load_data("digits"), torch.device("cpu"))
    training.restore(saved)
    assert training.checkpoint().progress["nats"] == saved.progress["nats"]
    save(tmp_path, replace(saved, progress={k: v for k, v in saved.progress.items() if k != "nats"}))  # earlier version
    training.restore(load(path_of(tmp_path, 4)))
    assert part_not_finite(training.checkpoint()) is None
