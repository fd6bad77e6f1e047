"""The instance metadata service of one embedded instance: IMDSv2 on 127.0.0.1, one port for each instance.

A client requests a session token (`PUT /latest/api/token` with a time to live) and sends it with each GET; without one
the answer is 401, as with HttpTokens=required. Paths and answers: "Instance metadata" and "Spot Instance interruption
notices" in the EC2 User Guide. On Linux only connections of the same user get a token: user-data contains the host key,
and on EC2 no other machine can reach the service.
"""

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Answer = tuple[int, str]
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
}
_MAX_TTL_S = 21600


class MetadataService:
    """Serves the metadata of an instance.

    `paths` is called for each request, so that a notice appears as soon as it is given.
    """

    def __init__(self, paths: Callable[[], Mapping[str, str]], thawed: asyncio.Event) -> None:
        self._paths = paths
        self._thawed = thawed
        self._tokens: dict[str, float] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self) -> int:
        """Start to serve; returns the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Close the port and all connections."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._connections):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # the client has disconnected or does not speak HTTP
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; returns whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, version = head[0].split(" ")
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        await reader.readexactly(int(headers.get("content-length", "0")))
        await self._thawed.wait()
        # The user is checked for token requests only: all others need a token, and the kernel's table is slow to read.
        if target.startswith("/latest/api/token") and not _is_same_user(writer):
            return False
        status, text = self.answer(method, target.partition("?")[0], headers)
        body = text.encode()
        keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        writer.write(
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\nServer: EC2ws\r\n\r\n".encode()
        )
        writer.write(body if method != "HEAD" else b"")
        await writer.drain()
        return keep

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """Return the status and text for one request; header names are in lower case."""
        if path == "/latest/api/token":
            return self._new_token(method, headers)
        if method not in ("GET", "HEAD"):
            return 405, ""
        if self._tokens.get(headers.get("x-aws-ec2-metadata-token", ""), 0) < time.monotonic():
            return 401, ""
        paths = self._paths()
        if path.rstrip("/") in paths:
            return 200, paths[path.rstrip("/")]
        listing = _listing(paths, path)
        return (200, listing) if listing else (404, "")

    def _new_token(self, method: str, headers: Mapping[str, str]) -> Answer:
        if method != "PUT":
            return 405, ""
        if "x-forwarded-for" in headers:
            return 403, ""  # the service refuses requests through a proxy
        ttl_s = headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        if not ttl_s.isdigit() or not 1 <= int(ttl_s) <= _MAX_TTL_S:
            return 400, ""
        token = secrets.token_urlsafe(32)
        self._tokens[token] = time.monotonic() + int(ttl_s)
        return 200, token


def _listing(paths: Mapping[str, str], folder: str) -> str:
    """Return the names below a folder, one a line, folders with a slash, as the service does."""
    prefix = folder.rstrip("/") + "/"
    names = {path[len(prefix) :].partition("/") for path in paths if path.startswith(prefix)}
    return "\n".join(sorted(name + slash for name, slash, _ in names))


def identity_document(facts: Mapping[str, str]) -> str:
    """Return the text of /latest/dynamic/instance-identity/document."""
    return json.dumps(dict(facts), indent=2)


def _is_same_user(writer: asyncio.StreamWriter) -> bool:
    """Whether the peer's socket belongs to this user, by the kernel's table of TCP sockets. True except on Linux."""
    if not sys.platform.startswith("linux"):
        return True
    host, port = writer.get_extra_info("peername")[:2]
    wanted = f"{int.from_bytes(bytes(map(int, host.split('.'))), sys.byteorder):08X}:{port:04X}"
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[1] == wanted:
            return int(fields[7]) in (os.getuid(), 0)
    return True
