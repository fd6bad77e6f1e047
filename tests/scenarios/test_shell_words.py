"""Whatever reaches a shell arrives unharmed: paths, file names, variables, arguments, with every character that bites.

The real `SshHost` and the real agent over a `bash -c` on this machine, as sshd would start it; 8 seeds of random text.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.host import sync
from orchestrator.host.base import CommandResult, Cursor, Job, Setup
from orchestrator.host.shell import Write
from orchestrator.host.ssh_host import SshHost

pytestmark = pytest.mark.slow

BITING = ["'", '"', "\\", "$(touch {canary})", "`touch {canary}`", "$HOME", "${{IFS}}", "; touch {canary};", "&", "|"]
BITING += [
    ">{canary}",
    "<",
    "*",
    "?",
    "[a]",
    "{{a,b}}",
    "~",
    "!",
    "#",
    "%s",
    "%",
    "\t",
    " ",
    "  ",
    "-n",
    "--",
    "-rf",
    "=",
]
BITING += ["ü", "漢", "😀", "\u202e", "\u00a0", "é", "{{root}}", "{{python}}", "x", "\r", "\x01", "\x7f"]
ECHO = """
import json, os, sys
told = {"argv": sys.argv[1:], "env": {k: v for k, v in os.environ.items() if k.startswith("FUZZ_")}}
with open(os.environ["PIXEL_ORCH_OUT"] + "/told.json", "w") as file:
    json.dump(told, file)
"""


class LocalShell:
    """The part of `SshShell` that `SshHost` uses, without the network: each command as sshd runs it."""

    where = "this machine"

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bin = home / "bin"
        self.bin.mkdir()
        for name in ("sudo", "shutdown", "systemctl"):  # the agent ends its machine: it must not find the real ones
            (self.bin / name).write_text("#!/bin/sh\nexit 0\n")
            (self.bin / name).chmod(0o700)

    def run(
        self, command: str, *, timeout_s: float, feed: Callable[[Write], None] | None = None, sink: Write | None = None
    ) -> CommandResult:
        pieces: list[bytes] = []
        if feed is not None:
            feed(pieces.append)
        env = {"HOME": str(self.home), "PATH": f"{self.bin}:{os.environ['PATH']}", "LANG": "C.UTF-8"}
        env["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = "http://127.0.0.1:9"  # nobody: this is no instance
        done = subprocess.run(
            ["bash", "--norc", "-c", command],
            input=b"".join(pieces),
            capture_output=True,
            cwd=self.home,
            env=env,
            timeout=timeout_s,
            check=False,
        )
        if sink is not None:
            sink(done.stdout)
        return CommandResult(command, done.returncode, b"" if sink else done.stdout, done.stderr)

    def close(self) -> None:
        """Nothing to hang up."""


def command_lines() -> dict[int, str]:
    """Return what anybody on the machine may read of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found[int(path.parent.name)] = path.read_bytes().decode(errors="replace")
    return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Give a home with a blank in its name; the agents that were started in it are ended."""
    folder = tmp_path / "ho me"
    folder.mkdir()
    yield folder
    for pid, line in command_lines().items():
        with contextlib.suppress(OSError):
            is_ours = f"HOME={folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if is_ours and "agent.py" in line:
                os.kill(pid, signal.SIGKILL)


def text(dice: random.Random, canary: Path, *, lines: bool = False, most: int = 7) -> str:
    """Return random text that bites."""
    parts = [dice.choice(BITING).format(canary=canary) for _ in range(dice.randint(1, most))]
    return "".join(parts) + (dice.choice(["\n", "\n\n", " \n x"]) if lines and dice.random() < 0.5 else "")


def file_name(dice: random.Random) -> str:
    """Return a name that a file may have and that a shell would stumble on."""
    name = text(dice, Path("canary"), most=4).replace("/", "_")
    return f"d {dice.randint(0, 9)}/{name}.txt" if dice.random() < 0.3 else f"f{name}.txt"


@pytest.mark.parametrize("seed", range(8))
def test_whatever_reaches_a_shell_arrives_unharmed(home: Path, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    canary = tmp_path / "canary"
    work = tmp_path / "wo'rk $x"
    work.mkdir()
    files = {file_name(dice): text(dice, canary, lines=True) for _ in range(5)}
    for name, content in {**files, "echo it.py": ECHO}.items():
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text(content, newline="")
    tree = sync.workdir_tree(work, ())
    argv = [text(dice, canary, lines=True) for _ in range(3)] + [""]
    env = {f"FUZZ_{n}": f"s3cr3t-{seed}-{n}" + text(dice, canary, lines=True) for n in range(3)}
    job = Job(
        root="pixel-orch/fuzz",
        command=("python3", "echo it.py", *argv),
        env=env,
        config_json=None,
        tree=tree.folder,
        files=tree.files,
        owner_timeout_s=60,
        stop_timeout_s=5,
        metadata_poll_s=60,
    )
    host = SshHost(LocalShell(home), answer_timeout_s=30, setup_timeout_s=60)  # type: ignore[arg-type]
    host._send_own_files(job)
    host._sync(job)
    there = home / job.root / "code"
    assert {n: (there / n).read_bytes() for n in files} == {n: c.encode() for n, c in files.items()}
    host.start(job, Setup(python="/usr/bin/env python3", torch="", gpu="", why=""))
    told = home / job.root / "out" / "told.json"
    give_up_at = time.monotonic() + 20
    while (look := host.poll(job.root, Cursor())).trainer != "exited":
        assert time.monotonic() < give_up_at, look
        time.sleep(0.02)
    assert f"s3cr3t-{seed}" not in "".join(command_lines().values()), "a secret stands in a list of processes"
    assert json.loads(told.read_text()) == {"argv": argv, "env": env}
    assert not canary.exists(), "something was executed"
    assert not list(tmp_path.rglob("canary"))
    written = [p.read_text(errors="replace") for p in (home / job.root).rglob("*") if p.is_file() and p != told]
    assert f"s3cr3t-{seed}" not in "".join(written), "a secret was written down"
