"""Writes a run as TensorBoard events: a folder of its own, written anew at each export.

Needs the package tensorboard.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.export.contents import Contents

FOLDER = "PIXEL_ORCH_TENSORBOARD"  # a variable: the folder that `tensorboard --logdir` reads
EVENTS = "events.out.tfevents.*"
IHDR_AT = 16  # of a PNG: width and height, four bytes each (https://www.w3.org/TR/png-3/#11IHDR)


def folder_for(home: Path) -> Path:
    """Return the folder of all exported runs: `$PIXEL_ORCH_TENSORBOARD`, by default `tensorboard` in the home.

    Raises:
        SpecError: the variable is no absolute path.
    """
    asked = os.environ.get(FOLDER)
    if not asked:
        return home / "tensorboard"
    path = Path(os.path.expanduser(asked))
    if not path.is_absolute():
        raise SpecError(f"{FOLDER}: {asked!r} depends on the current folder; give an absolute path")
    return path


def write(contents: Contents, home: Path) -> str:
    """Write the run's folder; return its path.

    Raises:
        SpecError: the variable is no absolute path.
        OSError: it cannot be written.
    """
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder = folder_for(home) / contents.id
    folder.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))  # beside it: a reader never sees half of a file
    try:
        writer = EventFileWriter(str(new))
        for event in _events(contents):
            writer.add_event(event)
        writer.close()
        for old in folder.glob(EVENTS):
            old.unlink()
        for written in new.glob(EVENTS):
            written.rename(folder / written.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return str(folder)


def _events(contents: Contents) -> Iterator[Any]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    for name, points in contents.curves.items():
        for point in points:
            value = Summary.Value(tag=name, simple_value=point.value)
            yield Event(wall_time=point.at, step=point.step, summary=Summary(value=[value]))
    last = max((point.step for points in contents.curves.values() for point in points), default=contents.steps)
    for name, figure in contents.figures.items():
        value = Summary.Value(tag=name, simple_value=figure)
        yield Event(wall_time=contents.seen_at, step=last, summary=Summary(value=[value]))
    for one in contents.samples:
        width, height = (int.from_bytes(one.png[at : at + 4], "big") for at in (IHDR_AT, IHDR_AT + 4))
        picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=one.png)
        value = Summary.Value(tag="samples", image=picture)
        yield Event(wall_time=contents.seen_at, step=one.step, summary=Summary(value=[value]))
    for group, texts in (("params", contents.params), ("tags", contents.tags)):
        yield _text(group, texts, contents.seen_at)


def _text(group: str, texts: Any, at: float) -> Any:
    """Return a table for TensorBoard's tab of texts, which reads Markdown."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    rows = [f"| {key} | {_cell(value)} |" for key, value in texts.items()]
    table = "\n".join(["| name | value |", "|---|---|", *rows])
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[table.encode()], tensor_shape=shape)
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    value = Summary.Value(tag=f"run/{group}", metadata=metadata, tensor=tensor)
    return Event(wall_time=at, step=0, summary=Summary(value=[value]))


def _cell(text: str) -> str:
    """Return a text as it stands in a cell of a Markdown table."""
    return "".join(f"\\{letter}" if letter in "\\|`*_<>[]!" else letter for letter in text)
