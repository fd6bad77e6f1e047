#!/usr/bin/env python3
"""The agent: what pixel-orch leaves on a rented machine. Standard library only, Python 3.8 and later.

    agent.py apply DIR < tar      unpack what changed (and delete what we had sent and is gone at home)
    agent.py manifest DIR         the sha256 of every file that we had sent
    agent.py start ROOT < job     start the watching process and, under it, the trainer
    agent.py status ROOT ...      one look: trainer, notice, what is new; it is also the owner's heartbeat
    agent.py read ROOT NAME OFF   a file of the trainer's, from byte OFF on
    agent.py rest ROOT            what else the trainer wrote into `out/`
    agent.py pack ROOT < names    such files as a tar
    agent.py stop ROOT            SIGTERM to the trainer's process group
    agent.py hold ROOT SECONDS    let the guard (`guard.sh`) wait for so long, during a set-up that takes its time
    agent.py rekey ROOT STEP      replace the SSH host key: `prepare`, then `activate`

ROOT is `~/pixel-orch/<run>`. Answers are one JSON object on standard output.

The files that it imports lie beside it in `bin/infra/instance/`; `layout.py` says why.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from typing import Any, BinaryIO

from infra.instance.trainer_files import (
    others,
    outputs,
    pack,
    read,
    read_json,
    sha256_of,
    touch,
    whole_lines,
    write_json,
)
from infra.instance.watch import Watch, gpu_facts, hold, is_watched, longest, noted_end, uploader_state

# -- code sync


def sent_list(folder: str) -> str:
    """Where it is written down what we had sent to `folder`: only that is ever deleted."""
    return folder.rstrip("/") + ".sent.json"


def manifest(folder: str) -> dict[str, str]:
    """Return {path: sha256} of the files that we had sent and that are still there; links as `link:<target>`."""
    found = {}
    for name in read_json(sent_list(folder), []):
        path = os.path.join(folder, name)
        if os.path.islink(path):
            found[name] = "link:" + os.readlink(path)
        elif os.path.isfile(path):
            found[name] = sha256_of(path) + ("x" if os.access(path, os.X_OK) else "")
    return found


def content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return what a member of a tar holds."""
    file = tar.extractfile(member)
    if file is None:
        raise SystemExit("apply: %s is no file" % member.name)
    return file.read()


def apply(folder: str, stream: BinaryIO) -> dict[str, Any]:
    """Unpack a tar whose first member, `.sync.json`, holds `delete` and `all`, the lists of paths gone and present."""
    os.makedirs(folder, exist_ok=True)
    with tarfile.open(fileobj=stream, mode="r|*") as tar:
        first = tar.next()
        if first is None or first.name != ".sync.json":
            raise SystemExit("apply: the stream does not begin with .sync.json")
        plan = json.loads(content(tar, first))
        for name in plan["delete"]:
            path = os.path.join(folder, name)
            if os.path.islink(path) or os.path.isfile(path):
                os.unlink(path)
        for member in iter(tar.next, None):
            tar.members = []  # type: ignore[attr-defined]  # not in the stubs; a stream is read once; the list of what was read would only grow
            path = os.path.join(folder, member.name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if os.path.islink(path) or os.path.isfile(path):
                os.unlink(path)  # never write through a link or into a file that a program has open
            if member.issym():
                os.symlink(member.linkname, path)
                continue
            with open(path, "wb") as file:
                file.write(content(tar, member))
            os.chmod(path, member.mode & 0o777)
    write_json(sent_list(folder), plan["all"])
    return {"files": len(plan["all"])}


# -- trainer


def start(root: str, job: dict[str, Any]) -> dict[str, Any]:
    """Start the watching process, detached from this SSH session. Asked twice, it starts one."""
    os.makedirs(os.path.join(root, "agent"), exist_ok=True)
    os.makedirs(os.path.join(root, "out"), exist_ok=True)
    os.makedirs(os.path.join(root, "code"), exist_ok=True)
    touch(os.path.join(root, "agent", "heard"))
    lock = open(os.path.join(root, "agent", "lock"), "w")  # noqa: SIM115 (held for life)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return {"started": False}
    watch = Watch(root, job)
    watch.save()
    if os.fork() == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        log = os.open(os.path.join(root, "agent", "agent.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        watch.run()
    return {"started": True}


def status(root: str, metrics_offset: int, log_offset: int, allow_s: str = "") -> dict[str, Any]:
    """Return what the owner wants to know in one round trip.

    Asking is the owner's heartbeat; `allow_s` says how long the budget lets us go on without another one.
    """
    state = read_json(os.path.join(root, "agent", "state.json"), {})
    if state.get("trainer", {}).get("state") == "running":
        state.update(noted_end(root))
    hear_owner(root, allow_s)
    uploader = uploader_state(root)
    found = outputs(root, state.get("started_at", 0.0))
    metrics, metrics_offset = whole_lines(os.path.join(root, "out", "metrics.jsonl"), metrics_offset)
    log, log_offset = whole_lines(os.path.join(root, "out", "trainer.log"), log_offset)
    return {
        "now": time.time(),
        "agent_alive": is_watched(root),
        "trainer": state.get("trainer", {"state": "absent"}),
        "notice": state.get("notice"),
        "rebalance": state.get("rebalance", False),
        "ending": state.get("ending", ""),
        "metrics": metrics,
        "metrics_offset": metrics_offset,
        "log": log,
        "log_offset": log_offset,
        "outputs": found,
        "stored": uploader.get("stored", []),
        "s3_done": uploader.get("done", False),
        "gpu": gpu_facts(os.path.join(root, "agent", "gpu.csv")),
        "s3_problem": state.get("s3_problem", "") or uploader.get("problem", ""),
    }


def hear_owner(root: str, allow_s: str) -> None:
    """Note the owner's sign of life, and how long we may go on without another one."""
    path = os.path.join(root, "agent", "owner")
    try:
        touch(path, allow_s)
    except OSError:  # the disk is full: the sign of life counts all the same
        os.utime(path)


def stop(root: str) -> dict[str, Any]:
    """Ask the watching process to send SIGTERM to the trainer's group."""
    touch(os.path.join(root, "agent", "stop"))
    return {"asked": True}


# -- host key


def rekey(step: str) -> dict[str, Any]:
    """Replace the SSH host key, which came with user-data, by one that was made here and that nobody else has seen.

    `prepare` makes it and says its public half; once that is pinned at home, `activate` puts it in its place.
    """
    key = os.path.join(os.environ.get("PIXEL_ORCH_ETC_SSH", "/etc/ssh"), "ssh_host_ed25519_key")
    new = key + ".new"
    if step == "prepare":
        if as_root("test", "-f", new)[0] != 0:
            as_root("rm", "-f", new + ".pub")
            code, said = as_root("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", new)
            if code != 0:
                raise SystemExit("rekey: ssh-keygen: %s" % said.strip())
        code, public = as_root("cat", new + ".pub")
        if code != 0 or not public.startswith("ssh-ed25519 "):
            raise SystemExit("rekey: %s.pub cannot be read: %s" % (new, public.strip()))
        return {"public": public.strip()}
    for source, target in ((new + ".pub", key + ".pub"), (new, key)):
        code, said = as_root("mv", source, target)
        if code != 0:
            raise SystemExit("rekey: %s" % said.strip())
    for words in (("systemctl", "reload", "ssh"), ("systemctl", "reload", "sshd"), ("pkill", "-HUP", "-o", "sshd")):
        if as_root(*words)[0] == 0:  # Debian and Ubuntu, Amazon Linux, neither
            return {"activated": True}
    raise SystemExit("rekey: the SSH server could not be told of its new key")


def as_root(*words: str) -> tuple[int, str]:
    """Run a command by sudo; return its exit code and what it said."""
    for command in (["sudo", "-n", *words], list(words)):
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        except OSError:  # no sudo: one is root already
            continue
        return done.returncode, done.stdout.decode(errors="replace")
    return 127, "%s is not there" % words[0]


def main(argv: list[str]) -> int:
    """Do one verb; see the module's text."""
    verb, place, rest = argv[1], os.path.abspath(os.path.expanduser(argv[2])), argv[3:]
    if verb == "read":
        read(place, rest[0], int(rest[1]))
        return 0
    if verb == "pack":
        pack(place, json.load(sys.stdin))
        return 0
    answer: dict[str, Any]
    if verb == "manifest":
        answer = manifest(place)
    elif verb == "apply":
        answer = apply(place, sys.stdin.buffer)
    elif verb == "start":
        answer = start(place, json.load(sys.stdin))
    elif verb == "status":
        answer = status(place, int(rest[0]), int(rest[1]), *rest[2:3])
    elif verb == "stop":
        answer = stop(place)
    elif verb == "rest":
        answer = {"files": others(place)}
    elif verb == "hold":
        answer = {"until_s": hold(float(rest[0]), longest())}
    elif verb == "rekey":
        answer = rekey(rest[0])
    else:
        raise SystemExit("agent.py: unknown verb %r" % verb)
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
