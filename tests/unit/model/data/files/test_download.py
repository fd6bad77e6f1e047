"""Fetching: mirrors, going on, proving; against a small server on this machine that may also lie."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from model.config import REGISTRY
from model.config.data_recipe import Options
from model.config.datasets import SourceFile
from model.data.digest import sha256_of
from model.data.files.download import Patience, fetch, fetch_all
from model.data.prepare.prepare import prepare
from model.data.prepare.verify import verify
from model.errors import DataError
from tests.support.data_files import write_amat

CONTENT = hashlib.sha256(b"").digest() * 9000  # 288,000 bytes
OTHER = CONTENT[::-1]
FILE = SourceFile("data.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
Act = Callable[["Handler"], None]


@dataclass
class Seen:
    """What a server was asked, and what it is to do about it: each answer takes the next act, the last one stays."""

    acts: list[Act]
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)  # Range, If-Range
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as it is told."""

    seen: Seen
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        seen = self.seen
        seen.asked.append((self.headers.get("Range"), self.headers.get("If-Range")))
        act = seen.acts[0] if len(seen.acts) == 1 else seen.acts.pop(0)
        self.close_connection = True
        act(self)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def answer(
        self, content: bytes, *, status: int = 200, length: int | None = None, tag: str = '"v1"', **more: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.send_header("ETag", tag)
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)


def serve(content: bytes = CONTENT, *, cut: int | None = None, tag: str = '"v1"') -> Act:
    """Serve a file as a good server does; `cut`: the connection breaks after so many bytes."""

    def act(handler: Handler) -> None:
        begin, asked, known = 0, handler.headers.get("Range"), handler.headers.get("If-Range")
        if asked and known in (None, tag):
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
        part = content[begin:]
        more = {"Content_Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        handler.answer(part[:cut], status=206 if begin else 200, length=len(part), tag=tag, **more)

    return act


LOGIN = b"<html>log in</html>\n"


def page(handler: Handler) -> None:
    """A page to log in, whatever is asked for."""
    handler.answer(LOGIN, tag="")


def page_in_chunks(handler: Handler) -> None:
    """The same from a server that does not say how long it is."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(LOGIN), LOGIN))


def shorter(handler: Handler) -> None:
    """Another file, which ends before what is asked for."""
    if handler.headers.get("Range"):
        handler.answer(b"", status=416, Content_Range="bytes */20")
    else:
        page(handler)


def status(code: int) -> Act:
    return lambda handler: handler.answer(b"", status=code)


@pytest.fixture
def server() -> Iterator[Callable[..., Seen]]:
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(*acts: Act) -> Seen:
        seen = Seen(list(acts))
        made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Handler,), {"seen": seen}))
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(made)
        seen.url = f"http://127.0.0.1:{made.server_address[1]}/data.bin"
        return seen

    yield start
    for made in servers:
        made.shutdown()
        made.server_close()


@dataclass
class Slept:
    """A patience that waits on nothing, and remembers how long it would have waited."""

    waits: list[float] = field(default_factory=list)

    @property
    def patience(self) -> Patience:
        return Patience(tries=4, first_wait_s=1, longest_wait_s=4, timeout_s=5, sleep=self.waits.append)


def get(folder: Path, *urls: str, file: SourceFile = FILE, slept: Slept | None = None) -> Path:
    return fetch(file, list(urls), folder, stream=io.StringIO(), patience=(slept or Slept()).patience)


def only_the_file(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["data.bin"]
    assert (folder / "data.bin").read_bytes() == CONTENT


def test_a_file_comes_whole_and_proven(server: Callable[..., Seen], tmp_path: Path) -> None:
    seen = server(serve())
    get(tmp_path, seen.url)
    only_the_file(tmp_path)
    assert seen.asked == [(None, None)]


def test_it_goes_on_where_the_connection_broke(server: Callable[..., Seen], tmp_path: Path) -> None:
    seen = server(serve(cut=100_000), serve(cut=50_000), serve())
    slept = Slept()
    get(tmp_path, seen.url, slept=slept)
    only_the_file(tmp_path)
    assert seen.asked == [(None, None), ("bytes=100000-", '"v1"'), ("bytes=150000-", '"v1"')]
    assert slept.waits == []  # there was progress


def test_it_goes_on_in_another_process(server: Callable[..., Seen], tmp_path: Path) -> None:
    seen = server(serve(cut=100_000), status(503))
    with pytest.raises(DataError, match=r"cannot fetch data.bin \(http://127.0.0.1:\d+/data.bin: HTTP 503\)"):
        get(tmp_path, seen.url)
    assert (tmp_path / "data.bin.part").stat().st_size == 100_000
    assert not (tmp_path / "data.bin").exists()
    seen.acts[:] = [serve()]
    get(tmp_path, seen.url)
    only_the_file(tmp_path)
    assert seen.asked[-1] == ("bytes=100000-", '"v1"')


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Callable[..., Seen], tmp_path: Path) -> None:
    seen = server(serve(OTHER, cut=100_000, tag='"old"'), serve(tag='"new"'))
    get(tmp_path, seen.url)
    only_the_file(tmp_path)
    assert seen.asked[1] == ("bytes=100000-", '"old"')


def test_a_server_that_cannot_go_on_begins_anew(server: Callable[..., Seen], tmp_path: Path) -> None:
    def whole(handler: Handler) -> None:
        handler.answer(CONTENT)

    get(tmp_path, server(serve(cut=100_000), whole).url)
    only_the_file(tmp_path)


def test_a_server_that_lies_about_the_place_is_not_believed(server: Callable[..., Seen], tmp_path: Path) -> None:
    def elsewhere(handler: Handler) -> None:
        handler.answer(CONTENT[5:], status=206, Content_Range=f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}")

    seen = server(serve(cut=100_000), elsewhere, serve())
    get(tmp_path, seen.url)
    only_the_file(tmp_path)


@pytest.mark.parametrize(
    "lie", [serve(OTHER), serve(CONTENT[:-1] + b"x"), serve(CONTENT[:-9]), serve(CONTENT + b"more")]
)
def test_another_file_under_the_name_is_refused_and_the_next_mirror_asked(
    lie: Act, server: Callable[..., Seen], tmp_path: Path
) -> None:
    bad, good = server(lie), server(serve())
    get(tmp_path, bad.url, good.url)
    only_the_file(tmp_path)
    assert len(bad.asked) == 1
    assert good.asked == [(None, None)]


def test_when_all_lie_it_says_what_each_has(server: Callable[..., Seen], tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        get(tmp_path, server(serve(OTHER)).url, server(status(404)).url)
    text = str(caught.value)
    assert f"has another file: its sha256 is {hashlib.sha256(OTHER).hexdigest()}, not {FILE.sha256}" in text
    assert "HTTP 404" in text
    assert "give the file with --source" in text
    assert list(tmp_path.iterdir()) == []  # nothing of it is kept


def test_halves_of_two_mirrors_that_do_not_fit_are_fetched_again(server: Callable[..., Seen], tmp_path: Path) -> None:
    bad = server(serve(OTHER, cut=100_000), status(404))
    good = server(serve())
    get(tmp_path, bad.url, good.url)
    only_the_file(tmp_path)
    assert good.asked == [("bytes=100000-", None), (None, None)]


@pytest.mark.parametrize("bad", [page, page_in_chunks, shorter, serve(CONTENT + b"more")])
def test_a_bad_mirror_does_not_cost_what_a_good_one_gave(bad: Act, server: Callable[..., Seen], tmp_path: Path) -> None:
    good, other = server(serve(cut=100_000), serve(cut=50_000), serve()), server(bad)
    get(tmp_path, good.url, other.url)
    only_the_file(tmp_path)
    assert good.asked == [(None, None), ("bytes=100000-", '"v1"'), ("bytes=150000-", '"v1"')]
    assert len(other.asked) == 1  # it is not asked again


def test_a_page_in_place_of_the_file_is_not_taken_for_its_beginning(
    server: Callable[..., Seen], tmp_path: Path
) -> None:
    bad, good = server(page_in_chunks), server(serve())
    get(tmp_path, bad.url, good.url)
    only_the_file(tmp_path)
    assert (len(bad.asked), good.asked) == (1, [(None, None)])
    (tmp_path / "data.bin").unlink()
    with pytest.raises(DataError, match=r"has 20 bytes, the published file 288,000\); try later"):
        get(tmp_path, bad.url)


def test_a_server_alone_that_does_not_say_a_length_may_begin_anew(server: Callable[..., Seen], tmp_path: Path) -> None:
    def whole_in_chunks(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT))

    seen = server(serve(cut=100_000), whole_in_chunks)
    get(tmp_path, seen.url)
    only_the_file(tmp_path)
    assert len(seen.asked) == 2


def test_a_mirror_with_other_files_is_taken_only_unverified(
    server: Callable[..., Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_amat(tmp_path / "in")
    monkeypatch.setenv("PIXEL_ORCH_DATA", str(tmp_path / "data"))
    seen = server(lambda handler: handler.answer((tmp_path / "in" / handler.path.rpartition("/")[2]).read_bytes()))
    mirror, patience = seen.url.rpartition("/")[0], Patience(tries=1)
    monkeypatch.setattr("model.data.files.download.Patience", lambda: patience)
    entry = REGISTRY["mnist-static"]
    entry = replace(entry, files=tuple(replace(file, urls=()) for file in entry.files))
    monkeypatch.setattr("model.config.data_recipe.REGISTRY", {entry.name: entry})
    options = Options(source=mirror, out=tmp_path / "out")
    with pytest.raises(DataError, match=r"train.amat: has 62,720 bytes, the published file 78,400,000"):
        prepare("mnist-static", options)
    assert not (tmp_path / "out").exists()
    made, folder, _ = prepare("mnist-static", replace(options, unverified=True))
    assert verify(folder) == made
    assert (made.published, made.splits) == (False, {"train": 40, "valid": 10, "test": 10})
    assert made.sources[0]["sha256"] == sha256_of(tmp_path / "in" / "binarized_mnist_train.amat")


def test_a_busy_server_is_asked_again_later_and_later(server: Callable[..., Seen], tmp_path: Path) -> None:
    slept = Slept()
    seen = server(status(503), status(429), status(500), serve())
    get(tmp_path, seen.url, slept=slept)
    only_the_file(tmp_path)
    assert slept.waits == [1, 2, 4]


def test_a_part_that_is_whole_is_proven_and_not_fetched(server: Callable[..., Seen], tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    seen = server(status(500))
    get(tmp_path, seen.url)
    only_the_file(tmp_path)
    assert seen.asked == []


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot fetch data.bin \(http://127.0.0.1:1/data.bin: Connection refused\)"):
        get(tmp_path, "http://127.0.0.1:1/data.bin")


def test_the_disk_is_asked_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"needs 14.1 GB and 200.0 MB to spare, its disk has 1.0 MB free"):
        fetch_all(REGISTRY["imagenet-box-64"], tmp_path)


def test_a_data_set_is_fetched_from_a_mirror_of_ones_own(server: Callable[..., Seen], tmp_path: Path) -> None:
    seen = server(serve())
    entry = replace(REGISTRY["mnist-static"], files=(FILE,))
    mirror = seen.url.rpartition("/")[0] + "/"
    for _ in range(2):  # the second time it is there
        assert fetch_all(entry, tmp_path, mirror=mirror, patience=Slept().patience) == [tmp_path / "data.bin"]
    assert len(seen.asked) == 1


def test_what_only_bittorrent_has_is_said_with_link_and_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError) as caught:
        fetch_all(REGISTRY["imagenet-small-32"], tmp_path / "downloads")
    text = str(caught.value)
    for word in (
        "train_32x32.tar cannot be fetched. No server has these files any more",
        "4,113,018,880 bytes",
        "244a323d48f8d72f65ad8b54658c01fed68d2d7bdc77ccb43da58c11e94224e5",
        "magnet:?xt=urn:btih:bf62f5051ef878b9c357e6221e879629a9b4b172",
    ):
        assert word in text
    assert "\n" not in text


@pytest.mark.parametrize(("content", "code", "says"), [
    (CONTENT, 0, None), (OTHER, 0, "has another file: its sha256"), (None, 0, "ended with 0 and data.bin is missing"),
    (CONTENT, 7, "aria2c ended with 7"),
])  # fmt: skip
def test_aria2c_fetches_it_where_it_is_installed(
    content: bytes | None, code: int, says: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "aria2c"
    program.parent.mkdir()
    (tmp_path / "content").write_bytes(content or b"")
    copy = f'mkdir -p "$d/name"; /bin/cp {tmp_path}/content "$d/name/data.bin"' if content else ":"
    loop = 'for w in "$@"; do case "$w" in --dir=*) d="${w#--dir=}";; magnet:*) echo "$w" > "$0.asked";; esac; done'
    program.write_text(f"#!/bin/sh\n{loop}\n{copy}\nexit {code}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}/bin{os.pathsep}/usr/bin")
    entry = replace(REGISTRY["udacity-2-1"], files=(replace(FILE, infohash="ab" * 20),))
    if says is None:
        assert fetch_all(entry, tmp_path / "out")[0].read_bytes() == CONTENT
    else:
        with pytest.raises(DataError, match=says):
            fetch_all(entry, tmp_path / "out")
        assert not (tmp_path / "out" / "data.bin").exists()
    assert (tmp_path / "bin" / "aria2c.asked").read_text().strip() == f"magnet:?xt=urn:btih:{'ab' * 20}"
