"""What a program of the user's own gets on the machine: variables, the file of the notice, `import orchestrator`.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import glob
import os
import signal
import time
from typing import Any

from infra.instance.group_side import gloo_interface
from infra.instance.trainer_files import write_json

SHELLS = frozenset(("sh", "bash", "dash", "zsh", "ash", "ksh", "env", "time", "nice", "stdbuf", "timeout", "xargs"))
MOST_CHILDREN = 64
UNDER = ("", "*/")  # where the sent folder may have a package of its own


def stop_number(job: dict[str, Any]) -> int:
    """Return the number of the signal that tells the program to save and end."""
    return int(getattr(signal, str(job.get("stop_signal", "SIGTERM")), signal.SIGTERM))


def notice_path(root: str) -> str:
    """Return the path of the file that appears at the notice; not in a folder that the program writes to."""
    return os.path.join(root, "notice.json")


def environment(root: str, job: dict[str, Any], env: dict[str, str]) -> dict[str, str]:
    """Return the variables that a trainer gets beside `env`, those of the user.

    `orchestrator` comes last in PYTHONPATH, and only where the sent folder and the program's Python have none.
    """
    made = {"PIXEL_ORCH_NOTICE_FILE": notice_path(root), "PIXEL_ORCH_STOP_SIGNAL": job.get("stop_signal", "SIGTERM")}
    made.update(gloo_interface(env))
    packages = os.path.join(root, "bin", "program")
    if job.get("metrics") is None or not os.path.isdir(packages) or _has_own(root, job.get("path_first", "")):
        return made
    before = env.get("PYTHONPATH", "")
    return {**made, "PYTHONPATH": "%s:%s" % (before, packages) if before else packages}


def _has_own(root: str, python_folder: str) -> bool:
    """Return whether `import orchestrator` would find a package that is not ours."""
    code, site = os.path.join(root, "code"), os.path.join(python_folder, "..", "lib", "python3*", "site-packages")
    places = [os.path.join(glob.escape(code), under) for under in UNDER] + [site]
    return any(glob.glob(os.path.join(place, "orchestrator" + end)) for place in places for end in ("", ".py"))


def write_notice(root: str, notice: dict[str, Any] | None, why: str, stop_timeout_s: float) -> None:
    """Write the file that a program may look for instead of a signal: when the machine, or its time to save, ends.

    Args:
        root: the run's folder.
        notice: of the instance metadata; None where the run is stopped for another reason.
        why: the reason, for people.
        stop_timeout_s: how long the program may take to save without a notice.
    """
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + stop_timeout_s))
    told = notice or {}
    content = {"action": told.get("action") or "stop", "time": told.get("time") or until, "reason": why}
    try:
        write_json(notice_path(root), content)
    except OSError:
        pass  # the disk is full; the signal comes in any case


def catches_stop(pid: int | None, number: int) -> bool | None:
    """Return whether a program handles a signal, None if that cannot be seen. Of a shell its children count."""
    if not pid:
        return None
    try:
        with open("/proc/%d/status" % pid) as file:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        if int(fields["SigCgt"], 16) >> (number - 1) & 1:
            return True
        if fields.get("Name") not in SHELLS:
            return False
        with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
            children = [int(word) for word in file.read().split()[:MOST_CHILDREN]]
    except (OSError, KeyError, ValueError):
        return None
    found = [catches_stop(child, number) for child in children]
    return True if True in found else False if found else None
