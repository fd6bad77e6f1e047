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

The watching process polls the instance metadata (IMDSv2) for the interruption notice and the rebalance recommendation
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html: "every 5 seconds"), tells
the trainer with SIGTERM, and ends the instance when its time is up or its owner has been silent too long. It does not
end an instance that is under notice in its first hour: AWS bills nothing for those, unless it was us who ended them.

With a second home in S3 (`s3` in the job) it also keeps `s3_home.py` running, and an owner's silence is then no reason
to end a trainer that runs: it goes on as long as its time and money last. Once the trainer has ended, and everything
is in S3, a silent owner is one again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from typing import Any, BinaryIO, Iterator

CHECKPOINT = re.compile(r"checkpoint-(\d+)\.[A-Za-z0-9]+")
SAMPLES = re.compile(r"samples-(\d+)\.png")
OWN_FILES = ("metrics.jsonl", "trainer.log")  # which come home line by line
MOST_BYTES_A_LOOK = 256 * 1024  # of metrics and of log: what one poll may carry home
TICK_S = 0.1
LEAVE_TO_AWS_S = 180.0  # from a notice on: the two minutes, and one for AWS to be late
HOLD_S, HOLD_EVERY_S = 900.0, 30.0  # the guard waits so long for our next sign of life; how often we give one
CARRY_TIMEOUT_S = 300.0  # from the trainer's end until its last checkpoint is in S3; then the machine ends without it


# -- small things


def write_json(path: str, value: Any) -> None:
    """Replace the file at `path`: a reader sees the old or the new, never a part."""
    temporary = "%s.%d.tmp" % (path, os.getpid())
    try:
        with open(temporary, "w") as file:
            json.dump(value, file)
    except OSError:
        os.unlink(temporary)
        raise
    os.replace(temporary, path)


def read_json(path: str, default: Any) -> Any:
    """Return the JSON in `path`, or `default` if there is none that is whole."""
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return default


def touch(path: str, text: str | None = None) -> None:
    """Make the file, or make it new; with `text` that is its content."""
    with open(path, "a" if text is None else "w") as file:
        file.write(text or "")
    os.utime(path)


def sha256_of(path: str) -> str:
    """Return the hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


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


# -- one look


def listed(root: str, started_at: float) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yield (name, path) of what the trainer wrote: in `out/`, and in its working folder since it was started."""
    out = os.path.join(root, "out")
    code = os.path.join(root, "code")
    seen = set()
    for folder in (out, code):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            path = os.path.join(folder, name)
            if name in seen or not (CHECKPOINT.fullmatch(name) or SAMPLES.fullmatch(name)):
                continue
            try:
                status = os.stat(path)
            except OSError:
                continue  # pruned in this moment
            if folder == code and (os.path.islink(path) or status.st_mtime < started_at - 1):
                continue  # what was synced or sent by us is not the trainer's
            seen.add(name)
            yield name, path, status


def outputs(root: str, started_at: float) -> list[dict[str, Any]]:
    """Return the trainer's checkpoints and sample grids with size and digest; digests are remembered."""
    cache_path = os.path.join(root, "agent", "digests.json")
    cache: dict[str, str] = read_json(cache_path, {})
    fresh: dict[str, str] = {}
    found: list[dict[str, Any]] = []
    for name, path, status in listed(root, started_at):
        key = "%s:%d:%d:%d" % (name, status.st_size, status.st_mtime_ns, status.st_ino)
        try:
            fresh[key] = cache.get(key) or sha256_of(path)
        except OSError:
            continue
        step = int(name.split("-")[1].split(".")[0])
        found.append({"name": name, "step": step, "size_bytes": status.st_size, "sha256": fresh[key]})
    if fresh != cache:
        try:
            write_json(cache_path, fresh)
        except OSError:
            pass  # the disk is full: they are counted again next time
    return sorted(found, key=lambda entry: (entry["step"], entry["name"]))


def whole_lines(path: str, offset: int) -> tuple[str, int]:
    """Return (text, new offset): the whole lines of a growing file from byte `offset` on."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(MOST_BYTES_A_LOOK)
    except OSError:
        return "", offset
    end = data.rfind(b"\n") + 1
    if end == 0 and len(data) == MOST_BYTES_A_LOOK:
        end = len(data)  # one line longer than a look: it comes in pieces
    return data[:end].decode(errors="surrogateescape"), offset + end  # the owner writes the same bytes again


def status(root: str, metrics_offset: int, log_offset: int, allow_s: str = "") -> dict[str, Any]:
    """Return what the owner wants to know in one round trip.

    Asking is the owner's heartbeat; `allow_s` says how long the budget lets us go on without another one.
    """
    state = read_json(os.path.join(root, "agent", "state.json"), {})
    if state.get("trainer", {}).get("state") == "running":
        state.update(noted_end(root))
    hear_owner(root, allow_s)
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
        "stored": second_home(root).get("stored", []),
        "s3_done": second_home(root).get("done", False),
        "gpu": gpu_facts(os.path.join(root, "agent", "gpu.csv")),
        "s3_problem": state.get("s3_problem", "") or second_home(root).get("problem", ""),
    }


def note_end(root: str, trainer: dict[str, Any], error: OSError) -> None:
    """Write the trainer's end down where a disk is too full for a file: a short link's target takes no block."""
    words = "%d:%d:%s" % (trainer["exit_code"], trainer["asked"], error.strerror)
    try:
        os.symlink(words[:59], os.path.join(root, "agent", "end"))
    except OSError:
        pass  # it stands already, or there is not even room for that


def noted_end(root: str) -> dict[str, Any]:
    """Return what `note_end` wrote, as parts of the state; {} if it wrote nothing."""
    try:
        code, asked, why = os.readlink(os.path.join(root, "agent", "end")).split(":", 2)
    except (OSError, ValueError):
        return {}
    trainer = {"state": "exited", "exit_code": int(code), "asked": asked == "1"}
    return {"trainer": trainer, "ending": "nothing can be written on the instance: %s" % why}


def hear_owner(root: str, allow_s: str) -> None:
    """Note the owner's sign of life, and how long we may go on without another one."""
    path = os.path.join(root, "agent", "owner")
    try:
        touch(path, allow_s)
    except OSError:  # the disk is full: the sign of life counts all the same
        os.utime(path)


def second_home(root: str) -> dict[str, Any]:
    """Return what `s3_home.py` last told: `stored` (the checkpoints that S3 has whole), `problem`, and `done`."""
    told: dict[str, Any] = read_json(os.path.join(root, "agent", "s3.json"), {})
    return told


GPU_FIELDS = ("name", "clocks.sm", "clocks.mem", "utilization.gpu", "memory.used", "memory.total")
GPU_EVERY_S = 5
MOST_GPU_BYTES = 1 << 17  # the newest two hours or so


def gpu_facts(path: str) -> dict[str, Any]:
    """Return what nvidia-smi has said of the first GPU while the trainer ran: {} where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - MOST_GPU_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return {}
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    rows = [row for row in rows if len(row) == len(GPU_FIELDS) and row[3].isdigit()]
    if not rows:
        return {}

    def numbers(column: int) -> list[float]:
        return [float(row[column]) for row in rows if row[column].replace(".", "", 1).isdigit()]

    return {
        "name": rows[-1][0],
        "sm_clock_mhz": max(numbers(1), default=None),
        "memory_clock_mhz": max(numbers(2), default=None),
        "utilization_percent": sum(numbers(3)) / len(rows),
        "memory_peak_mib": max(numbers(4), default=None),
        "memory_total_mib": max(numbers(5), default=None),
        "looks": len(rows),
    }


def is_watched(root: str) -> bool:
    """Return whether the watching process lives: it holds a lock as long as it does."""
    try:
        with open(os.path.join(root, "agent", "lock")) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def read(root: str, name: str, offset: int) -> None:
    """Write one of the trainer's files to standard output, from byte `offset` on."""
    if not (CHECKPOINT.fullmatch(name) or SAMPLES.fullmatch(name)):
        raise SystemExit("read: %r is none of the trainer's files" % name)
    for folder in ("out", "code"):
        path = os.path.join(root, folder, name)
        if os.path.isfile(path):
            with open(path, "rb") as file:
                file.seek(offset)
                for piece in iter(lambda: file.read(1 << 22), b""):
                    touch(os.path.join(root, "agent", "heard"))  # a long pull is a sign of life
                    sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
    raise SystemExit("read: %s is gone" % name)


def others(root: str) -> list[dict[str, Any]]:
    """Return what else lies in `out/`: results, logs of its own, whatever the program wrote there."""
    out, found = os.path.join(root, "out"), []
    for folder, folders, names in os.walk(out):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, out)
            is_known = CHECKPOINT.fullmatch(relative) or SAMPLES.fullmatch(relative) or relative in OWN_FILES
            if name.startswith(".") or is_known or os.path.islink(path) or not os.path.isfile(path):
                continue
            try:
                found.append({"name": relative, "size_bytes": os.stat(path).st_size})
            except OSError:
                continue
    return sorted(found, key=lambda entry: str(entry["name"]))


def pack(root: str, names: list[str]) -> None:
    """Write files of `out/` to standard output, as a tar; one that is gone, or lies elsewhere, is left out."""
    there = {entry["name"] for entry in others(root)}
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            if name in there:
                touch(os.path.join(root, "agent", "heard"))
                try:
                    tar.add(os.path.join(root, "out", name), arcname=name, recursive=False)
                except OSError:
                    continue
    sys.stdout.buffer.flush()


def stop(root: str) -> dict[str, Any]:
    """Ask the watching process to send SIGTERM to the trainer's group."""
    touch(os.path.join(root, "agent", "stop"))
    return {"asked": True}


# -- instance metadata


class Metadata:
    """The instance metadata service, version 2.

    Every failure reads as "nothing there": a poll must never end the watch.
    """

    def __init__(self) -> None:
        base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254"
        self.base = base.rstrip("/") + "/latest/"
        self.token: str | None = None

    def _ask(self, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> str:
        request = urllib.request.Request(self.base + path, method=method, headers=headers or {})
        with urllib.request.urlopen(request, timeout=2) as answer:
            return str(answer.read().decode())

    def get(self, path: str) -> str | None:
        """Return the text at `path`, or None."""
        for _ in range(2):
            try:
                if self.token is None:
                    self.token = self._ask("api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "21600"})
                return self._ask("meta-data/" + path, headers={"X-aws-ec2-metadata-token": self.token})
            except urllib.error.HTTPError as error:
                self.token = None if error.code == 401 else self.token  # it ran out: a new one, once
                if error.code != 401:
                    return None
            except (OSError, ValueError):
                return None
        return None


# -- the watching process


class Watch:
    """The process that outlives our SSH sessions: trainer, notice, time limit, silence of the owner."""

    def __init__(self, root: str, job: dict[str, Any]) -> None:
        self.root = root
        self.job = job
        self.folder = os.path.join(root, "agent")
        self.metadata = Metadata()
        self.booted_at = self.started_at = time.time()
        self.trainer: subprocess.Popen[bytes] | None = None
        self.stop_sent_at: float | None = None
        self.carrier: subprocess.Popen[bytes] | None = None
        self.carrier_started_at = 0.0
        self.held_at = 0.0
        self.ended_at: float | None = None
        self.noticed_at: float | None = None
        self.gpu_watch: subprocess.Popen[bytes] | None = None
        self.state: dict[str, Any] = {
            "started_at": self.started_at,
            "trainer": {"state": "starting"},
            "notice": None,
            "rebalance": False,
            "ending": "",
        }

    def save(self) -> None:
        """Write the state for `status` to read. A full disk must not end the watch, nor hide a trainer's end."""
        try:
            write_json(os.path.join(self.folder, "state.json"), self.state)
        except OSError as error:
            if self.state["trainer"]["state"] == "exited":
                note_end(self.root, self.state["trainer"], error)

    def start_trainer(self) -> None:
        """Start the trainer in a process group of its own, its output in `out/trainer.log`."""
        out, code = os.path.join(self.root, "out"), os.path.join(self.root, "code")
        self.link_outputs(out, code)
        env = dict(os.environ)
        env["PATH"] = "%s:%s" % (
            self.job["path_first"],
            env.get("PATH", "/usr/bin:/bin"),
        )  # `python` is the one with torch
        env.update(self.job["env"])
        env.update({"PIXEL_ORCH_OUT": out, "PYTHONUNBUFFERED": "1"})
        log = open(os.path.join(out, "trainer.log"), "ab")  # noqa: SIM115 (the trainer keeps it)
        try:
            self.trainer = subprocess.Popen(
                self.job["command"],
                cwd=code,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            self.state["trainer"] = {"state": "running", "pid": self.trainer.pid, "asked": False}
        except OSError as error:
            log.write(("pixel-orch: cannot start %s: %s\n" % (self.job["command"][0], error)).encode())
            self.state["trainer"] = {"state": "exited", "exit_code": 127, "asked": False}
        log.close()
        self.save()

    @staticmethod
    def link_outputs(out: str, code: str) -> None:
        """Let a program that only knows its working folder find and leave its files there."""
        for name in ["metrics.jsonl"] + [n for n in os.listdir(out) if CHECKPOINT.fullmatch(n)]:
            link = os.path.join(code, name)
            if not os.path.lexists(link):
                os.symlink(os.path.join(out, name), link)

    def watch_gpu(self) -> None:
        """Let nvidia-smi write down, every few seconds, how busy the first GPU is; where there is none, nothing."""
        words = ["nvidia-smi", "--id=0", "--query-gpu=" + ",".join(GPU_FIELDS), "--format=csv,noheader,nounits"]
        try:
            with open(os.path.join(self.folder, "gpu.csv"), "ab") as file:
                self.gpu_watch = subprocess.Popen(
                    [*words, "--loop=%d" % GPU_EVERY_S],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.DEVNULL,
                )
        except OSError:
            pass

    def signal_trainer(self, number: int) -> None:
        """Send a signal to the trainer and all that it started."""
        try:
            if self.trainer is not None:
                os.killpg(self.trainer.pid, number)
        except OSError:
            pass

    def ask_to_stop(self, why: str) -> None:
        """SIGTERM, once; the reason goes into the log that the user reads."""
        if self.stop_sent_at is not None or self.trainer is None or self.trainer.poll() is not None:
            return
        self.stop_sent_at = time.time()
        self.state["trainer"]["asked"] = True
        self.say("SIGTERM to the trainer: %s" % why)
        self.save()
        self.signal_trainer(signal.SIGTERM)

    def say(self, text: str) -> None:
        """Write one line to the agent's log."""
        try:
            with open(os.path.join(self.folder, "agent.log"), "a") as file:
                file.write("%s %s\n" % (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), text))
        except OSError:
            pass  # the disk is full

    def look_at_trainer(self) -> None:
        """Notice its end."""
        if self.trainer is None or self.state["trainer"]["state"] != "running":
            return
        code = self.trainer.poll()
        if code is not None:
            self.ended_at = time.time()
            self.signal_trainer(signal.SIGKILL)  # what it started and left behind must not train on
            self.state["trainer"].update(state="exited", exit_code=code, ended_at=time.time())
            if self.gpu_watch is not None:
                self.gpu_watch.kill()
                self.gpu_watch.wait()
            self.say("the trainer ended with %d" % code)
            self.save()

    def look_at_metadata(self) -> None:
        """Notice an interruption or a rebalance recommendation."""
        if not self.state["rebalance"] and self.metadata.get("events/recommendations/rebalance"):
            self.state["rebalance"] = True
            self.say("rebalance recommendation")
            self.save()
        if self.state["notice"] is None:
            text = self.metadata.get("spot/instance-action")
            if text:
                try:
                    self.state["notice"] = json.loads(text)
                except ValueError:
                    self.state["notice"] = {"action": "terminate", "time": ""}
                self.noticed_at = time.time()
                self.save()
                self.ask_to_stop("interruption notice %s" % text.strip())

    def owner_silence_s(self) -> float:
        """Return for how long there has been no sign of life of the owner's."""
        return min(self.age_s("owner"), self.age_s("heard"))

    def age_s(self, name: str) -> float:
        """Return how long ago a file of ours was written."""
        try:
            return time.time() - os.stat(os.path.join(self.folder, name)).st_mtime
        except OSError:
            return time.time() - self.started_at

    def idle_for_s(self) -> float:
        """Return for how long the trainer has written neither metrics nor log."""
        spoke_at = self.started_at
        for name in ("metrics.jsonl", "trainer.log"):
            try:
                spoke_at = max(spoke_at, os.stat(os.path.join(self.root, "out", name)).st_mtime)
            except OSError:
                continue
        return time.time() - spoke_at

    def word_age_s(self) -> float:
        """Return how old the owner's last word is; a pull renews no budget."""
        return self.age_s("owner")

    def bought_s(self) -> float:
        """Return how long the owner's last word lets us go on without another one: what money and time surely buy."""
        try:
            with open(os.path.join(self.folder, "owner")) as file:
                return float(file.read())
        except (OSError, ValueError):
            return float("inf")

    def allowed_silence_s(self) -> float:
        """Return how long the owner may be silent: the owner's time-out, and not longer than the budget surely buys.

        While a trainer runs whose checkpoints go to S3, only the budget counts.
        """
        running = self.trainer is not None and self.trainer.poll() is None
        if self.job.get("s3") and running:
            return self.bought_s()
        return min(float(self.job["owner_timeout_s"]), self.bought_s())

    def saving_s(self, bought_s: float) -> float:
        """Return how long before the money is gone we begin to save: a third of what a trainer may take to stop."""
        return min(float(self.job["stop_timeout_s"]) / 3, bought_s / 2) if bought_s < float("inf") else 0.0

    # -- the second home

    def look_at_carrier(self) -> None:
        """Keep `s3_home.py` running; that it cannot run is told to the owner, and the trainer goes on."""
        place = self.job.get("s3")
        if not place or (self.carrier is not None and self.carrier.poll() is None):
            return
        if time.time() - self.carrier_started_at < 5:
            return
        self.carrier_started_at = time.time()
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "s3_home.py")
        words = [place["python"], script, "watch", self.root, json.dumps(place)]
        try:
            with open(os.path.join(self.folder, "s3.log"), "ab") as log:
                self.carrier = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            self.state["s3_problem"] = "cannot start s3_home.py: %s" % error
            self.save()

    def is_carried(self) -> bool:
        """Return whether all that the ended trainer left is in S3 too; True where there is no second home."""
        if not self.job.get("s3"):
            return True
        told = second_home(self.root)
        if not told.get("done"):
            return False  # S3 does not know yet that, and how, the trainer ended
        stored = {entry["sha256"] for entry in told.get("stored", [])}
        found = outputs(self.root, self.started_at)
        return all(one["sha256"] in stored for one in found if one["name"].startswith("checkpoint-"))

    def look_at_limits(self) -> None:
        """End the instance when its time is up or its owner is gone.

        Never in the first hour of one that is under notice.
        """
        limit, silence_s, bought_s = self.job.get("time_limit_s"), self.owner_silence_s(), self.bought_s()
        why = ""
        if limit and time.time() - self.started_at > limit:
            why = "its time of %.0f s is up" % limit
        elif self.word_age_s() > bought_s - self.saving_s(bought_s):
            why = "its owner has been silent for %.0f s, and no more money or time is sure to be left" % silence_s
        elif self.job.get("idle_s") and self.idle_for_s() > float(self.job["idle_s"]):
            why = "the trainer has written nothing for %.0f s" % self.idle_for_s()
        elif silence_s > self.allowed_silence_s():
            why = "its owner has been silent for %.0f s" % silence_s
        if not why or self.is_left_to_aws():
            return
        if not self.state["ending"]:
            self.state["ending"] = why
            self.save()
        self.ask_to_stop(why)
        if self.may_shut_down():
            self.say("shutdown: %s" % why)
            call_as_root(self.job["shutdown"])
            time.sleep(5)

    def go_on(self) -> None:
        """Move the guard's deadline forward. It ends the machine when we no longer do: no longer than money lasts."""
        if time.time() - self.held_at < HOLD_EVERY_S:
            return
        self.held_at = time.time()
        left_s = max(0.0, self.bought_s() - self.word_age_s()) + 2 * HOLD_EVERY_S  # we ourselves end it before
        hold(max(min(HOLD_S, left_s), LEAVE_TO_AWS_S + HOLD_EVERY_S if self.is_left_to_aws() else 0.0))

    def is_left_to_aws(self) -> bool:
        """Return whether AWS is about to end us in our first hour, for free; not for long should it not do so."""
        if self.noticed_at is None or time.time() - self.booted_at >= 3600:
            return False
        return time.time() - self.noticed_at < LEAVE_TO_AWS_S

    def may_shut_down(self) -> bool:
        """Return whether nothing is to be waited for: the trainer has ended and its checkpoints are in S3, or it took
        too long. Money that is used up waits for neither longer than the owner's word said."""
        now = time.time()
        if self.word_age_s() > self.bought_s():
            return True
        if self.trainer is not None and self.trainer.poll() is None:
            return now - (self.stop_sent_at or now) > float(self.job["stop_timeout_s"])
        return self.is_carried() or now - (self.ended_at or now) > CARRY_TIMEOUT_S

    def run(self) -> None:
        """Watch until the machine is gone."""
        self.go_on()
        self.start_trainer()
        self.watch_gpu()
        asked_metadata_at = 0.0
        while True:
            self.look_at_trainer()
            self.look_at_carrier()
            if time.time() - asked_metadata_at >= self.job["metadata_poll_s"]:
                asked_metadata_at = time.time()
                self.look_at_metadata()
            if os.path.exists(os.path.join(self.folder, "stop")):
                self.ask_to_stop("asked by the owner")
            self.look_at_limits()
            self.go_on()
            time.sleep(TICK_S)


def hold(seconds: float, limit: float = float("inf")) -> float:
    """Let the guard (`guard.sh`) wait for so long from now, but not beyond `limit` (seconds since the boot).

    Returns when its deadline is. On a machine without a guard nothing is done.
    """
    folder = os.environ.get("PIXEL_ORCH_RUN", "/run/pixel-orch")
    with open("/proc/uptime") as file:
        deadline = min(float(file.read().split()[0]) + seconds, limit)
    part = os.path.join(folder, "deadline.%d" % os.getpid())
    try:
        with open(part, "w") as file:
            file.write("%d\n" % deadline)
        os.replace(part, os.path.join(folder, "deadline"))
    except OSError:
        pass  # no guard, or /run is full: the old deadline stands, and we come again
    return deadline


def longest() -> float:
    """Return the seconds since the boot beyond which no set-up may hold the machine: what its budget surely buys."""
    try:
        with open(os.path.join(os.environ.get("PIXEL_ORCH_RUN", "/run/pixel-orch"), "limit")) as file:
            return float(file.read())
    except (OSError, ValueError):
        return float("inf")


def call_as_root(words: list[str]) -> None:
    """Run `sudo ...`; on an image without sudo one is root already."""
    for command in (words, words[1:]):
        try:
            subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            return
        except OSError:
            continue


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
