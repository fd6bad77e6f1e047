"""What captions say: the network, its data, and the measurements of its training. Torch is not needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model.config import TrainConfig
from model.config.datasets import is_path

MOST_BYTES = 1 << 28  # of a file of measurements that are read; it may come from a rented machine
MOST_FIGURE = 1e12
TITLES = {"pixelcnn": "PixelCNN", "row-lstm": "Row LSTM", "diagonal-bilstm": "Diagonal BiLSTM"}


def described(config: TrainConfig) -> str:
    """Name network and data: `Row LSTM (3 layers, h = 16) on digits (8x8, 17 levels)`."""
    facts = config.data
    layers = f"{config.layers} layer{'s' if config.layers > 1 else ''}"
    scale = f", {facts.height}x{facts.width} from {config.small.height}x{config.small.width}" if config.small else ""
    data = Path(config.dataset).name if is_path(config.dataset) else config.dataset
    values = f"{facts.levels} levels" if facts.channels == 1 else f"{facts.levels} levels a colour"
    size = f"{facts.height}x{facts.width}, {values}"
    return f"{TITLES[config.model]} ({layers}, h = {config.hidden}{scale}) on {data} ({size})"


def home_of(place: Path) -> Path:
    """Return the folder of the training or of the run that a checkpoint, or the folder that it lies in, belongs to."""
    folder = place if place.is_dir() else place.parent
    is_of_a_run = folder.name == "checkpoints" and (folder.parent / "attempts").is_dir()
    return folder.parent if is_of_a_run else folder


def metrics_files(folder: Path) -> list[Path]:
    """Return the files of measurements of a training's folder, or of a run's folder: one for each of its machines."""
    attempts = sorted(
        (path for path in folder.glob("attempts/*/metrics.jsonl") if path.parent.name.isdecimal()),
        key=lambda path: int(path.parent.name),
    )
    return [path for path in (*attempts, folder / "metrics.jsonl") if path.is_file() and not path.is_symlink()]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the measurements of a metrics.jsonl; other lines, incomplete and impossible ones are skipped.

    Returns:
        Objects with `step` (a whole number) and `nats` (a finite number) at least.
    """
    lines = []
    for text in _text(path).splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and _is_step(line.get("step")) and is_figure(line.get("nats")):
            lines.append(line)
    return lines


def validations(lines: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the newest validation of each step."""
    return {line["step"]: line for line in lines if line.get("split") == "valid"}


def is_figure(value: object) -> bool:
    """Return whether a value of a file is a number that can be one: finite, and not beyond `MOST_FIGURE`."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MOST_FIGURE


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def _text(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(MOST_BYTES).decode("utf-8", errors="replace")
