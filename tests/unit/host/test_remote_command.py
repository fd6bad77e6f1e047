"""A command's line means the same to every login shell, and its answer is told from the noise around it."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.host.remote_command import Framed, RemoteCommand, is_typed, short_name

MARK = "pixel-orch-0123456789abcdef01234567"
NOISE = b"\x1b[2Jwelcome\npixel-orch-\xff\x00 began\n{}"


def framed(pieces: list[bytes]) -> tuple[bytes, Framed]:
    """Return what is between the marks of a stream that comes in these pieces."""
    taken: list[bytes] = []
    frame = Framed(MARK, taken.append)
    for piece in pieces:
        frame.put(piece)
    frame.close()
    return b"".join(taken), frame


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """Return a stream in pieces."""
    ends = sorted({min(place, len(stream)) for place in places} | {len(stream)})
    return [stream[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(0, 255), st.lists(st.integers(0, 900)))
def test_however_it_is_cut_the_answer_is_what_was_printed(
    noise: bytes, answer: bytes, code: int, places: list[int]
) -> None:
    stream = NOISE + noise + f"{MARK} began 12 3456\n".encode() + answer + f"{MARK} ended {code}\nbye".encode()
    taken, frame = framed(cut(stream, places))
    assert taken == answer
    assert (frame.exit_code, frame.session, frame.started) == (code, 12, 3456)
    assert frame.has_ended
    assert frame.noise == NOISE + noise


@given(st.binary(max_size=300), st.lists(st.integers(0, 900)))
def test_an_answer_without_its_end_is_passed_on_and_known_to_be_cut(answer: bytes, places: list[int]) -> None:
    taken, frame = framed(cut(f"{MARK} began 1 2\n".encode() + answer, places))
    assert taken == answer
    assert frame.has_begun
    assert not frame.has_ended


def test_noise_without_an_answer_is_kept_for_the_error_and_bounded() -> None:
    taken, frame = framed([b"x" * 100_000, b"Please login as ubuntu\n"])
    assert taken == b""
    assert not frame.has_begun
    assert frame.noise.endswith(b"Please login as ubuntu\n")
    assert len(frame.noise) <= 8192


@pytest.mark.parametrize("head", [b" began\n", b" began x y\n", b" began " + b"9" * 500, b" began 1\n"])
def test_a_mark_that_makes_no_sense_gives_no_session(head: bytes) -> None:
    _, frame = framed([MARK.encode() + head])
    assert (frame.session, frame.started) == (0, 0)


@pytest.mark.parametrize("code", [b"", b"x", b"-1", b"99999999"])
def test_an_exit_code_that_makes_no_sense_is_that_of_a_signal(code: bytes) -> None:
    _, frame = framed([f"{MARK} began 1 2\n{MARK} ended ".encode() + code + b"\n"])
    assert frame.exit_code == -1


@pytest.mark.parametrize("command", ["true", "echo 'it'\"'\"'s' \\ ! $HOME `x` \"q\"\n%s", "x" * 50_000, "ü 漢 \udcff"])
def test_the_line_has_nothing_that_a_shell_could_take_for_its_own(command: str) -> None:
    line = RemoteCommand(command).line
    assert not set("\\!\n`") & set(line)
    assert line.count("'") == 2
    assert line.isascii()


@pytest.mark.parametrize("stdin", ["nothing", "sent"])
def test_a_command_runs_between_its_marks_in_the_home_folder(stdin: str, tmp_path: object) -> None:
    remote = RemoteCommand("pwd; cat; echo e >&2; exit 7", stdin, MARK)  # type: ignore[arg-type]
    sent = remote.typed * 2 + remote.go + b"payload"
    done = subprocess.run(["/bin/sh", "-c", remote.line], input=sent, capture_output=True, cwd="/", check=False,
                          env={"HOME": str(tmp_path), "CDPATH": "/usr"})  # fmt: skip
    taken, frame = framed([b"noise", done.stdout])
    assert taken == f"{tmp_path}\n".encode() + (b"payload" if stdin == "sent" else b"")
    assert (frame.exit_code, done.returncode) == (7, 7)
    assert framed([done.stderr])[0] == b"e\n"


def test_input_in_base64_reaches_the_command() -> None:
    remote = RemoteCommand("base64 -d|tr a-z A-Z", "given", MARK)
    done = subprocess.run(["/bin/sh"], input=remote.typed_with(b"it's\\n"), capture_output=True, check=False)
    assert framed([done.stdout])[0] == b"IT'S\\N"


def test_a_line_of_ours_that_a_start_file_prints_is_known() -> None:
    assert is_typed(RemoteCommand("true").typed)
    assert not is_typed(b"Please login as ubuntu")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python3 -X utf8 pixel-orch/x/bin/agent.py status pixel-orch/x 0 0", "agent.py status"),
        ("python3 -X utf8 'pixel orch/x/bin/agent.py' status 'pixel orch/x'", "agent.py status"),
        ("flock -o p/agent/bootstrap.lock bash -p p/bin/bootstrap.sh p own", "bootstrap.sh"),
        ("/opt/python p/bin/checkpoint_uploader.py restore p {}", "checkpoint_uploader.py"),
        ("cd p && pwd", "cd p && pwd"),
    ],
)
def test_a_command_has_a_short_name(command: str, name: str) -> None:
    assert short_name(command) == name
