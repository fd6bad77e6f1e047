"""What the pages show. It is read from the run folders alone; no request goes to AWS or to an instance."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.clock import iso
from orchestrator.dashboard.rows import KnownRun, Row, broken_row
from orchestrator.dashboard.run_state import OpenRun
from orchestrator.runs.listing import BrokenRun, read_run
from orchestrator.runs.spec import NAME_GRAMMAR
from orchestrator.runs.store import RunStore

T = TypeVar("T")
MOST_OPEN = 24  # runs whose curves are held; the one that was looked at longest ago is let go
MOST_COMPARED = 12
FRESH_S = 0.5  # of the same rows for several pages


def snapshot(home: Path, now: float) -> dict[str, Any]:
    """Return the rows of all runs once; a `Board` is for looking again.

    Args:
        home: PIXEL_ORCH_HOME.
        now: unix seconds.
    """
    return Board(home).snapshot(now)


class Board:
    """All that the pages of one home show. Its methods can be called from several threads.

    Args:
        home: PIXEL_ORCH_HOME.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._lock = threading.Lock()
        self._known: dict[str, KnownRun] = {}
        self._opened: OrderedDict[str, OpenRun] = OrderedDict()
        self._last: dict[str, Any] = {}

    def snapshot(self, now: float, most_new: int = sys.maxsize) -> dict[str, Any]:
        """Return the rows of all runs, the newest first.

        Args:
            now: unix seconds.
            most_new: how many runs are read for the first time; the others come with a later look.

        Returns:
            now, runs (a row each), usd (of all), going (how many are not over), machines (how many are rented),
            is_reading (whether there are more).
        """
        with self._lock:
            is_fresh = "at" in self._last and 0 <= now - self._last["at"] < FRESH_S
            if is_fresh and not self._last["seen"]["is_reading"]:
                return dict(self._last["seen"])
            stores = self._last["stores"] if is_fresh else RunStore.folders(self.home)[::-1]
            is_new = [store for store in stores if store.run not in self._known]
            here = {store.run: self._known.get(store.run) for store in stores}
            here |= {store.run: KnownRun(store) for store in is_new[:most_new]}
            self._known = {run: known for run, known in here.items() if known is not None}
            had = {row["run"]: row for row in self._last["seen"]["runs"]} if is_fresh else {}
            rows = [had.get(run) or self._row(known, now) for run, known in self._known.items()]
            seen = {
                "now": iso(now),
                "runs": rows,
                "is_reading": len(is_new) > most_new,
                "usd": round(sum(row["usd"] for row in rows), 6),
                "going": sum(not row["is_final"] for row in rows),
                "machines": sum(row["open_machines"] for row in rows),
            }
            self._last = {"at": self._last["at"] if is_fresh else now, "seen": seen, "stores": stores}
            return dict(seen)

    @staticmethod
    def _row(known: KnownRun, now: float) -> Row:
        def read(_: RunStore) -> Row:
            known.look()
            return known.row(now)

        found = _read(known.store, read)
        return broken_row(found) if isinstance(found, BrokenRun) else found

    def has(self, run: str) -> bool:
        """Return whether there is a run of this name."""
        return NAME_GRAMMAR.fullmatch(run) is not None and RunStore(self.home, run).folder.is_dir()

    def opened(self, run: str) -> OpenRun:
        """Return what is held of a run whose page is open; the caller has asked `has`."""
        with self._lock:
            found = self._opened.pop(run, None) or OpenRun(RunStore(self.home, run))
            self._opened[run] = found
            while len(self._opened) > MOST_OPEN:
                self._opened.popitem(last=False)
            return found

    def run(self, run: str, now: float) -> dict[str, Any]:
        """Return what the page of a run shows at `now` (unix seconds); of one that cannot be read, why."""
        opened = self.opened(run)
        found = _read(opened.store, lambda _: opened.page(now))
        if isinstance(found, BrokenRun):
            return {"now": iso(now), "run": broken_row(found), "is_reading": False}
        return found

    def curves(self, run: str) -> dict[str, Any]:
        """Return the curves of a run; none of one that cannot be read."""
        opened = self.opened(run)
        found = _read(opened.store, lambda _: opened.curves())
        return {"version": 0, "curves": {}} if isinstance(found, BrokenRun) else found

    def compared(self, runs: list[str], now: float) -> dict[str, Any]:
        """Return the heads of some runs, and the versions of their curves."""
        pages = [self.run(run, now) for run in runs[:MOST_COMPARED]]
        return {
            "now": iso(now),
            "runs": [page["run"] for page in pages],
            "versions": {page["run"]["run"]: page.get("version", 0) for page in pages},
            "is_reading": any(page["is_reading"] for page in pages),
        }


def _read(store: RunStore, read: Callable[[RunStore], T]) -> T | BrokenRun:
    """Return what `read` makes of a run, or why it cannot be read, without opening a file that has not changed."""
    try:
        return read(store)
    except Exception:  # noqa: BLE001  (whatever is wrong with one folder must not hide the other runs)
        return read_run(store, read)
