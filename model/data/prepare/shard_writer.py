"""Writes images to shards.

A shard gets its final name when it is complete. A run after an interruption resumes after the last complete shard.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.atomic_files import sync_folder, write_file
from model.config.data_recipe import SHARD_BYTES
from model.data.digest import sha256_of
from model.data.manifest import SPLITS, Column, Image, Manifest, Shard, write
from model.data.shards import read_columns
from model.data.source import row_dtype
from model.errors import DataError

JOURNAL = ".prepare.jsonl"
Images = NDArray[np.uint8]  # (N, H, W, C)
Rows = NDArray[Any]  # (N,), one field for each column


def images_per_shard(image: Image, shard_bytes: int = SHARD_BYTES) -> int:
    """Return the largest power of two of images that fits into a shard: 8,192 images of 64x64x3 are 100 MB."""
    fit = max(1, shard_bytes // image.bytes)
    return int(2 ** (fit.bit_length() - 1))


class ShardWriter:
    """Collects images by split and completes a shard whenever it is full.

    The writer keeps the complete shards of an interrupted run with the same plan; `done` counts their images. A journal
    in the folder records the plan and the complete shards until `finish` writes the manifest.

    Args:
        folder: the folder of the data set; created if it does not exist.
        image: the size of all images.
        columns: the columns of values of each image.
        plan: recipe and sources, as plain values. Another plan removes the shards of an interrupted run.
        shard_bytes: the largest size of a shard in bytes, without its header.

    Raises:
        DataError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        image: Image,
        columns: tuple[Column, ...] = (),
        *,
        plan: Mapping[str, Any],
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.folder, self.image, self.columns = folder, image, columns
        self.rows_type = row_dtype(columns) if columns else None
        self.per_shard = images_per_shard(image, shard_bytes)
        self.shards: list[Shard] = []
        self._open: dict[str, OpenShard] = {}
        self._plan = json.loads(json.dumps({"plan": plan, "image": asdict(image), "per_shard": self.per_shard}))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._resume()
        except OSError as error:
            raise DataError(f"cannot write to {folder}: {error.strerror or error}; give another folder") from None

    @property
    def done(self) -> dict[str, int]:
        """Number of images of each split in complete shards."""
        found = dict.fromkeys(SPLITS, 0)
        for shard in self.shards:
            found[shard.split] += shard.images
        return found

    def add(self, split: str, images: Images, rows: Rows | None = None) -> None:
        """Append images (N, H, W, C) and their column values to a split.

        Raises:
            DataError: the images have the wrong size, a value exceeds the levels, or the disk is full.
        """
        expected = (self.image.height, self.image.width, self.image.channels)
        if images.shape[1:] != expected:
            raise DataError(f"an image has shape {images.shape[1:]} (H, W, C), not {expected}")
        if self.image.levels < 256 and images.max(initial=0) >= self.image.levels:
            raise DataError(f"an image has level {images.max()}, which is outside 0 to {self.image.levels - 1}")
        while len(images):
            try:
                shard = self._open.get(split) or self._begin(split)
                room = self.per_shard - shard.images
                shard.add(images[:room], None if rows is None else rows[:room])
                images, rows = images[room:], None if rows is None else rows[room:]
                if shard.images == self.per_shard:
                    self._close(split)
            except OSError as error:
                raise self._full(error) from None

    def flush(self) -> None:
        """Complete the open shards, full or not, after the last image."""
        for split in SPLITS:
            if split in self._open:
                try:
                    self._close(split)
                except OSError as error:
                    raise self._full(error) from None

    def finish(self, manifest: Callable[[list[Shard], list[Column]], Manifest]) -> Manifest:
        """Complete the open shards and write the manifest, which makes the folder a prepared data set.

        Args:
            manifest: returns the manifest for the shards and for the columns with their statistics.
        """
        self.flush()
        made = manifest(self.shards, self._statistics())
        try:
            write(self.folder, made)
        except OSError as error:
            raise self._full(error) from None
        (self.folder / JOURNAL).unlink(missing_ok=True)
        return made

    def _begin(self, split: str) -> OpenShard:
        shape = (self.per_shard, self.image.height, self.image.width, self.image.channels)
        shard = self._open[split] = OpenShard(self.folder / f".{split}-{os.getpid()}.tmp", shape)
        return shard

    def _close(self, split: str) -> None:
        name = f"shard-{len(self.shards):05d}.npy"
        shard, columns_sha256 = self._open[split], None
        if self.rows_type is not None:
            rows = np.concatenate(shard.rows).astype(self.rows_type)
            columns_sha256 = save_array(self.folder / Shard(name, split, 0, "").columns_file, rows)
        sha256 = shard.finish(self.folder / name)
        del self._open[split]
        self.commit(Shard(name, split, shard.images, sha256, columns_sha256))

    def commit(self, shard: Shard) -> None:
        """Record a shard as complete in the journal."""
        self.shards.append(shard)
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(shard)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _resume(self) -> None:
        for path in self.folder.glob(".*.tmp"):
            path.unlink()
        journal = self.folder / JOURNAL
        if not journal.exists() and any(self.folder.glob("shard-*")):
            raise DataError(f"{self.folder} holds shards without a journal; give another --out")
        lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
        try:
            same = bool(lines) and json.loads(lines[0]) == self._plan
        except ValueError:
            same = False
        for line in lines[1:] if same else []:
            try:
                shard = Shard(**json.loads(line))
            except (ValueError, TypeError):
                break  # the process was killed while it wrote this line
            if not self._whole(shard):
                break
            self.shards.append(shard)
        kept = {name for shard in self.shards for name in (shard.file, shard.columns_file)}
        for path in self.folder.glob("shard-*.npy"):
            if path.name not in kept:
                path.unlink()
        text = "".join(json.dumps(line) + "\n" for line in (self._plan, *map(asdict, self.shards)))
        write_file(journal, text.encode())

    def _whole(self, shard: Shard) -> bool:
        wanted = [(shard.file, shard.sha256)]
        if shard.columns_sha256:
            wanted.append((shard.columns_file, shard.columns_sha256))
        return all((self.folder / name).is_file() and sha256_of(self.folder / name) == sha for name, sha in wanted)

    def _statistics(self) -> list[Column]:
        """Compute the statistics of the columns from the shards: mean and deviation over the training images."""
        found = []
        for column in self.columns:
            values = {split: np.empty(0) for split in SPLITS}
            for shard in self.shards:
                rows = read_columns(self.folder / shard.columns_file)
                values[shard.split] = np.append(values[shard.split], rows[column.name].astype(np.float64))
            known = values["train"][~np.isnan(values["train"])]
            everything = np.concatenate(list(values.values()))
            some = bool(len(known))
            mean, std = (float(known.mean()), float(known.std())) if some else (0.0, 1.0)
            # Rounding of the mean gives a constant column a deviation of about 1e-17.
            constant = std <= (1e-9 * max(1.0, abs(mean)) if np.dtype(column.dtype).kind == "f" else 0.0)
            found.append(
                Column(
                    column.name,
                    column.dtype,
                    column.unit,
                    mean=mean,
                    std=1.0 if constant else std,
                    low=float(known.min()) if some else 0.0,
                    high=float(known.max()) if some else 0.0,
                    missing=int(np.isnan(everything).sum()),
                )
            )
        return found

    def _full(self, error: OSError) -> DataError:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        kept = len(self.shards)
        return DataError(f"cannot write to {self.folder}: {reason}; {kept} shards are kept, run it again to continue")


class OpenShard:
    """A shard that is being written. Only its column values are kept in memory.

    Args:
        path: the temporary file.
        shape: (N, H, W, C) of a full shard, for the header.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.images, self.rows = 0, list[Rows]()
        self._path, self._shape = path, shape
        self._file = path.open("w+b", buffering=0)
        head = _head(shape)
        self._hasher = hashlib.sha256(head)
        self.write(head)

    def add(self, images: Images, rows: Rows | None) -> None:
        """Append images to the file and keep their rows."""
        body = np.ascontiguousarray(images).reshape(-1).data
        self._hasher.update(body)
        self.write(body)
        self.images += len(images)
        if rows is not None:
            self.rows.append(rows)

    def finish(self, path: Path) -> str:
        """Complete the shard under its final name; return its SHA-256."""
        full = self.images == self._shape[0]
        if not full:
            self._file.seek(0)
            self.write(_head((self.images, *self._shape[1:])))
        os.fsync(self._file.fileno())
        self._file.close()
        sha256 = self._hasher.hexdigest() if full else sha256_of(self._path)
        self._path.replace(path)
        sync_folder(path.parent)
        return sha256

    def write(self, content: bytes | memoryview) -> None:
        """Write all bytes. One write to an unbuffered file may take only some of them.

        Raises:
            OSError: the disk is full.
        """
        left = memoryview(content)
        while left.nbytes:
            left = left[self._file.write(left) :]


def _head(shape: tuple[int, ...]) -> bytes:
    """Return the header of a .npy of uint8. numpy pads it, so its length does not depend on the number of images."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return head.getvalue()


def save_array(path: Path, array: NDArray[Any]) -> str:
    """Write a .npy file atomically; return its SHA-256.

    Raises:
        OSError: the file cannot be written.
    """
    head = io.BytesIO()
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    body = array.reshape(-1).view(np.uint8).data
    hasher = hashlib.sha256(head.getvalue())
    hasher.update(body)
    write_file(path, body, head.getvalue())
    return hasher.hexdigest()
