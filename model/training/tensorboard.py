"""TensorBoard events of a training. TensorBoard is imported only with the setting `tensorboard=on`."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Any

from model.atomic_files import naming
from model.errors import SetupError


class Board:
    """Writes scalars to a folder that `tensorboard --logdir` reads.

    Args:
        folder: output folder; created if it does not exist.
        step: the step that the training starts from; events of later steps from a killed process are discarded.

    Raises:
        SetupError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise SetupError(
                "tensorboard=on needs an extra: pip install 'pixel-orch[tensorboard]', or set tensorboard=off"
            )
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter  # torch does not type its methods
        self._folder = folder
        self._told = threading.excepthook
        threading.excepthook = self._tell  # the writer's thread raises what the next call raises too
        with naming(folder):
            self._writer = writer(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, group: str, step: int, **values: float) -> None:
        """Write the values of a step, each as `name/group`.

        Raises:
            OSError: they cannot be written; it names the folder.
        """
        with naming(self._folder):
            for name, value in values.items():
                self._writer.add_scalar(f"{name}/{group}", value, step)
            self._writer.flush()

    def close(self) -> None:
        """Flush and close the writer.

        Raises:
            OSError: the last values cannot be written.
        """
        try:
            with naming(self._folder):
                self._writer.close()
        finally:
            threading.excepthook = self._told

    def _tell(self, raised: threading.ExceptHookArgs) -> None:
        if not isinstance(raised.exc_value, OSError):
            self._told(raised)
