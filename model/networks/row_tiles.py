"""Winograd's minimal filtering for the Row LSTM: two outputs of a 3-tap kernel from four products instead of six.

A row is cut into tiles of two columns, an even one e and an odd one o. What the gates of a tile see of the states h of
the row above, with the weights l, c, r, becomes four planes (Lavin and Gray 2016, arXiv 1509.09308, section 4.1, in one
dimension)::

    d0 = o of the tile before - o        d1 = e + o        d2 = o - e        d3 = e - e of the next tile

    both = (l + c + r)/2 d1              twice = (l - c + r)/2 d2
    even = l d0                          odd = -r d3

    gates of even columns = even + both + twice          gates of odd columns = odd + both - twice

The input x of the row itself has two taps l and c (mask B). With one colour they take three products for four::

    even += l (o of the tile before - e)        odd += c (o - e)        both += (l + c) e

With several colours l e would cancel in even columns but for rounding, where c is masked: an output would depend on
later colours of its own pixel. The taps then share no products::

    even += l (o of the tile before) + c e      odd += l e + c o

The condition joins `even` and `odd`, each with its own column. In all, the gates take 20h maps x cells of products with
one colour, and 24h with several, where the cells alone would take 28h.

The cells of a row are in the order (column in the tile, the odd ones first; tile; image). With an odd width the last
tile has a column that the image does not have. Its values must be zero wherever a neighbour sees them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 2  # columns
EVEN, ODD, BOTH = range(3)  # products of several planes; `both` is one of them if the input's taps share products


class Form(NamedTuple):
    """How the products are put together.

    The first ones take the planes of the input, a plane of the states, and the condition; the others only states. With
    several colours the first are `even` and `odd`, the others `both` and `twice`, and the input is there twice: at the
    left, and in the column itself.
    """

    shares: bool  # whether the input's taps share products, with one colour

    @property
    def first(self) -> int:
        """Products that take the input."""
        return 3 if self.shares else 2

    @property
    def others(self) -> int:
        """Products that take states only."""
        return 4 - self.first

    def inputs(self, hidden: int) -> int:
        """Maps of the input in each of the first products."""
        return 2 * hidden if self.shares else 4 * hidden


def tiles_of(width: int) -> int:
    """Return how many tiles cover a row of a width."""
    return -(-width // TILE)


def to_cells(maps: Tensor) -> Tensor:
    """Order the columns of maps as cells; what fills up the last tile is zero.

    Args:
        maps: (..., W, k), k images.

    Returns:
        (..., N), N = 2 * tiles * k.
    """
    *rest, width, images = maps.shape
    filled = F.pad(maps, (0, 0, 0, -width % TILE)) if width % TILE else maps
    tiles = filled.view(*rest, -1, TILE, images)
    return torch.stack([tiles[..., 1, :], tiles[..., 0, :]], dim=-3).flatten(-3)


def from_cells(cells: Tensor, width: int, images: int) -> Tensor:
    """Return maps of cells with the maps last: (G, H, maps, N) -> (G, k, H, W, maps)."""
    odd, even = cells.view(*cells.shape[:3], TILE, -1, images).unbind(3)  # (G, H, maps, tiles, k)
    tiles = torch.stack([even, odd], dim=3)
    maps = tiles.permute(0, 5, 1, 4, 3, 2).flatten(3, 4)
    return maps if maps.shape[3] == width else maps[:, :, :, :width]


def weights_of_tiles(form: Form, left: Tensor, centre: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of the products for the gates of all layers; autograd passes through.

    Args:
        form: of the products.
        left: (L, 4h, 3h), of input and state.
        centre: (L, 4h, 3h + c), of input, state and condition.
        right: (L, 4h, h), of the state.

    Returns:
        Of the first products, (L, first, 4h, inputs + h + c), and of the others, (L, others, 4h, h).
    """
    h = right.shape[2]
    l_input, c_input, known = left[..., : 2 * h], centre[..., : 2 * h], centre[..., 3 * h :]
    l_states, c_states = left[..., 2 * h :], centre[..., 2 * h : 3 * h]
    outer = l_states + right
    both, twice = (outer + c_states) / 2, (outer - c_states) / 2
    if form.shares:
        firsts = [[l_input, l_states, known], [c_input, -right, known], [l_input + c_input, both, 0 * known]]
        others = [twice]
    else:
        firsts = [[l_input, c_input, l_states, known], [l_input, c_input, -right, known]]
        others = [both, twice]
    return torch.stack([torch.cat(parts, dim=2) for parts in firsts], dim=1), torch.stack(others, dim=1)
