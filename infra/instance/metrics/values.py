"""Measurements in one form: `{"step": 3, "time": 1.7e9, "loss": 0.5}`, whatever a program calls its values."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MOST_STEP = 10**12  # as the owner takes it (`orchestrator/runs/checked.py`)
MOST_KEYS = 64  # of one measurement
LONGEST_KEY = 100
MOST_FIGURE = 1e15
STEPS = ("step", "global_step", "iteration", "iter", "num_updates", "update")
EPOCHS = ("epoch", "epochs")
TIMES = ("time", "timestamp", "wall_time")
OWN = ("step", "time", "unit", "event", "split")  # keys that mean something to the owner
UNIX_TIMES = (1e9, 7.2e9)
KNOWN = re.compile(
    r"loss|acc|err|perplex|ppl|nll|reward|return|score|f1|auc|bleu|rouge|iou|dice|psnr|fid|lr|learning_rate|mse|mae|rmse|"
    r"precision|recall|top.?[15]|map\b|r2|kl|elbo|throughput|per_s",
    re.IGNORECASE,
)
NUMBER = re.compile(
    r"[-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?(?:nan|inf)",
    re.IGNORECASE,
)


def number(value: Any) -> float | None:
    """Return a JSON number that the owner can take, None for anything else (a bool is none)."""
    if type(value) is int:
        return value if abs(value) < MOST_FIGURE else None
    if type(value) is float:
        return value if not math.isfinite(value) or abs(value) < MOST_FIGURE else None
    return None


def number_in(text: str) -> float | None:
    """Return the number that a text is: `0.53`, `1e-4`, `1,234.5`, `nan`; None for another text."""
    text = text.strip().rstrip(".,;:%")
    if len(text) > 60 or not NUMBER.fullmatch(text):
        return None
    try:
        return number(float(text.replace(",", "")))
    except ValueError:
        return None


def whole(value: float | None) -> int | None:
    """Return a number of steps, None for what is none."""
    if value is None or not math.isfinite(value) or value != int(value) or not 0 <= value <= MOST_STEP:
        return None
    return int(value)


def figures(values: dict[Any, Any]) -> dict[str, float]:
    """Return the numbers of an object by their names; those of an object in it as `name/inner`."""
    found: dict[str, float] = {}
    for key, value in values.items():
        inner = value.items() if isinstance(value, dict) else [(None, value)]
        for name, one in inner:
            figure = number(one)
            if figure is None or len(found) >= MOST_KEYS:
                continue
            found[clean("%s" % key if name is None else "%s/%s" % (key, name))] = figure
    return found


def clean(key: str) -> str:
    """Return the name of a value: without control characters and halves of a pair, and not endless."""
    key = "".join(letter if letter.isprintable() else "?" for letter in key[:LONGEST_KEY])
    return key.encode("utf-8", "replace").decode()


def measurement(values: dict[Any, Any], at: float) -> dict[str, Any] | None:
    """Return what an object of numbers measures, None if it holds none beside its step.

    Where there is no step, a whole epoch counts as one, and `unit` says so.

    Args:
        values: as the program wrote them.
        at: unix seconds, for values without a time.
    """
    rest = figures(values)
    step = whole(_taken(rest, STEPS))
    epoch = _taken(rest, EPOCHS)
    time = _taken(rest, TIMES, keeps=UNIX_TIMES)
    made: dict[str, Any] = {}
    if step is not None:
        made["step"] = step
    elif whole(epoch) is not None:
        made.update(step=whole(epoch), unit="epoch")
    if not rest and not made:
        return None
    made["time"] = at if time is None else time
    if epoch is not None:
        made["epoch"] = epoch
    for key, value in rest.items():
        made[key + "_" if key in OWN else key] = value
    return made


def _taken(rest: dict[str, float], names: tuple[str, ...], keeps: tuple[float, float] | None = None) -> float | None:
    """Take the first of these names out of the values."""
    for name in names:
        if name in rest and (keeps is None or keeps[0] < rest[name] < keeps[1]):
            return rest.pop(name)
    return None


def measures(made: dict[str, Any] | None) -> bool:
    """Return whether it is a measurement of a training, and not just any object with numbers, as programs log them."""
    if made is None:
        return False
    return "step" in made or "epoch" in made or any(KNOWN.search(key) for key in made)


def line_of(made: dict[str, Any]) -> bytes:
    """Return a measurement as a line of the file."""
    return json.dumps(made).encode() + b"\n"


def object_in(line: str) -> dict[Any, Any] | None:
    """Return the JSON object that a line is, None for another line, or one that is made to confuse."""
    if not line.startswith("{") or not line.endswith("}"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
