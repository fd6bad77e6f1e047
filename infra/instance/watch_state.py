"""What the watch process tells others by files: whether it runs, how the trainer ended on a full disk, what is in S3.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import fcntl
import os
from typing import Any

from infra.instance.trainer_files import read_json


def note_end(root: str, trainer: dict[str, Any], error: OSError) -> None:
    """Record the trainer's exit on a full disk: the target of a short symbolic link takes no disk block."""
    words = "%d:%d:%s" % (trainer["exit_code"], trainer["asked"], error.strerror)
    try:
        os.symlink(words[:59], os.path.join(root, "agent", "end"))
    except OSError:
        pass  # it exists already, or there is no free inode


def noted_end(root: str) -> dict[str, Any]:
    """Return what `note_end` wrote, as keys of the state; {} if it wrote nothing."""
    try:
        code, asked, why = os.readlink(os.path.join(root, "agent", "end")).split(":", 2)
    except (OSError, ValueError):
        return {}
    trainer = {"state": "exited", "exit_code": int(code), "asked": asked == "1"}
    return {"trainer": trainer, "ending": "the instance cannot write to its disk: %s" % why}


def uploader_state(root: str) -> dict[str, Any]:
    """Return the last state of `checkpoint_uploader.py`: `stored` (the whole checkpoints in S3), `problem`, `done`."""
    state: dict[str, Any] = read_json(os.path.join(root, "agent", "s3.json"), {})
    return state


def is_watched(root: str) -> bool:
    """Return whether the watch process runs: it holds a lock while it does."""
    try:
        with open(os.path.join(root, "agent", "lock")) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
