"""Programs within a time limit, and what keeps a process alive when the login ends."""

from __future__ import annotations

import os
import pwd
import signal
import sys
import time
from pathlib import Path

import pytest

from infra.instance import programs
from infra.instance.programs import MISSING, OVERDUE, outlive_login, run, run_as_root


def fake(folder: Path, name: str, body: str) -> None:
    """Put a program there; it writes down how it was called."""
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\n{body}\n')
    path.chmod(0o755)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of programs that is searched first, and a machine with a guard."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("PIXEL_ORCH_RUN", str(tmp_path))
    (tmp_path / "deadline").write_text("0\n")
    fake(folder, "sudo", 'shift; exec "$@"')
    answers = iter(["0::/user.slice/session-4.scope\n"])  # systemd takes a moment
    unit = f"0::/system.slice/pixel-orch-my-run-{os.getpid()}.scope\n"
    monkeypatch.setattr(programs, "own_control_groups", lambda: next(answers, unit))
    return folder


def test_a_program_gives_its_code_and_both_outputs() -> None:
    assert run(["sh", "-c", "echo out; echo err >&2; exit 7"], 10) == (7, "out\nerr\n")
    with pytest.raises(FileNotFoundError):
        run(["/nowhere/at-all"], 10)


@pytest.mark.slow
def test_a_program_whose_time_is_up_is_named_with_its_last_output() -> None:
    began = time.monotonic()
    code, output = run(["sh", "-c", "echo one; printf '50 %%\\r51 %%'; sleep 60; echo late"], 0.3)
    assert time.monotonic() - began < 20
    assert code == OVERDUE
    assert output.splitlines()[-1].startswith("sh -c echo one; ")
    assert output.splitlines()[-1].endswith(" did not end within 0.3 s; its last output: 51 %")


@pytest.mark.slow
def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    run(["sh", "-c", f"sleep 60 & echo $! > {pid}; trap '' TERM; wait; sleep 60"], 0.5)
    give_up_at = time.monotonic() + 10
    while time.monotonic() < give_up_at and _lives(int(pid.read_text())):
        time.sleep(0.05)
    assert not _lives(int(pid.read_text()))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_program_that_nothing_can_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """In uninterruptible sleep a process gets no signal."""
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, number: killed.append(pid))
    monkeypatch.setattr(programs, "TERM_S", 0.1)
    monkeypatch.setattr(programs, "KILL_S", 0.1)
    code, output = run([sys.executable, "-c", "import time; time.sleep(60)"], 0.1)
    assert code == OVERDUE
    assert "and it cannot be killed: it hangs in the kernel; it printed nothing" in output
    monkeypatch.undo()
    os.killpg(killed[0], signal.SIGKILL)


def test_where_there_is_no_sudo_a_command_runs_as_it_is(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fakes / "sudo").unlink()
    monkeypatch.setenv("PATH", str(fakes))
    assert run_as_root(["nothing-like-this"], 10) == (MISSING, "nothing-like-this is not installed")
    (fakes / "here").symlink_to("/bin/true")
    assert run_as_root(["here"], 10).code == 0


# -- beyond the login

CALL = (
    "call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StartTransientUnit "
    f"ssa(sv)a(sa(sv)) pixel-orch-my-run-{os.getpid()}.scope fail 2 Description s pixel-orch PIDs au 1 {os.getpid()} 0"
)


def test_systemd_moves_the_agent_out_of_the_session_and_lets_the_user_linger(fakes: Path) -> None:
    fake(fakes, "loginctl", "")
    fake(fakes, "busctl", "")
    assert outlive_login("my run") == f"in pixel-orch-my-run-{os.getpid()}.scope, lingering"
    calls = (fakes / "calls").read_text().splitlines()
    assert f"loginctl enable-linger {pwd.getpwuid(os.getuid()).pw_name}" in calls
    assert f"busctl {CALL}" in calls


def test_without_sudo_the_users_own_manager_is_asked(fakes: Path) -> None:
    fake(fakes, "sudo", "echo a password is required >&2; exit 1")
    fake(fakes, "busctl", '[ "$1" = --user ]')
    assert "of the user, not lingering (a password is required)" in outlive_login("my run")
    assert f"busctl --user {CALL}" in (fakes / "calls").read_text().splitlines()


@pytest.mark.slow
def test_a_move_that_does_not_come_is_said(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(fakes, "busctl", "echo no reply")
    monkeypatch.setattr(programs, "own_control_groups", lambda: "0::/user.slice/session-4.scope\n")
    monkeypatch.setattr(programs, "ANSWER_S", 0.3)
    assert outlive_login("my run").startswith("in the session (no reply)")


def test_without_systemd_it_stays_where_it_is(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fakes / "sudo").unlink()
    monkeypatch.setenv("PATH", str(fakes))
    assert outlive_login("my run").startswith("in the session (busctl is not installed)")


def test_a_machine_without_our_guard_is_not_changed(fakes: Path) -> None:
    """A developer's own machine, where a test runs the agent."""
    fake(fakes, "sudo", "")
    fake(fakes, "busctl", "")
    (fakes.parent / "deadline").unlink()
    assert outlive_login("my run") == "no guard"
    assert not (fakes / "calls").exists()
