"""A stream of changes: first all that there is, then what differs from the message before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

EVERY_S = 1.0
ALIVE_EVERY = 15  # looks without a change, after which a comment keeps the connection open
ALWAYS = ("now",)  # the time alone is no change; it comes with one


def difference(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return what has changed between two looks: whole values, but of `runs` only the rows, with the names in `gone`.

    The answer is empty where nothing but the time has changed.
    """
    changed = {key: value for key, value in now.items() if key not in ALWAYS and before.get(key) != value}
    rows = now.get("runs")
    if "runs" in changed and isinstance(rows, list):
        old = {row["run"]: row for row in before.get("runs", [])}
        changed["runs"] = [row for row in rows if old.get(row["run"]) != row]
        gone = old.keys() - {row["run"] for row in rows}
        if gone:
            changed["gone"] = sorted(gone)
    return changed | {key: now[key] for key in ALWAYS if key in now} if changed else {}


async def changes(look: Callable[[], dict[str, Any]], is_ending: Callable[[], bool]) -> AsyncIterator[str]:
    """Yield messages of an event stream until the server ends; `"whole": true` is in the first one.

    Args:
        look: returns what there is now; `is_reading` in it asks for the next look at once.
        is_ending: returns whether the server shuts down.
    """
    before: dict[str, Any] = {}
    quiet = 0
    while not is_ending():
        seen = await asyncio.to_thread(look)
        sent = difference(before, seen) if before else {**seen, "whole": True}
        before = seen
        if sent:
            quiet = 0
            yield f"data: {json.dumps(sent, separators=(',', ':'))}\n\n"
        else:
            quiet += 1
            if quiet % ALIVE_EVERY == 0:
                yield ": keep-alive\n\n"
        if seen.get("is_reading"):
            continue
        for _ in range(10):
            if not is_ending():
                await asyncio.sleep(EVERY_S / 10)
