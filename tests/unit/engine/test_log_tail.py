"""The end of a long log comes first when a machine is about to go; what is left is named with its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.engine.log_tail import FIRST_OVER_BYTES, TAIL_BYTES, LogTail
from orchestrator.errors import UnreachableError
from orchestrator.host.base import Cursor, HostStatus

LOG = b"".join(b"line %07d\n" % number for number in range(600_000))


class LoudHost:
    """Answers polls with parts of a long log."""

    def __init__(self) -> None:
        self.is_away = False
        self.allowed_s: float | None = None

    def poll(self, _root: str, cursor: Cursor, allow_s: float | None = None) -> HostStatus:
        self.allowed_s = allow_s
        if self.is_away:
            raise UnreachableError("it is away")
        text = LOG[cursor.log : cursor.log + (256 << 10)]
        end = Cursor(0, cursor.log + len(text))
        left = len(LOG) - end.log
        return HostStatus("running", None, False, None, False, "", True, b"", text, end, (), log_left_bytes=left)


def told(path: Path, host: Any, here_bytes: int) -> LogTail:
    path.write_bytes(LOG[:here_bytes])
    tail = LogTail(path)
    tail.log_left_bytes = len(LOG) - here_bytes
    tail.fetch(host, "root", 60.0)
    return tail


def test_the_last_lines_are_kept_and_the_missing_bytes_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "trainer.log"
    tail = told(path, LoudHost(), 1_000)
    tail.append()
    content = path.read_bytes()
    missing = len(LOG) - 1_000 - TAIL_BYTES
    assert content.startswith(LOG[:1_000] + b"\n[pixel-orch: %s bytes of the log" % f"{missing:,}".encode())
    assert content.endswith(LOG[-TAIL_BYTES:])


def test_what_came_after_all_is_not_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "trainer.log"
    tail = told(path, LoudHost(), 1_000)
    path.write_bytes(LOG[:-100])
    tail.log_left_bytes = 100
    tail.append()
    content = path.read_bytes()
    assert content == LOG
    assert b"[pixel-orch: 0 bytes" not in content
    tail.log_left_bytes = 0
    path.write_bytes(LOG)
    tail.append()
    assert path.read_bytes() == LOG


def test_without_an_answer_the_missing_bytes_are_named(tmp_path: Path) -> None:
    path, host = tmp_path / "trainer.log", LoudHost()
    host.is_away = True
    told(path, host, 1_000).append()
    assert path.read_bytes().endswith(f"\n[pixel-orch: {len(LOG) - 1_000:,} bytes of the log are not here: "
                                      "they stayed on the instance]\n".encode())  # fmt: skip


def test_a_short_rest_is_not_asked_for_twice(tmp_path: Path) -> None:
    path = tmp_path / "trainer.log"
    tail = told(path, LoudHost(), len(LOG) - FIRST_OVER_BYTES)
    assert tail._text == b""


def test_what_the_budget_allows_stays_said(tmp_path: Path) -> None:
    """Each poll replaces what the one before allowed the machine to go on for."""
    host = LoudHost()
    told(tmp_path / "trainer.log", host, 1_000)
    assert host.allowed_s == 60.0


def test_a_machine_that_claims_a_log_and_sends_none_of_it_harms_nothing(tmp_path: Path) -> None:
    tail = LogTail(tmp_path / "trainer.log")
    tail.log_left_bytes = 1 << 40
    tail.fetch(LoudHost(), "root", None)  # type: ignore[arg-type]  # a part of a host
    tail.append()
    assert (tmp_path / "trainer.log").stat().st_size < 200
