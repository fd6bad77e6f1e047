"""The same on every device: the fast networks, their gradients, the samplers, the resumed training.

Each test runs on the CPU too, so that it is known to work on the day that there is a GPU.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from model.__main__ import main
from model.config import MODELS, DatasetFacts, TrainConfig
from model.device import make_repeatable, pick_device
from model.errors import ConfigError, SetupError
from model.networks.build import build
from model.networks.likelihood import nats_per_image
from model.sampling import cached, fill, generate, graphed, naive
from model.training.checkpoint import digest, load, path_of
from model.training.loop import train
from model.training.state import network_of
from model.training.stop import StopFlag
from tests.support.networks import network

torch.set_num_threads(1)

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
SMALL = TrainConfig(
    steps=6, batch_size=20, hidden=3, layers=2, head=4, samples=2, checkpoint_every=3, keep_checkpoints=9,
    validate_every=4,
)  # fmt: skip


def gradients(kind: str, device: str, images: Tensor, condition: Tensor, **sizes: Any) -> list[Tensor]:
    net = network(kind, std=0.4, condition=2, **sizes).to(device)
    logits = net(images.to(device), condition.to(device))
    weights = torch.rand(logits.shape, dtype=logits.dtype, generator=torch.Generator().manual_seed(1)).to(device)
    grads = torch.autograd.grad((logits * weights).sum(), list(net.parameters()))
    return [logits.detach().cpu(), *(grad.cpu() for grad in grads)]


@pytest.mark.parametrize("sizes", [{"layers": 3}, {"channels": 3, "levels": 4}], ids=str)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("device", DEVICES)
def test_logits_and_all_gradients_are_those_of_the_reference_on_a_cpu(
    device: str, kind: str, sizes: dict[str, Any]
) -> None:
    levels = torch.randint(3, (3, sizes.get("channels", 1), 5, 4))
    condition = torch.randn(3, 2, 5, 4, dtype=torch.float64)
    wanted = gradients(f"{kind} reference", "cpu", levels, condition, **sizes)
    for one, other in zip(gradients(kind, device, levels, condition, **sizes), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("device", DEVICES)
def test_every_sampler_draws_the_same_images(device: str, kind: str) -> None:
    net = network(kind, std=0.6, channels=3, levels=4, condition=2).eval()
    noise = torch.rand(3, 3, 4, 5, dtype=torch.float64)
    condition = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    empty, hidden = torch.zeros(3, 3, 4, 5, dtype=torch.uint8), torch.rand(4, 5) < 0.8
    wanted = naive.sample(net, empty, hidden, noise, condition=condition)
    net.to(device)
    there = [tensor.to(device) for tensor in (empty, hidden, noise, condition)]
    for sampler in (cached.sample, graphed.sample):
        cache = cached.Cache(net, batch=3, width=5, condition=there[3])
        assert torch.equal(sampler(cache, there[0], hidden, there[2]).cpu(), wanted)
    engines = ("auto", "torch", "naive", *(("graph",) if device == "cuda" else ()))
    for engine in engines:
        drawn = fill(net, empty, hidden, noise, condition=condition, engine=engine)  # type: ignore[arg-type]
        assert torch.equal(drawn, wanted)


@GPU
@pytest.mark.parametrize("kind", MODELS)
def test_rows_are_recorded_on_a_gpu(kind: str) -> None:
    net = network(kind, channels=3, levels=4).eval().cuda()
    cache = cached.Cache(net, batch=2, width=4)
    row = graphed.Row(cache, batch=2, temperature=1.0)
    with torch.no_grad():
        for _ in range(3):
            cache.begin_row()
            row.draw()
    assert row.recorded


@pytest.mark.slow
@pytest.mark.parametrize("multiscale", [0, 4])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_resumed_training_ends_identical_in_every_bit(
    device: str, model: str, multiscale: int, tmp_path: Path
) -> None:
    config = SMALL.model_copy(update={"device": device, "model": model, "multiscale": multiscale})
    (tmp_path / "killed").mkdir()
    assert train(config, tmp_path / "whole", StopFlag(), began_s=time.monotonic()) == 0
    shutil.copy(path_of(tmp_path / "whole", 3), tmp_path / "killed")
    assert train(config, tmp_path / "killed", StopFlag(), began_s=time.monotonic()) == 0
    one, two = (load(path_of(tmp_path / name, 6)) for name in ("whole", "killed"))
    assert digest([one.model, one.ema, one.optimizer]) == digest([two.model, two.ema, two.optimizer])
    assert (tmp_path / "whole/samples-6.png").read_bytes() == (tmp_path / "killed/samples-6.png").read_bytes()
    network_of(one, torch.device("cpu"))  # what was trained on a GPU can be asked without one


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_multi_scale_network_draws_the_same_images_and_costs_the_same(device: str) -> None:
    torch.manual_seed(0)
    net = build(TrainConfig(multiscale=4, hidden=5, layers=2, model="row-lstm")).double().eval()
    facts = DatasetFacts(height=8, width=8, channels=1, levels=17, train=0, valid=0, test=0)
    levels = torch.randint(17, (4, 1, 8, 8), dtype=torch.uint8)
    nats, drawn = nats_per_image(net, levels), generate.draw(net, facts, count=2, seed=1, engine="naive")
    net.to(device)
    torch.testing.assert_close(nats_per_image(net, levels.to(device)).cpu(), nats)
    assert torch.equal(generate.draw(net, facts, count=2, seed=1), drawn)


@pytest.fixture
def rounding() -> Iterator[set[tuple[bool, bool]]]:
    """Torch as it begins; and whether convolutions and matrices could be rounded, whenever a module was run."""
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    seen: set[tuple[bool, bool]] = set()
    handle = register_module_forward_pre_hook(
        lambda *_: seen.add((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
    )
    yield seen
    handle.remove()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def test_products_are_not_rounded_unless_it_is_asked_for(rounding: set[tuple[bool, bool]], tmp_path: Path) -> None:
    for tf32 in ("off", "on"):
        config = SMALL.model_copy(update={"device": "cpu", "samples": 0, "tf32": tf32})
        assert train(config, tmp_path / tf32, StopFlag(), began_s=time.monotonic()) == 0
        assert rounding == {(tf32 == "on", tf32 == "on")}
        commands: list[list[str]] = [
            ["evaluate", "--device", "cpu"],
            ["sample", "--out", str(tmp_path / "s.png"), "--count", "1", "--engine", "naive", "--device", "cpu"],
            ["complete", "--image", "test:0", "--occlude", "box:7,6,1,2", "--engine", "naive", "--count", "1",
             "--out", str(tmp_path / "c.png"), "--device", "cpu"],
        ]  # fmt: skip
        for words in commands:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
            rounding.clear()
            assert main([*words, "--checkpoint", str(path_of(tmp_path / tf32, 6))]) == 0
            assert rounding == {(False, False)}, words
        rounding.clear()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("device", DEVICES)
def test_logits_in_float32_are_those_in_float64_but_for_rounding(device: str, kind: str) -> None:
    net = network(kind, std=0.3, channels=3, levels=4, hidden=24, head=24, layers=3)
    levels = torch.randint(4, (2, 3, 6, 6))
    with torch.no_grad():
        wanted = net(levels)
        make_repeatable(1, torch.device(device))
        got = net.float().to(device)(levels.to(device)).cpu().double()
    assert (got - wanted).abs().max() < 2e-5 * wanted.abs().max()  # with 10 bits it is 3e-4 or more


def test_each_process_of_a_machine_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80"])
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: used[-1])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert pick_device("auto", index=3) == torch.device("cuda", 3)
    with pytest.raises(SetupError, match="process 5 of this machine has no GPU: there are 4; give --processes 4"):
        pick_device("cuda", index=4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SetupError, match="process 2 of this machine has no GPU: there are 1; give --processes 1"):
        pick_device("cuda", index=1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")  # an outer launcher has chosen it
    assert pick_device("cuda", index=1) == torch.device("cuda", 0)
    assert pick_device("cpu", index=1) == torch.device("cpu")


def test_a_gpu_that_this_torch_has_no_kernels_for_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (3, 7))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_70", "sm_80"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla K80")
    for name in ("auto", "cuda"):
        with pytest.raises(SetupError, match=r"no kernels for Tesla K80 \(compute capability 3\.7; .*use device cpu$"):
            pick_device(name)
    assert pick_device("cpu").type == "cpu"


def test_a_sampler_that_the_device_cannot_run_is_one_line() -> None:
    facts = DatasetFacts(height=2, width=2, channels=1, levels=3, train=0, valid=0, test=0)
    with pytest.raises(SetupError, match="the graph sampler runs on a GPU, not on cpu"):
        generate.draw(network("pixelcnn"), facts, count=1, seed=0, engine="graph")


@pytest.mark.parametrize("hidden", [1, 2])
def test_fewer_maps_than_colours_cannot_be(hidden: int) -> None:
    with pytest.raises(ConfigError, match="photos-16 has 3 colours; give hidden and head at least that many maps"):
        build(TrainConfig().model_copy(update={"dataset": "photos-16", "hidden": hidden}))
