"""The door for a machine's answers: what makes no sense is a HostError of that machine, and nothing else is raised."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from orchestrator.errors import HostError
from orchestrator.host import answers
from orchestrator.host.base import Cursor, HostStatus
from orchestrator.runs.outputs import MOST_FILES, Output
from tests.support.lies import LIES, ODD, SENSELESS, told

DIGEST = "5" * 64
TRUE: dict[str, Any] = {
    "protocol": 2,
    "now": 1_795_914_779.5,
    "agent_alive": True,
    "trainer": {"state": "running", "pid": 77, "asked": False},
    "notice": None,
    "rebalance": False,
    "ending": "",
    "metrics": '{"step": 3}\n',
    "metrics_offset": 12,
    "log": "",
    "log_offset": 0,
    "outputs": [{"name": "checkpoint-3.pt", "step": 3, "size_bytes": 9, "sha256": DIGEST}],
    "stored": [],
    "s3_done": False,
    "gpu": {"name": "Tesla T4", "sm_clock_mhz": 1590.0, "utilization_percent": 97.5, "looks": 12},
    "s3_problem": "",
}


def status(answer: Any, cursor: Cursor = Cursor()) -> HostStatus:  # noqa: B008  (frozen)
    """Let an answer through the door."""
    raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return answers.host_status(raw, cursor, where="i-1")


def test_a_true_answer_is_taken_as_it_is() -> None:
    taken = status(TRUE)
    assert taken.outputs == (Output("checkpoint-3.pt", 3, 9, DIGEST),)
    assert (taken.trainer, taken.exit_code, taken.metrics, taken.cursor) == (
        "running",
        None,
        b'{"step": 3}\n',
        Cursor(12),
    )
    assert taken.gpu["name"] == "Tesla T4"


@pytest.mark.parametrize("lie", SENSELESS)
def test_an_answer_that_makes_no_sense_is_refused_in_one_line_that_names_the_machine(lie: str) -> None:
    with pytest.raises(HostError) as caught:
        status(told(lie, TRUE))
    text = str(caught.value)
    assert text.startswith("i-1: the answer of agent.py status makes no sense: ")
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) < 400


@pytest.mark.parametrize("lie", ODD)
def test_an_answer_that_fits_is_taken_however_odd_it_is(lie: str) -> None:
    taken = status(told(lie, TRUE))
    assert taken.notice_ends_at is None or taken.notice_ends_at >= 0
    assert len(taken.s3_trouble) <= answers.MOST_WORDS


def test_bytes_of_the_log_that_are_no_text_arrive_as_they_were() -> None:
    raw = bytes(range(128, 256)) + "ü€\n".encode()
    text = raw.decode(errors="surrogateescape")
    assert status({**TRUE, "log": text, "log_offset": len(raw)}).log == raw


def test_an_agent_of_version_0_1_0_is_understood() -> None:
    """It sends neither `protocol` nor anything that this version added."""
    old = {key: value for key, value in TRUE.items() if key != "protocol"}
    old["trainer"] = {"state": "absent"}
    old["gpu"] = {}
    assert status(old).trainer == "absent"


def test_a_poll_from_behind_the_end_of_the_files_is_answered() -> None:
    far = 1 << 49
    nothing = {**TRUE, "metrics": "", "metrics_offset": far, "log_offset": far}
    assert status(nothing, Cursor(far, far)).cursor == Cursor(far, far)


@pytest.mark.slow
def test_a_hundred_thousand_files_are_taken_and_more_than_the_bound_are_not() -> None:
    entry = {"name": "checkpoint-3.pt", "step": 3, "size_bytes": 9, "sha256": DIGEST}
    assert len(status({**TRUE, "outputs": [entry] * 100_000}).outputs) == 100_000
    with pytest.raises(HostError, match="outputs"):
        status({**TRUE, "outputs": [{}] * (MOST_FILES + 1)})


def test_a_notice_without_a_zone_is_utc() -> None:
    assert answers.notice_time("2026-11-29T00:00:00", 5.0) == answers.notice_time("2026-11-29T00:00:00Z", 7.0)
    assert answers.notice_time("soon", 5.0) == 125.0


@pytest.mark.parametrize(
    "public",
    ["", "ssh-rsa AAAA", "ssh-ed25519 AAAA", f"ssh-ed25519 {'A' * 68}\n* ssh-ed25519 {'B' * 68}",
     f"ssh-ed25519 {'A' * 68} @cert-authority"],
)  # fmt: skip
def test_a_host_key_is_one_line_of_one_kind(public: str) -> None:
    with pytest.raises(HostError, match="rekey"):
        answers.public_host_key(json.dumps({"public": public}).encode(), where="i-1")


def test_a_file_whose_name_cannot_be_a_path_here_is_listed_with_its_problem_beside_the_others() -> None:
    names = ["good/a.txt", "../bad", "/bad", "a\nb", "caf\udce9", "x" * 300, "a//b"]
    raw = json.dumps({"files": [{"name": name, "size_bytes": 1} for name in names]}).encode()
    found = answers.extra_outputs(raw, where="i-1")
    assert [file.name for file in found if not file.problem] == ["good/a.txt"]
    assert all(file.problem for file in found[1:])
    assert all("\n" not in file.problem and file.problem.isprintable() for file in found)


VALUES = some.recursive(
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats()
    | some.text()
    | some.sampled_from(["exited", "key"]),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True)
@given(some.dictionaries(some.sampled_from(sorted(TRUE)), VALUES, max_size=4), some.binary(max_size=64))
def test_whatever_is_answered_is_taken_or_refused(changes: dict[str, Any], junk: bytes) -> None:
    for raw in (json.dumps({**TRUE, **changes}).encode(), junk, json.dumps(TRUE).encode()[: len(junk) * 7]):
        refused: HostError | None = None
        try:
            taken = status(raw)
        except HostError as error:
            refused = error
        assert "\n" not in str(refused)
        assert refused or all(output.size_bytes >= 0 for output in taken.outputs)


def test_every_lie_is_told_once() -> None:
    assert len(LIES) == len(SENSELESS) + len(ODD) >= 60
