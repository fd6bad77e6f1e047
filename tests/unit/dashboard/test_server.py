"""The dashboard's server: no answer without the token, and no request that changes anything."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.dashboard import snapshot
from orchestrator.dashboard.state import Board
from orchestrator.dashboard.stream import changes, difference
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
    "path",
    ["/", "/events", "/samples/one/samples-1.png", "/?token=", "/?token=secre", "/?token=%00", "/run/one",
     "/run/one/events", "/run/one/curves", "/run/one/log/1", "/run/one/file/outputs/x", "/compare?run=one",
     "/compare/events?run=one"],
)  # fmt: skip
def test_a_request_without_the_token_is_refused(home: Path, path: str) -> None:
    write_run(home, "one", [Had()])
    status, headers, body = asked(home, path)
    assert status == 403
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert b"missing or wrong token" in body


def test_a_foreign_host_name_is_refused(home: Path) -> None:
    assert asked(home, "/?token=secret", host="evil.example:1")[0] == 403
    assert asked(home, "/?token=secret", host="localhost:1")[0] == 200


@pytest.mark.parametrize("path", ["/?token=secret", "/run/one?token=secret", "/compare?run=one&token=secret"])
def test_the_content_security_policy_allows_only_the_pages_own_script(home: Path, path: str) -> None:
    write_run(home, "one", [Had()])
    status, headers, body = asked(home, path)
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert f'<script nonce="{nonce}">'.encode() in body
    assert b"http" not in body.replace(b"http://www.w3.org/2000/svg", b"")
    assert b"{{" not in body
    assert b" style=" not in body
    assert headers["cache-control"] == "no-store"


def test_the_event_stream_sends_the_snapshot(home: Path) -> None:
    write_run(home, "one", [Had()])
    status, headers, body = asked(home, "/events?token=secret")
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    sent = json.loads(body.split(b"\n\n")[0].removeprefix(b"data: "))
    assert sent == {**snapshot(home, NOW), "whole": True}


def test_the_page_of_a_run_gets_its_state_its_curves_and_its_log(home: Path) -> None:
    store = write_run(home, "one", [Had()])
    store.log_path(1).write_text("<b>first</b>\nsecond\n")
    _, _, body = asked(home, "/run/one/events?token=secret")
    sent = json.loads(body.split(b"\n\n")[0].removeprefix(b"data: "))
    assert sent == {**json.loads(json.dumps(Board(home).run("one", NOW))), "whole": True}
    assert sent["log"] == {"1": 20}
    status, _, body = asked(home, "/run/one/curves?token=secret")
    assert (status, "bits_per_dim" in json.loads(body)["curves"]) == (200, True)
    status, _, body = asked(home, "/run/one/log/1?start=13&token=secret")
    assert (status, json.loads(body)["text"]) == (200, "second\n")


def test_runs_are_compared_by_their_heads_and_the_versions_of_their_curves(home: Path) -> None:
    for name in ("one", "two", "three"):
        write_run(home, name, [Had()])
    _, _, body = asked(home, "/compare/events?run=two&run=one&run=two&run=..%2fx&run=none&token=secret")
    sent = json.loads(body.split(b"\n\n")[0].removeprefix(b"data: "))
    assert [run["run"] for run in sent["runs"]] == ["two", "one"]
    assert set(sent["versions"]) == {"one", "two"}


@pytest.mark.parametrize(
    "path",
    ["/run/none", "/run/..", "/run/One", "/run/one/log/1?start=-2", "/run/one/log/1?start=x", "/run/one/log/x",
     f"/run/one/log/1?start={'9' * 40}", "/run/none/curves", "/run/none/events", "/run/one/file/key", "/run/one/file/",
     "/run/one/file/../one/key", "/run/one/file/outputs/../key", "/run/none/file/outputs/x"],
)  # fmt: skip
def test_what_is_not_there_is_one_line(home: Path, path: str) -> None:
    store = write_run(home, "one", [Had()])
    (store.folder / "key").write_text("secret key")
    status, _, body = asked(home, f"{path}{'&' if '?' in path else '?'}token=secret")
    assert status == 404
    assert body.count(b"\n") <= 1


def test_a_file_is_sent_to_be_saved(home: Path) -> None:
    store = write_run(home, "one", [Had()])
    (store.outputs / "a b").mkdir(parents=True)
    (store.outputs / "a b" / 'ä".html').write_bytes(b"<script>alert(1)</script>")
    status, headers, body = asked(home, '/run/one/file/outputs/a b/ä".html?token=secret')
    assert (status, body) == (200, b"<script>alert(1)</script>")
    assert headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A4%22.html"
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-length"] == "25"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")


def test_a_picture_that_is_a_link_is_not_sent(home: Path) -> None:
    store = write_run(home, "one", [Had()])
    (store.folder / "picture").write_bytes(PNG)
    (store.folder / "samples-9.png").symlink_to("picture")
    assert asked(home, "/samples/one/samples-9.png?token=secret")[0] == 404


def test_a_stream_sends_only_what_has_changed() -> None:
    one, two, three = {"run": "a", "x": 1}, {"run": "b", "x": 1}, {"run": "c", "x": 1}
    before = {"now": "1", "runs": [one, two], "usd": 1}
    assert difference(before, {**before, "now": "2"}) == {}
    after = {"now": "2", "runs": [three, {**one, "x": 2}], "usd": 1}
    assert difference(before, after) == {"now": "2", "runs": [three, {**one, "x": 2}], "gone": ["b"]}


def test_a_stream_ends_with_the_server_and_asks_again_at_once_while_there_is_more_to_read() -> None:
    looks = [{"now": str(n), "usd": n, "is_reading": n < 3} for n in range(5)]
    given: list[dict[str, Any]] = []

    def look() -> dict[str, Any]:
        given.append(looks[len(given)])
        return given[-1]

    async def read() -> list[str]:
        return [text async for text in changes(look, lambda: len(given) == 4)]

    sent = [json.loads(text.removeprefix("data: ")) for text in asyncio.run(read())]
    assert [one["usd"] for one in sent] == [0, 1, 2, 3]
    assert ["whole" in one for one in sent] == [True, False, False, False]


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
