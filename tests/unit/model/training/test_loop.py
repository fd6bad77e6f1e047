"""A training that is stopped or killed at any step ends as if it had not been: same weights and metrics, every bit."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from model.config import TrainConfig
from model.config.cost import workspace_bytes
from model.data import load as load_data
from model.device import memory_bytes
from model.errors import CheckpointError, SetupError, TrainingError
from model.networks.build import choose_implementation
from model.networks.pixelrnn import PixelRNN
from model.training import checkpoint as checkpoints
from model.training.checkpoint import digest, load, path_of
from model.training.loop import train
from model.training.progress import Progress
from model.training.state import Training, learning_rate, network_of
from model.training.stop import StopFlag

torch.set_num_threads(1)

# 419 images a step: an epoch (1257) ends at steps 3, 6, 9 and 12, and a checkpoint falls inside an epoch.
SMALL = TrainConfig(
    steps=12,
    batch_size=419,
    hidden=2,
    layers=1,
    head=3,
    log_every=3,
    checkpoint_every=4,
    validate_every=5,
    samples=1,
    device="cpu",
)


class StopsAtLook(StopFlag):
    """A stop that is asked for when the trainer looks for the n-th time, wherever that is."""

    def __init__(self, look: int, signum: int = signal.SIGTERM) -> None:
        super().__init__()
        self.left, self.wanted = look, signum

    def __bool__(self) -> bool:
        self.left -= 1
        if self.left <= 0:
            self.signum = self.wanted
        return super().__bool__()


def run(config: TrainConfig, out: Path, stop: StopFlag | None = None) -> int:
    return train(config, out, StopFlag() if stop is None else stop, began_s=time.monotonic())


def state(path: Path) -> str:
    """Digest of all that a checkpoint holds, but for the settings that say how often to write one."""
    saved = load(path)
    return digest([saved.step, saved.position, saved.model, saved.ema, saved.optimizer, saved.rng, saved.progress])


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def nats(out: Path) -> dict[tuple[int, str], float]:
    """The nats of each step and split; a step that was measured twice must have been measured alike."""
    found: dict[tuple[int, str], float] = {}
    for line in lines(out):
        if "nats" in line:
            key = (line["step"], line.get("split", "train"))
            assert found.setdefault(key, line["nats"]) == line["nats"]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training that kept the checkpoint of every step."""
    out = tmp_path_factory.mktemp("whole")
    assert run(SMALL.model_copy(update={"checkpoint_every": 1, "keep_checkpoints": 100}), out) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 12))
def test_killed_after_any_step_it_ends_identical_in_every_bit(step: int, whole: Path, tmp_path: Path) -> None:
    shutil.copy(path_of(whole, step), tmp_path)
    assert run(SMALL, tmp_path) == 0
    assert state(path_of(tmp_path, 12)) == state(path_of(whole, 12))
    assert (tmp_path / "samples-12.png").read_bytes() == (whole / "samples-12.png").read_bytes()
    wanted, got = nats(whole), nats(tmp_path)
    assert all(wanted[key] == value for key, value in got.items() if key in wanted)
    assert {key for key in wanted if key[0] > step and (key[0] % 3 == 0 or key[1] == "valid")} <= got.keys()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["row-lstm", "diagonal-bilstm"])
def test_every_network_killed_after_a_step_ends_identical_in_every_bit(model: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"model": model, "steps": 7, "keep_checkpoints": 100, "layers": 2})
    (tmp_path / "killed").mkdir()
    assert run(config, tmp_path / "whole") == 0
    shutil.copy(path_of(tmp_path / "whole", 4), tmp_path / "killed")
    assert run(config, tmp_path / "killed") == 0
    assert state(path_of(tmp_path / "killed", 7)) == state(path_of(tmp_path / "whole", 7))
    assert (tmp_path / "killed/samples-7.png").read_bytes() == (tmp_path / "whole/samples-7.png").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("look", [2, 3, 5, 8])
def test_stopped_again_and_again_it_ends_identical_in_every_bit(look: int, whole: Path, tmp_path: Path) -> None:
    codes: list[int] = []
    while not codes or codes[-1] != 0:
        stop = StopsAtLook(look + len(codes) // 3)  # later and later: the look of a validation would be met for ever
        codes.append(run(SMALL.model_copy(update={"samples": 0}), tmp_path, stop))
        assert len(codes) < 50
    assert set(codes) == {0, 143}
    assert state(path_of(tmp_path, 12)) == state(path_of(whole, 12))
    assert {key: value for key, value in nats(tmp_path).items() if key in nats(whole)} == nats(whole)


def test_stopped_while_it_samples_it_has_its_checkpoint_and_samples_later(whole: Path, tmp_path: Path) -> None:
    shutil.copy(path_of(whole, 12), tmp_path)
    assert run(SMALL, tmp_path, StopsAtLook(5, signal.SIGINT)) == 130
    assert not (tmp_path / "samples-12.png").exists()
    assert lines(tmp_path)[-1]["reason"] == "stopped"
    assert run(SMALL, tmp_path) == 0
    assert (tmp_path / "samples-12.png").read_bytes() == (whole / "samples-12.png").read_bytes()


def test_it_reports_what_the_orchestrator_reads(tmp_path: Path) -> None:
    before = time.time()
    assert run(SMALL, tmp_path) == 0
    first, *middle, last = lines(tmp_path)
    assert first["event"] == "start"
    assert (first["device"], first["resumed_from"], first["steps"], first["refused"]) == ("cpu", 0, 12, [])
    assert (first["batch_size"], first["images_per_epoch"], first["torch"]) == (419, 1257, torch.__version__)
    assert (last["event"], last["step"], last["reason"]) == ("end", 12, "finished")
    assert [line["step"] for line in middle if "split" not in line] == [1, 3, 6, 9, 12]
    assert [line["step"] for line in middle if line.get("split") == "valid"] == [5, 10, 12]
    for line in middle:
        assert line["bits_per_dim"] == pytest.approx(line["nats"] / 64 / 0.6931471805599453)
        assert line["epoch"] == line["step"] / 3
        assert line["wall_s"] >= 0
        assert before - 1 <= line["time"] <= time.time() + 1
        assert ("images_per_s" in line) == ("split" not in line)
    assert checkpoints.steps_in(tmp_path) == [8, 10, 12]
    assert json.loads((tmp_path / "best.json").read_text())["step"] == 12


def test_a_finished_run_finishes_at_once(tmp_path: Path) -> None:
    assert run(SMALL, tmp_path) == 0
    written = path_of(tmp_path, 12).stat().st_mtime_ns
    assert run(SMALL, tmp_path, StopFlag()) == 0
    assert path_of(tmp_path, 12).stat().st_mtime_ns == written
    assert [line["event"] for line in lines(tmp_path)[-2:]] == ["start", "end"]
    assert run(SMALL.model_copy(update={"steps": 6}), tmp_path) == 0


def test_more_steps_go_on_from_where_it_ended(tmp_path: Path) -> None:
    assert run(SMALL, tmp_path) == 0
    assert run(SMALL.model_copy(update={"steps": 14}), tmp_path) == 0
    assert checkpoints.steps_in(tmp_path)[-1] == 14


def test_a_stop_before_the_first_step_leaves_no_checkpoint(tmp_path: Path) -> None:
    stop = StopFlag()
    stop.signum = signal.SIGINT
    assert run(SMALL, tmp_path, stop) == 130
    assert [line["event"] for line in lines(tmp_path)] == ["start", "end"]
    assert (lines(tmp_path)[-1]["step"], lines(tmp_path)[-1]["reason"]) == (0, "stopped")
    assert checkpoints.steps_in(tmp_path) == []


def test_damaged_checkpoints_are_refused_by_name_and_the_one_before_is_used(whole: Path, tmp_path: Path) -> None:
    for step in (6, 7, 8):
        shutil.copy(path_of(whole, step), tmp_path)
    path_of(tmp_path, 8).write_bytes(path_of(whole, 8).read_bytes()[:5000])
    path_of(tmp_path, 7).write_bytes(b"")
    assert run(SMALL.model_copy(update={"keep_checkpoints": 1}), tmp_path) == 0
    start = lines(tmp_path)[0]
    assert start["resumed_from"] == 6
    assert [refused["name"] for refused in start["refused"]] == ["checkpoint-8.pt", "checkpoint-7.pt"]
    assert all("damaged" in refused["reason"] for refused in start["refused"])
    assert state(path_of(tmp_path, 12)) == state(path_of(whole, 12))


def test_a_line_cut_off_by_a_kill_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "na')
    assert run(SMALL.model_copy(update={"steps": 1, "samples": 0}), tmp_path) == 0
    texts = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert texts[1] == '{"step": 2, "na'
    assert json.loads(texts[2])["event"] == "start"


@pytest.mark.parametrize(("name", "value"), [("hidden", 3), ("layers", 2), ("head", 4), ("optimizer", "rmsprop")])
def test_another_networks_checkpoint_is_not_trained_on(name: str, value: object, whole: Path, tmp_path: Path) -> None:
    shutil.copy(path_of(whole, 6), tmp_path)
    with pytest.raises(
        CheckpointError, match=rf"of another network: the checkpoint has {name}=.*, this run has {value}; give"
    ):
        run(SMALL.model_copy(update={name: value}), tmp_path)
    assert state(path_of(tmp_path, 6)) == state(path_of(whole, 6))


def test_a_loss_that_is_not_finite_is_a_failure_and_never_saved(tmp_path: Path) -> None:
    wild = SMALL.model_copy(update={"learning_rate": 1e38, "grad_clip": 0.0, "optimizer": "rmsprop"})
    with pytest.raises(TrainingError, match=r"the (loss|gradient) became .* lower learning_rate"):
        run(wild, tmp_path)
    for step in checkpoints.steps_in(tmp_path):
        weights = load(path_of(tmp_path, step)).model
        assert all(bool(weight.isfinite().all()) for weight in weights.values())
    assert all(line.get("event") != "end" for line in lines(tmp_path))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"cannot write to .*; give another folder with --out"):
        run(SMALL, tmp_path / "file" / "out")


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_both_optimizers_learn_and_resume(optimizer: str) -> None:
    config = SMALL.model_copy(update={"optimizer": optimizer, "weight_decay": 0.01, "schedule": "constant"})
    data, cpu = load_data("digits"), torch.device("cpu")
    one, two = Training(config, data, cpu), Training(config, data, cpu)
    for _ in range(10):
        one.advance()
    for _ in range(5):
        two.advance()
    three = Training(config.model_copy(update={"seed": 0}), data, cpu)
    three.restore(two.checkpoint())
    for _ in range(5):
        three.advance()
    assert digest(one.checkpoint().model) == digest(three.checkpoint().model)
    assert digest(one.checkpoint().optimizer) == digest(three.checkpoint().optimizer)
    assert digest(one.checkpoint().ema) == digest(three.checkpoint().ema)
    assert one.mean_nats() < 181


def test_the_learning_rate_falls_over_half_a_cosine_or_not_at_all() -> None:
    config = TrainConfig(steps=100, learning_rate=0.5)
    assert learning_rate(config, 0) == 0.5
    assert learning_rate(config, 50) == pytest.approx(0.25)
    assert 0 < learning_rate(config, 99) < 0.001
    assert learning_rate(config.model_copy(update={"schedule": "constant"}), 99) == 0.5


def test_warming_up_the_rate_rises_in_equal_steps() -> None:
    config = TrainConfig(steps=100, learning_rate=0.5, warmup_steps=10, schedule="constant")
    assert [learning_rate(config, step) for step in (0, 4, 9, 10, 50)] == pytest.approx([0.05, 0.25, 0.5, 0.5, 0.5])
    cosine = config.model_copy(update={"schedule": "cosine"})
    assert learning_rate(cosine, 4) < learning_rate(cosine, 9) > learning_rate(cosine, 50)


def test_what_is_evaluated_and_drawn_from_is_the_running_mean_of_the_weights(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"ema": 0.5})
    training = Training(config, load_data("digits"), torch.device("cpu"))
    mean = [weight.detach().clone() for weight in training.net.parameters()]
    for step in range(1, 6):
        training.advance()
        keep = min(0.5, (1 + step) / (10 + step))
        mean = [keep * old + (1 - keep) * new for old, new in zip(mean, training.net.parameters(), strict=True)]
    for got, wanted in zip(training.eval_net.parameters(), mean, strict=True):
        torch.testing.assert_close(got, wanted)
    saved = training.checkpoint()
    asked = network_of(saved, torch.device("cpu"))
    levels = training.feed.images[:5]
    assert torch.equal(asked(levels), training.eval_net(levels))
    assert not torch.equal(asked(levels), training.net(levels))
    without = Training(config.model_copy(update={"ema": 0.0}), load_data("digits"), torch.device("cpu"))
    without.restore(saved)
    assert without.eval_net is without.net


def test_masks_hold_in_the_running_mean_too() -> None:
    config = SMALL.model_copy(update={"weight_decay": 0.1})
    training = Training(config, load_data("digits"), torch.device("cpu"))
    for _ in range(3):
        training.advance()
    levels = training.feed.images[:2].clone()
    before = training.eval_net(levels)
    levels[:, :, 4:] = 0  # rows 4 and on are the future of row 4's first pixel and of all before it
    after = training.eval_net(levels)
    assert torch.equal(before[:, :, :, :4], after[:, :, :, :4])
    assert torch.equal(before[:, :, :, 4, 0], after[:, :, :, 4, 0])


def test_without_a_mean_it_trains_and_resumes(tmp_path: Path) -> None:
    plain = SMALL.model_copy(update={"ema": 0.0, "samples": 0})
    assert run(plain.model_copy(update={"steps": 8}), tmp_path) == 0
    assert load(path_of(tmp_path, 8)).ema is None
    assert run(plain, tmp_path) == 0  # 8 of another number of steps: the rate is another, but it goes on
    assert run(plain.model_copy(update={"ema": 0.9, "steps": 13}), tmp_path) == 0
    assert load(path_of(tmp_path, 13)).ema is not None


def test_tensorboard_gets_what_the_metrics_get(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    assert run(SMALL.model_copy(update={"tensorboard": "on", "samples": 0}), tmp_path) == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    valid = {event.step: event.value for event in events.Scalars("nats/valid")}
    assert valid == pytest.approx({step: value for (step, split), value in nats(tmp_path).items() if split == "valid"})
    assert [event.step for event in events.Scalars("images_per_s/train")] == [1, 3, 6, 9, 12]


def test_without_tensorboard_it_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(SetupError, match=r"tensorboard=on needs an extra: pip install 'pixel-orch\[tensorboard\]'"):
        run(SMALL.model_copy(update={"tensorboard": "on"}), tmp_path)


# Which LSTMs


@pytest.mark.parametrize("model", ["row-lstm", "diagonal-bilstm"])
def test_a_training_goes_on_with_the_other_lstms(model: str, tmp_path: Path) -> None:
    fast = SMALL.model_copy(update={"model": model, "layers": 2, "samples": 0, "batch_size": 20, "ema": 0.0})
    (tmp_path / "b").mkdir()
    assert run(fast, tmp_path / "a") == 0
    shutil.copy(path_of(tmp_path / "a", 8), tmp_path / "b")
    assert run(fast.model_copy(update={"implementation": "reference"}), tmp_path / "b") == 0
    one, two = (load(path_of(tmp_path / name, 12)).model for name in "ab")
    for name, weight in one.items():
        torch.testing.assert_close(weight, two[name], atol=1e-4, rtol=1e-3)


def test_too_little_memory_for_the_fast_lstms_gets_the_others_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = SMALL.model_copy(update={"model": "row-lstm", "steps": 1, "samples": 0})
    needs = workspace_bytes(config, config.batch_size)
    assert choose_implementation(config, int(needs / 0.6) + 1) == "fast"
    assert choose_implementation(config, int(needs / 0.6) - 1) == "reference"
    assert choose_implementation(config.model_copy(update={"implementation": "fast"}), 1) == "fast"
    monkeypatch.setattr("model.training.state.memory_bytes", lambda _: 10**6)
    assert run(config, tmp_path) == 0
    assert "too much of the 0.0 GB here: using the slower reference LSTMs" in capsys.readouterr().err
    net = network_of(load(path_of(tmp_path, 1)), torch.device("cpu"))
    assert cast("PixelRNN", net).implementation == "reference"


def test_a_container_has_the_memory_that_it_is_given(tmp_path: Path) -> None:
    cpu, limit = torch.device("cpu"), tmp_path / "memory.max"
    whole = memory_bytes(cpu, limit)
    assert whole > 10**8
    limit.write_text("max\n")
    assert memory_bytes(cpu, limit) == whole
    limit.write_text("50000000\n")
    assert memory_bytes(cpu, limit) == 50_000_000


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_line_that_moves_and_a_pipe_gets_lines() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        progress = Progress(100, first=0, stream=stream)
        progress.step(50, nats=90.0, bits_per_dim=2.0, images_per_s=1234.5)
        progress.say("step 50  validation")
        progress.step(100, nats=80.0, bits_per_dim=1.8, images_per_s=1234.5)
        progress.close()
    assert pipe.getvalue().splitlines() == [
        "step 50/100  nats 90.00  bits/dim 2.000  1,234 images/s",
        "step 50  validation",
        "step 100/100  nats 80.00  bits/dim 1.800  1,234 images/s",
    ]
    assert "[############............] 50/100  nats 90.00" in terminal.getvalue()
    assert "\r\x1b[Kstep 50  validation\n[########################] 100/100" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")
