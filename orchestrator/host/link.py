"""SSH connections, and sessions on them: the only file that imports Fabric and paramiko.

Fabric opens and authenticates a connection. Commands run on channels of its transport with a deadline of their own,
because `Connection.run(timeout=...)` hangs without end on a frozen host (SIGSTOP of sshd).
"""

from __future__ import annotations

import io
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fabric import Config, Connection
from paramiko import (
    AuthenticationException,
    BadHostKeyException,
    ChannelException,
    ECDSAKey,
    Ed25519Key,
    PKey,
    RejectPolicy,
    RSAKey,
    SSHConfig,
    SSHException,
)
from paramiko.config import SSHConfigDict
from paramiko.hostkeys import HostKeyEntry

from orchestrator.errors import SpecError, UnreachableError, WrongHostKeyError
from orchestrator.host.user_key import openssh_form

PIECE = 1 << 16
PING = "keepalive@openssh.com"  # OpenSSH's own name; every server answers a question that it does not know
NOT_SSH = "Error reading SSH protocol banner"  # paramiko's words where the server closes the connection at once
BUSY_TRIES, BUSY_PAUSE_S = 4, 0.5  # sshd drops connections while others are being authenticated (MaxStartups)
GUARD_EVERY_S = 0.5

# Without a handler, paramiko's background thread prints its tracebacks to our standard error when a host goes away.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


class LinkError(Exception):
    """The connection is cut."""


class SessionRefusedError(Exception):
    """The server answers, and opens no session (any more) on this connection: MaxSessions of sshd_config."""


class _NoSettings(SSHConfig):
    """An ssh_config without a setting. Fabric's own look-up needs the name of our user, which a container may lack."""

    def lookup(self, hostname: str) -> SSHConfigDict:
        return SSHConfigDict({"hostname": hostname})


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


class Link:
    """One SSH connection.

    Args:
        where: what to call the host in errors.
        address: host name or address.
        port: of its SSH server.
        user: the login user.
        key_path: our private key.
        connect_timeout_s: for each of TCP, banner and authentication.
        proxy_command: a program that makes the connection.
    """

    def __init__(
        self,
        where: str,
        *,
        address: str,
        port: int,
        user: str,
        key_path: Path,
        connect_timeout_s: float,
        proxy_command: str | None,
    ) -> None:
        self.where = where
        self._key_path = key_path
        self._asking = threading.Lock()
        self._beginning = threading.Lock()  # paramiko tells a refusal to any thread that waits for a session
        self._due: dict[int, float] = {}  # by thread: when a call of paramiko that has no time-out must be over
        self._connection = Connection(
            host=address,
            user=user,
            port=port,
            config=Config(ssh_config=_NoSettings()),  # ~/.ssh/config must not redirect us
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

    @property
    def is_open(self) -> bool:
        """Whether it is connected and authenticated, as far as we know."""
        return bool(self._connection.is_connected)

    @property
    def _transport(self) -> Any:
        return self._connection.transport

    def open(self, host_lines: list[str]) -> None:
        """Connect and authenticate, unless that is done.

        Args:
            host_lines: lines of known_hosts, of which the host must show one key.

        Raises:
            WrongHostKeyError: it shows another.
            UnreachableError: it does not answer, or refuses our key.
        """
        if self.is_open:
            return
        self._load_key()
        for line in host_lines:
            try:
                self._open_patiently(line)
                break
            except BadHostKeyException:
                if line == host_lines[-1]:
                    raise WrongHostKeyError(
                        f"{self.where}: shows another host key than the one that was given to it; not connecting"
                    ) from None
            except AuthenticationException:
                raise UnreachableError(f"{self.where}: does not accept the run's key (yet)") from None
            except Exception as error:  # noqa: BLE001  (paramiko raises here what its thread met in the server's packets)
                raise UnreachableError(f"{self.where}: {_words(error)}") from None
        self._transport.set_keepalive(15)
        with suppress(AttributeError, OSError):  # a ProxyCommand is no socket; without it, 40 ms a command
            self._transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._guard, args=(self._transport,), name="link", daemon=True).start()

    def _guard(self, transport: Any) -> None:
        """Close the connection when a call is overdue, which ends that call.

        paramiko waits without end for the answer to a command's start, and for room in the buffers of TCP.
        """
        while transport.is_active():
            time.sleep(GUARD_EVERY_S)
            if any(time.monotonic() > due for due in list(self._due.values())):
                self.close()

    @contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """Close the connection if the block takes longer."""
        thread = threading.get_ident()
        self._due[thread] = time.monotonic() + seconds
        try:
            yield
        finally:
            self._due.pop(thread, None)

    def _load_key(self) -> None:
        if "pkey" not in self._connection.connect_kwargs:
            try:
                self._connection.connect_kwargs["pkey"] = load_key(self._key_path)
            except SpecError as error:  # it was read before; its disk may be away for a moment
                raise UnreachableError(f"{self.where}: {error}") from None

    def _open_patiently(self, host_line: str) -> None:
        """Connect; again where the server closes the connection before it says anything."""
        for tries_left in reversed(range(BUSY_TRIES)):
            try:
                return self._open_with(host_line)
            except (SSHException, EOFError, ConnectionResetError) as error:
                is_busy = NOT_SSH in str(error) or not isinstance(error, SSHException)
                if not tries_left or not is_busy or self._connection.gateway:
                    raise
            time.sleep(BUSY_PAUSE_S)
        raise AssertionError("the last try raises")

    def _open_with(self, host_line: str) -> None:
        client = self._connection.client
        client.set_missing_host_key_policy(RejectPolicy())  # Fabric accepts any key by default
        entry = HostKeyEntry.from_line(host_line)
        if entry is None or entry.key is None or not entry.hostnames:
            raise UnreachableError(f"{self.where}: the host key on record cannot be read")
        client.get_host_keys().clear()
        client.get_host_keys().add(entry.hostnames[0], entry.key.get_name(), entry.key)
        self._connection.open()

    def session(self, line: str, timeout_s: float) -> Session:
        """Begin a session that runs a line in the login shell.

        Raises:
            SessionRefusedError: the server opens none now.
            LinkError: the connection is cut, or nothing answers within the time-out.
        """
        channel = None
        try:
            with self._beginning, self.at_most(2 * timeout_s):
                channel = self._transport.open_session(timeout=timeout_s)
                channel.exec_command(line)
        except ChannelException as error:
            raise SessionRefusedError(error.text or _words(error)) from None
        except Exception as error:  # noqa: BLE001  (whatever paramiko's thread met in the server's packets it raises here)
            is_refused = channel is not None and self._has_refused(error)
            with suppress(Exception):
                if channel is not None:
                    channel.close()
            if is_refused:
                raise SessionRefusedError(_words(error)) from None
            raise LinkError(_words(error)) from None
        return Session(self, channel, timeout_s)

    def _has_refused(self, error: Exception) -> bool:
        """Return whether an error says that the server refuses to run anything, on a connection that is well."""
        return isinstance(error, SSHException) and bool(self._transport.is_active())

    def answers(self, wait_s: float, look: Callable[[], None] = lambda: None) -> bool:
        """Return whether the server answers within that time. What its users' processes do does not matter for that.

        Args:
            wait_s: how long to wait.
            look: is called again and again meanwhile.
        """
        ping = self.ping()
        give_up_at = time.monotonic() + wait_s
        while ping.is_alive() and time.monotonic() < give_up_at:
            ping.join(min(0.1, wait_s))
            look()
        return not ping.is_alive() and self.is_open

    def ping(self) -> threading.Thread:
        """Ask for a sign of life; the thread ends when it has come, or when the connection has ended."""

        def ask() -> None:
            with self._asking, suppress(Exception):
                self._transport.global_request(PING, wait=True)

        thread = threading.Thread(target=ask, name="ping", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Close the connection, also to a host that no longer answers."""
        with suppress(SSHException, OSError, EOFError):
            self._connection.close()


class Session:
    """One running command. Its methods raise `LinkError` when the connection is cut.

    Args:
        link: the connection.
        channel: of paramiko.
        timeout_s: how long TCP may take to take one packet.
    """

    def __init__(self, link: Link, channel: Any, timeout_s: float) -> None:
        self._link = link
        self._channel = channel
        self._timeout_s = timeout_s

    def send(self, data: bytes | memoryview, wait_s: float) -> int:
        """Send to standard input; return how many bytes were taken, 0 where nothing was within that time.

        Raises:
            EOFError: the command reads no more.
        """
        self._channel.settimeout(wait_s)
        problem = ""
        try:
            with self._link.at_most(wait_s + self._timeout_s):
                taken = int(self._channel.send(data))
        except TimeoutError:
            taken = 0
        except Exception as error:  # noqa: BLE001  (as in `Link.session`)
            taken, problem = 0, _words(error)
        if taken or not (problem or self._channel.closed):
            return taken
        if self._channel.closed and not _has_ended(self._channel.get_transport()):
            raise EOFError("the command reads no more")
        raise LinkError(problem or "the connection was cut")

    def end_input(self) -> None:
        """Say that standard input is at its end."""
        with suppress(Exception), self._link.at_most(self._timeout_s):  # if it matters, the next call says why
            self._channel.shutdown_write()

    def take(self) -> tuple[bytes, bytes]:
        """Return what has come on standard output and standard error, at most a piece of each."""
        output = errors = b""
        try:
            with self._link.at_most(self._timeout_s):  # it tells the server that there is room for more
                if self._channel.recv_ready():
                    output = self._channel.recv(PIECE)
                if self._channel.recv_stderr_ready():
                    errors = self._channel.recv_stderr(PIECE)
        except Exception as error:  # noqa: BLE001  (as in `Link.session`)
            raise LinkError(_words(error)) from None
        return output, errors

    def wait(self, wait_s: float) -> None:
        """Wait until something has come, at most so long."""
        if self.has_exited:
            wait_s = min(wait_s, 0.05)
        select.select([self._channel], [], [], max(0.0, wait_s))

    @property
    def has_exited(self) -> bool:
        """Whether the login shell's process has ended; what it started may still print."""
        return bool(self._channel.exit_status_ready() or self._channel.closed)

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come, once `take` gives nothing."""
        return self.has_exited and bool(self._channel.eof_received or self._channel.closed)

    @property
    def exit_status(self) -> int:
        """The exit status of a session that is over; -1 if a signal ended it.

        Raises:
            LinkError: not the command has ended, but the connection.
        """
        status = int(self._channel.recv_exit_status())
        if status == -1 and _has_ended(self._channel.get_transport()):
            raise LinkError("the connection was cut")
        return status

    def close(self) -> None:
        """Close the channel. The command runs on, until it writes."""
        with suppress(Exception), self._link.at_most(self._timeout_s):
            self._channel.close()


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    if not text and isinstance(error, TimeoutError):
        return "no answer in time"
    return text if isinstance(error, (SSHException, OSError)) and text else f"{type(error).__name__} {text}".strip()


def _has_ended(transport: Any, wait_s: float = 1.0) -> bool:
    """Return whether a connection is gone; paramiko closes its channels a moment before it reports that."""
    give_up_at = time.monotonic() + wait_s
    while transport.is_active() and time.monotonic() < give_up_at:
        time.sleep(0.02)
    return not transport.is_active()
