"""What a machine may answer that is not true: each lie changes the answer of `agent.py status`.

The in-memory host tells them in random stories; `tests/scenarios/test_lying_agent.py` replaces the agent of an instance
of the embedded cloud by one that tells them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

Answer = dict[str, Any]
Lie = Callable[[Answer], Any]
"""Takes a true answer; returns an object to be sent as JSON, or the bytes to be sent."""

EVIL = b"owned\n"
DIGEST = hashlib.sha256(EVIL).hexdigest()
"""The true one: such a file passes every check but that of its name."""


def _entry(**changes: Any) -> Answer:
    return {"name": "checkpoint-7.pt", "step": 7, "size_bytes": len(EVIL), "sha256": DIGEST, **changes}


def _listing(key: str, **changes: Any) -> Lie:
    return lambda true: {**true, key: [*true[key], _entry(**changes)]}


def _with(**changes: Any) -> Lie:
    return lambda true: {**true, **changes}


def _without(key: str) -> Lie:
    return lambda true: {name: value for name, value in true.items() if name != key}


def _metrics(*lines: str) -> Lie:
    """Add lines to the metrics as an honest agent would send them: the file itself lies."""
    text = "".join(line + "\n" for line in lines)

    def lie(true: Answer) -> Answer:
        end = true["metrics_offset"] + len(text.encode(errors="surrogateescape"))
        return {**true, "metrics": true["metrics"] + text, "metrics_offset": end}

    return lie


SENSELESS: dict[str, Lie] = {
    "a name that leads out": _listing("outputs", name="../../lie"),
    "a name that leads out, behind a checkpoint's": _listing("outputs", name="checkpoint-7.pt/../../../lie"),
    "an absolute name": _listing("outputs", name="/lie"),
    "the name of the run's own events": _listing("outputs", name="events.jsonl"),
    "the name of the run's key": _listing("outputs", name="key"),
    "a name with a NUL": _listing("outputs", name="checkpoint-7.pt\0"),
    "a name with an escape sequence": _listing("outputs", name="\x1b[2J"),
    "a name that is half a surrogate pair": _listing("outputs", name="checkpoint-7.\ud800"),
    "a name that is no text": _listing("outputs", name=7),
    "a name that is too long": _listing("outputs", name="checkpoint-7." + "t" * 5_000),
    "a step that is not the name's": _listing("outputs", step=8),
    "a step below zero": _listing("outputs", step=-7),
    "a step that is a truth value": _listing("outputs", step=True),
    "a step of 4,000 digits": lambda true: (
        json.dumps(_listing("outputs", step=77777)(true)).replace("77777", "7" * 4_000).encode()
    ),
    "a size below zero": _listing("outputs", size_bytes=-300_000),
    "a size of 10**17": _listing("outputs", size_bytes=10**17),
    "a size that is a fraction": _listing("outputs", size_bytes=0.5),
    "a digest that is a path": _listing("outputs", sha256="../../../lie"),
    "a digest in capitals": _listing("outputs", sha256="A" * 64),
    "a digest with a line break": _listing("outputs", sha256="0" * 64 + "\n"),
    "a stored file that leads out": _listing("stored", name="../../lie"),
    "files that are no list": _with(outputs={"checkpoint-7.pt": 7}),
    "files without names": _with(outputs=[{}]),
    "a trainer that is unheard of": _with(trainer={"state": "flying"}),
    "a trainer that is no object": _with(trainer="exited"),
    "an exit code of 10**12": _with(trainer={"state": "exited", "exit_code": 10**12, "asked": False}),
    "an exit code that is text": _with(trainer={"state": "exited", "exit_code": "0", "asked": False}),
    "metrics that are no text": _with(metrics=[1, 2]),
    "metrics that go backwards": _with(metrics_offset=-1),
    "metrics from far ahead": _with(metrics_offset=1 << 45),
    "more metrics than it says": lambda true: {**true, "metrics": true["metrics"] + "x" * 100},
    "half a surrogate pair in the log": lambda true: {**true, "log": "\ud800", "log_offset": true["log_offset"] + 3},
    "a time that is not a number": lambda true: json.dumps({**true, "now": float("nan")}).encode(),
    "a time after the year 2200": _with(now=1e15),
    "a notice that is a list": _with(notice=[1]),
    "a rebalance that is text": _with(rebalance="yes"),
    "a GPU that is nested": _with(gpu={"name": {"name": {"name": {}}}}),
    "no answer about the agent": _without("agent_alive"),
    "no outputs": _without("outputs"),
    "100,000 brackets": lambda true: b"[" * 100_000,
    "100,000 nested objects": lambda true: b'{"a":' * 100_000,
    "no JSON": lambda true: b"Traceback (most recent call last):\n",
    "a list": lambda true: [true],
    "nothing": lambda true: b"",
    "bytes that are not UTF-8": lambda true: b'{"now": "\xff\xfe"}',
}
"""Answers that make no sense: refused as a whole."""

ODD: dict[str, Lie] = {
    "keys of a newer agent": _with(protocol=7, weather={"sun": [1, 2, {"rain": None}]}),
    "an interruption notice of the year 1": _with(notice={"action": "terminate", "time": "0001-01-01T00:00:00Z"}),
    "an interruption notice of the year 9999": _with(notice={"action": "terminate", "time": "9999-12-31T23:59:59Z"}),
    "an interruption notice without a time": _with(notice={"action": "terminate"}),
    "a reason of a megabyte": _with(s3_problem="x" * 1_000_000),
    "a GPU that is said to have failed": _with(gpu_problem="\x1b[2Jit fell off the bus" * 1_000),
    "a reason with control characters": _with(ending="\x1b]0;owned\x07\x1b[2J"),
    "metrics of 100,000 brackets": _metrics("[" * 100_000),
    "a speed of 400 digits": _metrics('{"step": 3, "images_per_s": 1' + "0" * 400 + "}"),
    "a metrics step of 4,000 digits": _metrics('{"step": ' + "1" * 4_000 + "}"),
    "a metrics step below zero": _metrics('{"step": -5, "images_per_s": -1}'),
    "metrics of odd types": _metrics('{"step": [1], "images_per_s": {}}', "7", '"x"', "null", '{"step": true}'),
    "metrics that are not finite": _metrics('{"step": 3, "images_per_s": NaN}', '{"step": 3, "images_per_s": 1e999}'),
    "a start of odd types": _metrics('{"event": "start", "device_name": [1], "refused": 7, "resumed_from": "x"}'),
    "a start that begins far ahead": _metrics('{"event": "start", "resumed_from": 900000}'),
    "a device name of a megabyte": _metrics('{"event": "start", "device_name": "' + "\\u001b[2J" * 20_000 + '"}'),
    "refusals of what there is not": _metrics(
        '{"event": "start", "refused": [' + ",".join('{"name": "../../lie", "reason": "x"}' for _ in range(500)) + "]}"
    ),
    "bytes that are no text": _metrics("\udcff\udcfe\udc80"),
}
"""Answers that fit, and whose content is odd or untrue: used as far as they go."""

LIES = {**SENSELESS, **ODD}


def told(lie: str, true: Answer) -> bytes:
    """Return what a machine that tells this lie sends instead of a true answer."""
    answer = LIES[lie](true)
    return answer if isinstance(answer, bytes) else json.dumps(answer).encode()
