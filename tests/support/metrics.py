"""The metrics of a whole run, read back for a test."""

from __future__ import annotations

from typing import Any

from orchestrator.runs.files import read_jsonl
from orchestrator.runs.store import RunStore


def metrics_of(store: RunStore) -> list[dict[str, Any]]:
    """Return the metrics of all attempts as one curve: what a later attempt did again replaces what was lost."""
    lines: list[dict[str, Any]] = []
    for number in sorted(int(folder.name) for folder in (store.folder / "attempts").iterdir()):
        own = list(read_jsonl(store.metrics_path(number)))
        first = min((line["step"] for line in own if isinstance(line.get("step"), int)), default=None)
        if first is not None:
            lines = [line for line in lines if not (isinstance(line.get("step"), int) and line["step"] >= first)]
        lines.extend({**line, "attempt": number} for line in own)
    return lines
