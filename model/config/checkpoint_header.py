"""Step and settings of a checkpoint, read without torch: a laptop that rents instances need not have it.

The digest is not verified here: the trainer verifies it when it loads the checkpoint.
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

LARGEST_HEAD_BYTES = 64 << 20  # of the pickled part, which holds everything but the tensors' data


@dataclass(frozen=True)
class Peeked:
    """Step and settings of a checkpoint."""

    step: int
    config: dict[str, Any]


def peek(path: Path) -> Peeked:
    """Read step and settings of a checkpoint of the bundled trainer.

    Raises:
        CheckpointError: the file is not a checkpoint, or is damaged or truncated.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            head = next(info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
            if head.file_size > LARGEST_HEAD_BYTES:
                raise CheckpointError(f"{path} is not a checkpoint of pixel-orch; give a file that pixel-orch wrote")
            content = _Reader(io.BytesIO(archive.read(head))).load()
        payload = content["payload"]
        return Peeked(int(payload["step"]), dict(payload["config"]))
    except CheckpointError:
        raise
    except Exception:  # noqa: BLE001 - a damaged pickle can raise anything
        raise CheckpointError(
            f"{path} is damaged, truncated or not a checkpoint of pixel-orch; give another checkpoint"
        ) from None


class _Nothing:
    """Placeholder of a tensor or of its data."""

    def __init__(self, *_: object) -> None:
        pass


class _Reader(pickle.Unpickler):
    """Unpickles plain values only: names of torch become placeholders, any other name is an error."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module.partition(".")[0] == "torch":
            return _Nothing
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return _Nothing()
