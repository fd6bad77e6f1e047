"""The server of the pages: read-only routes, one token, Server-Sent Events.

Every request must carry the token. The Host header must name this machine, which prevents DNS rebinding: a web page
of another site cannot reach the server under its own name.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from orchestrator.dashboard.downloads import log_part, open_offered
from orchestrator.dashboard.pages import COMPARE, RUN, RUNS, page_text
from orchestrator.dashboard.state import MOST_COMPARED, Board
from orchestrator.dashboard.stream import changes
from orchestrator.runs.outputs import SAMPLES_NAME
from orchestrator.runs.store import RunStore

HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?")
READ_TOGETHER = 250  # runs that are read for the first time before the list shows them
PIECE_BYTES = 1 << 18
MOST_PICTURE_BYTES = 64 << 20
Answer = Callable[[Request], Awaitable[Response] | Response]


def app(home: Path, token: str, now: Callable[[], float], is_ending: Callable[[], bool] = lambda: False) -> Starlette:
    """Return the application.

    Args:
        home: PIXEL_ORCH_HOME.
        token: the token that each request must carry.
        now: returns unix seconds.
        is_ending: returns whether the server shuts down; the open streams then end.
    """
    pages = Pages(Board(home), now, is_ending)
    routes = {
        "/": pages.runs,
        "/events": pages.runs_live,
        "/compare": pages.compare,
        "/compare/events": pages.compare_live,
        "/run/{run}": pages.run,
        "/run/{run}/events": pages.run_live,
        "/run/{run}/curves": pages.curves,
        "/run/{run}/log/{attempt:int}": pages.log,
        "/run/{run}/file/{path:path}": pages.file,
        "/samples/{run}/{name}": pages.samples,
    }

    @asynccontextmanager
    async def reads_first(_: Starlette) -> AsyncIterator[None]:
        reading = asyncio.create_task(asyncio.to_thread(pages.read_all))
        yield
        await reading

    guarded = [Route(path, _guarded(answer, token), methods=["GET"]) for path, answer in routes.items()]
    return Starlette(routes=guarded, lifespan=reads_first)


def _guarded(answer: Answer, token: str) -> Callable[[Request], Awaitable[Response]]:
    """Return the answer behind the two checks that every request must pass."""

    async def guarded(request: Request) -> Response:
        given = request.query_params.get("token", "")
        is_ours = HOST.fullmatch(request.headers.get("host", ""))
        if is_ours is None or not secrets.compare_digest(given.encode(errors="replace"), token.encode()):
            text = "missing or wrong token: open the full address that `pixel-orch dashboard` printed\n"
            return PlainTextResponse(text, 403, headers=headers())
        found = await asyncio.to_thread(answer, request)
        return found if isinstance(found, Response) else await found

    return guarded


def headers(nonce: str = "") -> dict[str, str]:
    """Return the headers of every answer; a page's own script and style carry the nonce."""
    allowed = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; " if nonce else ""
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": f"default-src 'none'; {allowed}img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


class Pages:
    """The answers. Each method takes a request that carries the token.

    Args:
        board: what is shown.
        now: returns unix seconds.
        is_ending: returns whether the server shuts down.
    """

    def __init__(self, board: Board, now: Callable[[], float], is_ending: Callable[[], bool]) -> None:
        self.board, self.now, self.is_ending = board, now, is_ending

    def read_all(self) -> None:
        """Read all runs once, so that the list is there when somebody opens it."""
        while not self.is_ending() and self.board.snapshot(self.now(), READ_TOGETHER)["is_reading"]:
            pass

    def runs(self, _: Request) -> Response:
        """Answer with the page of all runs."""
        return _page(RUNS)

    def run(self, request: Request) -> Response:
        """Answer with the page of one run."""
        name = self._name(request)
        return _page(RUN, name) if name else _missing("run")

    def compare(self, _: Request) -> Response:
        """Answer with the page that compares runs; it asks for those that its address names."""
        return _page(COMPARE)

    def runs_live(self, _: Request) -> Response:
        """Answer with a stream of the rows that change."""
        return self._live(lambda: self.board.snapshot(self.now(), READ_TOGETHER))

    def run_live(self, request: Request) -> Response:
        """Answer with a stream of what changes of a run."""
        name = self._name(request)
        return self._live(lambda: self.board.run(name, self.now())) if name else _missing("run")

    def compare_live(self, request: Request) -> Response:
        """Answer with a stream of the heads of some runs."""
        names = [name for name in dict.fromkeys(request.query_params.getlist("run")) if self.board.has(name)]
        return self._live(lambda: self.board.compared(names[:MOST_COMPARED], self.now()))

    def curves(self, request: Request) -> Response:
        """Answer with the curves of a run."""
        name = self._name(request)
        return JSONResponse(self.board.curves(name), headers=headers()) if name else _missing("run")

    def log(self, request: Request) -> Response:
        """Answer with a part of the trainer's log of one attempt, from the byte `start` on."""
        name = self._name(request)
        given = request.query_params.get("start", "-1")
        if not name or not re.fullmatch(r"-1|[0-9]{1,15}", given):
            return _missing("log")
        path = RunStore(self.board.home, name).log_path(request.path_params["attempt"])
        return JSONResponse(log_part(path, int(given)), headers=headers())

    def file(self, request: Request) -> Response:
        """Answer with a file to save; nothing of it is shown."""
        path = request.path_params["path"]
        saved = quote(path.rpartition("/")[2].encode(errors="replace"), safe="")
        more = {"Content-Disposition": f"attachment; filename*=UTF-8''{saved}"}
        return self._sent(request, path, "application/octet-stream", more) or _missing("file")

    def samples(self, request: Request) -> Response:
        """Answer with a picture that the trainer wrote."""
        name = request.path_params["name"]
        found = self._sent(request, name, "image/png", {}, MOST_PICTURE_BYTES) if SAMPLES_NAME.fullmatch(name) else None
        return found or _missing("sample image")

    def _sent(
        self, request: Request, path: str, kind: str, more: dict[str, str], most_bytes: int = sys.maxsize
    ) -> Response | None:
        """Return the content of a file of a run as an answer, None if there is none that may be sent."""
        name = self._name(request)
        try:
            file = open_offered(RunStore(self.board.home, name).folder, path) if name else None
        except (OSError, ValueError):
            return None
        if file is None:
            return None
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            file.close()
            return None
        more = {**headers(), **more, "Content-Length": str(size)}
        return StreamingResponse(_content(file, size), media_type=kind, headers=more)

    def _name(self, request: Request) -> str:
        """Return the name of the run that is asked for, "" if there is none."""
        name = str(request.path_params["run"])
        return name if self.board.has(name) else ""

    def _live(self, look: Callable[[], dict[str, Any]]) -> Response:
        return StreamingResponse(changes(look, self.is_ending), media_type="text/event-stream", headers=headers())


def _page(body: str, run: str = "") -> Response:
    nonce = secrets.token_urlsafe(16)
    return HTMLResponse(page_text(body, run, nonce), headers=headers(nonce))


def _missing(what: str) -> Response:
    return PlainTextResponse(f"no such {what}\n", 404, headers=headers())


def _content(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield as many bytes as the answer has announced: the file may grow meanwhile."""
    with file:
        while size > 0 and (piece := file.read(min(PIECE_BYTES, size))):
            size -= len(piece)
            yield piece
