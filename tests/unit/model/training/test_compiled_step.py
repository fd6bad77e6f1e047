"""compile=on lets torch compile the network of a training; what comes out is close, and resumes with the same bits."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch

from model.config import TrainConfig
from model.data import load as load_data
from model.errors import ConfigError, TrainingError
from model.training.checkpoint import digest, load, path_of
from model.training.loop import train
from model.training.state import Training
from model.training.stop import StopFlag

torch.set_num_threads(1)

CPU = torch.device("cpu")
SMALL = TrainConfig(
    steps=4, batch_size=20, hidden=3, layers=1, head=3, samples=0, checkpoint_every=2, keep_checkpoints=9,
    validate_every=3, validate_images=40, device="cpu", implementation="reference", compile="on",
)  # fmt: skip
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="torch needs a C++ compiler on a CPU"
)


@pytest.mark.slow
@needs_compiler
def test_a_compiled_training_is_close_and_resumes_with_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    assert train(SMALL, tmp_path / "whole", StopFlag(), began_s=time.monotonic()) == 0
    shutil.copy(path_of(tmp_path / "whole", 2), tmp_path / "killed")
    assert train(SMALL, tmp_path / "killed", StopFlag(), began_s=time.monotonic()) == 0
    plain = SMALL.model_copy(update={"compile": "off"})
    assert train(plain, tmp_path / "plain", StopFlag(), began_s=time.monotonic()) == 0
    one, two, three = (load(path_of(tmp_path / name, 4)) for name in ("whole", "killed", "plain"))
    assert digest([one.model, one.ema, one.optimizer]) == digest([two.model, two.ema, two.optimizer])
    for name, weight in three.model.items():
        torch.testing.assert_close(one.model[name], weight, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    monkeypatch.setattr("torch._inductor.config.fx_graph_cache", False)  # of an earlier run
    torch._dynamo.reset()
    run = Training(SMALL, load_data("digits"), CPU)
    with pytest.raises(TrainingError, match=r"compile=on: torch cannot compile the network here: .*; set compile=off$"):
        run.advance()
    torch._dynamo.reset()


@pytest.mark.parametrize("model", ["pixelcnn", "row-lstm"])
def test_there_is_nothing_to_compile_in_a_fast_network_on_a_cpu(model: str) -> None:
    config = SMALL.model_copy(update={"model": model, "implementation": "fast"})
    with pytest.raises(ConfigError, match=rf"the fast {model} has nothing .* on a CPU; set implementation=reference"):
        Training(config, load_data("digits"), CPU)
