"""All Diagonal BiLSTM layers of a network on a CPU: both directions at once, one diagonal at a time, valid cells only.

On the skewed map about half of the cells are padding. Here diagonal j of a direction has the rows r0..r1 of the map:
the cells (r, j-r) of the left direction and (r, W-1-(j-r)) of the right one::

    W = 4, H = 3      left  0 1 2 3     right  3 2 1 0      the number is j: H+W-1 steps, of 1, 2, 3, 3, 2, 1 cells
                            1 2 3 4            4 3 2 1
                            2 3 4 5            5 4 3 2

In float32 with numba, `model.networks.diagonal_compiled` computes the layers, else `model.networks.diagonal_torch`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.networks import diagonal_compiled, diagonal_torch
from model.networks.diagonal_maps import DiagonalWeights, Maps, Sizes
from model.networks.lstm_kernel import MEMORY, is_compiled, scaled

Grads = tuple[Tensor | None, ...]
threshold_backward = torch.ops.aten.threshold_backward.grad_input


def diagonal_layers(inputs: Tensor, condition: Tensor | None, weights: DiagonalWeights, *, residual: bool) -> Tensor:
    """Run the first layer, all Diagonal BiLSTM layers and the head's first layer.

    Args:
        inputs: what the first layer's kernel sees, (K, H, W, B).
        condition: (c, H, W, B), or None.
        weights: the weights.
        residual: whether each layer adds its input.

    Returns:
        The head's first layer with the layer-to-output connections, after the ReLU, (head, H, W, B).
    """
    run = cast("Callable[..., Tensor]", _Network.apply)
    gates = scaled(weights.gates.flatten(0, 1)).view_as(weights.gates)
    weights = weights._replace(gates=gates, c0=MEMORY * weights.c0)
    return run(inputs, condition, residual, torch.is_grad_enabled(), *weights)


class _Network(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, condition: Tensor | None, residual: bool, keep: bool, *tensors: Tensor
    ) -> Tensor:
        w = DiagonalWeights(*tensors)
        (_, H, W, B), (L, _, h) = inputs.shape, w.h0.shape
        sizes = Sizes(H, W, B, L, h, 0 if condition is None else len(condition))
        compiled = is_compiled(inputs)
        maps = Maps(sizes, condition, inputs, kept=keep and compiled)  # torch's operations keep a copy of the inputs
        torch.addmm(w.first_bias[:, None], w.first, inputs.flatten(1), out=maps.x[0])
        layers, skips = [], w.out.shape[1] - 2 * h  # maps of the layer-to-output connections
        for number in range(L):
            layer = (diagonal_compiled if compiled else diagonal_torch).Layer(sizes, inputs)
            layer.run(maps, number, w)
            up, x = w.out[number, skips:], maps.x[number] if residual else maps.x[number].new_zeros(())
            torch.addmm(x, up, maps.states_and_one[number], out=maps.x[number + 1])
            if keep:
                layers.append(layer)
            del layer
        result = torch.addmm(w.head_bias[:, None], w.head, maps.x[-1].clamp_min_(0))
        if skips:
            result.addmm_(w.out[:, :skips].transpose(0, 1).flatten(1), maps.states_and_one.flatten(0, 1))
        result.clamp_min_(0)
        if keep:
            ctx.maps, ctx.layers, ctx.residual = maps, layers, residual
            ctx.save_for_backward(inputs, result, *tensors)
        return result.view(-1, H, W, B)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> Grads:
        inputs, result, *tensors = ctx.saved_tensors
        w, maps = DiagonalWeights(*tensors), ctx.maps
        *_, L, h, _ = maps.sizes
        d_w = DiagonalWeights(*(torch.empty_like(some) for some in w))
        # MKL multiplies faster with the long side of a result across.
        d_out = inputs.new_empty(L, h + 1, w.out.shape[1])
        back = (diagonal_compiled if is_compiled(inputs) else diagonal_torch).Back(
            maps.sizes, inputs, of_head=len(w.head)
        )
        dx, d_both, last = back.x, back.both[-w.out.shape[1] :], maps.x[-1]
        threshold_backward(d_result.reshape(result.shape), result, 0, grad_input=back.head)
        torch.sum(back.head, 1, out=d_w.head_bias)
        torch.mm(back.head, last.t(), out=d_w.head)
        torch.mm(w.head.t(), back.head, out=dx)
        threshold_backward(dx, last, 0, grad_input=dx)
        for number in reversed(range(L)):
            torch.mm(maps.states_and_one[number], d_both.t(), out=d_out[number])
            torch.mm(w.out[number, :, :h].t().contiguous(), d_both, out=back.states)
            if not ctx.residual:
                dx.zero_()
            back.run(ctx.layers[number], maps, number, w, d_w.gates[number])
            torch.sum(back.initial_states, (2, 3), out=d_w.h0[number])
            torch.sum(back.initial_memories, (2, 3), out=d_w.c0[number])
        torch.mm(dx, inputs.flatten(1).t(), out=d_w.first)
        torch.sum(dx, 1, out=d_w.first_bias)
        d_inputs = torch.mm(w.first.t(), dx).view_as(inputs) if ctx.needs_input_grad[0] else None
        return d_inputs, back.condition, None, None, *d_w._replace(out=d_out.transpose(1, 2))
