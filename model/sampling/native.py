"""The native sampler, compiled by numba for a CPU. Without numba, `model.sampling.cached` does the same in torch.

As in `model.sampling.cached`, one batched torch product a row computes the contribution of the rows above. The loop
over the pixels of a row is compiled, because torch would need about a hundred calls for each pixel. Both parts use the
same buffers.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.errors import SetupError
from model.sampling.cached import Cache
from model.sampling.cached_diagonal_bilstm import DiagonalLayers
from model.sampling.cached_pixelcnn import ConvolutionLayers
from model.sampling.cached_row_lstm import RowLayers
from model.sampling.colour_groups import Product

Array = NDArray[Any]
PAYS_FROM = 8192  # values of an image
BATCH_AT_MOST = 64


def available() -> bool:
    """Return whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def trouble() -> str | None:
    """Load the compiled sampler; return the reason if it cannot be loaded, else None."""
    if not available():
        return "needs numba: pip install 'pixel-orch[fast]'"
    try:
        from model.sampling import kernels  # noqa: F401 - checks that the import succeeds
    except ImportError as error:  # numba rejects numpy versions newer than it supports
        return f"cannot load numba ({str(error).splitlines()[0]})"
    return None


def require(device: torch.device) -> None:
    """Check that the native sampler can run.

    Raises:
        SetupError: numba is not installed or does not load, or the network is not on a CPU.
    """
    if device.type != "cpu":
        raise SetupError(f"the native sampler runs on a CPU, not on {device.type}; use --engine torch or --device cpu")
    reason = trouble()
    if reason is not None:
        raise SetupError(f"the native sampler {reason}, or use --engine torch")


def pays(levels: Tensor) -> bool:
    """Return whether the native sampler is available and faster than torch, including its load time.

    Loading numba and the compiled code takes about 1.5 s, in which torch draws many small images. Once loaded, the
    native sampler is faster for few images. For hundreds of images torch is as fast, because its products are large.
    """
    if levels.device.type != "cpu" or len(levels) > BATCH_AT_MOST:
        return False
    loaded = "model.sampling.kernels" in sys.modules
    return (loaded or levels[0].numel() >= PAYS_FROM) and trouble() is None


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
    B, C, H, W = levels.shape
    by_row = levels.permute(2, 0, 3, 1).long().contiguous().numpy()  # (H, B, W, C)
    noise_by_row = noise.permute(2, 0, 3, 1).contiguous().numpy()
    asked = hidden.numpy()
    draw_row, arguments = _prepare(cache)
    end_row = _end_of_row(cache.layers)
    logits = np.zeros((B, W, C, cache.levels), _array(cache.first.now).dtype)
    with torch.no_grad():
        for row in range(H):
            before_row()
            if row:
                end_row()
            cache.fold_in()
            draw_row(by_row[row], asked[row], noise_by_row[row], temperature, logits, *arguments)
            if keep is not None:
                for value in logits.reshape(B, W * C, cache.levels).swapaxes(0, 1):
                    keep(torch.from_numpy(value))
    return torch.from_numpy(by_row).permute(1, 3, 0, 2).to(torch.uint8).contiguous()


def _prepare(cache: Cache) -> tuple[Callable[..., None], tuple[Any, ...]]:
    """Return the compiled function for the layers of a cache, and its arguments after the first five."""
    from model.sampling import kernels

    first, head, layers = cache.first, cache.head, cache.layers
    up = [_array(torch.stack([product.weight.t() for product in layers.up])), _biases(layers.up)]
    gates = (np.zeros(4 * layers.h, up[0].dtype), _scratch(4 * layers.h))
    beside = _transposed(layers.beside)
    draw: Callable[..., None]
    state: tuple[Any, ...]
    if isinstance(layers, ConvolutionLayers):
        draw = kernels.draw_convolution_row
        x = np.zeros((layers.layers, 2 * layers.h), up[0].dtype)
        down = _array(torch.stack([product.weight.t() for product in layers.down]))
        state = (x, _array(layers.u), _array(layers.above), beside, down, _biases(layers.down))
    elif isinstance(layers, DiagonalLayers):
        draw = kernels.draw_diagonal_row
        buffers = (layers.row, layers.memory, layers.above, layers.right)
        state = (*gates, *(_array(buffer) for buffer in buffers), beside)
    else:
        draw = kernels.draw_lstm_row
        buffers = (layers.x, layers.states, layers.memory, layers.above)
        state = (*gates, *(_array(buffer) for buffer in buffers), beside)
    heads = (head.first.weight.t(), head.first.bias, head.last.weight.t(), head.last.bias)
    scratch = (np.zeros(2 * layers.h, up[0].dtype), _array(head.into[0]), _array(head.middle[0]), np.zeros(head.levels))
    return draw, (
        (_array(first.above), _array(first.now), _array(first.weight_beside.t())),
        (layers.residual, *state, *up),
        tuple(_array(tensor) for tensor in heads),
        tuple(np.array(some, np.int64) for some in cache.bounds),
        scratch,
    )


def _end_of_row(layers: ConvolutionLayers | RowLayers | DiagonalLayers) -> Callable[[], None]:
    """Return the function to call after each row: it runs the right direction of Diagonal BiLSTM layers."""
    if not isinstance(layers, DiagonalLayers):
        return lambda: None
    from model.sampling import kernels

    right, scratch = _array(layers.right), _scratch(4 * layers.h)
    weights = (_transposed(layers.right_beside), _array(layers.right_h0[:, 0]), _array(layers.right_c0[:, 0]))
    return lambda: kernels.scan_right(_array(layers.known_to_right()), right, weights, scratch)


def _scratch(size: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the scratch buffers of `exponentiate`: the same memory as integers and as floats."""
    bits = np.zeros(size, np.int32)
    return bits, bits.view(np.float32)


def _array(tensor: Tensor) -> Array:
    """Return a tensor as a numpy array; a contiguous tensor shares its memory with the array."""
    array: Array = tensor.detach().contiguous().numpy()
    return array


def _transposed(weights: Tensor) -> Array:
    """Transpose weights, so that outputs come first: (L, in, out) -> (L, out, in)."""
    return _array(weights.transpose(1, 2))


def _biases(products: list[Product]) -> Array:
    return _array(torch.stack([product.bias for product in products]))
