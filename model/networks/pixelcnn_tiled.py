"""All blocks of PixelCNN with fewer multiplications in the 3x3 convolutions, and compiled passes between products.

As in `model.networks.pixelcnn_fast`, a small group of images passes through all layers before the next group does, and
a 1x1 convolution is one matrix product. The two columns of a tile share products here (Winograd's minimal filtering,
Lavin and Gray 2016, arXiv 1509.09308, section 4.1, in one dimension). The cells of a map are first those of the even
columns e, then those of the odd ones o, each in the order (row, tile, image). From the row above, with the weights al,
a, ar::

    d0 = o of the tile before - o        d1 = e + o        d2 = o - e        d3 = e - e of the next tile

    both = (al + a + ar)/2 d1        twice = (al - a + ar)/2 d2
    even = al d0                     odd = -ar d3

    y of even columns = even + both + twice          y of odd columns = odd + both - twice

These are 4 products with h x h weights for 6 taps. The current row has the weights l and c. With one colour it takes
3 products for 4 taps::

    even += l (o of the tile before - e)        odd += c (o - e)        both += (l + c) e

With several colours l e would cancel in even columns but for rounding, where c is masked: an output would depend on
later colours of its own pixel. Its taps then share no products::

    even += l (o of the tile before) + c e        odd += l e + c o

The five taps of a cell thus cost 3.5 products with one colour, and 4 with several.

The gradient of the input is such a convolution too, with the row below, left and right exchanged and the weights
transposed. The gradient of each weight is a product of the same planes of the gradient with e, o, e + o and e - o.

What is between two products is one pass of `model.networks.pixelcnn_native`. It needs numba, whose import takes a
second: small networks do without (`model.config.groups.pays_in_tiles`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.networks.buffers import Workspace
from model.networks.pixelcnn_fast import Weights

Grads = tuple[Tensor | None, ...]


class TiledLayout(NamedTuple):
    """How images are laid out in groups of `images` (k) each; the last group is filled up with empty images."""

    groups: int
    images: int
    height: int
    width: int
    shares: bool  # whether the taps of the current row share products, with one colour

    @property
    def places(self) -> NDArray[np.int64]:
        """Where the planes d0, left, even, odd, d3, d1, d2 are, so that a product reads planes that lie together."""
        return np.array([0, 1, 5, 3, 2, 4, 6] if self.shares else range(7))

    @property
    def tiles(self) -> int:
        """Tiles of two columns in a row; with an odd width the last one has a column outside of the image."""
        return -(-self.width // 2)

    @property
    def row(self) -> int:
        """Cells of a row of the even or of the odd columns."""
        return self.tiles * self.images

    @property
    def half(self) -> int:
        """Cells of the even columns, n/2."""
        return self.height * self.row

    @property
    def ends(self) -> int:
        """Cells at the end of each row of odd columns that are outside of the image."""
        return self.width % 2 * self.images


@cache
def passes() -> ModuleType | None:
    """Return the compiled passes, or None without numba."""
    try:
        return importlib.import_module("model.networks.pixelcnn_native")
    except ImportError:  # numba is not installed, or rejects the version of numpy
        return None


def tiled_layers(
    inputs: Tensor, condition: Tensor | None, weights: Weights, layout: TiledLayout, *, residual: bool
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


class _Both:
    """A tensor, and the array of the same memory that the compiled passes take."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.array = tensor, tensor.numpy()


class _Buffers:
    """The buffers of one pass; without gradients each group and each layer uses the same ones."""

    def __init__(self, layout: TiledLayout, inputs: Tensor, weights: Weights, *, keep: bool) -> None:
        L, h = weights.down_bias.shape
        n, half, head, out = 2 * layout.half, layout.half, len(weights.head_bias), weights.up.shape[1]
        self.work = Workspace(("tiled pixelcnn", layout, L, h, head, out, keep), inputs)
        places = (layout.groups, L) if keep else (1, 1)
        R = self._both("R", *places, 2 * h, n)
        Y1, Y2 = self._both("Y1", *places, h, n), self._both("Y2", *places, h, n)

        def layers() -> list[list[SimpleNamespace]]:
            return [[layer(group, place) for place in range(places[1])] for group in range(places[0])]

        def layer(group: int, place: int) -> SimpleNamespace:
            at = SimpleNamespace()
            for name, both in (("R", R), ("Y1", Y1), ("Y2", Y2)):
                tensor = both.tensor[group, place]
                setattr(at, name, tensor)
                setattr(at, f"{name}_t", tensor.t())
                setattr(at, f"{name}_array", tensor.numpy())
            at.e_t, at.o_t = at.Y1[:, :half].t(), at.Y1[:, half:].t()
            return at

        self.layers = self.work.once("layers", layers)
        self.last = self._both("last", places[0], 2 * h, n)
        sums = self.work.zeros("sums", 2 * h + head, n)
        self.X, self.S, self.sums = _Both(sums[: 2 * h]), _Both(sums[2 * h :]), sums[:out]
        self.M, self.Z, self.Y = self._both("M", 4, h, half), self._both("Z", 7, h, half), self._both("Y", h, n)
        if keep:
            self.d, self.dR = self.Y, self._both("dR", 2 * h, n)
            self.Z_back, self.P = self._both("Z back", 7, h, half), self._both("P", 2, h, half)

    def _both(self, name: str, *shape: int) -> _Both:
        return self.work.once(f"{name} as both", lambda: _Both(self.work.zeros(name, *shape)))


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes arguments by position
        ctx: Any,
        inputs: Tensor,
        condition: Tensor | None,
        layout: TiledLayout,
        residual: bool,
        keep: bool,
        *tensors: Tensor | None,
    ) -> Tensor:
        w = Weights(*cast("tuple[Tensor, ...]", tensors))
        do, b = _passes(), _Buffers(layout, inputs, w, keep=keep)
        k, row, ends, with_condition = layout.images, layout.row, layout.ends, condition is not None
        X, S, Y, sums, M, Z, places, shares = b.X, b.S, b.Y, b.sums, b.M, b.Z, layout.places, layout.shares
        tiles, rest = _stacked(Z.tensor, shares=shares)
        of_tiles, of_rest = M.tensor[: len(tiles)], M.tensor[len(tiles) :]
        shifts, head_bias, layers = _shifts(w, residual=residual).numpy(), w.head_bias.numpy(), _by_layer(w, shares)
        result = inputs.new_empty(layout.groups, len(head_bias), 2 * layout.half)
        out = result.numpy()
        for group in range(layout.groups):
            torch.mm(w.first, inputs[group], out=X.tensor)
            S.tensor.zero_()
            kept = b.layers[group] if keep else b.layers[0] * len(layers)
            for of, at, shift in zip(layers, kept, shifts):  # noqa: B905 - the last shift is the head's
                do.rectify(X.array, shift, at.R_array)
                torch.mm(of.down, at.R, out=Y.tensor)  # not to memory that is in no cache
                do.planes(Y.array, of.down_bias, at.Y1_array, Z.array, places, shares, k, row, ends)
                torch.bmm(of.tiles, tiles, out=of_tiles)
                torch.bmm(of.rest, rest, out=of_rest)
                if condition is not None:
                    torch.mm(of.condition, condition[group], out=at.Y2)
                do.combine(M.array, of.look_bias, with_condition, at.Y2_array)
                if not residual:
                    X.tensor.zero_()
                sums.addmm_(of.up, at.Y2)
            last = group if keep else 0
            do.rectify(X.array, shifts[-1], b.last.array[last])
            S.tensor.addmm_(w.head, b.last.tensor[last])
            do.rectify(S.array, head_bias, out[group])
        if keep:
            ctx.layout, ctx.residual, ctx.buffers = layout, residual, b
            ctx.save_for_backward(inputs, condition, result, *tensors)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> Grads:
        inputs, condition, result, *tensors = ctx.saved_tensors
        w, layout = Weights(*tensors), ctx.layout
        back = _Back(ctx.buffers, w, layout, residual=ctx.residual)
        d_inputs = torch.empty_like(inputs) if ctx.needs_input_grad[0] else None
        d_condition = torch.zeros_like(condition) if condition is not None else None
        d_out, out = d_result.contiguous().numpy(), result.numpy()
        for group in reversed(range(layout.groups)):  # the last ones are still in a cache
            dX = back.head(d_out[group], out[group], group)
            for of, at in zip(reversed(back.layers), reversed(ctx.buffers.layers[group]), strict=True):
                back.up(of, at)
                if condition is not None and d_condition is not None:
                    of.d_condition.addmm_(back.b.d.tensor, condition[group].t())
                    d_condition[group].addmm_(of.condition_t, back.b.d.tensor)
                back.look(of, at)
                back.down(of, at)
            back.d.first.addmm_(dX, inputs[group].t())
            if d_inputs is not None:
                torch.mm(w.first.t(), dX, out=d_inputs[group])
        return d_inputs, d_condition, None, None, None, *back.gradients()


class _Back:
    """The gradients of the weights, and the steps of the backward pass of a group."""

    def __init__(self, buffers: _Buffers, weights: Weights, layout: TiledLayout, *, residual: bool) -> None:
        self.b, self.w, self.residual, self.do = buffers, weights, residual, _passes()
        self.k, self.row, self.h, self.shares = layout.images, layout.row, weights.down.shape[1], layout.shares
        self.places = layout.places
        self.d = d = Weights(*(None if some is None else torch.zeros_like(some) for some in weights))  # type: ignore[arg-type]
        # Of the residual sum after the first layer and after each block.
        self.d_shifts = weights.up_bias.new_zeros(len(weights.down) + 1, 2 * self.h)
        self.d_shift_arrays, self.d_head_bias = list(self.d_shifts.numpy()), d.head_bias.numpy()
        # MKL multiplies d @ R' faster with the long side of the result first.
        self.d_down_t = torch.zeros_like(weights.down.transpose(1, 2), memory_format=torch.contiguous_format)
        self.tiles, self.rest = _stacked(buffers.Z_back.tensor, shares=layout.shares)
        self.of_tiles, self.of_rest = buffers.M.tensor[: len(self.tiles)], buffers.M.tensor[len(self.tiles) :]
        self.d_planes = weights.down.new_zeros(len(weights.down), 7 if self.shares else 8, self.h, self.h)
        self.products, self.P_t = [*self.tiles, *self.rest], [part.t() for part in buffers.P.tensor]
        self.layers = self._layers()

    def _layers(self) -> list[SimpleNamespace]:
        """Return the views of weights and gradients that each layer needs."""
        w, d, layers = self.w, self.d, []
        tiles, rest = _look_back(w.look, self.shares)
        for layer in range(len(w.down)):
            of = SimpleNamespace(down_t=w.down[layer].t(), up_t=w.up[layer].t(), tiles=tiles[layer], rest=rest[layer])
            of.d_up, of.d_down_t = d.up[layer], self.d_down_t[layer]
            sizes = [2, 2, 2, 1] if self.shares else [3, 3, 1, 1]  # planes of even, odd, both, twice
            of.d_look = [part.flatten(0, 1) for part in self.d_planes[layer].split_with_sizes(sizes)]
            of.d_down_bias, of.d_look_bias = d.down_bias[layer].numpy(), d.look_bias[layer].numpy()
            of.d_shift = self.d_shift_arrays[layer]
            if w.condition is not None and d.condition is not None:
                of.condition_t, of.d_condition = w.condition[layer].t(), d.condition[layer]
            layers.append(of)
        return layers

    def head(self, d_result: Any, result: Any, group: int) -> Tensor:
        """Go back through the head's first layer; return the gradient of the residual sum."""
        b, R = self.b, self.b.last.tensor[group]
        self.do.rectify_back(d_result, result, False, b.S.array, self.d_head_bias)
        self.d.head.addmm_(b.S.tensor, R.t())
        torch.mm(self.w.head.t(), b.S.tensor, out=b.dR.tensor)
        self.do.rectify_back(b.dR.array, b.last.array[group], False, b.X.array, self.d_shift_arrays[-1])
        return b.X.tensor

    def up(self, of: SimpleNamespace, at: SimpleNamespace) -> None:
        """Go back to the output of a 3x3 convolution, and write the planes of its gradient."""
        b = self.b
        torch.mm(of.up_t, b.sums, out=b.d.tensor)
        self.do.mask(b.d.array, at.Y2_array, of.d_look_bias)
        of.d_up.addmm_(b.sums, at.Y2_t)  # Y2 is in a cache now
        self.do.planes_back(
            b.d.array, at.Y1_array, b.Z_back.array, self.places, self.shares, b.P.array, self.k, self.row
        )

    def look(self, of: SimpleNamespace, at: SimpleNamespace) -> None:
        """Go back to the input of a 3x3 convolution."""
        b = self.b
        for d, planes, columns in zip(of.d_look, self.products, (at.e_t, at.o_t, *self.P_t), strict=True):
            d.addmm_(planes, columns)
        torch.bmm(of.tiles, self.tiles, out=self.of_tiles)
        torch.bmm(of.rest, self.rest, out=self.of_rest)
        self.do.combine_back(b.M.array, at.Y1_array, b.d.array, of.d_down_bias)

    def down(self, of: SimpleNamespace, at: SimpleNamespace) -> None:
        """Go back to the input of a block."""
        b = self.b
        torch.mm(of.down_t, b.d.tensor, out=b.dR.tensor)
        self.do.rectify_back(b.dR.array, at.R_array, self.residual, b.X.array, of.d_shift)
        of.d_down_t.addmm_(at.R, b.d.tensor.t())  # R is in a cache now

    def gradients(self) -> Weights:
        """Return the gradients of all weights."""
        planes = self.d_planes.unbind(1)
        if self.shares:
            d_ar, c, d_al, left, both, both_current, twice = planes
            c, left = c + both_current, left + both_current
        else:
            d_ar, c_of_even, l_of_even, c_of_odd, l_of_odd, d_al, both, twice = planes
            c, left = c_of_even + c_of_odd, l_of_even + l_of_odd
        outer, centre = (both + twice) / 2, (both - twice) / 2
        look = [outer - d_al, centre, outer + d_ar, left, c]
        return self.d._replace(
            look=torch.stack(look, dim=1),
            down=self.d_down_t.transpose(1, 2),
            first_bias=self.d_shifts[0],
            up_bias=self.d_shifts[1:],
        )


def _stacked(Z: Tensor, *, shares: bool) -> tuple[Tensor, Tensor]:
    """Return what the products read: the planes for several taps, and those for one.

    They are `even`, `odd`, `both` (3, 2h, n/2) and `twice` (1, h, n/2) where the current row's taps share products.
    Else they are `even` and `odd` (2, 3h, n/2), which have the third of the seven planes in common, and the others.
    """
    _, h, half = Z.shape
    if shares:
        return Z[:6].view(3, 2 * h, half), Z[6:]
    return Z.as_strided((2, 3 * h, half), (2 * h * half, half, 1), Z.storage_offset()), Z[5:]


def _look_weights(look: Tensor, shares: bool) -> tuple[Tensor, Tensor]:
    """Return the weights of these products from the five taps, (L, 5, h, h)."""
    al, a, ar, left, centre = look.unbind(1)
    both, twice = (al + a + ar) / 2, (al - a + ar) / 2
    if shares:
        return _paired([[al, left], [-ar, centre], [both, left + centre]]), twice[:, None]
    return _paired([[al, left, centre], [left, centre, -ar]]), torch.stack([both, twice], dim=1)


def _look_back(look: Tensor, shares: bool) -> tuple[Tensor, Tensor]:
    """Return the weights of the products for the gradient of the input, as `_look_weights`."""
    al, a, ar, left, centre = look.transpose(2, 3).unbind(1)
    both, twice = (al + a + ar) / 2, (al - a + ar) / 2
    if shares:
        return _paired([[ar, centre], [-al, left], [both, left + centre]]), twice[:, None]
    return _paired([[ar, centre, left], [centre, left, -al]]), torch.stack([both, twice], dim=1)


def _paired(products: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.cat(weights, dim=2) for weights in products], dim=1)


def _by_layer(w: Weights, shares: bool) -> list[SimpleNamespace]:
    """Return the weights of each layer."""
    layers, (tiles, rest) = [], _look_weights(w.look, shares)
    for layer in range(len(w.down)):
        of = SimpleNamespace(down=w.down[layer], tiles=tiles[layer], rest=rest[layer], up=w.up[layer])
        of.down_bias, of.look_bias = w.down_bias[layer].numpy(), w.look_bias[layer].numpy()
        of.condition = None if w.condition is None else w.condition[layer]
        layers.append(of)
    return layers


def _passes() -> ModuleType:
    module = passes()
    if module is None:
        raise ModuleNotFoundError("the tiled PixelCNN needs numba")
    return module


def _shifts(weights: Weights, *, residual: bool) -> Tensor:
    """Return what is added to the residual sum before each block's ReLU and before the head's, (L + 1, 2h).

    The sum itself gets no bias, which saves a pass over it in each block.
    """
    shifts = torch.cat([weights.first_bias[None], weights.up_bias])
    return shifts.cumsum(0) if residual else shifts
