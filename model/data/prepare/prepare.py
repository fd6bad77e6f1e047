"""From the files of a data set, as they were published, to shards and a manifest: `pixel-orch data prepare`."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

from model.config.data_recipe import Options, check, find
from model.config.datasets import MANIFEST, Registered, folder_of
from model.data import manifest as manifests
from model.data.files.disk import PARTS, VERSION, space
from model.data.files.fingerprint import lasting
from model.data.manifest import Column, Manifest, Shard
from model.data.prepare.opening import open_source, same_files
from model.data.prepare.shard_writer import ShardWriter
from model.data.source import Opened
from model.errors import DataError
from model.meter import Meter


def prepare(name: str, options: Options, *, stream: TextIO | None = None) -> tuple[Manifest, Path, bool]:
    """Prepare a data set, or go on with it, or see that it is there.

    Args:
        name: of the data set.
        options: what was asked for.
        stream: for the progress; stderr if not given.

    Returns:
        Its manifest, its folder, and whether anything was done.

    Raises:
        DataError: a file is missing, damaged or not the published one; the disk is full; another recipe is there.
    """
    entry = find(name)
    check(entry, options)
    folder = options.out or folder_of(name)
    asked = options.asked(entry)
    if (folder / MANIFEST).exists():
        there = manifests.read(folder)
        if (there.name, there.version, there.recipe.get("asked")) == (name, VERSION, asked):
            if not same_files(entry, options, there, stream=stream):
                what = f"{name} made from other files than {options.source}"
                raise DataError(f"{folder} holds {what}; remove it, or give another --out")
            shutil.rmtree(folder / PARTS, ignore_errors=True)  # of a run that was killed at its very end
            return there, folder, False
        raise DataError(f"{folder} holds {there.name} prepared in another way; remove it, or give another --out")
    opened = open_source(entry, options, folder, stream=stream)
    recipe = {"asked": asked, **opened.source.recipe}
    return _write(entry, opened, folder, recipe, options=options, stream=stream), folder, True


def _write(
    entry: Registered,
    opened: Opened,
    folder: Path,
    recipe: dict[str, Any],
    *,
    options: Options,
    stream: TextIO | None,
) -> Manifest:
    source = opened.source
    plan = {"name": entry.name, "version": VERSION, "recipe": recipe, "sources": lasting(opened.plan)}
    published = entry.facts.train + entry.facts.valid + entry.facts.test if entry.facts else 0
    total = sum(source.expected.values()) or published
    space(folder, total * source.image.bytes)
    writer = ShardWriter(folder, source.image, source.columns, plan=plan, shard_bytes=options.shard_bytes)
    meter = Meter(f"preparing {entry.name}", total, stream=stream, clock=time.monotonic)
    done = writer.done
    meter.skip(sum(done.values()))
    try:
        for block in source.blocks(done):
            writer.add(block.split, block.images, block.rows)
            meter.add(len(block.images))
    finally:
        meter.close()
    writer.flush()
    if not writer.done["train"]:
        raise DataError(f"{entry.name}: there are no training images in {options.source or 'its files'}")

    def manifest(shards: list[Shard], columns: list[Column]) -> Manifest:
        image = source.image
        return Manifest(
            name=entry.name,
            version=VERSION,
            image=replace(image, levels=2) if opened.binarise == "dynamic" else image,
            splits={split: count for split, count in writer.done.items() if count},
            recipe=recipe,
            sources=opened.files(),
            shards=shards,
            columns=columns,
            published=opened.published(),
            binarise=opened.binarise if opened.binarise == "dynamic" else None,
            terms=entry.terms,
            notes=list(source.notes),
        )

    made = writer.finish(manifest)
    opened.close()
    return made


def describe(manifest: Manifest) -> dict[str, Any]:
    """Give a manifest as plain values, for `-o json`."""
    return {**asdict(manifest), "id": manifest.id}
