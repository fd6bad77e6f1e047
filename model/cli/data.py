"""`pixel-orch data ...`: what each command prints."""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

from model.config import REGISTRY
from model.config.data_recipe import find, options_of
from model.config.datasets import MANIFEST, Registered, data_root, folder_of, is_path
from model.data import manifest as manifests
from model.data.files.clutter import in_words
from model.data.files.disk import READING
from model.data.manifest import Manifest
from model.data.prepare import prepare as preparing
from model.errors import DataError
from model.meter import amount

EARLIER = (
    "an earlier version prepared it, which did not turn images as their EXIF data say, and took each camera without a "
    "known name for the centre; remove the folder and run this again if that matters"
)


def run(args: argparse.Namespace) -> str:
    """Run one command and return what it prints.

    Raises:
        DataError: a data set is unknown, missing, damaged or unreadable.
    """
    does = {"prepare": prepare, "list": listing, "info": info, "verify": verify, "preview": preview}
    return does[args.data_command](args)


def prepare(args: argparse.Namespace) -> str:
    """Prepare a data set."""
    made, folder, done = preparing.prepare(args.name, options_of(args))
    lines = [f"{made.name}: {_splits(made)} in {folder}" + ("" if done else " (was prepared already)")]
    lines += [f"  {note}" for note in made.notes]
    lines += [f"  {in_words(made.left_out)}"] if made.left_out else []
    if not done and made.reading < READING.get(find(made.name).kind, 0):
        lines.append(f"  {EARLIER}")
    if done and made.terms:
        lines.append(f"  terms of use: {made.terms}")
    return "\n".join(lines)


def listing(args: argparse.Namespace) -> str:
    """List the registered data sets and whether each is prepared on this machine."""
    rows = []
    for entry in REGISTRY.values():
        state, made = _state(entry.name)
        facts = made.facts if made else entry.facts
        rows.append(
            {
                "name": entry.name,
                "size": f"{facts.height}x{facts.width}x{facts.channels}" if facts else "",
                "train": facts.train if facts else None,
                "download_bytes": entry.download_bytes,
                "prepared": state,
                "title": entry.title,
            }
        )
    if args.output == "json":
        return json.dumps(rows)
    lines = [f"{'NAME':<18} {'SIZE':<8} {'TRAIN':>9} {'DOWNLOAD':>9}  PREPARED"]
    for row in rows:
        train = f"{row['train']:,}" if row["train"] is not None else ""
        weight = row["download_bytes"]
        download = "unknown" if weight is None else amount(float(weight)) if weight else "-"
        lines.append(f"{row['name']:<18} {row['size']:<8} {train:>9} {download:>9}  {row['prepared']}")
    return "\n".join([*lines, "", f"in {data_root()}; details: pixel-orch data info NAME"])


def info(args: argparse.Namespace) -> str:
    """Show the registry entry and the manifest of a data set."""
    name = args.name
    folder = folder_of(name)
    made = manifests.read(folder) if (folder / MANIFEST).exists() else None
    entry = None if is_path(name) else find(name)
    if entry is None and made is None:
        raise DataError(f"{folder} is not a prepared data set (no {MANIFEST}); see: pixel-orch data list")
    if args.output == "json":
        known = _known(entry) if entry else None
        return json.dumps(
            {"known": known, "folder": str(folder), "manifest": preparing.describe(made) if made else None}
        )
    lines = _entry_lines(entry) if entry else []
    if made is None:
        where = "built in: nothing to prepare" if _is_built_in(name, folder) else f"no (the folder would be {folder})"
        return "\n".join([*lines, f"prepared   {where}"])
    return "\n".join([*lines, *_made_lines(made, folder)])


def verify(args: argparse.Namespace) -> str:
    """Verify the checksums of every shard against the manifest."""
    from model.data.prepare.verify import verify as compare

    folder = folder_of(args.name)
    if _is_built_in(args.name, folder):
        return f"{args.name} is built in: it is part of the package and has no files to verify"
    made = compare(folder)
    return f"{folder}: {len(made.shards)} shards of {made.name} match the manifest ({_splits(made)})"


def preview(args: argparse.Namespace) -> str:
    """Draw a grid of images."""
    from model.data.prepare.preview import write

    folder = folder_of(args.name)
    count = write(args.name, Path(args.out), split=args.split, count=args.count)
    whose = f"{args.name} (built in)" if _is_built_in(args.name, folder) else str(folder)
    return f"{count} images of the {args.split} split of {whose} in {args.out}"


def _is_built_in(name: str, folder: Path) -> bool:
    """Return whether the data set is part of the package and not also prepared into a folder."""
    return name in REGISTRY and REGISTRY[name].kind == "builtin" and not (folder / MANIFEST).exists()


def _state(name: str) -> tuple[str, Manifest | None]:
    folder = folder_of(name)
    if not (folder / MANIFEST).exists():
        from model.data.prepare.shard_writer import JOURNAL

        if REGISTRY[name].kind == "builtin":
            return "built in", None
        return ("begun" if (folder / JOURNAL).exists() or (folder / ".parts").exists() else "no"), None
    try:
        made = manifests.read(folder)
    except DataError:
        return "damaged", None
    return f"yes ({amount(made.facts.bytes)})", made


def _splits(made: Manifest) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in made.splits.items()) + " images"


def _entry_lines(entry: Registered) -> list[str]:
    lines = [f"{entry.name:<10} {entry.title}"]
    if entry.facts:
        facts = entry.facts
        lines.append(f"images     {facts.height}x{facts.width}x{facts.channels}, {facts.levels} levels")
        splits = {"train": facts.train, "valid": facts.valid, "test": facts.test}
        lines.append("splits     " + ", ".join(f"{count:,} {split}" for split, count in splits.items() if count))
    for file in (*entry.files, *entry.also):
        lines.append(f"file       {file.name}" + (f", {file.bytes:,} bytes" if file.bytes else ""))
        lines += [f"  {kind:<8} {value}" for kind, value in (("sha256", file.sha256), ("md5", file.md5)) if value]
        lines += [f"  from     {url}" for url in file.urls]
        lines += [f"  torrent  {file.magnet}"] if file.magnet else []
    for what, text in (("terms", entry.terms), ("note", entry.note), ("how", entry.how)):
        lines += _filled(f"{what:<10} {text}") if text else []
    return lines


def _made_lines(made: Manifest, folder: Path) -> list[str]:
    lines = [
        f"prepared   {folder}",
        f"  id       {made.id}, {len(made.shards)} shards, {amount(made.facts.bytes)}",
        f"  images   {_splits(made)}",
        f"  recipe   {json.dumps(made.recipe)}",
        f"  sources  {'as published' if made.published else 'not the published files'}",
    ]
    for source in made.sources:
        lines.append(f"           {json.dumps(source)}")
    for column in made.columns:
        spread = f"{column.low:.6g} to {column.high:.6g}, mean {column.mean:.6g}, {column.missing} missing"
        lines.append(f"  column   {column.name} {column.unit}: {spread}".replace(" :", ":"))
    for note in [*made.notes, *([in_words(made.left_out)] if made.left_out else [])]:
        lines += _filled(f"  remark   {note}")
    return lines


def _filled(text: str) -> list[str]:
    return textwrap.wrap(text, 80, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False)


def _known(entry: Registered) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(entry)
