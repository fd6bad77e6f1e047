"""Callbacks that save and end a training when the machine is taken back or the run is stopped.

    from orchestrator.callbacks import hugging_face      Trainer(..., callbacks=[hugging_face()])
    from orchestrator.callbacks import lightning         lightning.Trainer(..., callbacks=[lightning()])

Outside of a run they save on SIGTERM too. Where several processes train together, all save after the same step, once
one of them is to stop. Standard library only, Python 3.8 and later; transformers and Lightning are imported by the
function that is called.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

NOTICE_FILE = "PIXEL_ORCH_NOTICE_FILE"
STOP_SIGNAL = "PIXEL_ORCH_STOP_SIGNAL"


class Stop:
    """Whether the training is to save and end: the signal came, or the file of the notice is there."""

    def __init__(self) -> None:
        self._is_signalled = False
        self._before: Any = None
        self._number = getattr(signal, os.environ.get(STOP_SIGNAL, "SIGTERM"), signal.SIGTERM)
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(self._number, self._note)

    def take_from(self, library: str) -> None:
        """Take the signal from a library whose own handler talks to the other processes in the midst of a step."""
        current = signal.getsignal(self._number)
        if processes() > 1 and type(current).__module__.startswith(library):
            signal.signal(self._number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self._is_signalled = True
        if callable(self._before):
            self._before(number, frame)

    @property
    def is_asked(self) -> bool:
        """Whether it is to save and end."""
        path = os.environ.get(NOTICE_FILE)
        return self._is_signalled or bool(path and os.path.exists(path))

    @property
    def is_agreed(self) -> bool:
        """Whether one of the processes is to save and end; all ask after the same step, and get the same answer."""
        return one_of_all(self.is_asked)


def processes() -> int:
    """Return how many processes train together, as far as torch knows."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 1
    return int(distributed.get_world_size())


def one_of_all(mine: bool) -> bool:
    """Return whether something holds for one of the processes that train together."""
    if processes() == 1:
        return mine
    import torch

    backends = getattr(
        torch.distributed, "get_backend_config", torch.distributed.get_backend
    )()  # before torch 2.1: one
    flag = torch.tensor(int(mine), device="cpu" if "gloo" in str(backends) else "cuda")
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


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
            if stop.is_agreed:
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

        def on_train_start(self, *_: Any, **__: Any) -> None:
            """Take the signal, where several processes train together."""
            stop.take_from("lightning.")
            stop.take_from("pytorch_lightning.")

        def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
            """Save and end, if it is to stop."""
            if stop.is_agreed:
                self._save_once(trainer)

        def on_exception(self, trainer: Any, *_: Any, **__: Any) -> None:
            """Save, if what ends the training is the stop; one of several processes cannot save alone."""
            if stop.is_asked and processes() == 1:
                self._save_once(trainer)

        def _save_once(self, trainer: Any) -> None:
            if self.is_saved:
                return
            saver = getattr(trainer, "checkpoint_callback", None)
            folder = getattr(saver, "dirpath", None) or trainer.default_root_dir
            trainer.save_checkpoint(os.path.join(folder, "last.ckpt"))
            self.is_saved = trainer.should_stop = True

    return SaveOnStop()
