"""`metrics.jsonl`: the trainer's measurements and events for other programs, one JSON object a line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from model.atomic_files import naming
from model.training.tensorboard import Board


class Metrics:
    """Appends lines to `metrics.jsonl` and flushes each at once.

    Args:
        folder: output folder of the training; None on a rank that writes nothing.
        began_s: `time.monotonic()` when this process began.
        board: TensorBoard writer that gets the same measurements.
    """

    def __init__(self, folder: Path | None, *, began_s: float, board: Board | None = None) -> None:
        self._began_s, self._board = began_s, board
        self._file: TextIO | None = None
        if folder is None:
            return
        self._path = folder / "metrics.jsonl"
        torn = self._path.exists() and not _ends_a_line(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        if torn:  # an earlier writer was killed in the middle of a line: begin a new one
            self._file.write("\n")

    def measurement(
        self,
        step: int,
        *,
        epoch: float,
        nats: float,
        bits_per_dim: float,
        images_per_s: float,
        rank_s: list[float] | None = None,
    ) -> None:
        """Write a training measurement: mean nats per image, and images per second since the previous one.

        `rank_s` has the mean seconds of a step of each rank until it waits for the others: the largest is the slowest.
        """
        values = {"epoch": epoch, "nats": nats, "bits_per_dim": bits_per_dim, "images_per_s": images_per_s}
        own = {} if rank_s is None else {"rank_s": rank_s}
        self._write(step=step, **values, **own, **self._when())
        if self._board is not None:
            self._board.scalars("train", step, nats=nats, bits_per_dim=bits_per_dim, images_per_s=images_per_s)

    def evaluation(self, step: int, *, epoch: float, nats: float, bits_per_dim: float) -> None:
        """Write a validation: mean nats per image of the validation split."""
        self._write(step=step, split="valid", epoch=epoch, nats=nats, bits_per_dim=bits_per_dim, **self._when())
        if self._board is not None:
            self._board.scalars("valid", step, nats=nats, bits_per_dim=bits_per_dim)

    def event(self, event: str, **values: Any) -> None:
        """Write an event: `start` or `end`."""
        self._write(event=event, **values, **self._when())

    def _when(self) -> dict[str, float]:
        return {"wall_s": round(time.monotonic() - self._began_s, 3), "time": round(time.time(), 3)}

    def _write(self, **line: Any) -> None:
        if self._file is None:
            return
        text = json.dumps(line, allow_nan=False) + "\n"
        with naming(self._path, needed=len(text)):
            self._file.write(text)
            self._file.flush()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._file is not None:
                with naming(self._path):
                    self._file.close()
            if self._board is not None:
                self._board.close()
        except OSError:
            if error is None:  # else the first error is the one to report
                raise


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return file.read(1) in (b"", b"\n")
