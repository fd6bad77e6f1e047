"""One command on one SSH session: what is sent to it, what it answers, and when it is out of time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from orchestrator.errors import HostError, LocalFaultError
from orchestrator.host.base import CommandResult
from orchestrator.host.link import Link, LinkError, Session
from orchestrator.host.remote_command import Framed, RemoteCommand, is_typed

Write = Callable[[bytes], object]
MOST_ERROR_BYTES = 1 << 20  # of standard error; the end of it is kept
MOST_BYTES = 64 << 20  # of standard error, and of what start files print
LOOK_EVERY_S = 0.5
NUDGE_EVERY_S = 1.0  # between two lines for a start file that reads standard input
NUDGES = 3  # of them; a shell that reads its commands there and runs none after the first waits for the end
PING_AFTER_S = 15.0  # of silence of a long command
STRAGGLER_S = 0.3  # for standard error, and for the end of the session, after a command's last mark
ORPHAN_S = 2.0  # for the end of the output after the login shell has ended
TAIL_BYTES = 4 << 10  # of output in an error
MOST_WORDS = 300  # characters of what a login shell printed, in an error


class TooMuchError(HostError):
    """A command printed more than was asked for."""


class OutOfTimeError(Exception):
    """The command did not end in time."""


class NeverBegunError(Exception):
    """The login shell ended without running the command; the message is what it printed."""


class ReadsAllError(Exception):
    """The login shell reads its commands from standard input, and runs nothing before the end of it."""


class _SinkError(Exception):
    """Received data could not be written: the disk of this machine is full, and the host is well."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _EndedError(Exception):
    """The command has ended, and reads no more of what we send."""


def let_feed(feed: Callable[[Write], None], write: Write) -> None:
    """Let `feed` write to a command.

    Raises:
        LocalFaultError: it cannot read what it is to write; `write` itself raises no OSError.
    """
    try:
        feed(write)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise LocalFaultError(f"cannot send {where}{error.strerror or error} (on this machine)") from None


class Exchange:
    """One command, run once.

    Args:
        link: the connection.
        session: on it; the command's line was sent.
        remote: the command.
        timeout_s: for the whole command, or with `is_moving` for each pause between two pieces.
        is_moving: whether data go through it, however long that takes.
        sink: gets standard output instead of the result.
        most_bytes: of standard output.
        life_s: how long the server may take to give a sign of life while a long command is silent.
        look: is called about twice a second.
        count: gets the number of bytes that have come.
        told: gets a copy of what the command prints.
    """

    def __init__(
        self,
        link: Link,
        session: Session,
        remote: RemoteCommand,
        *,
        timeout_s: float,
        is_moving: bool,
        sink: Write | None,
        most_bytes: int,
        life_s: float,
        look: Callable[[], None],
        count: Callable[[int], None],
        told: Callable[[bytes], object] | None,
    ) -> None:
        self.remote = remote
        self._link = link
        self._session = session
        self._timeout_s = timeout_s
        self._is_moving = is_moving
        self._sink = sink
        self._left_bytes = self._most_bytes = most_bytes
        self._noise_bytes = 0
        self._life_s = life_s
        self._look = look
        self._count = count
        self._told = told or (lambda piece: None)
        self._pieces: list[bytes] = []
        self._errors = bytearray()
        self._tail = b""
        self.output = Framed(remote.mark, self._take)
        self.errors = Framed(remote.mark, self._take_error)
        self._heard_at = time.monotonic()
        self._deadline = self._heard_at + timeout_s
        self._ping: threading.Thread | None = None
        self._pinged_at = self._exited_at = 0.0

    # -- the whole

    def run(self, feed: Callable[[Write], None] | None, typed: bytes, *, reads_all: bool) -> CommandResult:
        """Talk to the command until its end.

        Args:
            feed: writes to the command's standard input.
            typed: what to send ahead, for a shell that reads it; b"" for none.
            reads_all: whether the shell may be one that runs nothing before the end of its standard input.

        Raises:
            LinkError: the connection is cut, or the server gives no sign of life.
            OutOfTimeError, NeverBegunError, ReadsAllError, TooMuchError: see there.
            LocalFaultError: what is to be sent cannot be read.
            OSError: what is received cannot be written.
        """
        try:
            with suppress(_EndedError):
                if feed is None:
                    self._send(typed)
                else:
                    self._await_begin(is_typed=bool(typed), reads_all=reads_all)
                    self._send(self.remote.go)
                    let_feed(feed, self._write)
            self._session.end_input()
            return self._collect()
        except _SinkError as error:
            raise error.error from None

    @property
    def tail(self) -> str:
        """The last lines that came, whether noise, output or errors."""
        said = bytes(self._errors[-TAIL_BYTES:]) or self._tail or self.errors.noise or self.output.noise
        return b"\n".join(line for line in said.splitlines() if not is_typed(line)).decode(errors="replace")

    # -- what is sent

    def _await_begin(self, *, is_typed: bool, reads_all: bool) -> None:
        """Wait until the command itself reads standard input: start files must not get what is meant for it.

        One that waits for a line there gets lines; a shell that reads its commands there gets the command.
        """
        most = 1 if reads_all else NUDGES
        nudges, nudged_at = 0, time.monotonic() - (NUDGE_EVERY_S if is_typed else 0.0)
        while not self.output.has_begun:
            now = time.monotonic()
            if nudges <= most and now - nudged_at >= NUDGE_EVERY_S:
                nudges, nudged_at = nudges + 1, now
                if nudges <= most:
                    self._send(self.remote.typed)
                elif reads_all:
                    self._session.end_input()
            is_over = self._is_over()
            if not self._step(LOOK_EVERY_S) and is_over:
                raise _EndedError
        if nudges > most and reads_all:
            raise ReadsAllError

    def _send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            _EndedError: the command reads no more.
        """
        left = memoryview(data)
        while left:
            self._step(0.0)
            if self.output.has_ended or self._session.has_exited:
                raise _EndedError
            try:
                taken = self._session.send(left, LOOK_EVERY_S)
            except EOFError:
                raise _EndedError from None
            if taken:
                self._touch()
            left = left[taken:]

    def _write(self, piece: bytes) -> None:
        self._touch()  # what the caller did before took our time, not that of the host
        self._send(piece)

    # -- what comes

    def _collect(self) -> CommandResult:
        """Read to the end."""
        while not self.output.has_ended:
            is_over = self._is_over()
            if not self._step(LOOK_EVERY_S) and is_over:
                break
        if self.output.has_ended:
            self._take_stragglers()
            status = -1 if self.output.exit_code is None else self.output.exit_code
            return CommandResult(self.remote.command, status, b"".join(self._pieces), bytes(self._errors))
        self.output.close()
        self.errors.close()
        if not self.output.has_begun:
            said = " ".join((self.output.noise + b"\n" + self.errors.noise).decode(errors="replace").split())
            words = f" and printed {said[-MOST_WORDS:]!r}" if said else ""
            raise NeverBegunError(f"ended with {self._session.exit_status}{words}")
        status = self._session.exit_status
        return CommandResult(self.remote.command, status, b"".join(self._pieces), bytes(self._errors))

    def _is_over(self) -> bool:
        """Return whether nothing more will come. A process that a start file left behind may keep the output open."""
        if self._session.has_exited:
            self._exited_at = self._exited_at or time.monotonic()
            return self._session.is_over or time.monotonic() - max(self._exited_at, self._heard_at) > ORPHAN_S
        return False

    def _take_stragglers(self) -> None:
        """Take the rest of standard error, and let the session end, which frees its place on the connection."""
        give_up_at = time.monotonic() + STRAGGLER_S
        while not (self.errors.has_ended and self._session.is_over) and time.monotonic() < give_up_at:
            if not self._read():
                self._session.wait(give_up_at - time.monotonic())
        self.errors.close()

    def _step(self, wait_s: float) -> bool:
        """Read what has come, or wait for it; return whether anything had come.

        Raises:
            OutOfTimeError: nothing has come in time.
        """
        got = self._read()
        now = time.monotonic()
        if got and self._is_moving and self.output.has_begun:
            self._touch()
        if now > self._deadline:
            raise OutOfTimeError
        if not got:
            self._check_life(now)
            if wait_s:
                self._session.wait(min(wait_s, LOOK_EVERY_S, self._deadline - now))
        self._look()
        return got

    def _read(self) -> bool:
        output, errors = self._session.take()
        if not output and not errors:
            return False
        self._heard_at = time.monotonic()
        self._count(len(output) + len(errors))
        if not self.output.has_begun:
            self._noise_bytes += len(output)
            if self._noise_bytes > MOST_BYTES:
                raise TooMuchError(f"{self._link.where}: the login shell prints without end before it runs a command")
        self.output.put(output)
        self.errors.put(errors)
        return True

    def _take(self, piece: bytes) -> None:
        self._told(piece)
        kept = piece[: self._left_bytes]
        self._tail = (self._tail + kept[-TAIL_BYTES:])[-TAIL_BYTES:] if self._sink is None else b""
        try:
            (self._pieces.append if self._sink is None else self._sink)(kept)
        except OSError as error:
            raise _SinkError(error) from None
        if len(piece) > self._left_bytes:
            raise TooMuchError(f"{self._link.where}: the answer is longer than the {self._most_bytes} bytes expected")
        self._left_bytes -= len(piece)

    def _take_error(self, piece: bytes) -> None:
        self._told(piece)
        self._noise_bytes += len(piece)
        self._errors = (self._errors + piece)[-MOST_ERROR_BYTES:]
        if self._noise_bytes > MOST_BYTES:
            raise TooMuchError(f"{self._link.where}: more than {MOST_BYTES} bytes on standard error")

    # -- time

    def _touch(self) -> None:
        self._deadline = time.monotonic() + self._timeout_s

    def _check_life(self, now: float) -> None:
        """Ask the server for a sign of life while a long command is silent: it may run for hours.

        Raises:
            LinkError: there is none.
        """
        if self._ping is None:
            if now - self._heard_at > PING_AFTER_S:
                self._ping, self._pinged_at = self._link.ping(), now
        elif not self._ping.is_alive():
            self._ping, self._heard_at = None, now
        elif now - self._pinged_at > self._life_s:
            raise LinkError(f"no answer within {self._life_s:.0f} s")
