"""The cached sampler with each row captured as one CUDA graph, which removes the launch overhead of single kernels.

A pixel takes about a hundred small kernels, and a GPU finishes each one before Python launches the next. The buffers of
`model.sampling.cached` keep their addresses, so the kernels of a row are captured once and then replayed together.

NOTE: this sampler has not been tested on a GPU; `auto` does not select it. Its tests and `benchmarks/model_sampling.py`
use a GPU if there is one. On a CPU the same code runs without a graph.
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
        raise SetupError(f"the graph sampler runs on a GPU, not on {device.type}; use --engine torch or --device cuda")


class Row:
    """The computation of one row, on buffers with fixed addresses.

    Args:
        cache: the cache to sample from.
        batch: batch size, B.
        temperature: divides the logits.
    """

    def __init__(self, cache: Cache, *, batch: int, temperature: float) -> None:
        self.cache, self.temperature = cache, temperature
        size, now = (cache.width, cache.colours, batch), cache.first.now
        self.levels = torch.zeros(size, dtype=torch.long, device=now.device)  # given ones; overwritten by drawn ones
        self.noise = torch.zeros(size, dtype=torch.float64, device=now.device)
        self.hidden = torch.zeros(cache.width, dtype=torch.bool, device=now.device)
        self.logits = now.new_zeros(*size, cache.levels)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._drawn = 0
        self._records = now.device.type == "cuda"

    @property
    def recorded(self) -> bool:
        """Whether each row is replayed as one graph."""
        return self._graph is not None

    def draw(self) -> None:
        """Draw the current row of the cache."""
        if self._records and self._drawn == 1:  # the first row initialised cuBLAS, which a capture requires
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
        """Capture a row without running it. If the capture fails, all rows run without a graph."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._plainly()
        except RuntimeError:  # the torch build or the driver does not support capture
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
    """Fill the hidden pixels like `model.sampling.cached.sample`, with the same arguments and the same result."""
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
