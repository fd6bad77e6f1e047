"""A shell on a rented machine, with enforced time-outs and a host key that is known beforehand.

A command that runs out of time on a host that answers is another error than a host that does not answer, and it is
ended before anything else is run. What login shells and SSH servers do to a command is in `remote_command.py`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.errors import CommandTimeoutError, HostError, NoCommandsError, UnreachableError
from orchestrator.host.base import CommandResult
from orchestrator.host.exchange import (
    Exchange,
    NeverBegunError,
    OutOfTimeError,
    ReadsAllError,
    TooMuchError,
    Write,
    let_feed,
)
from orchestrator.host.host_keys import known_hosts_lines
from orchestrator.host.link import Link, LinkError, Session, SessionRefusedError, load_key
from orchestrator.host.remote_command import RemoteCommand, end_session, new_mark, short_name

__all__ = ["SshShell", "TooMuchError", "Write", "load_key", "make_key_pair"]

MOST_ANSWER_BYTES = 64 << 20  # of standard output that is kept in memory: a list of 100,000 files, twice over
LOOK_EVERY_S = 0.5
RELOAD_S = 15.0  # an SSH server that is reloaded listens again by then
MOST_LINKS = 8  # connections at a time, where the server opens few sessions on one
LAST_PING_S = 5.0  # the longest wait for a sign of life once a command is out of time
END_TIMEOUT_S = 10.0  # to end a command that ran out of time
SPOOL_BYTES = 2 << 20  # at a time, to a login shell that reads all of its standard input first


def make_key_pair(comment: str) -> tuple[str, str]:
    """Return a new Ed25519 key as (private, public) in OpenSSH's form."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return private, f"{public} {comment}"


class SshShell:
    """A host that is reached by SSH: one connection, or a few where its server opens few sessions on one.

    Args:
        address: host name or address.
        port: of its SSH server.
        user: the login user.
        key_path: our private key.
        host_key: the public key that the host must show, or several lines of which it must show one; with any other the
            connection ends before authentication.
        connect_timeout_s: for each of TCP, banner and authentication, and for a sign of life.
        proxy_command: a program that makes the connection; %h and %p stand for address and port.

    Raises:
        UnreachableError: from every method, if there is no answer in time.
        NoCommandsError: from every method, if the host runs no command of ours.
    """

    def __init__(
        self,
        *,
        address: str,
        port: int,
        user: str,
        key_path: Path,
        host_key: str,
        connect_timeout_s: float = 10.0,
        proxy_command: str | None = None,
    ) -> None:
        self.where = f"{user}@{address}:{port}"
        self.received_bytes = 0  # since this object was made: data out is billed
        self._look: Callable[[], None] | None = None
        self._look_thread = 0
        self._looked_at = -math.inf
        self._address, self._port = address, port
        self._timeout_s = connect_timeout_s
        self._host_lines = known_hosts_lines(address, port, host_key)
        self._new_link: Callable[[], Link] = partial(
            Link,
            self.where,
            address=address,
            port=port,
            user=user,
            key_path=key_path,
            connect_timeout_s=connect_timeout_s,
            proxy_command=proxy_command,
        )
        self._links = [self._new_link()]
        self._opening = threading.Lock()
        self._left_over: list[tuple[int, int]] = []  # sessions of commands that ran out of time: number, start
        self._is_greeted = False
        self._must_type = False  # the login shell runs what it reads, and not what it is told to run
        self._must_spool = False  # and it reads all of it before it runs anything

    # -- the connection

    def open(self) -> None:
        """Connect and authenticate, unless the connection is open."""
        with self._opening:
            self._links[0].open(self._host_lines)

    def trust(self, host_key: str) -> None:
        """Accept only this host key from now on, and reconnect.

        For a moment after its key changed an SSH server does not listen, or still shows the old key.

        Raises:
            UnreachableError: the host does not show this key.
        """
        self._host_lines = known_hosts_lines(self._address, self._port, host_key)
        give_up_at = time.monotonic() + RELOAD_S
        while True:
            self.close()
            try:
                return self.open()
            except UnreachableError:
                if time.monotonic() > give_up_at:
                    raise
            time.sleep(0.2)

    def close(self) -> None:
        """Close the connection, also to a host that no longer answers."""
        for link in list(self._links):
            link.close()
        del self._links[1:]

    def _session(self, remote: RemoteCommand, timeout_s: float) -> tuple[Link, Session]:
        """Begin a session, on another connection where the server opens no more of them on this one.

        Raises:
            NoCommandsError: it opens none on a new connection either.
        """
        self.open()
        for link in list(self._links):
            with suppress(SessionRefusedError):
                try:
                    return link, link.session(remote.line, timeout_s)
                except LinkError as error:
                    self._drop(link)
                    if not self._links or link is self._links[0]:
                        raise UnreachableError(f"{self.where}: {error}") from None
        if len(self._links) >= MOST_LINKS:
            raise UnreachableError(f"{self.where}: its SSH server opens no more sessions on {MOST_LINKS} connections")
        link = self._new_link()
        link.open(self._host_lines)
        try:
            session = link.session(remote.line, timeout_s)
        except LinkError as error:
            link.close()
            raise UnreachableError(f"{self.where}: {error}") from None
        except SessionRefusedError as error:
            link.close()
            raise NoCommandsError(
                f"{self.where}: its SSH server opens no session ({error}); see MaxSessions in its sshd_config"
            ) from None
        self._links.append(link)
        return link, session

    def _drop(self, link: Link) -> None:
        """Close a connection; the first one is opened again when it is needed."""
        link.close()
        if link in self._links[1:]:
            self._links.remove(link)

    # -- looking

    def look_with(self, look: Callable[[], None]) -> None:
        """Call `look` about once a second while a command of this thread runs; what it raises ends the command."""
        self._look, self._look_thread = look, threading.get_ident()

    def look_now(self) -> None:
        """Call the function of `look_with`, unless it was called a moment ago, or runs."""
        look, now = self._look, time.monotonic()
        if look is None or threading.get_ident() != self._look_thread or now - self._looked_at < LOOK_EVERY_S:
            return
        self._look = None  # it may run a command itself
        try:
            look()
        finally:
            self._look, self._looked_at = look, time.monotonic()

    # -- commands

    def run(
        self,
        command: str,
        *,
        timeout_s: float,
        feed: Callable[[Write], None] | None = None,
        sink: Write | None = None,
        most_bytes: int = MOST_ANSWER_BYTES,
        told: Callable[[bytes], object] | None = None,
    ) -> CommandResult:
        """Run a command in the login user's home folder and return its result.

        Args:
            command: for /bin/sh, already quoted.
            timeout_s: without `feed` and `sink`, for the whole command; with one of them, for each pause between two
                pieces.
            feed: is called with a function that writes to the command's standard input.
            sink: gets standard output piece by piece, instead of `CommandResult.stdout`.
            most_bytes: of standard output; a command that prints more is ended there.
            told: gets what the command prints as soon as it prints it, both streams mixed.

        Raises:
            CommandTimeoutError: it ran out of time, on a host that answers. It has been ended.
            TooMuchError: it printed more; the sink has got the first `most_bytes`.
            LocalFaultError: `feed` cannot read what it is to send.
            OSError: raised by a `sink`: received data could not be written.
        """
        self._end_left_over()
        if feed is not None:
            self.greet(timeout_s)
        try:
            if feed is None or not self._must_spool:
                remote = RemoteCommand(command, "nothing" if feed is None else "sent")
                return self._talk(remote, timeout_s, feed=feed, sink=sink, most_bytes=most_bytes, told=told)
            return self._run_spooled(command, timeout_s, feed, sink, most_bytes)
        except ReadsAllError:
            self._must_spool = True
            return self.run(command, timeout_s=timeout_s, feed=feed, sink=sink, most_bytes=most_bytes)
        except CommandTimeoutError:
            with suppress(HostError):
                self._end_left_over()
            raise

    def greet(self, timeout_s: float) -> None:
        """Find out how commands get through the host's login shell, unless that is known.

        Raises:
            NoCommandsError: none does.
        """
        if not self._is_greeted:
            self._talk(RemoteCommand(":"), timeout_s)
            self._is_greeted = True

    def _talk(
        self,
        remote: RemoteCommand,
        timeout_s: float,
        *,
        feed: Callable[[Write], None] | None = None,
        sink: Write | None = None,
        most_bytes: int = MOST_ANSWER_BYTES,
        typed: bytes = b"",
        told: Callable[[bytes], object] | None = None,
    ) -> CommandResult:
        """Run a command; where the login shell does not run what it is told to run, let it read the command.

        Raises:
            NoCommandsError: it does neither.
        """
        problem: object = ""
        for must_type in (False, True):
            if self._must_type and not must_type:
                continue
            link, session = self._session(remote, timeout_s)
            is_moving = feed is not None or sink is not None or bool(typed)
            exchange = Exchange(
                link, session, remote, timeout_s=timeout_s, is_moving=is_moving, sink=sink, most_bytes=most_bytes,
                life_s=self._timeout_s, look=self.look_now, count=self._count, told=told,
            )  # fmt: skip
            try:
                result = exchange.run(feed, (typed or remote.typed) if must_type else b"", reads_all=must_type)
            except LinkError as error:
                self._drop(link)
                raise UnreachableError(f"{self.where}: {error}") from None
            except OutOfTimeError:
                self._raise_out_of_time(link, session, exchange, timeout_s)
            except NeverBegunError as error:
                problem = error
            except ReadsAllError:
                raise  # it has not begun
            except Exception:  # what arrives cannot be written here, or is too much: the command is not to go on
                if exchange.output.session:
                    self._left_over.append((exchange.output.session, exchange.output.started))
                raise
            else:
                self._must_type = must_type
                return result
            finally:
                session.close()
        raise NoCommandsError(
            f"{self.where}: the login shell runs no command of ours: it {problem}; what it reads first (~/.bashrc, "
            "~/.zshenv, a ForceCommand) must neither end it nor start another program"
        )

    def _count(self, size_bytes: int) -> None:
        self.received_bytes += size_bytes

    def _raise_out_of_time(self, link: Link, session: Session, exchange: Exchange, timeout_s: float) -> NoReturn:
        """Tell a slow command from a host that does not answer."""
        session.close()
        if not link.answers(min(timeout_s, LAST_PING_S), self.look_now):
            self._drop(link)
            raise UnreachableError(f"{self.where}: no answer within {timeout_s:.0f} s")
        if exchange.output.session:
            self._left_over.append((exchange.output.session, exchange.output.started))
        name = short_name(exchange.remote.command) if exchange.output.has_begun else "the start of the login shell"
        raise CommandTimeoutError(self.where, name, timeout_s, exchange.tail)

    def _end_left_over(self) -> None:
        """End the commands that ran out of time, or were left in the middle: none is to run beside its next try."""
        if not self._left_over:
            return
        sessions, self._left_over = self._left_over, []
        for number, started in sessions:
            with suppress(CommandTimeoutError):
                self._talk(RemoteCommand(end_session(number, started)), END_TIMEOUT_S)
        self._left_over = []

    def _run_spooled(
        self,
        command: str,
        timeout_s: float,
        feed: Callable[[Write], None],
        sink: Write | None,
        most_bytes: int,
    ) -> CommandResult:
        """Run a command whose input the login shell must read whole, before it runs anything: `exec fish` in .bashrc.

        A short input goes with the command; a longer one is collected in a file in the home folder first.
        """
        held, spool, is_spooled = bytearray(), f".{new_mark()}", False

        def give(what: str, data: bytes, sink: Write | None = None, most: int = MOST_ANSWER_BYTES) -> CommandResult:
            remote = RemoteCommand(f"base64 -d|{{ {what}\n}}", "given")
            return self._talk(remote, timeout_s, sink=sink, most_bytes=most, typed=remote.typed_with(data))

        def write(piece: bytes) -> None:
            nonlocal is_spooled
            held.extend(piece)
            while len(held) > SPOOL_BYTES:
                is_spooled = True
                result = give(f"umask 077;cat >>{spool}", bytes(held[:SPOOL_BYTES]))
                if not result.ok:
                    raise HostError(f"{self.where}: {result.stderr.decode(errors='replace').strip()}")
                del held[:SPOOL_BYTES]

        try:
            let_feed(feed, write)
            if is_spooled:
                command = f"cat {spool} -|{{ {command}\n}}"
            return give(command, bytes(held), sink, most_bytes)
        finally:
            if is_spooled:
                with suppress(HostError):
                    self._talk(RemoteCommand(f"rm -f {spool}"), timeout_s)
