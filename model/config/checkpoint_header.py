"""What a checkpoint says of itself, read without torch: a laptop that rents machines need not have it.

Nothing is proved by it: the trainer compares the digest when it takes the checkpoint over.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import CheckpointError

LARGEST_HEAD_BYTES = 64 << 20  # of the pickled part, which holds everything but the numbers of the tensors


@dataclass(frozen=True)
class Peeked:
    """Step and settings of a checkpoint."""

    step: int
    config: dict[str, Any]


def peek(path: Path) -> Peeked:
    """Read step and settings of a checkpoint of the bundled trainer.

    Raises:
        CheckpointError: it is none, or is cut off.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            head = next(info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
            if head.file_size > LARGEST_HEAD_BYTES:
                raise CheckpointError(f"{path} is no checkpoint of pixel-orch; give one that it wrote")
            content = _Reader(io.BytesIO(archive.read(head))).load()
        payload = content["payload"]
        return Peeked(int(payload["step"]), dict(payload["config"]))
    except CheckpointError:
        raise
    except Exception:  # noqa: BLE001 - a damaged pickle can raise anything
        raise CheckpointError(f"{path} is damaged, cut off or no checkpoint of pixel-orch; give another one") from None


class _Nothing:
    """Stands for a tensor or its numbers."""

    def __init__(self, *_: object) -> None:
        pass


class _Reader(pickle.Unpickler):
    """Builds plain values; of torch's own names nothing is run, and any other name ends the reading."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module.partition(".")[0] == "torch":
            return _Nothing
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return _Nothing()
