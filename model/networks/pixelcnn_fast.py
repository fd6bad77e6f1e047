"""All blocks of PixelCNN as matrix products on small groups of images, so that what a product reads is still cached.

A convolution of the whole batch writes maps that do not fit into a core's L2 cache, and it changes their layout before
and after. Here a group of images that is small enough for the cache passes through all layers before the next group
does, in one layout: maps x cells. The cells are in the order (row, column, image), with one column of zeros at the end
of each row. A shift by one pixel is then a shift by k cells (k: images of a group), and a row has (W+1)*k cells.

Each 1x1 convolution is one matrix product. The products of a layer that have the same input are one product: the
convolution to 2h maps and that to the output, which add to the maps of the residual sum and of the output in place.
The 3x3 convolution with mask B has five taps: two products of one buffer, which holds its input three times::

    Y  =  y of the left pixel      h         above    =  weights (h, 3h) @ Y, one row earlier
          y                        h         current  =  weights (h, 2h) @ the upper two thirds of Y
          y of the right pixel     h

Its gradient is the same with the shifts reversed.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.networks.buffers import Workspace

Grads = tuple[Tensor | None, ...]
threshold_backward = torch.ops.aten.threshold_backward.grad_input


class Weights(NamedTuple):
    """The weights of all blocks and of the head's first layer, masked; L layers, `out` maps of the output or 0."""

    first: Tensor  # (2h, K): the first layer, for the matrix of its inputs
    first_bias: Tensor  # (2h,)
    down: Tensor  # (L, h, 2h)
    down_bias: Tensor  # (L, h)
    look: Tensor  # (L, 5, h, h): taps above left, above, above right, left, centre
    look_bias: Tensor  # (L, h)
    up: Tensor  # (L, 2h + out, h): to the residual sum and, with layer-to-output connections, to the output
    up_bias: Tensor  # (L, 2h)
    head: Tensor  # (head, 2h)
    head_bias: Tensor  # (head,)
    condition: Tensor | None  # (L, h, c)


class Layout(NamedTuple):
    """How images are laid out in groups of `images` (k) each; the last group is filled up with empty images."""

    groups: int
    images: int
    height: int
    width: int

    @property
    def row(self) -> int:
        """Cells of a row."""
        return (self.width + 1) * self.images

    @property
    def cells(self) -> int:
        """Cells of a group, n."""
        return self.height * self.row


def convolution_layers(
    inputs: Tensor, condition: Tensor | None, weights: Weights, layout: Layout, *, residual: bool
) -> Tensor:
    """Run the first layer, all blocks and the head's first layer.

    Args:
        inputs: what the first layer's kernel sees (G, K, n).
        condition: (G, c, n), or None.
        weights: the weights.
        layout: of the images.
        residual: whether each block adds its input.

    Returns:
        The head's first layer with the layer-to-output connections, after the ReLU, (G, head, n).
    """
    run = cast("Callable[..., Tensor]", _Blocks.apply)
    return run(inputs, condition, layout, residual, torch.is_grad_enabled(), *weights)


class _Layer(NamedTuple):
    """What the three convolutions of a block read, after the ReLU; views are made once, as one costs 2 us."""

    R: Tensor  # (2h, n)
    Y1: Tensor  # (h, n)
    Y2: Tensor  # (h, n)
    R_t: Tensor  # transposed
    Y1_t: Tensor
    Y2_t: Tensor
    thrice: Tensor  # Y1, (3, h, n)
    edge: Tensor  # the empty column of Y1


class _Buffers:
    """The buffers of one pass; without gradients each group and each layer uses the same ones."""

    def __init__(self, layout: Layout, inputs: Tensor, weights: Weights, *, keep: bool) -> None:
        L, h = weights.down_bias.shape
        n, k, row, head = layout.cells, layout.images, layout.row, len(weights.head_bias)
        self.work = Workspace(("pixelcnn", layout, L, h, head, keep), inputs)
        zeros = self.work.zeros
        places = (layout.groups, L) if keep else (1, 1)
        R, last = zeros("R", *places, 2 * h, n), zeros("last", places[0], 2 * h, n)
        Y1, Y2 = zeros("Y1", *places, h, n), zeros("Y2", *places, h, n)

        def layer(group: int, place: int) -> _Layer:
            r, y1, y2 = R[group, place], Y1[group, place], Y2[group, place]
            edge = y1.view(h, layout.height, layout.width + 1, k)[:, :, -1]
            return _Layer(r, y1, y2, r.t(), y1.t(), y2.t(), y1.expand(3, h, n), edge)

        def layers() -> list[list[_Layer]]:
            return [[layer(group, place) for place in range(places[1])] for group in range(places[0])]

        self.layers, self.last = self.work.once("layers", layers), last
        self.sums = zeros("sums", 2 * h + head, n)
        self.Y = zeros("Y", 3 * h, n + row + k)
        if keep:
            self.d2 = zeros("d2", h, n)
            self.dR, self.d1 = zeros("dR", 2 * h, n), zeros("d1", h, n)


def _thrice(buffer: Tensor, first: int, h: int, n: int, step: int) -> Tensor:
    """Return a view (3, h, n) of a buffer (3h, columns); each third begins `step` columns after the one before."""
    return buffer.as_strided((3, h, n), (h * buffer.shape[1] + step, buffer.shape[1], 1), first)


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes arguments by position
        ctx: Any,
        inputs: Tensor,
        condition: Tensor | None,
        layout: Layout,
        residual: bool,
        keep: bool,
        *tensors: Tensor | None,
    ) -> Tensor:
        weights = Weights(*cast("tuple[Tensor, ...]", tensors))
        buffers = _Buffers(layout, inputs, weights, keep=keep)
        h, n, k, row = weights.down_bias.shape[1], layout.cells, layout.images, layout.row
        X, S = buffers.sums[: 2 * h], buffers.sums[2 * h :]
        sums, Y = buffers.sums[: weights.up.shape[1]], buffers.Y
        above, current, thrice = Y[:, :n], Y[: 2 * h, row : row + n], _thrice(Y, row + k, h, n, -k)
        first_bias, head_bias = weights.first_bias[:, None], weights.head_bias[:, None]
        result = inputs.new_empty(layout.groups, len(head_bias), n)
        layers = _by_layer(weights, condition)
        for group in range(layout.groups):
            torch.addmm(first_bias, weights.first, inputs[group], out=X)
            S.copy_(head_bias)
            for layer, w in enumerate(layers):
                R, Y1, Y2, *_, copies, edge = buffers.layers[group if keep else 0][layer if keep else 0]
                torch.clamp_min(X, 0, out=R)
                torch.addmm(w.down_bias, w.down, R, out=Y1).clamp_min_(0)
                edge.zero_()
                thrice.copy_(copies)
                torch.addmm(w.look_bias, w.above, above, out=Y2).addmm_(w.current, current)
                if condition is not None:
                    Y2.addmm_(w.condition, condition[group])
                Y2.clamp_min_(0)
                if residual:
                    X.add_(w.up_bias)
                else:
                    X.copy_(w.up_bias)
                sums.addmm_(w.up, Y2)
            R = torch.clamp_min(X, 0, out=buffers.last[group if keep else 0])
            torch.addmm(S, weights.head, R, out=result[group]).clamp_min_(0)
        if keep:
            ctx.layout, ctx.residual, ctx.buffers = layout, residual, buffers
            ctx.save_for_backward(inputs, condition, result, *tensors)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> Grads:
        inputs, condition, result, *tensors = ctx.saved_tensors
        weights, layout, buffers = Weights(*tensors), ctx.layout, ctx.buffers
        (L, h), n, k, row = weights.down_bias.shape, layout.cells, layout.images, layout.row
        d_w = Weights(*(None if some is None else torch.zeros_like(some) for some in weights))  # type: ignore[arg-type]
        d_inputs = torch.empty_like(inputs) if ctx.needs_input_grad[0] else None
        d_condition = torch.zeros_like(condition) if condition is not None else None
        dX, dS = buffers.sums[: 2 * h], buffers.sums[2 * h :]
        d_sums, dY, dR, d1, d2 = (
            buffers.sums[: weights.up.shape[1]],
            buffers.work.zeros("dY", 3 * h, n + row + k),
            buffers.dR,
            buffers.d1,
            buffers.d2,
        )
        below, current, thrice = dY[:, k + row : k + row + n], dY[: 2 * h, k : k + n], _thrice(dY, 0, h, n, k)
        copies, ones = d2.expand(3, h, n), inputs.new_ones(n)
        layers = list(
            zip(_by_layer(weights, condition, transposed=True), _by_layer(d_w, condition, transposed=True), strict=True)
        )
        for group in reversed(range(layout.groups)):  # the last ones are still in a cache
            R = buffers.last[group]
            threshold_backward(d_result[group], result[group], 0, grad_input=dS)
            d_w.head.addmm_(dS, R.t())
            d_w.head_bias.addmv_(dS, ones)
            threshold_backward(torch.mm(weights.head.t(), dS, out=dR), R, 0, grad_input=dX)
            for layer in reversed(range(L)):
                (w, d), (R, Y1, Y2, R_t, Y1_t, Y2_t, *_) = layers[layer], buffers.layers[group][layer]
                d.up.addmm_(d_sums, Y2_t)
                d.up_bias.addmv_(dX, ones)
                threshold_backward(torch.mm(w.up_t, d_sums, out=d2), Y2, 0, grad_input=d2)
                if condition is not None and d_condition is not None:
                    d.condition.addmm_(d2, condition[group].t())
                    d_condition[group].addmm_(w.condition_t, d2)
                d.look_bias.addmv_(d2, ones)
                thrice.copy_(copies)
                d.above.addmm_(below, Y1_t)
                d.current.addmm_(current, Y1_t)
                torch.mm(w.above_t, below, out=d1).addmm_(w.current_t, current)
                threshold_backward(d1, Y1, 0, grad_input=d1)
                d.down.addmm_(d1, R_t)
                d.down_bias.addmv_(d1, ones)
                threshold_backward(torch.mm(w.down_t, d1, out=dR), R, 0, grad_input=dR)
                if ctx.residual:
                    dX.add_(dR)
                else:
                    dX.copy_(dR)
            d_w.first.addmm_(dX, inputs[group].t())
            d_w.first_bias.addmv_(dX, ones)
            if d_inputs is not None:
                torch.mm(weights.first.t(), dX, out=d_inputs[group])
        return d_inputs, d_condition, None, None, None, *d_w


def _by_layer(weights: Weights, condition: Tensor | None, *, transposed: bool = False) -> list[SimpleNamespace]:
    """Return views of the weights of each layer, for the gradients also transposed."""
    layers = []
    for layer in range(len(weights.down)):
        w = SimpleNamespace(down=weights.down[layer], up=weights.up[layer])
        w.down_bias, w.up_bias = weights.down_bias[layer], weights.up_bias[layer]
        w.look_bias = weights.look_bias[layer]
        if condition is not None:
            w.condition = cast("Tensor", weights.condition)[layer]
        look = weights.look[layer]  # (5, h, h)
        if transposed:
            w.above, w.current = look[:3].flatten(0, 1), look[3:].flatten(0, 1)
            w.above_t, w.current_t, w.up_t, w.down_t = w.above.t(), w.current.t(), w.up.t(), w.down.t()
            w.condition_t = w.condition.t() if condition is not None else None
        else:
            w.above, w.current = look[:3].transpose(0, 1).flatten(1), look[3:].transpose(0, 1).flatten(1)
            w.down_bias, w.up_bias, w.look_bias = w.down_bias[:, None], w.up_bias[:, None], w.look_bias[:, None]
        layers.append(w)
    return layers
