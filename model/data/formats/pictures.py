"""Reads image files in a tar or a folder: the paper's downsampled ImageNet (tars of PNG) and the user's images."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

from model.data.formats.stream import open_stream
from model.data.formats.tar import members
from model.data.manifest import SPLITS, Column, Image
from model.data.source import BLOCK_BYTES, Block, quantised
from model.errors import DataError
from model.image_files import FORMATS, eight_bits

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "valid", "valid": "valid", "validation": "valid"} | {
    "test": "test",
    "testing": "test",
}
EVERY, VALID, TEST = 20, 9, 19  # without folders for the splits: of 20 images one is for validation, one for test
MODES = {1: "L", 3: "RGB"}


class PictureFiles:
    """A source of image files.

    Args:
        files: (split, path) in order; a path is a tar, a tar.gz or a folder. With a split of None the folders
            train, valid and test below the path decide; without them, of 20 images one is for validation and one for
            test.
        image: the size of the images.
        resize: whether an image of another size is cropped and averaged to this size; else it is an error.
    """

    def __init__(self, files: list[tuple[str | None, Path]], image: Image, *, resize: bool) -> None:
        self.image = image
        self.columns: tuple[Column, ...] = ()
        self.recipe: dict[str, Any] = {"levels": image.levels}
        if resize:
            self.recipe |= {"crop": "the middle", "resize": "Pillow BOX"}
        self.notes: list[str] = []
        self.expected: dict[str, int] = {}
        self._files, self._resize = files, resize

    def blocks(self, done: Mapping[str, int]) -> Iterator[Block]:
        """Yield the blocks that are not done. Images that are done are not decoded again."""
        seen = dict.fromkeys(SPLITS, 0)
        waiting: dict[str, list[NDArray[np.uint8]]] = {split: [] for split in SPLITS}
        per_block = max(1, BLOCK_BYTES // self.image.bytes)
        for given, path in self._files:
            index = 0
            for name, where, content in _entries(path):
                split = given or _split_of(name, index)
                index += 1
                seen[split] += 1
                if seen[split] <= done.get(split, 0):
                    continue
                parts = waiting[split]
                parts.append(self._decode(where, content()))
                if len(parts) == per_block:
                    yield Block(split, np.stack(parts))
                    parts.clear()
            if index == 0:
                raise DataError(f"{path} has no images ({', '.join(SUFFIXES[:3])}, ...); check the path")
        for split, parts in waiting.items():
            if parts:
                yield Block(split, np.stack(parts))

    def _decode(self, where: str, content: bytes) -> NDArray[np.uint8]:
        """Decode one image strictly, (H, W, C)."""
        mode, size = MODES[self.image.channels], (self.image.width, self.image.height)
        try:
            with Pictures.open(io.BytesIO(content), formats=FORMATS) as picture:
                picture.load()
                made = eight_bits(picture)
                made = made if made.mode == mode else made.convert(mode)
                if made.size != size:
                    if not self._resize:
                        width, height = made.size
                        raise DataError(f"the image is {width}x{height}, not {size[0]}x{size[1]}")
                    made = made.resize(size, Pictures.Resampling.BOX, box=middle(made.size, size))
                pixels = np.asarray(made, np.uint8)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        except UnidentifiedImageError:
            raise DataError(f"{where}: the file is damaged or is not an image") from None
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, Pictures.DecompressionBombError) as error:
            raise DataError(f"{where}: the image is damaged ({str(error).splitlines()[0]})") from None
        return quantised(pixels.reshape(self.image.height, self.image.width, self.image.channels), self.image.levels)


def middle(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the largest centred crop of the wanted aspect ratio: (left, top, right, bottom)."""
    width, height = size
    scale = min(width / wanted[0], height / wanted[1])
    across, down = wanted[0] * scale, wanted[1] * scale
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def _split_of(name: str, index: int) -> str:
    for part in name.split("/")[:-1]:
        if part.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[part.lower()]
    return {VALID: "valid", TEST: "test"}.get(index % EVERY, "train")


def _entries(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield (name, location for messages, function that reads the bytes) of each image."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in SUFFIXES and file.is_file():
                yield file.relative_to(path).as_posix(), str(file), file.read_bytes
        return
    for member in members(open_stream(path)):
        if member.name.lower().endswith(SUFFIXES):
            yield member.name, f"{path.name}: byte {member.offset}: {member.name}", member.read
