"""The server of the page: three read-only routes, one token, Server-Sent Events.

Every request must carry the token. The Host header must name this machine, which prevents DNS rebinding: a web page
of another site cannot reach the server under its own name.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from orchestrator.dashboard.state import snapshot
from orchestrator.runs.outputs import SAMPLES_NAME
from orchestrator.runs.spec import NAME_GRAMMAR
from orchestrator.runs.store import RunStore

EVERY_S = 1.0
ALIVE_EVERY = 15  # polls without a change, after which a comment keeps the connection open
HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?")


def app(home: Path, token: str, now: Callable[[], float], is_ending: Callable[[], bool] = lambda: False) -> Starlette:
    """Return the application.

    Args:
        home: PIXEL_ORCH_HOME.
        token: the token that each request must carry.
        now: returns unix seconds.
        is_ending: returns whether the server shuts down; the open streams then end.
    """

    def is_allowed(request: Request) -> bool:
        given = request.query_params.get("token", "")
        is_ours = HOST.fullmatch(request.headers.get("host", ""))
        return is_ours is not None and secrets.compare_digest(given.encode(), token.encode())

    def page(request: Request) -> Response:
        if not is_allowed(request):
            return _refused()
        folder = resources.files("orchestrator.dashboard")
        nonce = secrets.token_urlsafe(16)
        text = folder.joinpath("page.html").read_text(encoding="utf-8").replace("{{nonce}}", nonce)
        text = text.replace("{{script}}", folder.joinpath("page.js").read_text(encoding="utf-8"))
        return HTMLResponse(text, headers=_headers(nonce))

    async def events(request: Request) -> Response:
        if not is_allowed(request):
            return _refused()
        return StreamingResponse(_changes(home, now, is_ending), media_type="text/event-stream", headers=_headers())

    def samples(request: Request) -> Response:
        if not is_allowed(request):
            return _refused()
        run, name = request.path_params["run"], request.path_params["name"]
        path = RunStore(home, run).folder / name
        is_named = NAME_GRAMMAR.fullmatch(run) and SAMPLES_NAME.fullmatch(name)
        if not is_named or path.is_symlink() or not path.is_file():
            return PlainTextResponse("no such sample image\n", 404)
        return FileResponse(path, media_type="image/png", headers=_headers())

    return Starlette(
        routes=[
            Route("/", page),
            Route("/events", events),
            Route("/samples/{run}/{name}", samples),
        ]
    )


def _refused() -> Response:
    return PlainTextResponse("missing or wrong token: open the full address that `pixel-orch dashboard` printed\n", 403)


def _headers(nonce: str = "") -> dict[str, str]:
    allowed = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; " if nonce else ""
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": f"default-src 'none'; {allowed}img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


async def _changes(home: Path, now: Callable[[], float], is_ending: Callable[[], bool]) -> AsyncIterator[str]:
    """Yield the state when it changes; the time alone does not count as a change."""
    before, quiet = "", 0
    while not is_ending():
        seen: dict[str, Any] = await asyncio.to_thread(snapshot, home, now())
        text = json.dumps(seen, separators=(",", ":"))
        same = json.dumps({**seen, "now": ""})
        if same != before:
            before, quiet = same, 0
            yield f"data: {text}\n\n"
        else:
            quiet += 1
            if quiet % ALIVE_EVERY == 0:
                yield ": keep-alive\n\n"
        for _ in range(10):
            if not is_ending():
                await asyncio.sleep(EVERY_S / 10)
