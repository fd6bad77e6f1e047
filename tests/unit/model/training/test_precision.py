"""precision=bf16 rounds the factors of products in a training, and nothing else; its resumption has the same bits."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import MODELS, TrainConfig
from model.data import load as load_data
from model.device import check_precision, make_repeatable
from model.errors import SetupError, TrainingError
from model.training import checkpoint as checkpoints
from model.training.checkpoint import digest, load, path_of
from model.training.loop import train
from model.training.state import Training
from model.training.stop import StopFlag

torch.set_num_threads(1)

CPU = torch.device("cpu")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
SMALL = TrainConfig(
    steps=4, batch_size=20, hidden=6, layers=2, head=6, samples=0, checkpoint_every=2, keep_checkpoints=9,
    validate_every=3, validate_images=40, device="cpu", precision="bf16",
)  # fmt: skip
SHAPES: list[dict[str, Any]] = [
    *({"model": model} for model in MODELS),
    {"model": "row-lstm", "implementation": "reference"},
    {"model": "diagonal-bilstm", "implementation": "reference"},
    {"model": "row-lstm", "multiscale": 4},
    {"model": "diagonal-bilstm", "accumulate": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_training_in_bf16_is_close_and_keeps_its_masters_in_float32(shape: dict[str, Any]) -> None:
    found = []
    for precision in ("float32", "bf16"):
        run = Training(SMALL.model_copy(update={**shape, "precision": precision}), load_data("digits"), CPU)
        first = run._gradients(lambda: None)
        grads = torch.cat([p.grad.reshape(-1) for p in run.net.parameters() if p.grad is not None])
        for _ in range(10):
            run.advance()
        found.append((first, grads, run.mean_nats()))
        saved = run.checkpoint()
        assert first.dtype == torch.float32
        for part in (saved.model, saved.ema, saved.optimizer):
            kinds = {tensor.dtype for tensor in checkpoints.tensors_of(part) if tensor.is_floating_point()}
            assert kinds == {torch.float32}
    (nats, grads, later), (near, rounded, near_later) = found
    assert near.item() == pytest.approx(nats.item(), rel=2e-3)
    assert torch.nn.functional.cosine_similarity(grads, rounded, dim=0) > 0.99
    assert near_later == pytest.approx(later, rel=1e-2)
    # The fast LSTMs compute all layers in one pass on a CPU, none of it rounded.
    is_whole = "lstm" in shape["model"] and not {"implementation", "multiscale"} & set(shape)
    assert torch.equal(grads, rounded) == is_whole


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_a_resumed_training_in_bf16_has_the_same_bits(device: str, model: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"model": model, "device": device})
    (tmp_path / "killed").mkdir()
    assert train(config, tmp_path / "whole", StopFlag(), began_s=time.monotonic()) == 0
    shutil.copy(path_of(tmp_path / "whole", 2), tmp_path / "killed")
    assert train(config, tmp_path / "killed", StopFlag(), began_s=time.monotonic()) == 0
    one, two = (load(path_of(tmp_path / name, 4)) for name in ("whole", "killed"))
    assert digest([one.model, one.ema, one.optimizer]) == digest([two.model, two.ema, two.optimizer])


def test_validations_are_those_of_the_float32_network(tmp_path: Path) -> None:
    assert train(SMALL, tmp_path, StopFlag(), began_s=time.monotonic()) == 0
    saved = load(path_of(tmp_path, 3))
    run = Training(SMALL.model_copy(update={"precision": "float32"}), load_data("digits"), CPU)
    run.restore(saved)
    from model.training.validation import validate

    assert saved.progress["valid"] == (3, validate(run, load_data("digits"), StopFlag()).nats)


def test_a_gpu_without_bf16_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    for capability, refused in (((3, 7), True), ((7, 5), True), ((8, 0), False), ((9, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        if refused:
            with pytest.raises(SetupError, match=r"bf16 needs .* 8\.0 .*Tesla T4 has .*; use precision=float32"):
                check_precision("bf16", gpu)
        else:
            check_precision("bf16", gpu)
        check_precision("float32", gpu)
    check_precision("bf16", CPU)


@pytest.mark.parametrize("strict", [False, True])
def test_on_a_gpu_deterministic_kernels_are_asked_for_and_new_tensors_are_not_filled(
    strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, bool]] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda on, *, warn_only: asked.append((on, warn_only)))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # the user's is kept, and put back after the test
    before = torch.backends.cudnn.benchmark
    make_repeatable(1, torch.device("cuda"), strict=strict)
    torch.backends.cudnn.benchmark = before
    assert asked == [(True, not strict)]
    if hasattr(torch.utils, "deterministic"):
        assert not torch.utils.deterministic.fill_uninitialized_memory


@GPU
@pytest.mark.parametrize("multiscale", [0, 4])
@pytest.mark.parametrize("model", MODELS)
def test_a_gpu_has_deterministic_kernels_for_all_of_a_training(model: str, multiscale: int, tmp_path: Path) -> None:
    update = {"model": model, "multiscale": multiscale, "device": "cuda", "deterministic": "on", "samples": 2}
    config = SMALL.model_copy(update={**update, "precision": "float32"})
    assert train(config, tmp_path, StopFlag(), began_s=time.monotonic()) == 0


def test_an_operation_without_a_deterministic_kernel_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set ...\nmore")

    monkeypatch.setattr("model.training.compiled_step.nats_per_image", fail)
    with pytest.raises(TrainingError, match=r"^deterministic=on: torch has no such kernel for cumsum_cuda_kernel; use"):
        train(SMALL.model_copy(update={"deterministic": "on"}), tmp_path, StopFlag(), began_s=time.monotonic())
