"""The watching process: it outlives our SSH sessions, and ends trainer and machine when it must.

It polls the instance metadata for the interruption notice and the rebalance recommendation
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html: "every 5 seconds"), tells
the trainer with SIGTERM, and ends the instance when its time is up or its owner has been silent too long. It does not
end an instance that is under notice in its first hour: AWS bills nothing for those, unless it was us who ended them.

With a remote store in S3 (`s3` in the job) it also keeps `checkpoint_uploader.py` running, and an owner's silence is
then no reason to end a trainer that runs: it goes on as long as its time and money last. Once the trainer has ended,
and everything is in S3, a silent owner is one again.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from typing import Any

from infra.instance.metadata import Metadata
from infra.instance.trainer_files import CHECKPOINT, outputs, read_json, write_json

TICK_S = 0.1
LEAVE_TO_AWS_S = 180.0  # from a notice on: the two minutes, and one for AWS to be late
HOLD_S, HOLD_EVERY_S = 900.0, 30.0  # the guard waits so long for our next sign of life; how often we give one
UPLOAD_TIMEOUT_S = 300.0  # from the trainer's end until its last checkpoint is in S3; then the machine ends without it
GPU_FIELDS = ("name", "clocks.sm", "clocks.mem", "utilization.gpu", "memory.used", "memory.total")
GPU_EVERY_S = 5
MOST_GPU_BYTES = 1 << 17  # the newest two hours or so


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
        self.uploader: subprocess.Popen[bytes] | None = None
        self.uploader_started_at = 0.0
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

    # -- the remote store

    def look_at_uploader(self) -> None:
        """Keep `checkpoint_uploader.py` running; that it cannot run is told to the owner, and the trainer goes on."""
        place = self.job.get("s3")
        if not place or (self.uploader is not None and self.uploader.poll() is None):
            return
        if time.time() - self.uploader_started_at < 5:
            return
        self.uploader_started_at = time.time()
        script = os.path.join(self.root, "bin", "checkpoint_uploader.py")
        words = [place["python"], script, "watch", self.root, json.dumps(place)]
        try:
            with open(os.path.join(self.folder, "s3.log"), "ab") as log:
                self.uploader = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            self.state["s3_problem"] = "cannot start checkpoint_uploader.py: %s" % error
            self.save()

    def is_uploaded(self) -> bool:
        """Return whether all that the ended trainer left is in S3 too; True where there is no remote store."""
        if not self.job.get("s3"):
            return True
        told = uploader_state(self.root)
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
        return self.is_uploaded() or now - (self.ended_at or now) > UPLOAD_TIMEOUT_S

    def run(self) -> None:
        """Watch until the machine is gone."""
        self.go_on()
        self.start_trainer()
        self.watch_gpu()
        asked_metadata_at = 0.0
        while True:
            self.look_at_trainer()
            self.look_at_uploader()
            if time.time() - asked_metadata_at >= self.job["metadata_poll_s"]:
                asked_metadata_at = time.time()
                self.look_at_metadata()
            if os.path.exists(os.path.join(self.folder, "stop")):
                self.ask_to_stop("asked by the owner")
            self.look_at_limits()
            self.go_on()
            time.sleep(TICK_S)


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


def uploader_state(root: str) -> dict[str, Any]:
    """Return what `checkpoint_uploader.py` told last: `stored` (the whole checkpoints in S3), `problem` and `done`."""
    told: dict[str, Any] = read_json(os.path.join(root, "agent", "s3.json"), {})
    return told


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
