"""Compares every byte of a prepared data set with its manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model.data import manifest as manifests
from model.data.digest import sha256_of
from model.data.manifest import Manifest
from model.data.shards import header, read_columns
from model.data.source import row_dtype
from model.errors import DataError
from model.meter import Meter


def verify(folder: Path) -> Manifest:
    """Compare all shards and column values with the manifest.

    Returns:
        The manifest.

    Raises:
        DataError: a file differs; the message names the first one and the difference.
    """
    manifest = manifests.read(folder)
    image = manifest.image
    shape = (image.height, image.width, image.channels)
    levels = 256 if manifest.binarise == "dynamic" else image.levels
    meter = Meter(f"verifying {manifest.name}", sum(shard.images for shard in manifest.shards) * image.bytes, "B")
    try:
        for shard in manifest.shards:
            path = folder / shard.file
            try:
                with path.open("rb") as file:
                    head = header(path, file, shard.images, shape)
                if sha256_of(path, progress=meter.add) != shard.sha256:
                    raise DataError(
                        f"{path} is damaged: its SHA-256 differs from the manifest; prepare the data set again"
                    )
                highest = int(np.memmap(path, np.uint8, "r", head).max()) if levels < 256 else 0
                if highest >= levels:
                    raise DataError(
                        f"{path} has level {highest}, which is outside 0 to {levels - 1}; prepare the data set again"
                    )
                _columns(folder, manifest, shard)
            except OSError as error:
                raise DataError(f"cannot read {path}: {error.strerror or error}; prepare the data set again") from None
    finally:
        meter.close()
    counted = {split: sum(shard.images for shard in manifest.of_split(split)) for split in manifest.splits}
    if counted != manifest.splits:
        raise DataError(
            f"{folder}: the shards hold {counted}, the manifest records {manifest.splits}; prepare the data set again"
        )
    return manifest


def _columns(folder: Path, manifest: Manifest, shard: manifests.Shard) -> None:
    if not manifest.columns:
        return
    path = folder / shard.columns_file
    if sha256_of(path) != shard.columns_sha256:
        raise DataError(f"{path} is damaged: its SHA-256 differs from the manifest; prepare the data set again")
    rows = read_columns(path)
    expected = row_dtype(manifest.columns)
    if rows.dtype != expected or rows.shape != (shard.images,):
        recorded = f"the manifest records {expected} of shape {(shard.images,)}"
        raise DataError(f"{path} holds {rows.dtype} of shape {rows.shape}, {recorded}; prepare the data set again")
