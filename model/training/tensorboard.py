"""TensorBoard events of a training, for those who watch it there. Tensorboard is imported only if it is asked for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from model.errors import SetupError


class Board:
    """Writes scalars to a folder that `tensorboard --logdir` reads.

    Args:
        folder: where to; made if it is not there.
        step: the step that the training goes on from: what a killed process wrote of later ones is left out.

    Raises:
        SetupError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise SetupError(
                "tensorboard=on needs the extra: pip install 'pixel-orch[tensorboard]', or leave the setting out"
            )
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter  # torch gives its methods no types
        self._writer = writer(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, group: str, step: int, **values: float) -> None:
        """Write the values of a step, each as `name/group`."""
        for name, value in values.items():
            self._writer.add_scalar(f"{name}/{group}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Write out what is left."""
        self._writer.close()
