"""Reads downsampled ImageNet of Chrabaszcz et al. (arXiv 1707.08819): .npz files in .zip files, not unpacked."""

from __future__ import annotations

import io
import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from model.data.files.clutter import LeftOut
from model.data.manifest import Column, Image
from model.data.source import Block, quantised
from model.errors import DataError

ROWS = 1024  # images read at a time
CLASSES = 1000
HEAD = 1 << 16  # bytes of a .npy header, at most
MOST_IMAGES = 1 << 24  # of a batch; ImageNet has 1.3 million images
LABEL = Column("label", "<u2")
BATCH = re.compile(r"(?:.*/)?(?:train_data_batch_(\d+)|val_data)\.npz")


class NpzImages:
    """A source of images in .npz batches: `data` (N, 3*S*S) of uint8, planes of red, green, blue; `labels` 1..1000.

    Args:
        files: (split, path) in order; a path is a .npz or a zip of .npz files, which may hold those of both splits.
        side: S, the side in pixels.
        levels: K, the number of levels to quantise to.
    """

    left_out: Mapping[str, int] = MappingProxyType({})

    def __init__(self, files: list[tuple[str, Path]], *, side: int, levels: int = 256) -> None:
        self.image = Image(side, side, 3, levels)
        self.columns: tuple[Column, ...] = (LABEL,)
        self.recipe: dict[str, Any] = {"levels": levels}
        self.notes: list[str] = []
        self.expected: dict[str, int] = {}
        self._files = files

    def blocks(self, done: Mapping[str, int]) -> Iterator[Block]:
        """Yield the blocks that are not done."""
        skip = dict(done)
        for split, path in self._files:
            try:
                for name, batch in _batches(path, split):
                    where, start = f"{path.name}:{name}", 0
                    labels = _labels(where, batch)
                    for images in self._images(where, batch, len(labels)):
                        rows = labels[start : start + len(images)]
                        start += len(images)
                        count = min(len(images), skip.get(split, 0))
                        skip[split] = skip.get(split, 0) - count
                        if count < len(images):
                            yield Block(split, images[count:], rows[count:])
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
                reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
                raise DataError(f"{path} is damaged or is not a zip file: {reason}; fetch it again") from None

    def _images(self, where: str, batch: zipfile.ZipFile, labels: int) -> Iterator[Any]:
        names = batch.namelist()
        if "data.npy" not in names:
            raise DataError(f"{where} has no array 'data'; give the files of downsampled ImageNet")
        values = self.image.height * self.image.width * 3
        with batch.open("data.npy") as file:
            count, width = _shape(where, file, 2)
            if width != values:
                side = self.image.height
                raise DataError(f"{where}: 'data' has {width} values per image, not {values} ({side}x{side}x3)")
            if count != labels:
                raise DataError(f"{where}: {labels} labels for {count} images; the file is damaged")
            for start in range(0, count, ROWS):
                wanted = min(ROWS, count - start) * values
                rows = file.read(wanted)
                if len(rows) < wanted:
                    byte = start * values + len(rows)
                    raise DataError(f"{where}: 'data' is cut off: it ends at byte {byte} of {count * values}")
                planes = np.frombuffer(rows, np.uint8).reshape(-1, 3, self.image.height, self.image.width)
                yield quantised(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), self.image.levels)
            if file.read(1):
                raise DataError(f"{where}: 'data' continues after its {count} images; the file is damaged")


def _batches(path: Path, split: str) -> Iterator[tuple[str, zipfile.ZipFile]]:
    """Yield the .npz files of a split in a zip, in numeric order, or the .npz file itself."""
    with zipfile.ZipFile(path) as outer:
        names = [name for name in outer.namelist() if not LeftOut().takes(name)]
        if path.suffix == ".npz" or "data.npy" in names:
            yield path.name, outer
            return
        matches = [(name, match) for name in names if (match := BATCH.fullmatch(name))]
        found = {int(match[1] or 0): name for name, match in matches if (match[1] is None) == (split == "valid")}
        if not found:
            wanted = "val_data.npz" if split == "valid" else "train_data_batch_1.npz"
            raise DataError(f"{path} has no {wanted}; give the .npz version")
        for _, name in sorted(found.items()):
            with outer.open(name) as file, zipfile.ZipFile(file) as inner:
                yield name, inner


def _labels(where: str, batch: zipfile.ZipFile) -> NDArray[Any]:
    """Read the labels of a batch as rows with one column."""
    if "labels.npy" not in batch.namelist():
        raise DataError(f"{where} has no array 'labels'; give the files of downsampled ImageNet")
    with batch.open("labels.npy") as file:
        (count,) = _shape(where, file, 1, name="labels", kinds="iu")
        if count > batch.getinfo("labels.npy").file_size:
            raise DataError(f"{where}: 'labels' is cut off: it has fewer than {count:,} numbers")
        if count > MOST_IMAGES:
            raise DataError(f"{where}: 'labels' declares {count:,} numbers; a batch has up to {MOST_IMAGES:,}")
        file.seek(0)
        try:
            labels = np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, MemoryError, OverflowError):
            raise DataError(f"{where}: 'labels' is cut off: it has fewer than {count:,} numbers") from None
    wrong = np.flatnonzero((labels < 1) | (labels > CLASSES))
    if len(wrong):
        raise DataError(f"{where}: image {wrong[0]}: label {labels[wrong[0]]} is outside 1 to {CLASSES}")
    rows = np.empty(count, [(LABEL.name, LABEL.dtype)])
    rows[LABEL.name] = labels
    return rows


def _shape(where: str, file: IO[bytes], dimensions: int, *, name: str = "data", kinds: str = "") -> tuple[int, ...]:
    """Read the header of an array; return its shape. Arrays of objects are refused: loading them can run code."""
    head = io.BytesIO(file.read(HEAD))  # a header of version 2.0 may declare 4 GB of itself
    try:
        version = np.lib.format.read_magic(head)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(head)
        file.seek(head.tell())
    except (ValueError, SyntaxError, TypeError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise DataError(f"{where}: '{name}' is not an array ({(str(error) or 'damaged').splitlines()[0]})") from None
    if dtype.hasobject:
        raise DataError(f"{where}: '{name}' holds objects, whose loading can run code; not read")
    if not (dtype.kind in kinds or dtype == np.uint8) or len(shape) != dimensions or fortran:
        expected = f"{dimensions}-dimensional {'integers' if kinds else 'uint8'} in C order"
        raise DataError(f"{where}: '{name}' is {dtype} of shape {shape}, not {expected}")
    return tuple(shape)
