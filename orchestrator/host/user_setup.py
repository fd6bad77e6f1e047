"""The set-up of the user's own program: `infra/instance/user_setup.py`, run after the code and the Python are there."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.errors import CommandError, UserSetupError
from orchestrator.host import answers, sync
from orchestrator.host.base import Job, Setup
from orchestrator.host.shell import SshShell, Write

LEAST_OVER_S = 60.0  # for the machine to end what ran out of time, and to say so


def run_user_setup(shell: SshShell, job: Job, setup: Setup, *, limit_s: float, told: Callable[[bytes], None]) -> Setup:
    """Install what the job's program needs, in the run's own environment.

    A second call on one machine waits for the first, whose connection may have been cut, and installs nothing again.

    Args:
        shell: of the machine.
        job: with a `user_setup`.
        setup: what the bootstrap chose.
        limit_s: for all of it, in seconds.
        told: gets what the program says of itself, piece by piece.

    Raises:
        UserSetupError: a command failed or ran out of time; its last lines are in the error.
    """
    order = {
        **(job.user_setup or {}),
        "env": dict(job.env),
        "python": setup.python,
        "path_first": setup.path_first or os.path.dirname(setup.python),
        "gpu": setup.gpu,
        "limit_s": limit_s,
        "digest": digest_of(job),
    }
    root = shlex.quote(job.root)
    program = "container.py" if job.image else "user_setup.py"
    words = f"{root}/bin/{program}{' pull' if job.image else ''} {root}"
    command = f"flock -o {root}/agent/user_setup.lock python3 -X utf8 {words}"

    def feed(write: Write) -> None:
        write(json.dumps(order).encode())

    result = shell.run(command, timeout_s=limit_s + LEAST_OVER_S, feed=feed, told=told)
    if not result.ok:
        raise CommandError(program, result.exit_code, result.stderr.decode(errors="replace"))
    last = answers.last_line(result.stdout)
    answer = answers.read(answers.UserSetupAnswer, last, where=shell.where, program=program)
    if answer.failed:
        raise UserSetupError(answer.failed, answer.tail)
    return replace(
        setup,
        python=answer.python or setup.python,
        path_first=answer.path_first or setup.path_first,
        user_setup_s=answer.seconds,
        user_setup_how=answer.how,
    )


def digest_of(job: Job) -> str:
    """Return the digest of what is installed: the order and all files, since a command may read any of them."""
    tree = sync.Tree(job.tree, job.files, digests=job.digests)
    return _digest({"order": dict(job.user_setup or {}), "env": dict(job.env), "files": sync.manifest(tree)})


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode(errors="surrogateescape")).hexdigest()
