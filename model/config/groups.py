"""How many images the fast networks work on at a time on a CPU, so that what a step reads is still in its cache."""

from __future__ import annotations

GROUP_BYTES = 2**20  # about the L2 cache of a core
WEIGHT_BYTES = 3 * 2**19  # of the layers of the Row LSTM that run at the same time
TILED_STATES = (16, 32)  # maps of a state from which the tiled Row LSTM is the faster one: with one colour, several
ROW_CELLS = 512  # of the rows of a group, for the Row LSTM
FLOAT_BYTES = 4
TILES_PAY_FLOPS = 50e6  # of the training of an image, about a millisecond; with less, the import of numba costs more


def convolution_group(batch: int, *, hidden: int, height: int, width: int, bytes_per_value: int = FLOAT_BYTES) -> int:
    """Return the images of a group of the fast PixelCNN: the maps of one layer fit into the cache."""
    return _images(batch, GROUP_BYTES // (10 * hidden * height * (width + 1) * bytes_per_value))


def pays_in_tiles(*, hidden: int, layers: int, height: int, width: int) -> bool:
    """Tell whether the blocks of a PixelCNN are enough work for the tiled form to pay, if numba is there."""
    return 3 * 2 * 10 * hidden**2 * layers * height * width >= TILES_PAY_FLOPS


def tile_group(batch: int, *, hidden: int, height: int, width: int, bytes_per_value: int = FLOAT_BYTES) -> int:
    """Return the images of a group of the tiled PixelCNN.

    Its passes between the products are so few that a group may be twice as large, which halves their number of calls.
    """
    return _images(batch, 2 * GROUP_BYTES // (10 * hidden * height * (width + width % 2) * bytes_per_value))


def row_pays_in_tiles(*, hidden: int, channels: int) -> bool:
    """Tell whether the tiled form of the Row LSTM is the faster one, if numba is there."""
    return hidden >= TILED_STATES[channels > 1]


def row_group(batch: int, *, hidden: int, layers: int, width: int, bytes_per_value: int = FLOAT_BYTES) -> int:
    """Return the images of a group of the fast Row LSTM: few enough for the cache, but about `ROW_CELLS`.

    A step has fifty small operations; with fewer cells, starting them takes longer than the cache saves.
    """
    fit = GROUP_BYTES // (12 * hidden * layers * width * bytes_per_value)
    return _images(batch, max(fit, -(-ROW_CELLS // width)))


def row_layers_at_once(layers: int, *, hidden: int, bytes_per_value: int = FLOAT_BYTES) -> int:
    """Return the layers of a wavefront of the fast Row LSTM: a cache holds their weights from one row to the next."""
    fit = max(1, WEIGHT_BYTES // (64 * hidden**2 * bytes_per_value))
    return -(-layers // -(-layers // fit))


def _images(batch: int, limit: int) -> int:
    """Return at most `limit` images: those with which the fewest empty ones fill up the last group."""
    limit = max(1, min(batch, limit))
    return min(range(limit, limit // 2, -1), key=lambda images: -(-batch // images) * images)
