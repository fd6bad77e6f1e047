"""Programs of the machine, each within a time limit; and a life beyond the login.

A program that waits for a driver, a lock or a network can wait for ever, and in uninterruptible sleep not even SIGKILL
ends it. So no program is waited for (`subprocess.run` waits after its time-out): it is looked at until its time is up,
then killed, and left behind if it does not end. Its output goes to a file, so that no pipe is read to an end that
never comes.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import IO, NamedTuple

OVERDUE = 124  # the exit code of a program whose time was up; `timeout` of coreutils has the same
MISSING = 127
ANSWER_S = 4.0  # for systemd, which answers in milliseconds; the owner waits for it
TERM_S, KILL_S = 2.0, 2.0  # until a signal has ended a program
MOST_OUTPUT_BYTES = 1 << 20  # the end of it is kept

left_behind: list[subprocess.Popen[bytes]] = []  # to be reaped, should they end


class Done(NamedTuple):
    """How a program ended. `output` is what it printed; after a time-out its last line names program and time."""

    code: int
    output: str


def run(words: Sequence[str], limit_s: float) -> Done:
    """Run a program; end it when its time is up.

    Raises:
        OSError: it cannot be started, for example because it is not installed.
    """
    with _spool() as spool:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=spool, stderr=subprocess.STDOUT, start_new_session=True
        )
        code = ended(process, limit_s)
        left = "" if code is not None or end(process) else ", and it cannot be killed: it hangs in the kernel"
        output = _content(spool)
    if code is not None:
        return Done(code, output)
    words_of_it = last_line(output)
    said = "its last output: %s" % words_of_it if words_of_it else "it printed nothing"
    name = " ".join(words[2:] if list(words[:2]) == ["sudo", "-n"] else words)[:60]
    why = "%s did not end within %g s%s; %s" % (name, limit_s, left, said)
    return Done(OVERDUE, "%s\n%s" % (output.rstrip("\n"), why) if output else why)


def _spool() -> IO[bytes]:
    """Return a file for the output; where the disk is full, nothing is kept."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return open(os.devnull, "w+b")


def _content(spool: IO[bytes]) -> str:
    spool.seek(max(0, spool.seek(0, os.SEEK_END) - MOST_OUTPUT_BYTES))
    return spool.read().decode(errors="replace")


def last_line(text: str) -> str:
    """Return the last line that is not blank; of a progress bar its newest state."""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def ended(process: subprocess.Popen[bytes], within_s: float) -> int | None:
    """Return the exit code of a process, None if it does not end in that time."""
    give_up_at, pause_s = time.monotonic() + within_s, 0.005
    while process.poll() is None:
        if time.monotonic() >= give_up_at:
            return None
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.1)
    return process.returncode


def end(process: subprocess.Popen[bytes]) -> bool:
    """End a process and those that it started, if it leads a group; return whether it is gone."""
    for number, within_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
        try:
            os.killpg(process.pid, number)
        except PermissionError:  # sudo, which runs as root
            _kill_as_root(process.pid, number)
        except OSError:
            pass
        if ended(process, within_s) is not None:
            return True
    left_behind[:] = [one for one in left_behind if one.poll() is None] + [process]
    return False


def _kill_as_root(group: int, number: int) -> None:
    try:
        words = ["sudo", "-n", "kill", "-%d" % number, "--", "-%d" % group]
        null = subprocess.DEVNULL
        left_behind.append(subprocess.Popen(words, stdin=null, stdout=null, stderr=null))
    except OSError:
        pass


def run_as_root(words: Sequence[str], limit_s: float) -> Done:
    """Run a program with sudo; without sudo as it is, since such an image logs in as root."""
    for command in (["sudo", "-n", *words], list(words)):
        try:
            return run(command, limit_s)
        except OSError:
            continue
    return Done(MISSING, "%s is not installed" % words[0])


# -- beyond the login


def outlive_login(name: str) -> str:
    """Keep this process, and those that it starts, alive after the SSH session that started it; return how.

    With `KillUserProcesses=yes` systemd ends all processes of a session when it closes: those in its control group, so
    that a session of their own (setsid) does not save them. A scope of the system does: systemd moves this process into
    it, with its environment as it is. With `RemoveIPC=yes`, the default of Debian and Ubuntu, the shared memory of a
    user is removed when the last session closes, also that of the data loaders of torch; a user who lingers keeps it.

    Only a machine with our guard is changed. Without systemd, or where it refuses, nothing is.
    """
    folder = os.environ.get("PIXEL_ORCH_RUN", "/run/pixel-orch")
    if not os.path.exists(os.path.join(folder, "deadline")):
        return "no guard"
    done = run_as_root(["loginctl", "enable-linger", pwd.getpwuid(os.getuid()).pw_name], ANSWER_S)
    lingers = "lingering" if done.code == 0 else "not lingering (%s)" % last_line(done.output)
    unit = "pixel-orch-%s-%d.scope" % (re.sub(r"[^A-Za-z0-9_.-]", "-", name), os.getpid())
    call = ["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    call += ["StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail"]
    call += ["2", "Description", "s", "pixel-orch", "PIDs", "au", "1", str(os.getpid()), "0"]
    done = run_as_root(["busctl", *call], ANSWER_S)
    if done.code == 0 and _is_in(unit):
        return "in %s, %s" % (unit, lingers)
    why = last_line(done.output)
    try:
        done = run(["busctl", "--user", *call], ANSWER_S)  # no sudo: a scope of the user, who must linger
    except OSError:
        pass
    if done.code == 0 and _is_in(unit):
        return "in %s of the user, %s" % (unit, lingers)
    return "in the session (%s), %s" % (why, lingers)


def _is_in(unit: str) -> bool:
    """Return whether this process is in a control group of that name; systemd answers before it has moved it."""
    give_up_at = time.monotonic() + ANSWER_S
    while time.monotonic() < give_up_at:
        if unit in own_control_groups():
            return True
        time.sleep(0.02)
    return False


def own_control_groups() -> str:
    """Return the control groups of this process, as the kernel lists them."""
    with open("/proc/self/cgroup") as file:
        return file.read()
