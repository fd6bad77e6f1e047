"""The dashboard: what it shows is what the store says; who has no token gets nothing; nobody can change anything."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import main
from orchestrator.dashboard import snapshot
from orchestrator.market.billing import total_usd
from orchestrator.runs.spec import Limits
from tests.report_runs import BORN, PNG, Had, write_run

pytest.importorskip("starlette")
NOW = BORN + 3000.0


def test_it_shows_state_steps_speed_money_and_newest_samples(home: Path) -> None:
    from orchestrator.runs.events import Progress

    seen = [Progress(at=BORN + 90, attempt=1, step=40, images_per_s=900.0)]
    had = Had(ended_by=None, extra=list(seen))
    store = write_run(home, "going", [had], limits=Limits(budget_usd=Decimal(2)))
    for step in (9, 100, 20):
        (store.folder / f"samples-{step}.png").write_bytes(PNG)
    (run,) = snapshot(home, NOW)["runs"]
    assert (run["step"], run["steps"], run["images_per_s"]) == (100, 1000, 900.0), "checkpoint-100.pt is home"
    assert (run["samples"], run["budget_usd"], run["usd_is_estimate"]) == ("samples-100.png", 2.0, True)
    assert run["usd"] == pytest.approx(float(total_usd(store.state().attempts, NOW)))
    assert run["where"] == "g4dn.xlarge spot in us-east-1a"
    assert any("checkpoint-100.pt is home" in event["words"] for event in run["events"])
    assert not run["is_led"], "nobody holds its lock"


def test_its_step_is_that_of_the_newest_thing_at_home_as_in_status(home: Path) -> None:
    from orchestrator.runs.events import Progress

    late = [Progress(at=BORN + 90, attempt=1, step=40)]
    store = write_run(home, "going", [Had(ended_by=None, extra=list(late))])
    with (store.folder / "attempts" / "1" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 180, "split": "valid"}\n{"step": 18')
    assert snapshot(home, NOW)["runs"][0]["step"] == 180


def test_what_goes_on_comes_first_and_old_runs_are_counted(home: Path) -> None:
    write_run(home, "going", [Had(ended_by=None)])
    for number in range(15):
        write_run(home, f"over-{number:02}", [Had(last_step=3)])
    seen = snapshot(home, NOW)
    assert seen["runs"][0]["run"] == "going"
    assert (len(seen["runs"]), seen["others"], seen["going"]) == (12, 4, 1)


def test_an_empty_store_and_a_run_without_events_are_shown_as_such(home: Path) -> None:
    assert snapshot(home, NOW)["runs"] == []
    store = write_run(home, "blank", [])
    (store.folder / "events.jsonl").unlink()
    (run,) = snapshot(home, NOW)["runs"]
    assert (run["state"], run["usd"], run["events"]) == ("PENDING", 0.0, [])


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
def test_without_the_token_there_is_nothing(home: Path, path: str) -> None:
    status, _, body = asked(home, path)
    assert status == 403
    assert b"with its token" in body


def test_another_name_for_this_machine_is_refused(home: Path) -> None:
    assert asked(home, "/?token=secret", host="evil.example:1")[0] == 403
    assert asked(home, "/?token=secret", host="localhost:1")[0] == 200


def test_the_page_allows_itself_nothing_but_its_own(home: Path) -> None:
    status, headers, body = asked(home, "/?token=secret")
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert f'<script nonce="{nonce}">'.encode() in body
    assert b"http" not in body.replace(b"http://www.w3.org/2000/svg", b"")
    assert headers["cache-control"] == "no-store"


def test_events_are_the_snapshot(home: Path) -> None:
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
def test_pictures_are_all_that_can_be_fetched(home: Path, path: str, status: int) -> None:
    store = write_run(home, "one", [Had()])
    (store.folder / "samples-7.png").write_bytes(PNG)
    (store.folder / "key").write_text("secret key")
    assert asked(home, f"{path}?token=secret")[0] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_is_read_only(home: Path, method: str) -> None:
    assert asked(home, "/?token=secret", method=method)[0] == 405


def test_looking_writes_nothing(home: Path) -> None:
    write_run(home, "one", [Had()])
    before = sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*"))
    snapshot(home, NOW)
    assert sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*")) == before


def test_a_port_that_cannot_be_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    assert main(["dashboard", "--port", "70000"]) == 2
    assert "--port: 70000 is not a port" in capsys.readouterr().err
