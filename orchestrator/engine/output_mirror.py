"""Downloads the states of a program's outputs, as often as the price of data out allows; each whole, or not at all."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from infra.instance.outputs.files import may_grow
from orchestrator.engine.journal import Journal
from orchestrator.errors import HostError
from orchestrator.host.base import Host, HostStatus, Job
from orchestrator.market.download_budget import affordable_bytes
from orchestrator.runs import bounded_json
from orchestrator.runs.checked import is_step
from orchestrator.runs.files import read_bounded
from orchestrator.runs.output_events import OutputsLeft, OutputsPulled, OutputsRestored, OutputsUnmatched
from orchestrator.runs.output_states import OutputStates
from orchestrator.runs.output_tree import TreeChanges, TreeFile, TreeState, TreeStatus
from orchestrator.runs.spec import Downloads
from orchestrator.runs.state import Attempt

SMALL_BYTES = 16 << 20  # under notice what is newest and not larger comes first
MOST_BEST_BYTES = 1 << 20  # of best.json
UNKNOWN = -1  # the base that a machine refers to is not here
MOST_NAMES = 5
BEST = "best.json"


class OutputMirror:
    """Keeps the outputs of one attempt's program here.

    Args:
        journal: where facts are written down.
        job: what runs on the host.
        number: of the attempt.
        downloads: what was asked for.
        folder: under which they are kept; None: the run's.
    """

    def __init__(
        self, journal: Journal, job: Job, number: int, downloads: Downloads, folder: Path | None = None
    ) -> None:
        self.journal = journal
        self.job = job
        self.number = number
        self.downloads = downloads
        self.states = OutputStates(folder or journal.store.folder)
        restored = [e for e in journal.events if isinstance(e, OutputsRestored) and e.attempt == number]
        pulled = any(isinstance(e, OutputsPulled) and e.attempt == number for e in journal.events)
        self._began_with = restored[-1].machine_number if restored else 0  # in S3, as the machine counts
        is_only_that = bool(self._began_with) and self.states.newest().on.get(number) == self._began_with
        self.has_worked = not restored or (pulled and not is_only_that)
        self.has_more = False
        self.counted_bytes = 0  # of what has come, those that an event tells
        self._is_told = False  # what cannot be taken
        self._taken_at = -math.inf
        self._incomplete: TreeChanges | None = None
        self._declined: int | None = None  # a state that brings nothing new

    def allowed_bytes(self) -> float:
        """Return how many bytes may be downloaded now, while the program runs."""
        if self.downloads.mode == "none":
            return 0.0
        if self.downloads.mode == "all":
            return math.inf
        if self.downloads.every_s is not None:
            return math.inf if self.journal.clock.now() - self._taken_at >= self.downloads.every_s else 0.0
        attempt = self.journal.state().attempt(self.number)
        return 0.0 if attempt is None else affordable_bytes(attempt, self.journal.clock.now())

    def note_taken(self) -> None:
        """Note that something was downloaded: `--download-every` counts from now on."""
        self._taken_at = self.journal.clock.now()

    def best_checkpoint(self) -> str:
        """Return the name of the checkpoint that the bundled trainer calls its best, "" where there is none."""
        if not self.job.is_bundled:
            return ""
        with suppress(OSError, ValueError):
            found = bounded_json.loads(read_bounded(self.states.outputs / BEST, MOST_BEST_BYTES))
            step = found.get("step") if isinstance(found, dict) else None
            return f"checkpoint-{step}.pt" if is_step(step) else ""
        return ""

    # -- taking a state

    def take(self, host: Host, status: HostStatus) -> None:
        """Download the newest state, if there is one to download.

        Raises:
            HostError: the machine does not answer, or what it says makes no sense.
            OSError: this disk takes no more.
        """
        self.has_more = False
        tree, is_over = status.tree, status.trainer == "exited"
        if tree is None or self.downloads.mode == "none":
            return
        newest = self.states.newest()
        if tree.state == tree.home or self._acknowledge_again(host, newest, tree):
            return
        is_hurried = is_over or status.notice_ends_at is not None
        if not is_hurried and tree.new_bytes > self.allowed_bytes():
            return
        base = self._base(tree.home)
        changes = host.tree_changes(self.job.root, tree.state, UNKNOWN if base is None else tree.home)
        if changes.state != tree.state:
            self.has_more = True  # there is a newer one by now
            return
        if base is None or changes.base != tree.home:
            base = TreeState()
        if not self._is_worth_it(changes, is_over=is_over, exit_code=status.exit_code):
            self._declined = changes.state
            return
        self._download(host, base, changes, is_hurried=is_hurried)

    def _base(self, number: int) -> TreeState | None:
        """Return the state that a machine refers to, None if it is not here."""
        if number == 0 and not self.states.newest().files:
            return TreeState()
        for state in (self.states.newest(), self.states.older()):
            if state.number and state.on.get(self.number) == number:
                return state
        return None

    def _acknowledge_again(self, host: Host, newest: TreeState, tree: TreeStatus) -> bool:
        """Say that a state is here, and write it down, if a process before this one died before it did."""
        if not newest.number or newest.on.get(self.number) != tree.state:
            return False
        known = self.journal.state().outputs_of(self.number)
        if known is None or known.number < newest.number:
            self._emit(newest, TreeChanges(tree.state, 0, tree.is_final, tuple(newest.files.values()), ()))
        host.acknowledge_tree(self.job.root, tree.state)
        return True

    def _is_worth_it(self, changes: TreeChanges, *, is_over: bool, exit_code: int | None) -> bool:
        """Return whether a state may replace the older one here.

        Until a program has written more than lines to the files that it began with, both are kept: should it fail, the
        older one is tried.
        """
        if self.has_worked:
            return True
        is_work = bool(changes.deleted) or any(not may_grow(file.path) for file in changes.files)
        return is_work or (is_over and exit_code == 0)

    def _download(self, host: Host, base: TreeState, changes: TreeChanges, *, is_hurried: bool) -> None:
        self._incomplete, before_bytes = changes, host.received_bytes
        wanted = by_digest(changes.files)
        here = set(self.states.here(wanted))
        had = dict(self._bases(base, changes))
        for files in _in_turns([f for d, f in wanted.items() if d not in here], is_hurried=is_hurried):
            here |= host.fetch_tree(self.job.root, files, self.states.incoming, had)
        if not here >= set(wanted):
            self.has_more = True  # it was replaced there meanwhile: the next poll tells of a newer state
            return
        try:
            state = self.states.commit(base, changes, self.number)
        except ValueError as error:
            where = host_name(self.journal, self.number)
            raise HostError(f"{where}: its list of outputs makes no sense: {error}") from None
        self._incomplete = None
        self.has_worked = self.has_worked or changes.state != self._began_with
        self.note_taken()
        received_bytes = host.received_bytes - before_bytes
        self._emit(state, changes, received_bytes)
        self.counted_bytes += received_bytes
        host.acknowledge_tree(self.job.root, changes.state)
        best = self.states.outputs / BEST
        if self.job.is_bundled and best.is_file():  # it names the best checkpoint, so it lies beside them
            shutil.copyfile(best, self.journal.store.checkpoints / BEST)

    def _bases(self, base: TreeState, changes: TreeChanges) -> Iterator[tuple[str, Path]]:
        for file in changes.files:
            known = base.files.get(file.name)
            if file.after_bytes and known is not None:
                yield file.name, self.states.path_of(base, known)

    def _emit(self, state: TreeState, changes: TreeChanges, received_bytes: int = 0) -> None:
        self.journal.emit(
            OutputsPulled(
                at=self.journal.clock.now(),
                attempt=self.number,
                number=state.number,
                files=len(changes.files),
                size_bytes=sum(file.size_bytes - file.after_bytes for file in changes.files),
                deleted=len(changes.deleted),
                all_files=len(state.files),
                all_bytes=state.size_bytes,
                received_bytes=received_bytes,
            )
        )

    # -- the end

    def is_all_here(self, status: HostStatus) -> bool:
        """Return whether nothing that an ended program left is still to be downloaded."""
        tree = status.tree
        if tree is None:
            return True
        if self.downloads.mode == "none":
            return status.s3_done or self.job.bucket is None
        if not tree.is_final:
            return False
        is_here = tree.state == tree.home or self.states.newest().on.get(self.number) == tree.state
        return is_here or self._declined == tree.state

    def awaited(self, status: HostStatus) -> str:
        """Return what keeps the last outputs, for people, while nothing else is known to."""
        if self.downloads.mode == "none":
            return status.s3_trouble or "they are on their way to S3"
        return "the machine still reads them"

    def close(self, status: HostStatus | None, reason: str, *, is_loss: bool) -> None:
        """Write down what is left on a machine that is given up, and keep what has arrived of it.

        Args:
            status: the last answer.
            reason: why it is left, for people.
            is_loss: the program had ended, and was promised that its outputs come.
        """
        tree = status.tree if status is not None else None
        if status is None or tree is None or (tree.state == tree.home and not tree.pending_files):
            return
        if self.downloads.mode == "none" and (self.job.bucket is None or not is_loss):
            return
        is_here = self._declined == tree.state or self.states.newest().on.get(self.number) == tree.state
        is_here |= status.stored_state == tree.state and not is_loss  # S3 has it for the next machine
        if is_here and not tree.pending_files:
            return
        files, names = tree.new_files + tree.pending_files, ""
        if self._incomplete is not None:
            names = named(self._incomplete.files)
            with suppress(OSError, ValueError):
                count, folder = self.states.keep_incomplete(self._incomplete)
                if count:
                    names += f"; {count} of them are in {folder}"
        if files:
            self.journal.emit(
                OutputsLeft(
                    at=self.journal.clock.now(),
                    attempt=self.number,
                    files=files,
                    size_bytes=tree.new_bytes + tree.pending_bytes,
                    names=names,
                    reason=reason,
                    is_loss=is_loss,
                )
            )

    def tell_left(self, status: HostStatus) -> None:
        """Write down, once, what of an ended program's files cannot be outputs, and which patterns named none."""
        tree = status.tree
        if tree is None or self._is_told:
            return
        self._is_told = True
        now = self.journal.clock.now()
        if tree.unmatched:
            patterns, is_all = ", ".join(tree.unmatched), len(tree.unmatched) == len(self.downloads.only)
            self.journal.emit(OutputsUnmatched(at=now, attempt=self.number, patterns=patterns, is_all=is_all))
        if not (tree.left_files or tree.is_cut):
            return
        names = ", ".join(f"{path} ({why})" for path, why in tree.left[:MOST_NAMES])
        more = tree.left_files - min(MOST_NAMES, len(tree.left))
        names += f", and {more} more" if more > 0 else ""
        reason = "there are too many files: narrow them with --outputs" if tree.is_cut else ""
        files = max(1, tree.left_files)
        self.journal.emit(
            OutputsLeft(at=now, attempt=self.number, files=files, size_bytes=0, names=names, reason=reason)
        )


def host_name(journal: Journal, number: int) -> str:
    """Return the id of an attempt's instance."""
    attempt: Attempt | None = journal.state().attempt(number)
    return attempt.instance_id if attempt is not None else f"attempt {number}"


def by_digest(files: Sequence[TreeFile]) -> dict[str, TreeFile]:
    """Return one file for each content."""
    return {file.sha256: file for file in files if file.kind == "file"}


def _in_turns(files: Sequence[TreeFile], *, is_hurried: bool) -> list[list[TreeFile]]:
    """Return files in the order in which they are downloaded; in a hurry the newest small ones, then by size. Pure."""
    newest = sorted(files, key=lambda file: -file.mtime_ns)
    if not is_hurried:
        return [newest] if newest else []
    small = [file for file in newest if file.size_bytes <= SMALL_BYTES]
    large = sorted((file for file in newest if file.size_bytes > SMALL_BYTES), key=lambda file: file.size_bytes)
    return [turn for turn in (small, large) if turn]


def named(files: Sequence[TreeFile]) -> str:
    """Return the names of some files with their sizes, the largest first. Pure."""
    largest = sorted(files, key=lambda file: -file.size_bytes)[:MOST_NAMES]
    told = ", ".join(f"{file.path} ({file.size_bytes / 1e6:.1f} MB)" for file in largest)
    return told + (f", and {len(files) - MOST_NAMES} more" if len(files) > MOST_NAMES else "")
