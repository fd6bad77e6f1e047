"""`dashboard`: start the server on 127.0.0.1, print its address, serve until Ctrl-C."""

from __future__ import annotations

import argparse
import secrets
import socket
from contextlib import suppress
from importlib.util import find_spec

from orchestrator.clock import SystemClock
from orchestrator.errors import SpecError
from orchestrator.runs.home import home_from_environment

ADDRESS = "127.0.0.1"


def dashboard(args: argparse.Namespace) -> int:
    """Do `pixel-orch dashboard`."""
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise SpecError("dashboard needs the extra dashboard: pip install 'pixel-orch[dashboard]'")
    if args.port != 0 and not 1024 <= args.port <= 65535:
        raise SpecError(f"--port: {args.port} is not a port; give one from 1024 to 65535, or 0 for a free one")
    home = home_from_environment()
    import uvicorn

    from orchestrator.dashboard.server import app

    token = secrets.token_urlsafe(18)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, args.port))
    except OSError as error:
        raise SpecError(f"--port: {args.port} is not available ({error.strerror}); drop it to use a free one") from None
    url = f"http://{ADDRESS}:{listener.getsockname()[1]}/?token={token}"
    print(f"{url}\nReachable from this machine only, with this URL; read-only. Ctrl-C ends it.", flush=True)
    servers: list[uvicorn.Server] = []
    pages = app(home, token, SystemClock().now, lambda: servers[0].should_exit)
    servers.append(uvicorn.Server(uvicorn.Config(pages, log_level="error", timeout_graceful_shutdown=3)))
    with suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
        servers[0].run(sockets=[listener])
    return 0
