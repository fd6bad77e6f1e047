"""Callbacks that save and end a training when the machine is taken back or the run is stopped.

    from orchestrator.callbacks import hugging_face      Trainer(..., callbacks=[hugging_face()])
    from orchestrator.callbacks import lightning         lightning.Trainer(..., callbacks=[lightning()])

Outside of a run they save on SIGTERM too. Standard library only, Python 3.8 and later; transformers and Lightning are
imported by the function that is called.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

NOTICE_FILE = "PIXEL_ORCH_NOTICE_FILE"
STOP_SIGNAL = "PIXEL_ORCH_STOP_SIGNAL"


class Stop:
    """Whether the training is to save and end: the signal came, or the file of the notice is there."""

    def __init__(self) -> None:
        self._is_signalled = False
        self._before: Any = None
        number = getattr(signal, os.environ.get(STOP_SIGNAL, "SIGTERM"), signal.SIGTERM)
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self._is_signalled = True
        if callable(self._before):
            self._before(number, frame)

    @property
    def is_asked(self) -> bool:
        """Whether it is to save and end."""
        path = os.environ.get(NOTICE_FILE)
        return self._is_signalled or bool(path and os.path.exists(path))


def hugging_face() -> Any:
    """Return a `TrainerCallback` that saves a checkpoint and ends the training once it is to stop.

    Raises:
        ImportError: transformers is not installed.
    """
    from transformers import TrainerCallback

    stop = Stop()

    class SaveOnStop(TrainerCallback):  # type: ignore[misc]  # a class of a package that may be missing here
        """Looks after each step."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            """Save and end, if it is to stop."""
            if stop.is_asked:
                control.should_save = control.should_training_stop = True
            return control

    return SaveOnStop()


def lightning() -> Any:
    """Return a Lightning `Callback` that saves `last.ckpt` and ends the training once it is to stop.

    It is saved where the trainer's checkpoint callback saves, so that `ckpt_path="last"` finds it.

    Raises:
        ImportError: Lightning is not installed.
    """
    try:
        from lightning.pytorch.callbacks import Callback
    except ImportError:
        from pytorch_lightning.callbacks import Callback

    stop = Stop()

    class SaveOnStop(Callback):  # type: ignore[misc]  # a class of a package that may be missing here
        """Looks after each batch, and before Lightning ends a training by its own handler."""

        is_saved = False

        def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
            """Save and end, if it is to stop."""
            self._save_if_asked(trainer)

        def on_exception(self, trainer: Any, *_: Any, **__: Any) -> None:
            """Save, if what ends the training is the stop."""
            self._save_if_asked(trainer)

        def _save_if_asked(self, trainer: Any) -> None:
            if not stop.is_asked or self.is_saved:
                return
            saver = getattr(trainer, "checkpoint_callback", None)
            folder = getattr(saver, "dirpath", None) or trainer.default_root_dir
            trainer.save_checkpoint(os.path.join(folder, "last.ckpt"))
            self.is_saved = trainer.should_stop = True

    return SaveOnStop()
