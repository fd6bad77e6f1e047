"""The SSH server of one embedded instance: public keys only; commands, terminals, SFTP and scp in the instance's home.

Each command runs as `bash -c COMMAND` in its own session. After a disconnect a command continues, as under OpenSSH; the
processes of a terminal get SIGHUP.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import asyncssh

from infra.local.machine.processes import InstanceChildren

LOGIN_USERS = ("ubuntu", "ec2-user")
_CHUNK = 64 * 1024
# The first terminal that a session leader opens becomes its controlling terminal: no code between fork and exec.
_ON_TERMINAL = 'exec <"$0" >"$0" 2>&1; exec "$@"'


@dataclass(frozen=True)
class Machine:
    """The home folder, environment and processes that the SSH server uses."""

    home: Path
    environment: dict[str, str]
    children: InstanceChildren


class SshServer:
    """Serves the connections of a TcpGate."""

    def __init__(self, machine: Machine, host_key: Path, authorized_keys: Sequence[str]) -> None:
        self._machine = machine
        self._host_key = host_key
        home = os.fsencode(machine.home)
        self._options = asyncssh.SSHServerConnectionOptions(
            server_factory=_Login,
            server_host_keys=[asyncssh.read_private_key(host_key)],
            authorized_client_keys=_known_keys(authorized_keys),
            process_factory=self._serve_process,
            sftp_factory=lambda channel: _HomeSftp(channel, home),
            allow_scp=True,
            encoding=None,
            line_editor=False,
            password_auth=False,
            kbdint_auth=False,
            gss_host=None,
            x11_forwarding=False,
            agent_forwarding=False,
            login_timeout=30,
        )

    async def serve(self, connection: socket.socket) -> None:
        """Run one connection's handshake; asyncssh then serves the connection. Raises asyncssh.Error or OSError."""
        keys = [asyncssh.read_private_key(self._host_key)]  # it may have been replaced since the last connection
        options = asyncssh.SSHServerConnectionOptions(self._options, server_host_keys=keys)
        await asyncssh.run_server(connection, options=options)

    async def _serve_process(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        running = asyncio.ensure_future(self._run(process))
        closed = asyncio.ensure_future(process.channel.wait_closed())
        try:
            # A disconnect closes the streams only: the command continues.
            await asyncio.wait({running, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(running, closed)

    async def _run(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        command = process.command
        argv = ["/bin/bash", "--norc", "--noprofile", *(["-c", command] if command is not None else [])]
        environment = dict(self._machine.environment)
        # The variables of OpenSSH's AcceptEnv on Debian and Ubuntu; a command must set all others itself.
        environment.update({k: v for k, v in process.env.items() if k == "LANG" or k.startswith("LC_")})
        try:
            if process.term_type is None:
                code = await self._run_on_pipes(process, argv, environment)
            else:
                code = await self._run_on_terminal(process, argv, {**environment, "TERM": process.term_type})
        except OSError as error:
            process.stderr.write(f"{error}\n".encode())
            code = 126
        if code >= 0:
            process.exit(code)
        else:
            process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))

    async def _run_on_pipes(
        self, process: "asyncssh.SSHServerProcess[bytes]", argv: list[str], environment: dict[str, str]
    ) -> int:
        pipe = subprocess.PIPE
        child, exit_code = self._machine.children.start(
            argv, cwd=self._machine.home, env=environment, stdin=pipe, stdout=pipe, stderr=pipe
        )
        stdin, stdout, stderr = (cast(IO[bytes], stream) for stream in (child.stdin, child.stdout, child.stderr))
        feeding = asyncio.ensure_future(_feed(process, stdin, child.pid))
        draining = [
            asyncio.ensure_future(_drain(stdout.fileno(), process.stdout)),
            asyncio.ensure_future(_drain(stderr.fileno(), process.stderr)),
        ]
        try:
            # Both streams are sent completely before the exit status: a client may disconnect after the status.
            await asyncio.gather(*draining)
            return await asyncio.shield(exit_code)
        finally:
            await _cancel(feeding, *draining)
            for stream in (stdin, stdout, stderr):
                stream.close()

    async def _run_on_terminal(
        self, process: "asyncssh.SSHServerProcess[bytes]", argv: list[str], environment: dict[str, str]
    ) -> int:
        master, slave = os.openpty()
        with open(master, "w+b", buffering=0) as ours, open(slave, "r+b", buffering=0) as theirs:
            _resize(master, *process.term_size)
            on_terminal = ["/bin/sh", "-c", _ON_TERMINAL, os.ttyname(slave), *argv]
            child, exit_code = self._machine.children.start(on_terminal, cwd=self._machine.home, env=environment)
            feeding = asyncio.ensure_future(_feed(process, ours, child.pid, terminal=True))
            draining = asyncio.ensure_future(_drain(master, process.stdout))
            try:
                code = await asyncio.shield(exit_code)
                theirs.close()  # not earlier: without an open descriptor the terminal ends before the child opens it
                # Send the remaining output, for 1 s at most: a background job may hold the terminal open.
                await asyncio.wait({draining}, timeout=1)
                return code
            finally:
                await _cancel(feeding, draining)


def _known_keys(lines: Sequence[str]) -> asyncssh.SSHAuthorizedKeys:
    """Return the keys among the lines; other lines are ignored, as in OpenSSH's authorized_keys."""
    good = []
    for line in lines:
        with contextlib.suppress(ValueError):
            asyncssh.import_authorized_keys(line)
            good.append(f"{line.strip()}\n")
    return asyncssh.import_authorized_keys("".join(good))


class _Login(asyncssh.SSHServer):
    """Authentication: the AMIs' login users, with a key."""

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        if username not in LOGIN_USERS:
            self._connection.set_authorized_keys(asyncssh.import_authorized_keys(""))
        return True  # a key is always required

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return False  # no keys besides the authorized ones

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True  # `ssh -L`, which OpenSSH allows


class _HomeSftp(asyncssh.SFTPServer):
    """SFTP with paths relative to the instance's home. No chroot: commands and SFTP must use the same paths."""

    def __init__(self, channel: "asyncssh.SSHServerChannel[bytes]", home: bytes) -> None:
        super().__init__(channel)
        self._home = home

    def map_path(self, path: bytes) -> bytes:
        return os.path.join(self._home, path)

    def exit(self) -> None:
        # asyncssh closes the channel without a status, which `scp` reports as a failure after a complete copy.
        with contextlib.suppress(OSError):
            self.channel.exit(0)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


async def _writable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(descriptor, _set, ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


async def _drain(descriptor: int, writer: "asyncssh.SSHWriter[bytes]") -> None:
    """Send a command's output to the client, until the command closes its stream or the client disconnects."""
    os.set_blocking(descriptor, False)
    while True:
        await _readable(descriptor)
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            continue
        except OSError:
            return  # EIO: the last holder of a terminal has closed it
        if not data:
            return
        writer.write(data)
        await writer.drain()


async def _feed(
    process: "asyncssh.SSHServerProcess[bytes]", target: IO[bytes], session: int, *, terminal: bool = False
) -> None:
    """Pass the client's input, signals and window size to the command."""
    descriptor = target.fileno()
    os.set_blocking(descriptor, False)
    while True:
        try:
            data = await process.stdin.read(_CHUNK)
        except asyncssh.TerminalSizeChanged as change:
            if terminal:
                _resize(descriptor, change.width, change.height, change.pixwidth, change.pixheight)
            continue
        except asyncssh.SignalReceived as received:
            _signal_session(session, received.signal)
            continue
        except asyncssh.BreakReceived:
            _signal_session(session, "INT")
            continue
        if not data:
            break
        if not await _write_all(descriptor, data):
            break  # the command has closed its input
    if not terminal:
        target.close()


async def _write_all(descriptor: int, data: bytes) -> bool:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            await _writable(descriptor)
        except OSError:
            return False
    return True


def _signal_session(session: int, name: str) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError, ValueError):
        os.killpg(
            session, signal.Signals[f"SIG{name}"] if f"SIG{name}" in signal.Signals.__members__ else signal.SIGTERM
        )


def _resize(terminal: int, width: int, height: int, pixel_width: int, pixel_height: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, pixel_width, pixel_height))


async def _cancel(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel tasks and wait for their end: a descriptor must not be closed while the event loop still watches it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
