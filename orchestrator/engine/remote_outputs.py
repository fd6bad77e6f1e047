"""Outputs in S3: the newest state that a machine of the run stored there is brought here, whole or not at all."""

from __future__ import annotations

import math
from contextlib import suppress

from orchestrator.engine.journal import Journal
from orchestrator.engine.output_mirror import by_digest, named
from orchestrator.engine.remote_place import RemoteStore
from orchestrator.errors import HostError
from orchestrator.formatting import megabytes
from orchestrator.host.tree_answers import stored_state
from orchestrator.market.download_budget import affordable_bytes
from orchestrator.runs.events import DataReceived
from orchestrator.runs.output_events import OutputsPulled, OutputsRefused
from orchestrator.runs.output_states import OutputStates
from orchestrator.runs.output_tree import TreeChanges, TreeState, TreeStatus
from orchestrator.runs.spec import Downloads
from orchestrator.runs.state import Attempt


class RemoteOutputs:
    """The outputs of one run that are in S3.

    Args:
        journal: where facts are written down.
        place: the run's copy in S3.
        downloads: what was asked for.
    """

    def __init__(self, journal: Journal, place: RemoteStore, downloads: Downloads) -> None:
        self.journal = journal
        self.place = place
        self.downloads = downloads
        self.states = OutputStates(journal.store.folder)
        self._read: dict[int, TreeChanges | None] = {}

    def stored_by(self, attempt: Attempt) -> TreeChanges | None:
        """Return the newest state that an attempt's machine stored, None if it stored none.

        Raises:
            HostError: what it stored makes no sense.
            CloudError: S3 cannot be read.
        """
        if attempt.number not in self._read:
            raw = self.place.output_state(attempt.instance_id)
            self._read[attempt.number] = stored_state(raw, where=attempt.instance_id) if raw else None
        return self._read[attempt.number]

    def newer(self) -> tuple[Attempt, TreeChanges] | None:
        """Return the newest state in S3 with the attempt that stored it, None if what is here is as new.

        A list that makes no sense is written down, and that of the machine before is looked at.
        """
        on = self.states.newest().on
        for attempt in reversed(self.journal.state().attempts):
            if attempt.number < max(on, default=0):
                return None
            try:
                found = self.stored_by(attempt)
            except HostError as error:
                self._refuse(str(error))
                continue
            if found is not None and found.is_own and found.state > on.get(attempt.number, 0):
                return attempt, found
        return None

    def bring_newest(self, *, most_bytes: float = math.inf) -> str:
        """Download the newest state, if it is newer than what is here and not too large.

        Returns:
            Why it is not here, "" if it is, or if there is none.

        Raises:
            CloudError: S3 does not answer.
            OSError: this disk takes no more.
        """
        found = self.newer()
        return self._bring(*found, most_bytes=most_bytes) if found is not None else ""

    def _bring(self, attempt: Attempt, changes: TreeChanges, *, most_bytes: float) -> str:
        before, wanted = self.states.newest(), by_digest(changes.files)
        missing = [file for digest, file in wanted.items() if digest not in self.states.here(wanted)]
        size_bytes = sum(file.size_bytes for file in missing)
        if size_bytes > most_bytes:
            return f"its {megabytes(size_bytes)} are in S3"
        here = self.place.fetch_outputs(attempt.instance_id, missing, self.states.incoming)
        damaged = [file for file in missing if file.sha256 not in here]
        got_bytes = sum(file.size_bytes for file in missing if file.sha256 in here)
        if got_bytes:
            self._emit_received(attempt, got_bytes)
        if damaged:
            return self._refuse(f"{named(damaged)} of {attempt.instance_id} are damaged in S3")
        state = self.states.commit(TreeState(), changes, attempt.number)
        self.journal.emit(
            OutputsPulled(
                at=self.journal.clock.now(),
                attempt=attempt.number,
                number=state.number,
                files=sum(before.files.get(name) != file for name, file in state.files.items()),
                size_bytes=got_bytes,
                deleted=sum(name not in state.files for name in before.files),
                all_files=len(state.files),
                all_bytes=state.size_bytes,
            )
        )
        return ""

    def _emit_received(self, attempt: Attempt, size_bytes: int) -> None:
        """Write down what came: data out of S3 is billed like that of a machine."""
        self.journal.emit(DataReceived(at=self.journal.clock.now(), attempt=attempt.number, size_bytes=size_bytes))

    def _refuse(self, reason: str) -> str:
        number = self.states.newest().number + 1
        self.journal.emit(OutputsRefused(at=self.journal.clock.now(), number=number, reason=reason))
        return reason

    # -- after an attempt

    def bring_meanwhile(self, attempt: Attempt, *, goes_on: bool = True) -> None:
        """Download what is newer after the end of a machine.

        If the run goes on only where a tenth of the machine's price pays for that: the next one restores it from S3
        itself. What cannot be written or used stays there.

        Raises:
            CloudError: S3 cannot be read.
        """
        if self.downloads.mode == "none":
            return
        is_free = not goes_on or self.downloads.mode == "all" or self.downloads.every_s is not None
        most_bytes = math.inf if is_free else affordable_bytes(attempt, self.journal.clock.now())
        with suppress(OSError, HostError):
            self.bring_newest(most_bytes=most_bytes)

    def bring_last(self, attempt: Attempt, told: TreeStatus | None) -> str:
        """Download the last outputs of an ended program; with `--download none` they only have to be in S3.

        Args:
            attempt: whose program has ended.
            told: what its agent said of the outputs then; None if it did not, as one of an earlier version.

        Returns:
            Why they are lost, "" if they are not.

        Raises:
            CloudError: S3 cannot be read.
        """
        problem, stored = "", None
        try:
            stored = self.stored_by(attempt)
            if self.downloads.mode != "none":
                problem = self.bring_newest()
        except HostError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{error.strerror or error} (on this machine); they are in S3"
        if told is None or (told.is_final and told.state == 0):
            return ""  # it wrote none
        if self.downloads.mode == "none":
            is_safe = stored is not None and stored.is_final and stored.state >= told.state
        else:
            here = self.states.newest().on.get(attempt.number, -1)
            is_final = told.is_final or (stored is not None and stored.is_final and stored.state == here)
            is_safe = is_final and here >= told.state
            if stored is not None and not stored.is_own:  # it has made none: what it began with is in S3, or here
                is_safe = stored.is_final and not problem
        return "" if is_safe else problem or "S3 did not get them before the machine ended"
