"""Where a run lives on this machine: `PIXEL_ORCH_HOME/runs/<name>/`, append-only events, atomic writes.

spec.json        what was asked for           key, key.pub          the run's SSH key
program.json     the same, of a user's program
events.jsonl     what happened                known_hosts           the host keys that we made
lock             who owns the run             checkpoints/          what was downloaded
attempts/<n>/    metrics.jsonl, trainer.log of one instance
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from orchestrator.errors import SpecError
from orchestrator.formatting import both_ends, counted, nearest
from orchestrator.runs.checked import WrongValueError
from orchestrator.runs.event_reader import from_json
from orchestrator.runs.events import CheckpointPulled, Event, State
from orchestrator.runs.files import (
    open_regular,
    read_bounded,
    read_json_lines,
    sha256_of,
    sync_folder,
    write_atomically,
)
from orchestrator.runs.lock import Holder, RunLock, is_held
from orchestrator.runs.spec import NAME_GRAMMAR, ProgramSpec, RunSpec, check_name
from orchestrator.runs.state import RunState, fold

UNBORN = ".new"  # the end of a folder's name until its run is complete; a dot at its beginning hides it
UNBORN_S = 3600.0
MOST_SPEC_BYTES = 4 << 20
MOST_TAIL_BYTES = 1 << 20  # of a log, for its last lines


def no_such_run(home: Path, word: str, verb: str) -> SpecError:
    """Return the error for a name or a glob that no run has; it names the nearest run, else the newest ones.

    Args:
        home: where the runs are.
        word: what was given.
        verb: what no run does: `is called x`, `matches 'x*'`.
    """
    near = nearest(word.lower(), [path.parent.name for path in (home / "runs").glob("*/spec.json")])
    newest = [store.run for store in RunStore.all(home)][-5:]
    hint = f"there are: {', '.join(newest)}" if newest else "there are no runs yet"
    return SpecError(f"RUN: no run {verb}; {f'did you mean {near}?' if near else hint} (pixel-orch status lists them)")


class RunStore:
    """One run's folder. Reading needs no lock; a process that acts on the run holds `owned()`."""

    def __init__(self, home: Path, run: str) -> None:
        self.home = home
        self.run = run
        self.folder = home / "runs" / run

    # -- create and find

    @classmethod
    def create(cls, home: Path, spec: RunSpec) -> RunStore:
        """Make the folder of a new run that nothing is written to before it is led.

        Raises:
            SpecError: a run of that name exists.
        """
        store, lock = cls.begin(home, spec)
        with lock:
            store.publish()
        return store

    @classmethod
    def begin(cls, home: Path, spec: RunSpec) -> tuple[RunStore, RunLock]:
        """Make the folder of a new run under a temporary name, and take its lock; `publish` gives it its name.

        So no other command finds a run that is half there, or one without a leading process.

        Raises:
            SpecError: the home cannot be written.
        """
        store = cls(home, spec.run)
        runs = store.folder.parent
        try:
            runs.mkdir(parents=True, exist_ok=True, mode=0o700)
            _clear_unborn(runs)
            store.folder = Path(tempfile.mkdtemp(prefix=f".{spec.run}.", suffix=UNBORN, dir=runs))
            lock = RunLock.take(store.folder)
        except OSError as error:
            raise SpecError(f"PIXEL_ORCH_HOME: cannot write to {home} ({error.strerror})") from None
        try:
            store.checkpoints.mkdir()
            store._write_spec(spec)
        except BaseException as error:
            store.delete_unborn()
            lock.release()
            if isinstance(error, OSError):
                raise SpecError(f"PIXEL_ORCH_HOME: cannot write to {home} ({error.strerror})") from None
            raise
        return store, lock

    def publish(self) -> None:
        """Give the folder of a new run its name, in one step.

        Raises:
            SpecError: a run of that name exists by now.
        """
        named = self.home / "runs" / self.run
        try:
            if os.path.lexists(named):
                raise FileExistsError
            self.folder.rename(named)
        except OSError as error:
            if os.path.lexists(named):
                raise SpecError(f"--name: there is a run called {self.run} already; choose another name") from None
            raise SpecError(f"PIXEL_ORCH_HOME: cannot write to {self.home} ({error.strerror})") from None
        self.folder = named
        sync_folder(named.parent)

    @classmethod
    def open(cls, home: Path, run: str) -> RunStore:
        """Return the store of an existing run.

        Raises:
            SpecError: the name is outside the grammar, or there is no such run.
        """
        check_name(run, flag="RUN")
        store = cls(home, run)
        if not os.path.lexists(store.folder):
            raise no_such_run(home, run, f"is called {run}")
        trouble = store.trouble()
        if trouble:
            raise SpecError(f"RUN: {run} cannot be read: {trouble}; mend or remove {store.folder}")
        return store

    @classmethod
    def all(cls, home: Path) -> list[RunStore]:
        """Return the store of every run that can be read, the oldest first; `listing.read_all` names the others."""
        return [store for store in cls.folders(home) if not store.trouble()]

    @classmethod
    def folders(cls, home: Path) -> list[RunStore]:
        """Return a store for each folder of a run, readable or not, the oldest first."""
        found = []
        with suppress(OSError):
            for entry in os.scandir(home / "runs"):
                if not entry.name.startswith(".") and (entry.is_symlink() or entry.is_dir()):
                    found.append(cls(home, entry.name))
        return sorted(found, key=lambda store: (_changed_at(store.folder / "spec.json"), store.run))

    def delete_unborn(self) -> None:
        """Remove a run for which nothing was rented."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- paths

    @property
    def checkpoints(self) -> Path:
        """The folder of the downloaded checkpoints."""
        return self.folder / "checkpoints"

    def node_folder(self, rank: int) -> Path:
        """Return under which folder the outputs of one node of a group are: the run's own for the first one."""
        return self.folder if rank == 0 else self.folder / "nodes" / str(rank)

    @property
    def outputs(self) -> Path:
        """The folder of the downloaded extra outputs."""
        return self.folder / "outputs"

    @property
    def key_path(self) -> Path:
        """The run's private SSH key (mode 0600)."""
        return self.folder / "key"

    @property
    def known_hosts(self) -> Path:
        """The host keys that were made for the run's instances."""
        return self.folder / "known_hosts"

    def attempt_folder(self, number: int) -> Path:
        """Return (and make) the folder of what one attempt wrote."""
        folder = self._attempt(number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _attempt(self, number: int) -> Path:
        return self.folder / "attempts" / str(number)

    def metrics_path(self, number: int) -> Path:
        """Return where the metrics of one attempt are, as far as they are downloaded."""
        return self._attempt(number) / "metrics.jsonl"

    def log_path(self, number: int) -> Path:
        """Return where the trainer's log of one attempt is, as far as it is downloaded."""
        return self._attempt(number) / "trainer.log"

    def log_tail(self, number: int, lines: int = 10) -> str:
        """Return the last lines of the trainer's log of one attempt, "" if there is none."""
        path = self.log_path(number)
        try:
            with open_regular(path) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(map(both_ends, text.splitlines()[-lines:]))

    def host_key_path(self, number: int) -> Path:
        """Return where the public host key of an attempt's instance is kept."""
        return self._attempt(number) / "host_key.pub"

    def spec(self) -> RunSpec:
        """Read back what was asked for.

        Raises:
            SpecError: `spec.json` is damaged.
        """
        path = self.folder / "spec.json"
        try:
            spec = RunSpec.model_validate_json(read_bounded(path, MOST_SPEC_BYTES))
        except (OSError, ValueError) as error:
            raise SpecError(f"{path}: cannot be read ({_why(error)})") from None
        if spec.run != self.run:
            raise SpecError(f"{path}: cannot be read (it is of the run {spec.run[:60]!r})")
        path = self.folder / "program.json"
        try:
            program = ProgramSpec.model_validate_json(read_bounded(path, MOST_SPEC_BYTES))
        except FileNotFoundError:
            return spec
        except (OSError, ValueError) as error:
            raise SpecError(f"{path}: cannot be read ({_why(error)})") from None
        return spec.model_copy(update={"program": program})

    def write_spec(self, spec: RunSpec) -> None:
        """Write the spec of a run that is resumed; the one before is kept beside it."""
        shutil.copy2(
            self.folder / "spec.json", self.folder / f"spec-{len(list(self.folder.glob('spec-*.json'))) + 1}.json"
        )
        self._write_spec(spec)

    def _write_spec(self, spec: RunSpec) -> None:
        if spec.command or spec.program != ProgramSpec():
            write_atomically(self.folder / "program.json", spec.program.model_dump_json(indent=1).encode(), mode=0o600)
        write_atomically(self.folder / "spec.json", spec.model_dump_json(indent=1).encode(), mode=0o600)

    def request_stop(self, state: State | None) -> None:
        """Ask the leading process, through a file, to end the run in this state; None takes the request back."""
        path = self.folder / "asked"
        if state is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, state.encode())

    def requested_stop(self) -> State | None:
        """Return the state in which the run is asked to end, None without a request."""
        try:
            text = (self.folder / "asked").read_text()
        except FileNotFoundError:
            return None
        return "STOPPED" if text == "STOPPED" else "CANCELLED"

    def stop_state(self) -> State:
        """Return the state in which a signal ends the run: STOPPED after `stop`, else CANCELLED."""
        return self.requested_stop() or "CANCELLED"

    # -- events

    def append(self, event: Event) -> None:
        """Write one event and sync it: when this returns, the fact survives a crash."""
        line = json.dumps(event.to_json(), separators=(",", ":")) + "\n"
        descriptor = os.open(self.folder / "events.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = "\n" + line  # a crash tore the last line: it stays unread, this one begins a new line
            rest = line.encode()
            while rest:  # a nearly full disk takes a part, and reports it only at the next write
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def events(self) -> list[Event]:
        """Read all events. A line that a crash tore, or that holds a value of a wrong type or range, is skipped."""
        return self.read_events()[0]

    def read_events(self) -> tuple[list[Event], int]:
        """Return (all events, how many lines could not be read).

        Raises:
            OSError: `events.jsonl` is there and cannot be read, or is no file.
        """
        found: list[Event] = []
        unread = 0
        with suppress(FileNotFoundError):
            for raw in read_json_lines(self.folder / "events.jsonl"):
                try:
                    event = from_json(raw) if raw is not None else None
                except WrongValueError:
                    unread += 1
                else:
                    unread += raw is None
                    if event is not None:
                        found.append(event)
        return found, unread

    def state(self) -> RunState:
        """Return the fold of all events; if the first is damaged, name and creation time come from the files."""
        events, unread = self.read_events()
        state = fold(events)
        state.unread_lines = unread
        if not state.run:
            log = self.folder / "events.jsonl"
            with suppress(OSError):  # about to be created, or removed
                state.created_at = (log if log.exists() else self.folder / "spec.json").stat().st_mtime
        state.run = self.run
        return state

    def is_damaged(self, state: RunState | None = None) -> bool:
        """Whether the events cannot be read: no creation, no request, no instance."""
        log = self.folder / "events.jsonl"
        if not log.is_file() or not log.stat().st_size:
            return False  # it is being created
        state = state or self.state()
        return not (state.cloud or state.requests or state.attempts)

    # -- what is wrong with it

    def trouble(self) -> str:
        """Return in one line why nothing can be said of the run, "" if it can be read."""
        if not NAME_GRAMMAR.fullmatch(self.run):
            return "the name of its folder is not a run's name"
        for name in ("spec.json", "events.jsonl"):
            try:
                open_regular(self.folder / name).close()
            except FileNotFoundError:
                if name == "spec.json":
                    return f"{name} is missing"
            except OSError as error:
                return f"{name}: {error.strerror}"
        return ""

    def defects(self, state: RunState) -> list[str]:
        """Return what of the run cannot be read, although its events can: one line each."""
        try:
            self.spec()
        except SpecError as error:
            return [self.spec_defect(error), *self.other_defects(state)]
        return self.other_defects(state)

    def spec_defect(self, error: SpecError) -> str:
        """Return in one line why `spec` cannot be read."""
        return str(error).removeprefix(f"{self.folder}{os.sep}")

    def other_defects(self, state: RunState) -> list[str]:
        """Return the defects beside that of the spec."""
        found = []
        if state.unread_lines:
            found.append(f"{counted(state.unread_lines, 'line')} of events.jsonl left out: unreadable")
        for name, is_right in (("lock", Path.is_file), ("checkpoints", Path.is_dir), ("attempts", Path.is_dir)):
            path = self.folder / name
            if os.path.lexists(path) and not is_right(path):
                found.append(f"{name} is not a {'file' if name == 'lock' else 'folder'}")
        return found

    # -- checkpoints

    def checkpoint_path(self, pulled: CheckpointPulled) -> Path:
        """Return the path of a downloaded checkpoint."""
        return self.checkpoints / pulled.name

    def is_whole(self, pulled: CheckpointPulled) -> bool:
        """Return whether the local file still has the size and the digest that were downloaded."""
        path = self.checkpoint_path(pulled)
        try:
            return path.is_file() and path.stat().st_size == pulled.size_bytes and sha256_of(path) == pulled.sha256
        except OSError:
            return False

    # -- ownership

    def lock(self, *, shared: bool = False) -> RunLock:
        """Take the run's lock. The kernel drops it when the process dies, however it dies.

        Args:
            shared: this process leads other runs too: it is stopped by a file in the folder, never by a signal.

        Raises:
            RunBusyError: another living process holds it.
        """
        return RunLock.take(self.folder, shared=shared)

    @contextmanager
    def owned(self, *, shared: bool = False) -> Iterator[None]:
        """Hold the run's lock.

        Args:
            shared: this process leads other runs too: it is stopped by a file in the folder, never by a signal.

        Raises:
            RunBusyError: another living process holds it.
        """
        with self.lock(shared=shared):
            yield

    def owner_pid(self) -> int | None:
        """Return the process that leads the run now, or None."""
        return Holder.of(self.folder).pid

    def has_shared_owner(self) -> bool:
        """Whether the process that leads the run leads other runs too."""
        return Holder.of(self.folder).is_shared


def _clear_unborn(runs: Path) -> None:
    """Remove the folders of births whose process died: their lock is free, and they are not from just now."""
    for folder in runs.glob(f".*{UNBORN}"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > UNBORN_S and not is_held(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except (OSError, RuntimeError):
        return 0.0


def _why(error: Exception) -> str:
    """Return the cause of a failed reading in one line: of a model the first field that is wrong."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return ": ".join([*([".".join(map(str, first["loc"]))[:80]] if first["loc"] else []), first["msg"][:200]])
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
