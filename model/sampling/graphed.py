"""The cached sampler with each row captured as one CUDA graph, which removes the launch overhead of single kernels.

A pixel takes about a hundred small kernels, and a GPU finishes each one before Python launches the next. The buffers of
`model.sampling.cached` keep their addresses, so the kernels of a row are captured once and then replayed together.

NOTE: this sampler has not been tested on a GPU; `auto` does not select it. Its tests and `benchmarks/model_sampling.py`
use a GPU if there is one. On a CPU the same code runs without a graph.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import SetupError, out_of_memory
from model.sampling.cached import Cache
from model.sampling.noise import choose

Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Captures work without running it, and returns what runs it."""


def record_on_gpu(work: Callable[[], None]) -> Callable[[], None]:
    """Capture work as a CUDA graph; return its replay.

    Raises:
        RuntimeError: the torch build, the driver or an operation does not support it.
    """
    graph = torch.cuda.CUDAGraph()
    # NCCL's watchdog asks the GPU from a thread of its own, which would end the capture; torch 2.0 has no such mode.
    has_modes = "capture_error_mode" in inspect.signature(torch.cuda.graph.__init__).parameters
    mode: dict[str, Any] = {"capture_error_mode": "thread_local"} if has_modes else {}
    with torch.cuda.graph(graph, **mode):
        work()
    replay: Callable[[], None] = graph.replay
    return replay


def say_fallback(what: str, error: RuntimeError) -> None:
    """Print in one line why something runs without a graph; an allocation that failed is another matter.

    Raises:
        RuntimeError: `error`, if memory has run out: without a graph it would too.
    """
    if out_of_memory(error):
        raise error
    lines = str(error).strip().splitlines() or [type(error).__name__]
    print(f"{what} without a CUDA graph, which is slower: {lines[0][:160]}", file=sys.stderr)


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
        record: captures the work of a row; by default as a CUDA graph on a GPU, and not at all on a CPU.
    """

    def __init__(self, cache: Cache, *, batch: int, temperature: float, record: Record | None = None) -> None:
        self.cache, self.temperature = cache, temperature
        size, now = (cache.width, cache.colours, batch), cache.first.now
        self.levels = torch.zeros(size, dtype=torch.long, device=now.device)  # given ones; overwritten by drawn ones
        self.noise = torch.zeros(size, dtype=torch.float64, device=now.device)
        self.hidden = torch.zeros(cache.width, dtype=torch.bool, device=now.device)
        self.logits = now.new_zeros(*size, cache.levels)
        self._replay: Callable[[], None] | None = None
        self._drawn = 0
        self._record_by = record or (record_on_gpu if now.device.type == "cuda" else None)

    @property
    def recorded(self) -> bool:
        """Whether each row is replayed as one graph."""
        return self._replay is not None

    def draw(self) -> None:
        """Draw the current row of the cache."""
        if self._record_by is not None and self._drawn == 1:  # the first row initialised cuBLAS: a capture requires it
            self._record(self._record_by)
        self._drawn += 1
        if self._replay is None:
            self._plainly()
        else:
            self._replay()

    def _plainly(self) -> None:
        for column in range(self.cache.width):
            for colour in range(self.cache.colours):
                logits = self.cache.logits(column, colour)
                self.logits[column, colour] = logits
                value = self.levels[column, colour]
                drawn = choose(logits, self.noise[column, colour], self.temperature)
                value.copy_(torch.where(self.hidden[column], drawn, value))
                self.cache.put(column, colour, value)

    def _record(self, record: Record) -> None:
        """Capture a row without running it. If the capture fails, that is said, and all rows run without a graph."""
        try:
            self._replay = record(self._plainly)
        except RuntimeError as error:
            say_fallback("images are drawn", error)


class Sampler:
    """Draws batch after batch with the same recorded row: batches of one size are recorded once.

    Args:
        net: PixelCNN or PixelRNN.
        record: captures the work of a row; see `Row`.
    """

    def __init__(self, net: nn.Module, *, record: Record | None = None) -> None:
        self._net, self._record = net, record
        self._made: dict[tuple[Any, ...], tuple[Row, _Beginning]] = {}

    def __call__(
        self,
        levels: Tensor,
        hidden: Tensor,
        noise: Tensor,
        *,
        temperature: float,
        condition: Tensor | None,
        before_row: Callable[[], None],
    ) -> Tensor:
        """Fill the hidden pixels of a batch like `sample`."""
        batch, width = levels.shape[0], levels.shape[3]
        key = (batch, width, temperature, condition is None)
        if key not in self._made:
            cache = Cache(self._net, batch=batch, width=width, condition=condition)
            beginning = _Beginning(cache)
            self._made[key] = (Row(cache, batch=batch, temperature=temperature, record=self._record), beginning)
        else:
            self._made[key][1].restore()
        row = self._made[key][0]
        row.cache.condition_on(condition)
        return _fill(row, levels, hidden, noise, before_row=before_row)


class _Beginning:
    """The buffers of a cache before its first row, to begin another batch in the same buffers.

    Args:
        cache: a new cache.
    """

    def __init__(self, cache: Cache) -> None:
        whole: dict[int, Tensor] = {}  # by storage, the largest tensor of it
        for tensor in _tensors(cache):
            place = tensor.untyped_storage().data_ptr()
            is_expanded = any(size > 1 and not step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
            if not is_expanded and (place not in whole or whole[place].numel() < tensor.numel()):
                whole[place] = tensor
        self._kept = [(tensor, tensor.clone()) for tensor in whole.values()]
        self._cache = cache

    def restore(self) -> None:
        """Fill the buffers as they were."""
        for tensor, before in self._kept:
            tensor.copy_(before)
        self._cache.rows = 0
        if hasattr(self._cache.layers, "rows"):
            self._cache.layers.rows = 0


def _tensors(thing: Any) -> Iterator[Tensor]:
    """Yield the buffers that the objects of a cache hold; views of them are made later."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, (list, tuple)):
        for part in thing:
            yield from _tensors(part)
    elif type(thing).__module__.startswith("model.sampling"):
        for part in vars(thing).values():
            yield from _tensors(part)


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
    row = Row(cache, batch=levels.shape[0], temperature=temperature)
    return _fill(row, levels, hidden, noise, before_row=before_row, keep=keep)


def _fill(
    row: Row,
    levels: Tensor,
    hidden: Tensor,
    noise: Tensor,
    *,
    before_row: Callable[[], None],
    keep: Callable[[Tensor], None] | None = None,
) -> Tensor:
    by_row = levels.permute(2, 3, 1, 0).long().contiguous()  # (H, W, C, B)
    noise_by_row = noise.permute(2, 3, 1, 0).contiguous()
    asked = hidden.to(levels.device)
    with torch.no_grad():
        for number in range(len(by_row)):
            before_row()
            row.cache.begin_row()
            row.levels.copy_(by_row[number])
            row.noise.copy_(noise_by_row[number])
            row.hidden.copy_(asked[number])
            row.draw()
            by_row[number] = row.levels
            if keep is not None:
                for logits in row.logits.flatten(0, 1):
                    keep(logits)
    return by_row.permute(3, 2, 0, 1).to(torch.uint8).contiguous()
