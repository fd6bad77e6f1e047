"""A shell on a rented machine, with enforced time-outs and a host key that is known beforehand.

The only file that imports Fabric and paramiko. Fabric opens and authenticates the connection. Commands run on channels
of its transport with a deadline of their own, because `Connection.run(timeout=...)` hangs without end on a frozen host
(SIGSTOP of sshd).
"""

from __future__ import annotations

import io
import logging
import math
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fabric import Config, Connection
from paramiko import (
    AuthenticationException,
    BadHostKeyException,
    ECDSAKey,
    Ed25519Key,
    PKey,
    RejectPolicy,
    RSAKey,
    SSHException,
)
from paramiko.hostkeys import HostKeyEntry

from orchestrator.errors import HostError, LocalFaultError, SpecError, UnreachableError, WrongHostKeyError
from orchestrator.host.base import CommandResult
from orchestrator.host.host_keys import known_hosts_lines
from orchestrator.host.user_key import openssh_form

Write = Callable[[bytes], object]
PIECE = 1 << 16
MOST_ANSWER_BYTES = 64 << 20  # of standard output that is kept in memory: a list of 100,000 files, twice over
MOST_ERROR_BYTES = 1 << 20  # of standard error; the end of it is kept
LOOK_EVERY_S = 0.5
RELOAD_S = 15.0  # an SSH server that is reloaded listens again by then

# Without a handler, paramiko's background thread prints its tracebacks to our standard error when a host goes away.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


def make_key_pair(comment: str) -> tuple[str, str]:
    """Return a new Ed25519 key as (private, public) in OpenSSH's form."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return private, f"{public} {comment}"


def load_key(path: Path) -> PKey:
    """Return a private key for a connection.

    Raises:
        SpecError: it cannot be read, or not be used for SSH.
    """
    text = openssh_form(path)
    for kind in (Ed25519Key, RSAKey, ECDSAKey):
        with suppress(SSHException):
            return kind.from_private_key(io.StringIO(text))
    raise SpecError(f"--key: {path} cannot be used for SSH; give an RSA or Ed25519 key")


class SshShell:
    """One SSH connection.

    Args:
        address: host name or address.
        port: of its SSH server.
        user: the login user.
        key_path: our private key.
        host_key: the public key that the host must show, or several lines of which it must show one; with any other the
            connection ends before authentication.
        connect_timeout_s: for each of TCP, banner and authentication.
        proxy_command: a program that makes the connection; %h and %p stand for address and port.

    Raises:
        UnreachableError: from every method, if there is no answer in time.
        OSError: raised by a `sink`: received data could not be written.
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
        self._key_path = key_path
        self._host_lines = known_hosts_lines(address, port, host_key)
        self._connection = Connection(
            host=address,
            user=user,
            port=port,
            config=Config(overrides={"load_ssh_configs": False}),  # ~/.ssh/config must not redirect us
            gateway=proxy_command,
            connect_kwargs={
                "allow_agent": False,
                "look_for_keys": False,
                "timeout": connect_timeout_s,
                "banner_timeout": connect_timeout_s,
                "auth_timeout": connect_timeout_s,
                "channel_timeout": connect_timeout_s,
            },
        )

    def open(self) -> None:
        """Connect and authenticate, unless the connection is open."""
        if self._connection.is_connected:
            return
        self._load_key()
        for line in self._host_lines:
            is_last = line == self._host_lines[-1]
            try:
                self._open_with(line)
                break
            except BadHostKeyException:
                if is_last:
                    raise WrongHostKeyError(
                        f"{self.where}: shows another host key than the one that was given to it; not connecting"
                    ) from None
            except AuthenticationException:
                raise UnreachableError(f"{self.where}: does not accept the run's key (yet)") from None
            except Exception as error:  # noqa: BLE001  (paramiko raises here what its thread met in the server's packets)
                raise UnreachableError(f"{self.where}: {_words(error)}") from None
        self._transport.set_keepalive(15)

    def _load_key(self) -> None:
        if "pkey" not in self._connection.connect_kwargs:
            try:
                self._connection.connect_kwargs["pkey"] = load_key(self._key_path)
            except SpecError as error:  # it was read before; its disk may be away for a moment
                raise UnreachableError(f"{self.where}: {error}") from None

    def _open_with(self, host_line: str) -> None:
        client = self._connection.client
        client.set_missing_host_key_policy(RejectPolicy())  # Fabric accepts any key by default
        entry = HostKeyEntry.from_line(host_line)
        if entry is None or entry.key is None or not entry.hostnames:
            raise UnreachableError(f"{self.where}: the host key on record cannot be read")
        client.get_host_keys().clear()
        client.get_host_keys().add(entry.hostnames[0], entry.key.get_name(), entry.key)
        self._connection.open()

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

    @property
    def _transport(self) -> Any:
        return self._connection.transport

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

    def run(
        self,
        command: str,
        *,
        timeout_s: float,
        feed: Callable[[Write], None] | None = None,
        sink: Write | None = None,
        most_bytes: int = MOST_ANSWER_BYTES,
        hear: Write | None = None,
    ) -> CommandResult:
        """Run a shell command (already quoted) and return its result.

        Args:
            command: for the login user's shell.
            timeout_s: without `feed` and `sink`, for the whole command; with one of them, for each pause between two
                pieces.
            feed: is called with a function that writes to the command's standard input.
            sink: gets standard output piece by piece, instead of `CommandResult.stdout`.
            most_bytes: of standard output; a command that prints more is ended there.
            hear: gets standard error too, as it comes.

        Raises:
            TooMuchError: it printed more; the sink has got the first `most_bytes`.
        """
        self.open()
        try:
            channel = self._begun(lambda: self._transport.open_session(timeout=timeout_s))
            try:
                channel.settimeout(timeout_s)
                self._begun(lambda: channel.exec_command(command))
                if feed is not None:
                    self._feed(feed, channel.sendall)
                channel.shutdown_write()
                moving = feed is not None or sink is not None
                return self._collect(channel, command, timeout_s, sink, moving=moving, most_bytes=most_bytes, hear=hear)
            finally:
                channel.close()
        except _SinkError as error:
            self.close()  # drops the data that is still on its way
            raise error.error from None
        except (SSHException, OSError, EOFError) as error:
            self.close()
            raise UnreachableError(f"{self.where}: {str(error) or 'no answer in time'}") from None

    def _begun(self, begin: Callable[[], Any]) -> Any:
        """Call paramiko; whatever its thread met in the server's packets it raises here, of any type."""
        try:
            return begin()
        except (SSHException, OSError, EOFError):
            raise
        except Exception as error:  # noqa: BLE001
            raise SSHException(_words(error)) from None

    def _feed(self, feed: Callable[[Write], None], send: Write) -> None:
        """Let `feed` write to the command. An error of its own, such as a file that cannot be read, is a local one."""

        def write(piece: bytes) -> None:
            try:
                send(piece)
            except (SSHException, OSError, EOFError) as error:
                raise _ChannelError(error) from None
            self.look_now()

        try:
            feed(write)
        except _ChannelError as error:
            raise error.error from None
        except OSError as error:
            self.close()
            where = f"{error.filename}: " if error.filename else ""
            raise LocalFaultError(f"cannot send {where}{error.strerror or error} (on this machine)") from None

    def _collect(
        self,
        channel: Any,
        command: str,
        timeout_s: float,
        sink: Write | None,
        *,
        moving: bool,
        most_bytes: int,
        hear: Write | None,
    ) -> CommandResult:
        output: list[bytes] = []
        errors = bytearray()
        left_bytes, error_bytes = most_bytes, 0
        take = output.append if sink is None else _kept_apart(sink)
        deadline = time.monotonic() + timeout_s
        while True:
            finished = channel.exit_status_ready() or channel.closed
            got = False
            if channel.recv_ready():
                piece = channel.recv(PIECE)
                self.received_bytes += len(piece)
                take(piece[:left_bytes])
                if len(piece) > left_bytes:
                    raise TooMuchError(f"{self.where}: the answer is longer than the {most_bytes} bytes expected")
                left_bytes -= len(piece)
                got = True
            if channel.recv_stderr_ready():
                piece = channel.recv_stderr(PIECE)
                self.received_bytes += len(piece)
                error_bytes += len(piece)
                errors = (errors + piece)[-MOST_ERROR_BYTES:]
                if hear is not None:
                    hear(piece)
                if error_bytes > MOST_ANSWER_BYTES:
                    raise TooMuchError(f"{self.where}: more than {MOST_ANSWER_BYTES} bytes on standard error")
                got = True
            if finished and (channel.eof_received or channel.closed) and not got:
                break
            if got and moving:
                deadline = time.monotonic() + timeout_s
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"no answer within {timeout_s:.0f} s")
            self.look_now()
            if not got:
                select.select([channel], [], [], min(left_s, 0.05 if finished else left_s, LOOK_EVERY_S))
        status = int(channel.recv_exit_status())
        if status == -1 and _has_ended(channel.get_transport()):
            raise EOFError("the connection was cut")
        return CommandResult(command, status, b"".join(output), bytes(errors))

    def close(self) -> None:
        """Close the connection, also to a host that no longer answers."""
        with suppress(SSHException, OSError, EOFError):
            self._connection.close()


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, (SSHException, OSError)) and text else f"{type(error).__name__} {text}".strip()


class TooMuchError(HostError):
    """A command printed more than was asked for."""


class _ChannelError(Exception):
    """The connection failed while something was written to it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _SinkError(Exception):
    """Received data could not be written: the disk of this machine is full, and the host is well."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _kept_apart(sink: Write) -> Write:
    """Tell an error of the local disk from an error of the connection."""

    def take(piece: bytes) -> None:
        try:
            sink(piece)
        except OSError as error:
            raise _SinkError(error) from None

    return take


def _has_ended(transport: Any, wait_s: float = 1.0) -> bool:
    """Return whether a connection is gone; paramiko closes its channels a moment before it reports that."""
    give_up_at = time.monotonic() + wait_s
    while transport.is_active() and time.monotonic() < give_up_at:
        time.sleep(0.02)
    return not transport.is_active()
