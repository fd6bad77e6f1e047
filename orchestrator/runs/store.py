"""Where a run lives on this machine: `PIXEL_ORCH_HOME/runs/<name>/`, append-only events, atomic writes.

spec.json        what was asked for           key, key.pub          the run's SSH key
events.jsonl     what happened                known_hosts           the host keys that we made
lock             who owns the run             checkpoints/          what was downloaded
attempts/<n>/    metrics.jsonl, trainer.log of one instance
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import PixelOrchError, SpecError
from orchestrator.formatting import nearest
from orchestrator.runs.events import CheckpointPulled, Event, State, from_json
from orchestrator.runs.files import read_jsonl, sha256_of, write_atomically
from orchestrator.runs.spec import RunSpec, check_name
from orchestrator.runs.state import RunState, fold

SHARED = " shared"


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


class RunBusyError(PixelOrchError):
    """Another process owns the run."""


class RunStore:
    """One run's folder. Reading needs no lock; a process that acts on the run holds `owned()`."""

    def __init__(self, home: Path, run: str) -> None:
        self.home = home
        self.run = run
        self.folder = home / "runs" / run

    # -- create and find

    @classmethod
    def create(cls, home: Path, spec: RunSpec) -> RunStore:
        """Make the folder of a new run.

        Raises:
            SpecError: a run of that name exists.
        """
        store = cls(home, spec.run)
        try:
            store.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            store.folder.mkdir(mode=0o700)
        except FileExistsError:
            raise SpecError(f"--name: there is a run called {spec.run} already; choose another name") from None
        except OSError as error:
            raise SpecError(f"PIXEL_ORCH_HOME: cannot write to {home} ({error.strerror})") from None
        store.checkpoints.mkdir()
        write_atomically(store.folder / "spec.json", spec.model_dump_json(indent=1).encode(), mode=0o600)
        return store

    @classmethod
    def open(cls, home: Path, run: str) -> RunStore:
        """Return the store of an existing run.

        Raises:
            SpecError: the name is outside the grammar, or there is no such run.
        """
        check_name(run, flag="RUN")
        store = cls(home, run)
        if not (store.folder / "spec.json").is_file():
            raise no_such_run(home, run, f"is called {run}")
        return store

    @classmethod
    def all(cls, home: Path) -> list[RunStore]:
        """Return every run's store, the oldest first."""
        folders = [path.parent for path in (home / "runs").glob("*/spec.json")]
        return [cls(home, folder.name) for folder in sorted(folders, key=lambda f: (f / "spec.json").stat().st_mtime)]

    def delete_unborn(self) -> None:
        """Remove a run for which nothing was rented."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- paths

    @property
    def checkpoints(self) -> Path:
        """The folder of the downloaded checkpoints."""
        return self.folder / "checkpoints"

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
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def host_key_path(self, number: int) -> Path:
        """Return where the public host key of an attempt's instance is kept."""
        return self._attempt(number) / "host_key.pub"

    def spec(self) -> RunSpec:
        """Read back what was asked for.

        Raises:
            SpecError: `spec.json` is damaged.
        """
        try:
            return RunSpec.model_validate_json((self.folder / "spec.json").read_bytes())
        except (OSError, ValueError) as error:
            raise SpecError(f"{self.folder / 'spec.json'}: cannot be read ({str(error).splitlines()[0]})") from None

    def write_spec(self, spec: RunSpec) -> None:
        """Write the spec of a run that is resumed; the one before is kept beside it."""
        shutil.copy2(
            self.folder / "spec.json", self.folder / f"spec-{len(list(self.folder.glob('spec-*.json'))) + 1}.json"
        )
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
        """Read all events. A line that a crash tore is skipped."""
        events: list[Event] = []
        for raw in read_jsonl(self.folder / "events.jsonl"):
            with suppress(TypeError):
                event = from_json(raw)
                if event is not None:
                    events.append(event)
        return events

    def state(self) -> RunState:
        """Return the fold of all events; if the first is damaged, name and creation time come from the files."""
        state = fold(self.events())
        if not state.run:
            log = self.folder / "events.jsonl"
            state.run = self.run
            with suppress(FileNotFoundError):  # about to be created, or removed
                state.created_at = (log if log.exists() else self.folder / "spec.json").stat().st_mtime
        return state

    def is_damaged(self) -> bool:
        """Whether the events cannot be read: no creation, no request, no instance."""
        log = self.folder / "events.jsonl"
        if not log.is_file() or not log.stat().st_size:
            return False  # it is being created
        state = self.state()
        return not (state.cloud or state.requests or state.attempts)

    # -- checkpoints

    def checkpoint_path(self, pulled: CheckpointPulled) -> Path:
        """Return the path of a downloaded checkpoint."""
        return self.checkpoints / pulled.name

    def is_whole(self, pulled: CheckpointPulled) -> bool:
        """Return whether the local file still has the size and the digest that were downloaded."""
        path = self.checkpoint_path(pulled)
        return path.is_file() and path.stat().st_size == pulled.size_bytes and sha256_of(path) == pulled.sha256

    # -- ownership

    @contextmanager
    def owned(self, *, shared: bool = False) -> Iterator[None]:
        """Hold the run's lock. The kernel drops it when the process dies, however it dies.

        Args:
            shared: this process leads other runs too: it is stopped by a file in the folder, never by a signal.

        Raises:
            RunBusyError: another living process holds it.
        """
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunBusyError(f"{self.run} is led by process {self.owner_pid() or '?'}") from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}{SHARED if shared else ''}".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def owner_pid(self) -> int | None:
        """Return the process that leads the run now, or None."""
        text = self._owner().removesuffix(SHARED)
        return int(text) if text.isdigit() else None

    def has_shared_owner(self) -> bool:
        """Whether the process that leads the run leads other runs too."""
        return self._owner().endswith(SHARED)

    def _owner(self) -> str:
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDWR)
        except FileNotFoundError:
            return ""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(descriptor, 32, 0).decode(errors="replace")
        else:
            return ""
        finally:
            os.close(descriptor)
