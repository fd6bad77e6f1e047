"""The SSH server of one embedded instance: public keys only, commands, terminals, SFTP and scp, all in the instance's
home.

Commands run as `bash -c COMMAND` in sessions of their own. What a client that disconnects leaves running goes on, as
under OpenSSH; a terminal's processes get SIGHUP.
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
# A session leader's first open of a terminal makes it its controlling one, which needs no code between fork and exec.
_ON_TERMINAL = 'exec <"$0" >"$0" 2>&1; exec "$@"'


@dataclass(frozen=True)
class Machine:
    """What the SSH server serves."""

    home: Path
    environment: dict[str, str]
    children: InstanceChildren


class SshServer:
    """Serves the connections that a TcpGate hands over."""

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
        """Run one connection's handshake; the connection then lives on by itself. Raises asyncssh.Error or OSError."""
        keys = [asyncssh.read_private_key(self._host_key)]  # it may have been replaced since the last connection
        options = asyncssh.SSHServerConnectionOptions(self._options, server_host_keys=keys)
        await asyncssh.run_server(connection, options=options)

    async def _serve_process(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        running = asyncio.ensure_future(self._run(process))
        closed = asyncio.ensure_future(process.channel.wait_closed())
        try:
            # A client that goes away only loses its streams: what it started runs on.
            await asyncio.wait({running, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(running, closed)

    async def _run(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        command = process.command
        argv = ["/bin/bash", "--norc", "--noprofile", *(["-c", command] if command is not None else [])]
        environment = dict(self._machine.environment)
        # What OpenSSH's AcceptEnv admits on Debian and Ubuntu; anything else must come with the command.
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
            # Both streams to their ends before the exit status: a client may close when it has the status.
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
                theirs.close()  # only now: a terminal that no one holds open would end before the child opens it
                # What is still in it; a background job may hold it open for ever.
                await asyncio.wait({draining}, timeout=1)
                return code
            finally:
                await _cancel(feeding, draining)


def _known_keys(lines: Sequence[str]) -> asyncssh.SSHAuthorizedKeys:
    """The lines that are keys; others are passed over, as OpenSSH does with its file."""
    good = []
    for line in lines:
        with contextlib.suppress(ValueError):
            asyncssh.import_authorized_keys(line)
            good.append(f"{line.strip()}\n")
    return asyncssh.import_authorized_keys("".join(good))


class _Login(asyncssh.SSHServer):
    """Who may log in: the AMIs' users, with a key."""

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        if username not in LOGIN_USERS:
            self._connection.set_authorized_keys(asyncssh.import_authorized_keys(""))
        return True  # always ask for a key

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return False  # none beside the authorized keys

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True  # `ssh -L`, as OpenSSH allows


class _HomeSftp(asyncssh.SFTPServer):
    """SFTP that takes relative paths from the instance's home. No chroot: commands and SFTP must agree on paths."""

    def __init__(self, channel: "asyncssh.SSHServerChannel[bytes]", home: bytes) -> None:
        super().__init__(channel)
        self._home = home

    def map_path(self, path: bytes) -> bytes:
        return os.path.join(self._home, path)

    def exit(self) -> None:
        # asyncssh ends the channel without a status, which `scp` takes for a failure after all has been copied.
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
    """All that a command says, to the client, until its end of the stream is closed or the client is gone."""
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
    """All that the client sends, to the command: input, signals, the size of its window."""
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
    """Cancel and see it through: a descriptor must not be closed while a task still has the loop watch it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
