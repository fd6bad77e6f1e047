"""The cached sampler with each row as one CUDA graph: Python does not launch each product.

A pixel is a hundred small kernels, and a GPU has done each before Python has asked for the next. All buffers of
`model.sampling.cached` stay where they are, so the kernels of a row are recorded once and then started together.

NOTE: it has not run on a GPU yet; `auto` does not take it. Its tests and `benchmarks/model_sampling.py` run it where
there is one. Without one the same code runs on a CPU, with nothing recorded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from model.errors import SetupError
from model.sampling.cached import Cache
from model.sampling.noise import choose


def require(device: torch.device) -> None:
    """Check that the graph sampler can run.

    Raises:
        SetupError: the network is not on a GPU.
    """
    if device.type != "cuda":
        raise SetupError(f"the graph sampler runs on a GPU, not on {device.type}; pass --engine torch or --device cuda")


class Row:
    """Samples one row, over buffers at fixed addresses.

    Args:
        cache: the network and its cached state.
        batch: images at a time, B.
        temperature: divides the logits.
    """

    def __init__(self, cache: Cache, *, batch: int, temperature: float) -> None:
        self.cache, self.temperature = cache, temperature
        size, now = (cache.width, cache.colours, batch), cache.first.now
        self.levels = torch.zeros(size, dtype=torch.long, device=now.device)  # given ones, then drawn ones
        self.noise = torch.zeros(size, dtype=torch.float64, device=now.device)
        self.hidden = torch.zeros(cache.width, dtype=torch.bool, device=now.device)
        self.logits = now.new_zeros(*size, cache.levels)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._drawn = 0
        self._records = now.device.type == "cuda"

    @property
    def recorded(self) -> bool:
        """Whether each row runs as one graph."""
        return self._graph is not None

    def draw(self) -> None:
        """Sample the cache's current row."""
        if self._records and self._drawn == 1:  # row 0 ran without a graph and initialised cuBLAS for it
            self._record()
        self._drawn += 1
        if self._graph is None:
            self._plainly()
        else:
            self._graph.replay()

    def _plainly(self) -> None:
        for column in range(self.cache.width):
            for colour in range(self.cache.colours):
                logits = self.cache.logits(column, colour)
                self.logits[column, colour] = logits
                value = self.levels[column, colour]
                drawn = choose(logits, self.noise[column, colour], self.temperature)
                value.copy_(torch.where(self.hidden[column], drawn, value))
                self.cache.put(column, colour, value)

    def _record(self) -> None:
        """Capture a row without running it. Where capture fails, all rows run without a graph."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._plainly()
        except RuntimeError:  # the build or the driver does not support capture
            self._records = False
        else:
            self._graph = graph


def sample(
    cache: Cache,
    levels: Tensor,
    hidden: Tensor,
    noise: Tensor,
    *,
    temperature: float = 1.0,
    before_row: Callable[[], None] = lambda: None,
    keep: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Do what `model.sampling.cached.sample` does, with the same arguments and the same result."""
    by_row = levels.permute(2, 3, 1, 0).long().contiguous()  # (H, W, C, B)
    noise_by_row = noise.permute(2, 3, 1, 0).contiguous()
    asked = hidden.to(levels.device)
    with torch.no_grad():
        row = Row(cache, batch=levels.shape[0], temperature=temperature)
        for number in range(len(by_row)):
            before_row()
            cache.begin_row()
            row.levels.copy_(by_row[number])
            row.noise.copy_(noise_by_row[number])
            row.hidden.copy_(asked[number])
            row.draw()
            by_row[number] = row.levels
            if keep is not None:
                for logits in row.logits.flatten(0, 1):
                    keep(logits)
    return by_row.permute(3, 2, 0, 1).to(torch.uint8).contiguous()
