"""A run's `events.jsonl`, read and folded once: a look reads what was appended since the one before."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress

from orchestrator.dashboard.appended import Appended
from orchestrator.runs import bounded_json
from orchestrator.runs.checked import WrongValueError
from orchestrator.runs.event_reader import from_json
from orchestrator.runs.events import Event
from orchestrator.runs.state import RunState, extend
from orchestrator.runs.store import RunStore

REPEATED = re.compile(
    rb'\{"kind":"(progress|gpu_seen)","at":([0-9]{1,12}(?:\.[0-9]{1,9})?),"attempt":([0-9]{1,9}),'
    rb'(?:"step":([0-9]{1,12}),)?[^{}]*(?:\{[^{}]*\}[^{}]*)?\}'
)
"""A whole event that comes every few seconds: its kind, time, attempt and step."""
NO_DEVICE = b'"device":null'


def telling(lines: list[bytes]) -> list[bytes]:
    """Return the lines without those whose event changes nothing of the state, because a later one of its kind does.

    Most events of a long run are its progress. The first and the last of an attempt tell its state, unless a step or
    the time went back, or the last one does not name the device.
    """
    found = [REPEATED.fullmatch(line) for line in lines]
    last: dict[bytes, tuple[int, float, bool]] = {}  # step, time, whether it names the device
    first: dict[bytes, int] = {}
    is_kept = [one is None for one in found]
    for number in range(len(lines) - 1, -1, -1):
        one = found[number]
        if one is None:
            continue
        kind, at, attempt, step = one.groups()
        key = kind + attempt
        newest = last.get(key)
        if newest is None:
            last[key] = int(step or 0), float(at), NO_DEVICE not in lines[number]
            is_kept[number] = True
        else:
            is_later = int(step or 0) > newest[0] or float(at) > newest[1]
            is_kept[number] = is_later or (not newest[2] and NO_DEVICE not in lines[number])
        first[key] = number
    for number in first.values():
        is_kept[number] = True
    return [line for line, is_so in zip(lines, is_kept, strict=True) if is_so]


class EventLog:
    """The state of a run as far as its events are read.

    Args:
        store: the run.
        watch: is called for each new event; without it, events that change nothing of the state are passed over.
        restart: is called when the file was written anew: what `watch` has seen does not count.
    """

    def __init__(
        self,
        store: RunStore,
        watch: Callable[[Event], None] | None = None,
        restart: Callable[[], None] = lambda: None,
    ) -> None:
        self.store = store
        self.state = RunState()
        self._file = Appended(store.folder / "events.jsonl")
        self._watch, self._restart = watch, restart
        self._set_name()

    def look(self) -> bool:
        """Read what is new, and return whether anything is.

        Raises:
            OSError: the file is there and cannot be read, or is no regular file.
        """
        is_new = False
        while True:
            piece = self._file.look()
            if piece.begins:
                self.state = RunState()
                self._restart()
            events = list(self._events(piece.lines, piece.rest))
            extend(self.state, events)
            if self._watch is not None:
                for event in events:
                    self._watch(event)
            is_new = is_new or piece.begins or bool(piece.lines) or bool(events)
            if self._file.is_read or not piece.lines:
                break
        self._set_name()
        return is_new

    def _set_name(self) -> None:
        """Give the state its name; if the first event is damaged, the creation time comes from the files."""
        if not self.state.run:
            with suppress(OSError):  # about to be created, or removed
                log = self.store.folder / "events.jsonl"
                self.state.created_at = (log if log.exists() else self.store.folder / "spec.json").stat().st_mtime
        self.state.run = self.store.run

    def _events(self, lines: bytes, rest: bytes) -> Iterator[Event]:
        whole = [line for line in lines.split(b"\n") if line and not line.isspace()]
        for line in whole if self._watch is not None else telling(whole):
            yield from self._event(line)
        if rest and not rest.isspace():  # without its end: it is being written, or it is whole
            with suppress(bounded_json.BadJsonError):
                bounded_json.loads(rest)
                self._file.took_rest(rest)
                yield from self._event(rest)

    def _event(self, line: bytes) -> Iterator[Event]:
        try:
            raw = bounded_json.loads(line)
            event = from_json(raw) if isinstance(raw, dict) else None
            self.state.unread_lines += not isinstance(raw, dict)
        except (bounded_json.BadJsonError, WrongValueError):
            self.state.unread_lines += 1
            return
        if event is not None:
            yield event
