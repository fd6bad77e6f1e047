"""A server that sends SSH packets which make no sense: paramiko raises of any type, and the run sees a silent host."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UnreachableError
from orchestrator.host.answers import MOST_ANSWER_BYTES, host_status
from orchestrator.host.base import NOTHING_NEW
from orchestrator.host.link import LinkError, Session
from orchestrator.host.shell import SshShell, make_key_pair
from tests.unit.host.test_answers import TRUE

ODD = [
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    struct.error("unpack requires a buffer of 4 bytes"),
    IndexError("list index out of range"),
    KeyError(254),
    OverflowError("too large"),
    MemoryError(),
    AttributeError("'NoneType' object has no attribute 'x'"),
    ValueError("bad key\nof two lines"),
    AssertionError(),
    TypeError("ord() expected a character"),
]


class Broken:
    """A connection whose transport met such a packet."""

    def __init__(self, error: Exception, *, at: str) -> None:
        self.error, self.at = error, at
        self.is_connected = at != "open"
        self.connect_kwargs = {"pkey": None}
        self.transport = self

    @property
    def client(self) -> Any:
        return self

    def set_missing_host_key_policy(self, policy: object) -> None:
        """Do nothing."""

    def get_host_keys(self) -> Any:
        return self

    def clear(self) -> None:
        """Do nothing."""

    def add(self, *words: object) -> None:
        """Do nothing."""

    def open(self) -> None:
        raise self.error

    def open_session(self, timeout: float) -> Any:
        if self.at == "session":
            raise self.error
        return self

    def settimeout(self, timeout_s: float) -> None:
        """Do nothing."""

    def exec_command(self, command: str) -> None:
        raise self.error

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def shell(tmp_path: Path) -> SshShell:
    host_key = make_key_pair("")[1].strip()
    return SshShell(address="192.0.2.1", port=22, user="u", key_path=tmp_path / "key", host_key=host_key)


@pytest.mark.parametrize("at", ["open", "session", "command"])
@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
def test_whatever_a_packet_brings_about_is_a_host_that_does_not_answer(
    shell: SshShell, error: Exception, at: str
) -> None:
    broken: Any = Broken(error, at=at)
    shell._links[0]._connection = broken
    with pytest.raises(UnreachableError) as caught:
        shell.run("true", timeout_s=1)
    assert str(caught.value).startswith("u@192.0.2.1:22: ")
    assert "\n" not in str(caught.value)


def test_a_poll_from_behind_the_end_of_every_file_goes_through_the_door() -> None:
    """As `pull` asks while the machine trains: the agent answers the offsets that it was given."""
    answer = {**TRUE, "metrics": "", "metrics_offset": NOTHING_NEW.metrics, "log_offset": NOTHING_NEW.log}
    raw = json.dumps(answer).encode()
    assert len(raw) < MOST_ANSWER_BYTES
    assert host_status(raw, NOTHING_NEW, where="i-1").cursor == NOTHING_NEW


class BrokenChannel:
    """A channel each call of which meets such a packet."""

    closed = False

    def __init__(self, error: Exception) -> None:
        self.error = error

    def settimeout(self, timeout_s: float) -> None:
        """Do nothing."""

    def recv_ready(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object) -> None:
            raise self.error

        return fail


@pytest.mark.parametrize(
    "error", [*ODD, EOFError(), OSError("Socket is closed")], ids=lambda error: type(error).__name__
)
def test_whatever_a_session_meets_is_a_cut_connection(shell: SshShell, error: Exception) -> None:
    """paramiko sends while it receives: it tells the server that there is room, on a connection that may be cut."""
    session = Session(shell._links[0], BrokenChannel(error), timeout_s=1.0)
    with pytest.raises(LinkError):
        session.take()
    with pytest.raises(LinkError):
        session.send(b"x", 0.1)
    session.end_input()
    session.close()
