"""Prepares a data set: writes shards and a manifest from its published files (`pixel-orch data prepare`)."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

from model.config.data_recipe import Options, check, find
from model.config.datasets import MANIFEST, Registered, folder_of
from model.data import manifest as manifests
from model.data.files.disk import PARTS, READING, VERSION, space
from model.data.files.fingerprint import lasting
from model.data.manifest import Column, Manifest, Shard
from model.data.prepare.opening import open_source, same_files
from model.data.prepare.shard_writer import JOURNAL, ShardWriter
from model.data.source import Opened
from model.errors import DataError
from model.meter import Meter


def prepare(name: str, options: Options, *, stream: TextIO | None = None) -> tuple[Manifest, Path, bool]:
    """Prepare a data set, or resume an interrupted preparation. A prepared data set is left as it is.

    Args:
        name: the data set.
        options: the settings of the preparation.
        stream: the stream for progress output; stderr if not given.

    Returns:
        The manifest, the folder, and whether anything was prepared.

    Raises:
        DataError: a file is missing, is damaged or is not the published one; the disk is full; or the folder holds
            a data set of another recipe.
    """
    entry = find(name)
    check(entry, options)
    folder = options.out or folder_of(name)
    asked = options.asked(entry)
    if (folder / MANIFEST).exists():
        existing = manifests.read(folder)
        if (existing.name, existing.version, existing.recipe.get("asked")) == (name, VERSION, asked):
            if not same_files(entry, options, existing, stream=stream):
                content = f"{name} prepared from other files than {options.source}"
                raise DataError(f"{folder} holds {content}; remove it or give another --out")
            (folder / JOURNAL).unlink(missing_ok=True)  # this and the parts are left if a run was killed right after
            shutil.rmtree(folder / PARTS, ignore_errors=True)  # it had written the manifest
            return existing, folder, False
        raise DataError(f"{folder} holds {existing.name} prepared with other settings; remove it or give another --out")
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
    if entry.kind in READING:  # shards of an interrupted run of other code would not fit
        plan["reading"] = READING[entry.kind]
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
        raise DataError(f"{entry.name}: {options.source or 'the source'} has no training images; check --source")

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
            left_out={**opened.left_out, **source.left_out},
            reading=READING.get(entry.kind, 0),
        )

    made = writer.finish(manifest)
    opened.close()
    return made


def describe(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest as plain values, for `-o json`."""
    return {**asdict(manifest), "id": manifest.id}
