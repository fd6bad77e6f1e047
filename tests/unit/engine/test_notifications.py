"""A web address is told what happens to a run; one that does not answer holds up nothing and is named once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.notifications import Notifier, post
from orchestrator.errors import BudgetError, SpecError
from orchestrator.plan.program_settings import check_notify
from orchestrator.runs.program_events import NotificationLost
from orchestrator.runs.spec import Limits, ProgramSpec
from tests.support.memory import Machine
from tests.support.story import Story

URL = "https://example.org/hook"


def led(home: Path, url: str, send: Any, notice_s: float = 120.0, **spec: Any) -> tuple[Story, str]:
    """Lead a run that is interrupted once; return its story and its last state."""

    def fate(number: int, machine: Machine) -> None:
        if number == 1:
            story.later(70, lambda: story.cloud.interrupt(machine, notice_s=notice_s))

    story = Story(home, fate=fate, program=ProgramSpec(notify=url), **spec)
    engine = story.engine()
    notifier = Notifier(engine.journal, engine.plan.spec, send)
    engine.journal.watchers = (*engine.journal.watchers, notifier)
    return story, engine.run().state


def test_interruption_recovery_and_end_are_told(home: Path) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    _, state = led(home, URL, lambda url, body: sent.append((url, json.loads(body))))
    assert state == "SUCCEEDED"
    assert {url for url, _ in sent} == {URL}
    assert [message["event"] for _, message in sent] == ["interruption", "recovery", "end"]
    last = sent[-1][1]
    assert (last["run"], last["state"], last["attempts"], last["interruptions"]) == ("story", "SUCCEEDED", 2, 1)
    assert last["cost_usd"] > 0
    assert "story: SUCCEEDED" in last["text"]


def test_an_interruption_without_a_notice_is_told_too(home: Path) -> None:
    sent: list[Any] = []
    led(home, URL, lambda url, body: sent.append(json.loads(body)), notice_s=0.0)
    assert [message["event"] for message in sent] == ["interruption", "recovery", "end"]
    assert "without a notice" in sent[0]["text"]


def test_nobody_takes_the_dollars_of_the_embedded_cloud_for_a_bill(home: Path) -> None:
    sent: list[Any] = []
    led(home, "https://hooks.slack.com/x", lambda url, body: sent.append(json.loads(body)), cloud="local")
    assert sent
    assert all("embedded cloud, nothing is billed" in message["text"] for message in sent)


def test_slack_gets_its_own_form(home: Path) -> None:
    sent: list[Any] = []
    led(home, "https://hooks.slack.com/services/T/B/x", lambda url, body: sent.append(json.loads(body)))
    assert all(message.keys() == {"text"} for message in sent)
    assert len(sent) == 3


def test_four_fifths_of_the_budget_are_told_once(home: Path) -> None:
    sent: list[Any] = []
    limits = Limits(budget_usd=Decimal("0.02"))
    with pytest.raises(BudgetError):
        led(home, URL, lambda url, body: sent.append(json.loads(body)), limits=limits)
    (told,) = (message for message in sent if message["event"] == "budget")
    assert 0.016 <= told["cost_usd"] < told["budget_usd"] == 0.02
    assert (sent[-1]["event"], sent[-1]["state"]) == ("end", "STOPPED")


def test_an_address_that_refuses_is_named_once_and_the_run_goes_on(home: Path) -> None:
    def refuse(url: str, body: bytes) -> None:
        raise OSError("Connection refused")

    story, state = led(home, URL, refuse)
    lost = [event for event in story.recorder.events if isinstance(event, NotificationLost)]
    assert (state, [event.reason for event in lost]) == ("SUCCEEDED", ["Connection refused"])
    assert not any(isinstance(event, NotificationLost) for event in story.store.events()), "told, and not written"


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Give a web server on this machine, and what it was sent."""
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            got.append((self.headers["Content-Type"], self.rfile.read(length)))
            self.send_response(500 if self.path == "/broken" else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", got
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_message_is_a_post_of_json(
    server: tuple[str, list[tuple[str, bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    url, got = server
    post(f"{url}/hook", b'{"event": "end"}')
    assert got == [("application/json", b'{"event": "end"}')]
    with pytest.raises(OSError, match="500"):
        post(f"{url}/broken", b"{}")


@pytest.mark.parametrize(
    "url", ["hooks.slack.com/x", "ftp://h/x", "https://", "https://h/a b", "https://h:port/", "http://h/\n", "h" * 9999]
)
def test_what_is_no_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(SpecError, match="--notify: it is no web address; give https://HOST/PATH") as refused:
        check_notify(url)
    assert url == "https://" or url not in str(refused.value)


def test_an_address_is_taken_and_can_be_dropped() -> None:
    assert check_notify(URL) == URL
    assert check_notify("") is None
    assert check_notify(None) is None
