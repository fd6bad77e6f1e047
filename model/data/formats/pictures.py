"""Reads image files in an archive or a folder: the paper's downsampled ImageNet (tars of PNG) and the user's images."""

from __future__ import annotations

import io
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

from model.data.files.clutter import LeftOut
from model.data.files.fingerprint import files_below
from model.data.formats.archives import files_of
from model.data.manifest import SPLITS, Column, Image
from model.data.source import BLOCK_BYTES, Block, quantised
from model.errors import DataError
from model.image_files import FORMATS, eight_bits, turn_of, turned

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "valid", "valid": "valid", "validation": "valid"} | {
    "test": "test",
    "testing": "test",
}
UNREAD = (
    ".heic",
    ".heif",
    ".avif",
    ".jxl",
    ".jp2",
    ".jfif",
    ".svg",
    ".psd",
    ".tga",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
)
"""Suffixes of images that are not read. Photographs of a telephone may be HEIC beside JPEG."""
EVERY, VALID, TEST = 20, 9, 19  # without folders for the splits: of 20 images one is for validation, one for test
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz", ".bz2")
MODES = {1: "L", 3: "RGB"}


class PictureFiles:
    """A source of image files.

    Args:
        files: (split, path) in order; a path is a tar, a tar.gz, a zip or a folder. With a split of None the folders
            train, valid and test below the path decide; without them, of 20 images one is for validation and one for
            test.
        image: the size of the images.
        resize: whether the images are the user's own: an image is turned upright as its EXIF data say, and cropped and
            averaged to this size. Else the images are taken as they are, and another size is an error.
    """

    def __init__(self, files: list[tuple[str | None, Path]], image: Image, *, resize: bool) -> None:
        self.image = image
        self.columns: tuple[Column, ...] = ()
        self.recipe: dict[str, Any] = {"levels": image.levels}
        if resize:
            self.recipe |= {"crop": "the middle", "resize": "Pillow BOX"}
        self.notes: list[str] = []
        self.expected: dict[str, int] = {}
        self._files, self._resize, self._left_out = files, resize, LeftOut()
        self._others: Counter[str] = Counter()  # files that are no images that are read, by suffix

    @property
    def left_out(self) -> dict[str, int]:
        """The number of files that are no data, by kind."""
        return self._left_out.counts

    def blocks(self, done: Mapping[str, int]) -> Iterator[Block]:
        """Yield the blocks that are not done. Images that are done are not decoded again."""
        seen = dict.fromkeys(SPLITS, 0)
        self._left_out.clear()
        self._others.clear()
        waiting: dict[str, list[NDArray[np.uint8]]] = {split: [] for split in SPLITS}
        per_block = max(1, BLOCK_BYTES // self.image.bytes)
        for given, path in self._files:
            index = 0
            for name, where, content in self._entries(path):
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
                raise DataError(self._nothing(path))
        for split, parts in waiting.items():
            if parts:
                yield Block(split, np.stack(parts))
        unread = {suffix: count for suffix, count in self._others.items() if suffix in UNREAD}
        if unread:
            self.notes.append(f"images of formats that are not read, left out: {_counts(unread)}; convert them to PNG")

    def _nothing(self, path: Path) -> str:
        """Return what is said of a path without an image."""
        words = f"{path} has no images ({', '.join(SUFFIXES[:3])}, ...)"
        if not self._others:
            return f"{words}; check the path"
        archives = any(suffix in ARCHIVES for suffix in self._others)
        hint = (
            "unpack them"
            if archives
            else "convert them to PNG"
            if set(self._others) & set(UNREAD)
            else "check the path"
        )
        return f"{words}, but {_counts(self._others)}; {hint}"

    def _is_image(self, name: str) -> bool:
        """Return whether a name is that of an image that is read; another one is counted."""
        suffix = Path(name).suffix.lower()
        if suffix not in SUFFIXES:
            self._others[suffix or "no suffix"] += 1
        return suffix in SUFFIXES

    def _entries(self, path: Path) -> Iterator[tuple[str, str, Any]]:
        """Yield (name, location for messages, function that reads the bytes) of each image."""
        if path.is_dir():
            for name in sorted(files_below(path, self._left_out), key=lambda name: Path(name).parts):
                if self._is_image(name):
                    file = path / name
                    yield name, str(file), file.read_bytes
            return
        names: set[int] = set()
        again = 0
        for member in files_of(path, self._left_out):
            if not self._is_image(member.name):
                continue
            key = hash(member.name.removeprefix("./"))
            if self._resize and key in names:  # an archive that files were appended to
                again += 1
                continue
            if self._resize:
                names.add(key)
            yield member.name, f"{path.name}: byte {member.offset}: {member.name}", member.read
        if again:
            self.notes.append(f"{path.name}: {again:,} images had the name of another image before them; left out")

    def _decode(self, where: str, content: bytes) -> NDArray[np.uint8]:
        """Decode one image strictly, (H, W, C)."""
        mode, size = MODES[self.image.channels], (self.image.width, self.image.height)
        try:
            with Pictures.open(io.BytesIO(content), formats=FORMATS) as picture:
                picture.load()
                turn = turn_of(picture) if self._resize else 1
                made = turned(eight_bits(picture), turn)
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
            raise DataError(f"{where}: the file is damaged or is not an image; mend or remove it") from None
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, Pictures.DecompressionBombError) as error:
            raise DataError(
                f"{where}: the image is damaged ({str(error).splitlines()[0]}); mend or remove it"
            ) from None
        return quantised(pixels.reshape(self.image.height, self.image.width, self.image.channels), self.image.levels)


def middle(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the largest centred crop of the wanted aspect ratio: (left, top, right, bottom)."""
    width, height = size
    scale = min(width / wanted[0], height / wanted[1])
    across, down = wanted[0] * scale, wanted[1] * scale
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def _counts(found: Mapping[str, int], most: int = 4) -> str:
    """Return numbers of files by suffix, the largest first: `.heic (12), .avif (1)`."""
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(
        [*(f"{suffix} ({count:,})" for suffix, count in ranked[:most]), *(["..."] if ranked[most:] else [])]
    )


def _split_of(name: str, index: int) -> str:
    for part in name.split("/")[:-1]:
        if part.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[part.lower()]
    return {VALID: "valid", TEST: "test"}.get(index % EVERY, "train")
