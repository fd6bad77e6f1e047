#!/usr/bin/env python3
"""The agent: the program that the orchestrator runs on an instance. Standard library only, Python 3.8 and later.

    agent.py apply DIR < tar      unpack changed files; delete files that were sent earlier and no longer exist locally
    agent.py manifest DIR         print the SHA-256 of every file that was sent
    agent.py start ROOT < job     start the watch process and, under it, the trainer
    agent.py status ROOT ...      print the state of trainer and instance and what is new; also the owner's heartbeat
    agent.py read ROOT NAME OFF   print a checkpoint or sample file, from byte OFF on
    agent.py changes ROOT STATE BASE   print how a state of the outputs differs from the one that the owner has
    agent.py contents ROOT < list send files of it
    agent.py mirrored ROOT STATE  note that the owner has it
    agent.py restore ROOT < state write the outputs of an earlier machine, before the trainer starts
    agent.py rest ROOT            list the other files in `out/`, for an owner of version 0.1.0
    agent.py pack ROOT < names    print such files as a tar
    agent.py renew ROOT GEN       end what runs for an earlier generation of the group, so that `start` starts again
    agent.py stop ROOT            send SIGTERM to the trainer's process group
    agent.py hold ROOT SECONDS    move the deadline of the guard (`guard.sh`) to SECONDS from now, during a long set-up
    agent.py rekey ROOT STEP      replace the SSH host key: `prepare`, then `activate`

ROOT is `~/pixel-orch/<run>`. The answer is one JSON object on standard output.

The modules that it imports are beside it in `bin/infra/instance/`; see `layout.py`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import sys
import tarfile
import time
from collections.abc import Callable
from typing import IO, Any, BinaryIO

from infra.instance.deadline import hold, longest
from infra.instance.digests import outputs
from infra.instance.gpu import gpu_facts
from infra.instance.metadata import take_proxies
from infra.instance.metrics_process import told_of_metrics
from infra.instance.outputs.answers import acknowledge, allow, changes, told
from infra.instance.outputs.stream import restore, send_contents
from infra.instance.program_side import catches_stop
from infra.instance.programs import Done, outlive_login, run_as_root
from infra.instance.renewal import note_generation, renew
from infra.instance.trainer_files import (
    new_metrics,
    new_text,
    others,
    pack,
    read,
    read_json,
    sha256_of,
    touch,
    write_json,
)
from infra.instance.watch import Watch
from infra.instance.watch_state import is_watched, noted_end, uploader_state

PIECE = 1 << 20
ZEROS = bytes(PIECE)
ANSWER_S = 8.0  # for a command that root runs at once; the owner waits 30 s for our answer
PROTOCOL = 2  # of the answers; `orchestrator/host/answers.py` reads them. Version 0.1.0 sent none

# -- code sync


def sent_list(folder: str) -> str:
    """Return the path of the list of files that were sent to `folder`: only those may be deleted."""
    return folder.rstrip("/") + ".sent.json"


def manifest(folder: str) -> dict[str, str]:
    """Return {path: sha256} of the sent files that still exist; links as `link:<target>`."""
    found = {}
    for name in read_json(sent_list(folder), []):
        path = os.path.join(folder, name)
        if os.path.islink(path):
            found[name] = "link:" + os.readlink(path)
        elif os.path.isfile(path):
            found[name] = sha256_of(path) + ("x" if os.access(path, os.X_OK) else "")
    return found


def opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    """Return the content of a member of a tar as a file that is read in pieces."""
    file = tar.extractfile(member)
    if file is None:
        raise SystemExit("apply: %s in the tar is not a file" % member.name)
    return file


def apply(folder: str, stream: BinaryIO) -> dict[str, Any]:
    """Unpack a tar. Its first member, `.sync.json`, lists the paths to `delete` and `all` paths that remain.

    The answer's `written` is the SHA-256 over `digest name` lines of the files, in the order of the tar.
    """
    written = hashlib.sha256()
    os.makedirs(folder, exist_ok=True)
    with tarfile.open(fileobj=stream, mode="r|*") as tar:
        first = tar.next()
        if first is None or first.name != ".sync.json":
            raise SystemExit("apply: the stream does not begin with .sync.json")
        plan = json.loads(opened(tar, first).read())
        for name in plan["delete"]:
            path = os.path.join(folder, name)
            if os.path.islink(path) or os.path.isfile(path):
                os.unlink(path)
        for member in iter(tar.next, None):
            tar.members = []  # type: ignore[attr-defined]  # not in the stubs; a stream is read once; the list of what was read would only grow
            path = os.path.join(folder, member.name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if os.path.islink(path) or os.path.isfile(path):
                os.unlink(path)  # do not write through a link or into a file that a program has open
            if member.issym():
                os.symlink(member.linkname, path)
                continue
            digest = unpack(opened(tar, member), path)
            os.chmod(path, member.mode & 0o777)
            written.update(("%s %s\n" % (digest, member.name)).encode(errors="surrogateescape"))
    write_json(sent_list(folder), plan["all"])
    return {"files": len(plan["all"]), "written": written.hexdigest()}


def unpack(source: IO[bytes], path: str) -> str:
    """Write a file in pieces; return its SHA-256. Pieces of zeros become holes, as those of a sparse file are."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for piece in iter(lambda: source.read(PIECE), b""):
            digest.update(piece)
            if piece == ZEROS:
                file.seek(PIECE, os.SEEK_CUR)
            else:
                file.write(piece)
        file.truncate(file.tell())
    return digest.hexdigest()


# -- trainer


def start(root: str, job: dict[str, Any]) -> dict[str, Any]:
    """Start the watch process, detached from this SSH session. A second call starts no second process."""
    os.makedirs(os.path.join(root, "agent"), exist_ok=True)
    os.makedirs(os.path.join(root, "out"), exist_ok=True)
    os.makedirs(os.path.join(root, "code"), exist_ok=True)
    touch(os.path.join(root, "agent", "heard"))
    take_proxies(os.environ)
    lock = open(os.path.join(root, "agent", "lock"), "w")  # noqa: SIM115 (held for life)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return {"started": False}
    note_generation(root, int(job.get("generation", 0)))
    watch = Watch(root, job)
    watch.save()
    watch.say("beyond the login: %s" % outlive_login(os.path.basename(root)))  # the session may close with our answer
    if os.fork() == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        log = os.open(os.path.join(root, "agent", "agent.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        watch.run()
        os._exit(0)
    return {"started": True}


def status(
    root: str, metrics_offset: int, log_offset: int, allow_s: str = "", allow_bytes: str = "0"
) -> dict[str, Any]:
    """Return the state of trainer and instance in one round trip.

    The call is the owner's heartbeat; `allow_s` is how many seconds the budget covers without another one,
    `allow_bytes` how many bytes of outputs the owner would download now.
    """
    state = read_json(os.path.join(root, "agent", "state.json"), {})
    if state.get("trainer", {}).get("state") == "running":
        state.update(noted_end(root))
    note_heartbeat(root, allow_s)
    allow(root, allow_bytes)
    uploader = uploader_state(root)
    found, waiting = outputs(root, state)
    is_over = state.get("trainer", {}).get("state") == "exited"
    out = os.path.join(root, "out")
    collected, facts = told_of_metrics(root)
    if collected:
        metrics, metrics_offset, metrics_bytes = new_text(collected, metrics_offset, not is_over)
    else:
        metrics, metrics_offset, metrics_bytes = new_metrics(root, state, metrics_offset, not is_over)
    # A progress bar ends its line by CR, and by LF only when it is full.
    log, log_offset, log_bytes = new_text(os.path.join(out, "trainer.log"), log_offset, False)
    return {
        "protocol": PROTOCOL,
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
        "metrics_bytes": metrics_bytes,
        "log_bytes": log_bytes,
        **facts,
        "catches_stop": program_catches_stop(state),
        "outputs": found,
        "mirror": told(root),
        "waiting_files": len(waiting),
        "waiting_bytes": sum(waiting),
        "stored": uploader.get("stored", []),
        "s3_done": uploader.get("done", False),
        "s3_outputs": uploader.get("outputs"),
        "gpu": gpu_facts(os.path.join(root, "agent", "gpu.csv")),
        "gpu_problem": state.get("gpu_problem", ""),
        "metadata_problem": state.get("metadata_problem", ""),
        "s3_problem": state.get("s3_problem", "") or uploader.get("problem", ""),
    }


def program_catches_stop(state: dict[str, Any]) -> bool | None:
    """Return whether the running trainer handles the signal to stop, None where that is not known."""
    trainer = state.get("trainer", {})
    if trainer.get("state") != "running" or not state.get("stop_signal"):
        return None
    return catches_stop(trainer.get("pid"), state["stop_signal"])


def note_heartbeat(root: str, allow_s: str) -> None:
    """Record the owner's heartbeat, and how many seconds the budget covers without another one."""
    path = os.path.join(root, "agent", "owner")
    try:
        touch(path, allow_s)
    except OSError:  # the disk is full: update the time only
        os.utime(path)


def stop(root: str) -> dict[str, Any]:
    """Request that the watch process sends SIGTERM to the trainer's process group."""
    touch(os.path.join(root, "agent", "stop"))
    return {"asked": True}


# -- host key


def rekey(step: str) -> dict[str, Any]:
    """Replace the SSH host key from user-data by one that is generated here, so that its private half stays here.

    `prepare` generates it and returns its public half. After the orchestrator has pinned that, `activate` installs it.
    """
    key = os.path.join(os.environ.get("PIXEL_ORCH_ETC_SSH", "/etc/ssh"), "ssh_host_ed25519_key")
    new = key + ".new"
    if step == "prepare":
        if as_root("test", "-f", new).code != 0:
            as_root("rm", "-f", new + ".pub")
            code, output = as_root("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", new)
            if code != 0:
                raise SystemExit("rekey: ssh-keygen: %s" % output.strip())
        code, output = as_root("cat", new + ".pub")  # sudo may print a warning first, of a name that it cannot resolve
        public = [line.strip() for line in output.splitlines() if line.startswith("ssh-ed25519 ")]
        if code != 0 or not public:
            raise SystemExit("rekey: %s.pub cannot be read: %s" % (new, output.strip()))
        return {"public": public[-1]}
    for source, target in ((new + ".pub", key + ".pub"), (new, key)):
        code, output = as_root("mv", source, target)
        if code != 0:
            raise SystemExit("rekey: %s" % output.strip())
    as_root("restorecon", key, key + ".pub")  # with SELinux; else there is no such program
    for words in (("systemctl", "reload", "ssh"), ("systemctl", "reload", "sshd"), ("pkill", "-HUP", "-o", "sshd")):
        if as_root(*words).code == 0:  # Debian and Ubuntu, Amazon Linux, neither
            return {"activated": True}
    raise SystemExit("rekey: cannot make the SSH server reload its host key")


def as_root(*words: str) -> Done:
    """Run a command as root; return its exit code and output."""
    return run_as_root(words, ANSWER_S)


def main(argv: list[str]) -> int:
    """Run one verb; see the module's docstring."""
    verb, place, rest = argv[1], os.path.abspath(os.path.expanduser(argv[2])), argv[3:]
    if verb == "read":
        read(place, rest[0], int(rest[1]))
        return 0
    if verb == "pack":
        pack(place, json.load(sys.stdin))
        return 0
    if verb == "contents":
        send_contents(place, json.load(sys.stdin), sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
        return 0
    print(json.dumps(answer(verb, place, rest)))
    return 0


def answer(verb: str, place: str, rest: list[str]) -> dict[str, Any]:
    """Do what a verb asks for; return the answer."""
    verbs: dict[str, Callable[[], dict[str, Any]]] = {
        "manifest": lambda: manifest(place),
        "apply": lambda: apply(place, sys.stdin.buffer),
        "start": lambda: start(place, json.load(sys.stdin)),
        "status": lambda: status(place, int(rest[0]), int(rest[1]), *rest[2:4]),
        "stop": lambda: stop(place),
        "renew": lambda: renew(place, int(rest[0]), is_watched),
        "changes": lambda: changes(place, int(rest[0]), int(rest[1])),
        "mirrored": lambda: acknowledge(place, int(rest[0])),
        "restore": lambda: restore(place),
        "rest": lambda: {"files": others(place)},
        "hold": lambda: {"until_s": hold(float(rest[0]), longest())},
        "rekey": lambda: rekey(rest[0]),
    }
    if verb not in verbs:
        raise SystemExit("agent.py: unknown verb %r" % verb)
    return verbs[verb]()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
