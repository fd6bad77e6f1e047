"""The dashboard's server: no answer without the token, and no request that changes anything."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.dashboard import snapshot
from tests.support.report_runs import BORN, PNG, Had, write_run

pytest.importorskip("starlette")
NOW = BORN + 3000.0


async def ask(
    home: Path, path: str, *, method: str = "GET", host: str = "127.0.0.1:1"
) -> tuple[int, dict[str, str], bytes]:
    """Send one request to the application itself, without a socket; of a stream, take what comes first."""
    from orchestrator.dashboard.server import app

    target, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": target, "raw_path": target.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", host.encode())], "client": ("127.0.0.1", 9), "server": ("127.0.0.1", 1),
    }  # fmt: skip
    status, headers, body = 0, {}, b""
    enough = asyncio.Event()
    has_asked = False

    async def receive() -> dict[str, Any]:
        nonlocal has_asked
        if has_asked:
            await enough.wait()
            return {"type": "http.disconnect"}
        has_asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, headers, body
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {key.decode(): value.decode() for key, value in message["headers"]}
            return
        body += message.get("body", b"")
        if not message.get("more_body") or b"\n\n" in body:
            enough.set()

    await asyncio.wait_for(app(home, "secret", lambda: NOW)(scope, receive, send), 10)
    return status, headers, body


def asked(home: Path, path: str, **more: Any) -> tuple[int, dict[str, str], bytes]:
    return asyncio.run(ask(home, path, **more))


@pytest.mark.parametrize(
    "path", ["/", "/events", "/samples/one/samples-1.png", "/?token=", "/?token=secre", "/?token=%00"]
)
def test_a_request_without_the_token_is_refused(home: Path, path: str) -> None:
    status, _, body = asked(home, path)
    assert status == 403
    assert b"missing or wrong token" in body


def test_a_foreign_host_name_is_refused(home: Path) -> None:
    assert asked(home, "/?token=secret", host="evil.example:1")[0] == 403
    assert asked(home, "/?token=secret", host="localhost:1")[0] == 200


def test_the_content_security_policy_allows_only_the_pages_own_script(home: Path) -> None:
    status, headers, body = asked(home, "/?token=secret")
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert f'<script nonce="{nonce}">'.encode() in body
    assert b"http" not in body.replace(b"http://www.w3.org/2000/svg", b"")
    assert headers["cache-control"] == "no-store"


def test_the_event_stream_sends_the_snapshot(home: Path) -> None:
    write_run(home, "one", [Had()])
    status, headers, body = asked(home, "/events?token=secret")
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    sent = json.loads(body.split(b"\n\n")[0].removeprefix(b"data: "))
    assert sent == snapshot(home, NOW)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/samples/one/samples-7.png", 200),
        ("/samples/one/samples-8.png", 404),
        ("/samples/one/key", 404),
        ("/samples/one/spec.json", 404),
        ("/samples/..%2f..%2fetc/samples-7.png", 404),
        ("/samples/One/samples-7.png", 404),
    ],
)
def test_only_sample_images_can_be_fetched(home: Path, path: str, status: int) -> None:
    store = write_run(home, "one", [Had()])
    (store.folder / "samples-7.png").write_bytes(PNG)
    (store.folder / "key").write_text("secret key")
    assert asked(home, f"{path}?token=secret")[0] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_only_get_is_allowed(home: Path, method: str) -> None:
    assert asked(home, "/?token=secret", method=method)[0] == 405


@pytest.mark.parametrize("host", ["[", "[::1", "127.0.0.1:1@evil", "", "evil.example", "127.0.0.1.evil.example", "0"])
def test_a_host_header_that_is_not_ours_is_refused(tmp_path: Path, host: str) -> None:
    assert asked(tmp_path, "/?token=secret", host=host)[0] == 403


@pytest.mark.parametrize(
    "name", [f"samples-{'9' * 300}.png", "samples-٣.png", "samples-1.png%00", "..", "samples-1.PNG"]
)
def test_a_name_of_a_picture_that_is_none_is_not_looked_for(tmp_path: Path, name: str) -> None:
    path = f"/samples/x/{name}?token=secret"
    assert asked(tmp_path, path)[0] == 404
