"""Winograd's minimal filtering for the Row LSTM: two outputs of a 3-tap kernel from four products instead of six.

A row is cut into tiles of two columns, an even one e and an odd one o. What the gates of a tile see of the states h of
the row above, with the weights l, c, r, becomes four planes (Lavin and Gray 2016, arXiv 1509.09308, section 4.1, in one
dimension)::

    d0 = o of the tile before - o        d1 = e + o        d2 = o - e        d3 = e - e of the next tile

    both = (l + c + r)/2 d1              twice = (l - c + r)/2 d2
    even = l d0                          odd = -r d3

    gates of even columns = even + both + twice          gates of odd columns = odd + both - twice

The input x of the row itself joins `even` and `odd` as it is, with its two taps (mask B), and so does the condition::

    even += l (o of the tile before) + c e        odd += l e + c o

Its taps share no products, because some terms would then cancel but for rounding: an output would depend on later
columns or colours. In all, the gates take 24h maps x cells of products where the cells alone would take 28h.

The cells of a row are in the order (column in the tile, the odd ones first; tile; image). With an odd width the last
tile has a column that the image does not have. Its values must be zero wherever a neighbour sees them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 2  # columns
EVEN, ODD = 0, 1  # of the products that are for one of them
BOTH, TWICE = 0, 1  # of the others


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


def weights_of_tiles(left: Tensor, centre: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of the products for the gates of all layers; autograd passes through.

    Args:
        left: (L, 4h, 3h), of input and state.
        centre: (L, 4h, 3h + c), of input, state and condition.
        right: (L, 4h, h), of the state.

    Returns:
        Of `even` and `odd`, (L, 2, 4h, 5h + c): for the input at the left, its own input, a plane of the states, and
        the condition. Of `both` and `twice`, (L, 2, 4h, h).
    """
    h = right.shape[2]
    inputs, known = [left[..., : 2 * h], centre[..., : 2 * h]], centre[..., 3 * h :]
    l_states, c_states = left[..., 2 * h :], centre[..., 2 * h : 3 * h]
    of_one = [torch.cat([*inputs, states, known], dim=2) for states in (l_states, -right)]
    outer = l_states + right
    return torch.stack(of_one, dim=1), torch.stack([outer + c_states, outer - c_states], dim=1) / 2
