"""The command that runs the user's program in a Docker image (`launch --image`), and what ends its container.

`container.py` builds the command on the machine, since it needs the user's ids there, and becomes it (exec): the agent
watches the `docker run` as it does any trainer. Docker forwards the signals that reach it to the container's `--init`,
which hands them to the program; no shell is between. SIGKILL cannot be forwarded, so that the agent asks Docker for it.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

HOME_FOLDER = "container-home"  # of the program: the home of its user in the image belongs to another
PASSED = (
    "PIXEL_ORCH_OUT",
    "PIXEL_ORCH_NOTICE_FILE",
    "PIXEL_ORCH_STOP_SIGNAL",
    "PYTHONUNBUFFERED",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
)
"""Variables of the agent that the program gets beside the user's. PATH and the like are the machine's own."""

ending: list[subprocess.Popen[bytes]] = []  # `docker rm`, to be reaped


def name_of(root: str) -> str:
    """Return the name of a run's container."""
    return "pixel-orch-" + os.path.basename(root.rstrip("/"))


def run_words(
    root: str,
    image: str,
    command: Sequence[str],
    *,
    names: Sequence[str],
    env: Mapping[str, str],
    has_gpu: bool,
    user: tuple[int, int],
    login: str,
) -> list[str]:
    """Return the words of `docker run`.

    The run's folder has the same path in the container, with the working folder and `PIXEL_ORCH_OUT` in it. The values
    of variables are on no command line: `--env NAME` takes them from Docker's own environment.

    Args:
        root: the run's folder.
        image: its reference; it has been pulled.
        command: of the user. Its first word takes the place of the image's entry point.
        names: of the user's variables.
        env: of the agent.
        has_gpu: whether the machine's GPUs are used.
        user: its numbers, of user and group: what the program writes is the login user's.
        login: its name.
    """
    own = {"HOME": os.path.join(root, HOME_FOLDER), "USER": login, "LOGNAME": login}
    words = ["docker", "run", "--rm", "--init", "--name", name_of(root), "--pull", "never", "--log-driver", "none"]
    words += ["--network", "host", "--ipc", "host", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864"]
    words += ["--gpus", "all"] if has_gpu else []
    words += ["--user", "%d:%d" % user]
    words += ["--mount", "type=bind,source=%s,target=%s" % (root, root), "--workdir", os.path.join(root, "code")]
    for name, value in own.items():
        words += [] if name in names else ["--env", "%s=%s" % (name, value)]
    for name in dict.fromkeys((*names, *(name for name in PASSED if name in env))):
        words += ["--env", name]
    return [*words, "--entrypoint", command[0], image, *command[1:]]


def end_container(job: Mapping[str, Any], root: str) -> None:
    """Kill the container of a run that has one; nothing is waited for."""
    if not job.get("image"):
        return
    ending[:] = [one for one in ending if one.poll() is None]
    null = subprocess.DEVNULL
    try:
        ending.append(subprocess.Popen(["docker", "rm", "-f", name_of(root)], stdin=null, stdout=null, stderr=null))
    except OSError:
        pass  # there is no Docker any more
