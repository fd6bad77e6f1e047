"""The instance metadata are never asked through a proxy, and the agent says once when they do not answer."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from botocore.utils import get_environ_proxies

from infra.instance.agent import status
from infra.instance.metadata import Metadata, keep_from_proxy, take_proxies
from infra.instance.watch import DEAF_AFTER, Watch

NOTICE = '{"action":"terminate","time":"2026-11-28T00:00:00Z"}'
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class Imds(http.server.BaseHTTPRequestHandler):
    """Answers everything with a notice."""

    def do_PUT(self) -> None:
        self._say(200, b"token")

    def do_GET(self) -> None:
        self._say(200, NOTICE.encode())

    def _say(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class Empty(Imds):
    """Has no notice."""

    def do_GET(self) -> None:
        self._say(404, b"")


class Proxy(Imds):
    """Refuses all, as a company's proxy does."""

    def do_PUT(self) -> None:
        self._say(403, b"proxy: not allowed")

    def do_GET(self) -> None:
        self.do_PUT()


@contextmanager
def served(kind: type[Imds]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [None, "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_the_notice_is_seen_behind_a_proxy(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    with served(Imds) as imds, served(Proxy) as proxy:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds)
        if name:
            monkeypatch.setenv(name, proxy)
        assert Metadata().get("spot/instance-action") == NOTICE


@pytest.mark.slow
def test_no_value_is_an_answer_and_no_answer_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Empty) as imds:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds)
        metadata = Metadata()
        assert (metadata.get("spot/instance-action"), metadata.problem) == (None, "")
    assert metadata.get("spot/instance-action") is None
    assert "refused" in metadata.problem
    with served(Proxy) as imds:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds)
        metadata = Metadata()
        assert (metadata.get("spot/instance-action"), metadata.problem) == (None, "HTTP status 403")


@pytest.mark.parametrize("before", [{}, {"no_proxy": "example.org"}, {"NO_PROXY": "example.org,"}])
def test_boto3_is_kept_from_the_proxy_too(monkeypatch: pytest.MonkeyPatch, before: dict[str, str]) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:4711/")
    environ = {"http_proxy": "http://proxy:3128", **before}
    keep_from_proxy(environ)
    keep_from_proxy(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for url in ("http://127.0.0.1:4711/", "http://169.254.169.254/", "http://[fd00:ec2::254]/"):
        assert get_environ_proxies(url) == {}
    assert get_environ_proxies("http://s3.amazonaws.com/")["http"] == "http://proxy:3128"
    assert environ["no_proxy"].count("169.254.169.254") == 1
    assert not before or get_environ_proxies("http://example.org/") == {}


def test_without_a_proxy_nothing_is_changed() -> None:
    environ = {"PATH": "/bin"}
    keep_from_proxy(environ)
    assert environ == {"PATH": "/bin"}


@pytest.mark.slow
def test_the_agent_says_once_that_the_metadata_do_not_answer_and_that_they_do_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    watch = Watch(str(tmp_path), {})
    log = tmp_path / "agent" / "agent.log"
    for _ in range(DEAF_AFTER - 1):
        watch.poll_metadata()
    assert not log.exists(), "one poll may fail"
    for _ in range(5):
        watch.poll_metadata()
    assert log.read_text().count("no interruption notice can be seen") == 1
    assert json.loads((tmp_path / "agent" / "state.json").read_text())["metadata_problem"]
    assert "127.0.0.1:9" in status(str(tmp_path), 0, 0)["metadata_problem"]
    with served(Empty) as imds:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds)
        watch.metadata = Metadata()
        watch.poll_metadata()
    assert log.read_text().count("answers again") == 1
    assert status(str(tmp_path), 0, 0)["metadata_problem"] == ""


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("http_proxy=http://p:1\n", {"http_proxy": "http://p:1"}),
        ('export https_proxy="http://p:1"\nLANG=C\n', {"https_proxy": "http://p:1"}),
        ("HTTP_PROXY='http://u:p=w#1@p:1'  # the company's\n", {"HTTP_PROXY": "http://u:p=w#1@p:1"}),
        ("# http_proxy=http://p:1\nPATH=/bin\nbroken line\n", {}),
        ("http_proxy=\n", {}),
        ("all_proxy=socks5://p:1\nno_proxy=.corp,10.0.0.0/8", {"all_proxy": "socks5://p:1"}),
    ],
)
def test_the_proxies_of_etc_environment_are_taken_where_the_login_did_not_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, found: dict[str, str]
) -> None:
    (tmp_path / "environment").write_text(content)
    monkeypatch.setenv("PIXEL_ORCH_ETC_SSH", str(tmp_path / "ssh"))
    environ: dict[str, str] = {}
    take_proxies(environ)
    assert {name: value for name, value in environ.items() if name.lower() != "no_proxy" and value} == found
    if found:
        names = environ["no_proxy"].split(",")
        assert {"169.254.169.254", "localhost", "127.0.0.1", "::1"} <= set(names)
        assert (".corp" in names) is (".corp" in content)
    theirs = {"http_proxy": "http://of-the-login:1"}
    take_proxies(theirs)
    assert theirs["http_proxy"] == "http://of-the-login:1"
    monkeypatch.setenv("PIXEL_ORCH_ETC_SSH", str(tmp_path / "none" / "ssh"))
    take_proxies(environ)
