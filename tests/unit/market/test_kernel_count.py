"""The kernels that a step launches, as counted from sizes, against what torch is asked to do."""

from __future__ import annotations

from typing import Any

import pytest

from model.config import config_from_settings
from orchestrator.market.throughput import work_of

torch = pytest.importorskip("torch", reason="counts the operations of a real step")

VIEWS = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk", "detach", "empty", "empty_like", "empty_strided",
    "expand", "is_same_size", "lift_fresh", "new_empty", "new_empty_strided", "permute", "reshape", "resize_", "select",
    "set_", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view",
}  # fmt: skip


@pytest.mark.slow  # two seconds of imports
@pytest.mark.parametrize("model", ["pixelcnn", "row-lstm", "diagonal-bilstm"])
@pytest.mark.parametrize("layers", [2, 7])
def test_the_count_of_kernels_is_near_what_torch_is_asked_to_do(model: str, layers: int) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    from model.networks.build import build
    from model.networks.likelihood import nats_per_image

    class Counted(TorchDispatchMode):
        operations = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Counted.operations += function.name().split("::")[1].split(".")[0] not in VIEWS
            return function(*args, **(kwargs or {}))

    config = config_from_settings(
        {"model": model, "dataset": "digits", "hidden": 8, "head": 8, "layers": layers, "batch_size": 2}
    )
    with torch.device("meta"):  # it takes the code of a GPU, and computes nothing
        images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    net = build(config).to("meta")
    nats_per_image(net, images).mean().backward()  # makes the buffers
    with Counted():
        nats_per_image(net, images).mean().backward()
    assert work_of(config).kernels * 2 == pytest.approx(Counted.operations, rel=0.1)
