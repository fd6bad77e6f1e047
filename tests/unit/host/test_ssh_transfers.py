"""Transfers over SSH: no more is taken than was announced, and nothing is written outside of its folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import CommandError, HostError
from orchestrator.host.base import CommandResult, Job, Setup
from orchestrator.host.shell import TooMuchError
from orchestrator.host.ssh_host import SshHost
from orchestrator.runs.outputs import ExtraOutput, Output, path_below

Answers = Callable[[str], bytes]


class ShellDouble:
    """Stands for `SshShell`: answers a command with bytes, cut where the caller wants no more."""

    def __init__(self, answer: Answers) -> None:
        self.answer = answer
        self.where = "ubuntu@192.0.2.1:22"
        self.received_bytes = 0
        self.commands: list[str] = []

    def run(self, command: str, *, timeout_s: float, feed: Any = None, sink: Any = None,
            most_bytes: int = 1 << 20) -> CommandResult:  # fmt: skip
        self.commands.append(command)
        if feed is not None:
            feed(lambda piece: None)
        content = self.answer(command)
        self.received_bytes += min(len(content), most_bytes + 1)
        if sink is not None:
            sink(content[:most_bytes])
        if len(content) > most_bytes:
            raise TooMuchError(f"{self.where}: the answer is longer than the {most_bytes} bytes expected")
        return CommandResult(command, 0, b"" if sink else content, b"")


def host_that_sends(content: bytes | Answers) -> SshHost:
    """Return a host whose every command prints this."""
    answer = content if callable(content) else lambda _: content
    shell: Any = ShellDouble(answer)
    return SshHost(shell, answer_timeout_s=1, setup_timeout_s=1)


def output_of(content: bytes, **changes: Any) -> Output:
    """Return what an honest machine lists for a checkpoint of this content."""
    listed = {"name": "checkpoint-5.pt", "step": 5, "size_bytes": len(content)}
    return Output(**{**listed, "sha256": hashlib.sha256(content).hexdigest(), **changes})


def test_a_file_of_the_announced_size_and_digest_is_taken(tmp_path: Path) -> None:
    host = host_that_sends(b"weights")
    assert host.fetch("root", output_of(b"weights"), tmp_path / "checkpoint-5.pt")
    assert (tmp_path / "checkpoint-5.pt").read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("sent", "announced"),
    [
        (b"x" * 812_000, output_of(b"x" * 43)),  # the digest of the first 43 bytes is right: the rest is still a lie
        (b"weights", output_of(b"weight")),
        (b"weights", output_of(b"weights and more")),
        (b"weights", output_of(b"weights", sha256="0" * 64)),
        (b"", output_of(b"weights")),
    ],
)
def test_a_file_that_is_not_as_announced_is_not_taken(tmp_path: Path, sent: bytes, announced: Output) -> None:
    host = host_that_sends(sent)
    assert not host.fetch("root", announced, tmp_path / "checkpoint-5.pt")
    assert list(tmp_path.iterdir()) == []
    assert host.received_bytes <= announced.size_bytes + 1


def test_what_has_no_room_is_not_begun(tmp_path: Path) -> None:
    host = host_that_sends(b"weights")
    with pytest.raises(OSError, match="No space left"):
        host.fetch("root", output_of(b"weights", size_bytes=1 << 49), tmp_path / "checkpoint-5.pt")
    assert host.received_bytes == 0


def tar_of(*members: tuple[str, bytes, bytes], link: str = "") -> bytes:
    """Return a tar of (name, type, content)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(content), link
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


ASKED = [ExtraOutput("a/log.txt", 5), ExtraOutput("b.txt", 5)]


def test_extra_outputs_are_written_below_their_folder(tmp_path: Path) -> None:
    sent = tar_of(("a/log.txt", tarfile.REGTYPE, b"hello"), ("b.txt", tarfile.REGTYPE, b"hi"))
    written = host_that_sends(sent).fetch_extra_outputs("root", ASKED, tmp_path / "outputs")
    assert written == (ExtraOutput("a/log.txt", 5), ExtraOutput("b.txt", 2))
    assert (tmp_path / "outputs" / "a" / "log.txt").read_bytes() == b"hello"


@pytest.mark.parametrize(
    "member",
    [
        ("../b.txt", tarfile.REGTYPE, b"owned"),
        ("/etc/b.txt", tarfile.REGTYPE, b"owned"),
        ("other.txt", tarfile.REGTYPE, b"owned"),  # it was not asked for
        ("b.txt", tarfile.REGTYPE, b"longer than announced"),
        ("b.txt", tarfile.SYMTYPE, b""),
        ("b.txt", tarfile.LNKTYPE, b""),
        ("b.txt", tarfile.FIFOTYPE, b""),
        ("b.txt", tarfile.CHRTYPE, b""),
        ("b.txt", tarfile.DIRTYPE, b""),
    ],
)
def test_a_member_that_is_not_a_file_that_was_asked_for_is_left_out(
    tmp_path: Path, member: tuple[str, bytes, bytes]
) -> None:
    folder = tmp_path / "run" / "outputs"
    sent = tar_of(member, ("a/log.txt", tarfile.REGTYPE, b"hello"), link="../../key")
    written = host_that_sends(sent).fetch_extra_outputs("root", ASKED, folder)
    assert [file.name for file in written] == ["a/log.txt"]
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == [folder / "a" / "log.txt"]


def test_no_file_is_written_through_a_link_that_lies_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    folder.mkdir()
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (folder / "b.txt").symlink_to(tmp_path / "key")
    for name in ("a/log.txt", "b.txt", "../b.txt", "/b.txt", ""):
        with pytest.raises(HostError, match="not taken"):
            path_below(folder, name)
    sent = tar_of(("a/log.txt", tarfile.REGTYPE, b"owned"))
    with pytest.raises(HostError, match="outside"):
        host_that_sends(sent).fetch_extra_outputs("root", ASKED, folder)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    "sent",
    [gzip.compress(tar_of(("b.txt", tarfile.REGTYPE, b"hi")), mtime=0), b"no tar" * 200, b"\0" * 511, b"\xff" * 1024],
    ids=["compressed", "text", "zeros", "ones"],
)
def test_a_damaged_or_compressed_tar_is_an_error_of_that_machine(tmp_path: Path, sent: bytes) -> None:
    with pytest.raises(CommandError, match="damaged"):
        host_that_sends(sent).fetch_extra_outputs("root", ASKED, tmp_path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGLINK])
def test_headers_in_a_row_are_an_error_of_that_machine(tmp_path: Path, kind: bytes) -> None:
    """`tarfile` reads each from within the one before: the stack ends sooner than the tar."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 10
    block = header.tobuf(tarfile.USTAR_FORMAT) + b"10 a=bcde\n".ljust(512, b"\0")
    asked = [ExtraOutput("b.txt", 5_000_000)]
    with pytest.raises(CommandError, match="damaged"):
        host_that_sends(block * 3_000).fetch_extra_outputs("root", asked, tmp_path)


def test_a_file_in_the_place_of_a_folder_hides_no_other_file(tmp_path: Path) -> None:
    """The machine before this one left `a` as a file, and `b.txt` as a folder."""
    (tmp_path / "a").write_bytes(b"of the first machine")
    (tmp_path / "b.txt").mkdir()
    sent = tar_of(*((name, tarfile.REGTYPE, b"hello") for name in ("a/log.txt", "b.txt", "c.txt")))
    written = host_that_sends(sent).fetch_extra_outputs("root", [*ASKED, ExtraOutput("c.txt", 5)], tmp_path)
    assert [file.name for file in written] == ["c.txt"]
    assert (tmp_path / "a").read_bytes() == b"of the first machine"


@pytest.mark.parametrize(
    "answer", [b"", b"\xff\xfe/home", b"home/ubuntu", b"/home\n/root\n", b"/\x1b[2J", b"/" * 2_000]
)
def test_a_working_folder_that_is_no_path_is_an_error_of_that_machine(answer: bytes) -> None:
    job = Job("pixel-orch/x", ("true",), {}, None, Path(), (), 60.0, 60.0, 5.0)
    with pytest.raises(HostError, match="makes no sense"):
        host_that_sends(answer).start(job, Setup("python3", "", "", ""))


def test_an_endless_tar_is_cut(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="longer than"):
        host_that_sends(b"\0" * 5_000_000).fetch_extra_outputs("root", ASKED, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [b"", b"[]", b"7", b"[" * 100_000, b'{"files": [{"name": 7, "size_bytes": 1}]}',
                                    b'{"files": [{"name": "a", "size_bytes": -1}]}', b'{"files": 5}'])  # fmt: skip
def test_a_list_that_makes_no_sense_is_an_error_of_that_machine(answer: bytes) -> None:
    with pytest.raises(HostError, match="makes no sense"):
        host_that_sends(answer).extra_outputs("root")


def test_a_key_that_would_add_a_line_to_known_hosts_is_never_pinned() -> None:
    pinned: list[str] = []
    answer = json.dumps({"public": "ssh-ed25519 " + "A" * 68 + "\n* ssh-ed25519 " + "B" * 68}).encode()
    with pytest.raises(HostError, match="rekey"):
        host_that_sends(answer).renew_host_key("root", pinned.append)
    assert pinned == []
