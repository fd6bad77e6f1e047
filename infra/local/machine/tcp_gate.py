"""The TCP port of an instance's SSH server, which can simulate failures of the network.

    client <--TCP--> TcpGate <--socketpair--> asyncssh

Bytes pass through unchanged. `freeze` stops them in both directions while connections stay open and new ones are still
accepted, as with a host that hangs; `cut` resets connections, as with a lost route. This does not depend on asyncssh's
internals; the cost is one more copy of the encrypted bytes.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

_CHUNK = 256 * 1024
Serve = Callable[[socket.socket], Awaitable[object]]


_PUBLIC = "127.0.0.1"
_TRIES = 20


def _listeners(address: str) -> list[socket.socket]:
    """Return sockets bound to one port, of 127.0.0.1 and of the address. Raises OSError if no port is free on both."""
    for turn in range(_TRIES):
        bound = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in {_PUBLIC, address}]
        try:
            bound[0].bind((_PUBLIC, 0))
            for one in bound[1:]:
                one.bind((address, bound[0].getsockname()[1]))
        except OSError:
            for one in bound:
                one.close()
            if turn == _TRIES - 1:
                raise
        else:
            return bound
    raise OSError("no port is free")


class TcpGate:
    """A listening port on 127.0.0.1, and on the instance's own address if it has one.

    The port is bound at once and refuses connections until `open`.
    """

    def __init__(self, address: str = _PUBLIC) -> None:
        self._listeners = _listeners(address)
        for one in self._listeners:
            one.setblocking(False)
        self.port: int = self._listeners[0].getsockname()[1]
        self._accepting: list[asyncio.Task[None]] = []
        self._lines: set[Line] = set()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._cut_next_after: int | None = None
        self._is_down = False

    def open(self, serve: Serve) -> None:
        """Accept connections; `serve` is called with the server's end of each connection."""
        for listener in self._listeners:
            listener.listen(64)
            self._accepting.append(asyncio.get_running_loop().create_task(self._accept(listener, serve)))

    async def _accept(self, listener: socket.socket, serve: Serve) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            client.setblocking(False)
            if self._is_down:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = Line(client, self._thawed, self._cut_next_after)
            self._cut_next_after = None
            self._lines.add(line)
            line.start(serve, self._lines.discard)

    def freeze(self) -> None:
        """Stop passing bytes; connections stay open and new ones are accepted."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Pass the bytes that were held back, and all later ones."""
        self._thawed.set()

    def cut(self, after_bytes: int | None = None) -> None:
        """Reset all connections now; or, with `after_bytes`, the next one after so many bytes to the client."""
        if after_bytes is not None:
            self._cut_next_after = after_bytes
            return
        for line in list(self._lines):
            line.reset()

    def set_down(self, down: bool) -> None:
        """Reset all connections now and each new one while down; or accept connections again."""
        self._is_down = down
        if down:
            self.cut()

    def close(self) -> None:
        """Close the port and reset all connections."""
        for task in self._accepting:
            task.cancel()
        for listener in self._listeners:
            listener.close()
        self.cut()


class Line:
    """One connection through the gate."""

    def __init__(self, client: socket.socket, thawed: asyncio.Event, cut_after_bytes: int | None) -> None:
        self._client = client
        self._near, self.far = socket.socketpair()
        self._near.setblocking(False)
        self._thawed = thawed
        self._left_bytes = cut_after_bytes
        self._task: asyncio.Task[None] | None = None

    def start(self, serve: Serve, ended: Callable[["Line"], None]) -> None:
        """Start to pass bytes; `ended` is called with this line when both directions are closed."""
        self._task = asyncio.get_running_loop().create_task(self._run(serve))
        self._task.add_done_callback(lambda _: ended(self))

    async def _run(self, serve: Serve) -> None:
        serving = asyncio.ensure_future(serve(self.far))
        # asyncssh logs a failed handshake; its exception is retrieved here so that asyncio does not report it.
        serving.add_done_callback(lambda done: done.cancelled() or done.exception())
        ways = [asyncio.ensure_future(self._pass(self._client, self._near, to_client=False)),
                asyncio.ensure_future(self._pass(self._near, self._client, to_client=True))]  # fmt: skip
        try:
            await asyncio.gather(*ways)
        except OSError:
            pass  # one side has disconnected; closing the sockets below disconnects the other
        finally:
            for way in ways:
                way.cancel()
            self._client.close()
            self._near.close()

    async def _pass(self, source: socket.socket, target: socket.socket, *, to_client: bool) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(source, _CHUNK):
            if not to_client:
                _acknowledge_at_once(source)
            await self._thawed.wait()
            if to_client and self._left_bytes is not None and len(data) >= self._left_bytes:
                await loop.sock_sendall(target, data[: self._left_bytes])
                self.reset()
                return
            if to_client and self._left_bytes is not None:
                self._left_bytes -= len(data)
            await loop.sock_sendall(target, data)
        await self._thawed.wait()
        target.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Drop the connection like a lost route: without a FIN, with a reset for the peer's next packet."""
        if self._client.fileno() >= 0:
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if self._task is not None:
            self._task.cancel()


def _acknowledge_at_once(connection: socket.socket) -> None:
    """Acknowledge received bytes at once; the kernel resets the option with each packet. Linux only.

    paramiko leaves Nagle's algorithm on: with delayed acknowledgements every command would take 40 ms more.
    """
    if hasattr(socket, "TCP_QUICKACK"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
