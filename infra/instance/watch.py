"""The watch process. It outlives the SSH sessions and ends the trainer and the machine when a limit is reached.

It polls the instance metadata for the interruption notice and the rebalance recommendation
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html: "every 5 seconds") and
sends SIGTERM to the trainer on a notice. It shuts the instance down when its time limit is reached or when its owner
has not been in contact for too long. It does not shut down an instance that is under notice in its first hour: AWS
does not bill it, unless the customer ends it.

With a remote store in S3 (`s3` in the job) it also keeps `checkpoint_uploader.py` running. The owner timeout then does
not apply while the trainer runs: only the time limit and the budget do. Once the trainer has exited and its checkpoints
are in S3, the owner timeout applies again.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import Any

from infra.instance.deadline import Changes, hold, steady
from infra.instance.descendants import Descendants
from infra.instance.digests import Hasher, outputs
from infra.instance.docker import end_container, ending
from infra.instance.gpu import BROKEN, GpuWatch
from infra.instance.metadata import Metadata, keep_from_proxy
from infra.instance.metrics_process import MetricsProcess
from infra.instance.outputs.answers import are_stored, is_mirrored
from infra.instance.outputs.files import Rules
from infra.instance.outputs.mirror import Mirror
from infra.instance.program_side import environment, stop_number, write_notice
from infra.instance.programs import KILL_S, last_line, left_behind, run
from infra.instance.renewal import is_asked
from infra.instance.trainer_files import found_in_code, link_outputs, metrics_path, write_json
from infra.instance.watch_state import note_end, uploader_state

TICK_S = 0.1
DEAF_AFTER = 3  # polls of the metadata without an answer; then the owner is told that no notice would be seen
LEAVE_TO_AWS_S = 180.0  # after a notice: its two minutes, and one for a delay of AWS
OUTLIVED_S = 240.0  # after a notice: the owner ends the instance a minute earlier, if it can
HOLD_S, HOLD_EVERY_S = 900.0, 30.0  # how far the guard's deadline is moved into the future, and how often
UPLOAD_TIMEOUT_S = 300.0  # from the trainer's exit to the upload of its last checkpoint; the machine then ends anyway
GPU_IDLE_S = 300.0  # without a line of metrics or log: then it is asked whether the GPU is broken, so often
SHUTDOWN_S = 60.0  # for the command that begins the shutdown


class Watch:
    """The watch process: it supervises the trainer, the notice, the time limit and the owner's contact."""

    def __init__(self, root: str, job: dict[str, Any]) -> None:
        self.root = root
        self.job = job
        self.folder = os.path.join(root, "agent")
        self.metadata = Metadata()
        self.started_at = steady()
        self.changes = Changes()
        self.unanswered = 0  # polls of the metadata in a row
        self.trainer: subprocess.Popen[bytes] | None = None
        self.stop_sent_at: float | None = None
        self.uploader: subprocess.Popen[bytes] | None = None
        self.uploader_started_at = self.held_at = float("-inf")
        self.ended_at: float | None = None
        self.noticed_at: float | None = None
        rules = Rules(**job.get("output_rules", {}), takes_metrics=job.get("metrics") is not None)
        self.mirror = Mirror(root, rules, lambda: self.state, is_stored=bool(job.get("s3")))
        self.gpu = GpuWatch(root)
        self.metrics = MetricsProcess(root, job.get("metrics"))
        self.descendants = Descendants(self.helpers, self.say)
        self.gpu_looked_at = self.started_at
        self.gpu_failed_at: float | None = None
        self.is_shutting_down = False
        self.state: dict[str, Any] = {
            "started_at": time.time(),
            "trainer": {"state": "starting"},
            "notice": None,
            "rebalance": False,
            "ending": "",
        }

    def save(self) -> None:
        """Write the state for `status` to read. A full disk must neither end the watch process nor hide an exit."""
        try:
            write_json(os.path.join(self.folder, "state.json"), self.state)
        except OSError as error:
            if self.state["trainer"]["state"] == "exited":
                note_end(self.root, self.state["trainer"], error)

    def start_trainer(self) -> None:
        """Start the trainer in its own process group, with its output in `out/trainer.log`."""
        out, code = os.path.join(self.root, "out"), os.path.join(self.root, "code")
        self.state["code_before"] = found_in_code(self.root)
        link_outputs(self.root, has_metrics=self.job.get("metrics") is not None, say=self.say)
        self.mirror.note_sent()
        self.metrics.start(self.say)
        env = dict(os.environ)
        env["PATH"] = "%s:%s" % (
            self.job["path_first"],
            env.get("PATH", "/usr/bin:/bin"),
        )  # `python` is the one with torch
        env.update(self.job["env"])
        env.update(environment(self.root, self.job, env))
        keep_from_proxy(env)
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
            if not self.job.get("image"):  # `docker run` itself handles each
                self.state["stop_signal"] = stop_number(self.job)
        except OSError as error:
            log.write(("pixel-orch: cannot start %s: %s\n" % (self.job["command"][0], error)).encode())
            self.state["trainer"] = {"state": "exited", "exit_code": 127, "asked": False}
            self.metrics.is_over()
        log.close()
        self.save()

    def helpers(self) -> list[int]:
        """Return the pids of the processes that this one has started besides the trainer."""
        started = [self.uploader, self.metrics.process, *self.gpu.started, *ending, *left_behind]
        return [process.pid for process in started if process is not None]

    def signal_trainer(self, number: int) -> None:
        """Send a signal to the trainer's process group; SIGKILL to all that descends from it.

        Of a container Docker forwards it, but for SIGKILL.
        """
        if self.trainer is None:
            return
        alive = self.trainer.pid if self.trainer.poll() is None else None
        self.descendants.note(alive)
        if number == signal.SIGKILL:
            end_container(self.job, self.root)
        try:
            os.killpg(self.trainer.pid, number)
        except OSError:
            pass
        if number == signal.SIGKILL:
            self.descendants.kill(alive)

    def request_stop(self, why: str) -> None:
        """Tell the trainer to save and end, once, by its signal and by the file of the notice; log the reason."""
        if self.stop_sent_at is not None or self.trainer is None or self.trainer.poll() is not None:
            return
        self.stop_sent_at = steady()
        self.state["trainer"]["asked"] = True
        self.say("%s to the trainer: %s" % (self.job.get("stop_signal", "SIGTERM"), why))
        self.save()
        write_notice(self.root, self.state["notice"], why, float(self.job["stop_timeout_s"]))
        self.signal_trainer(stop_number(self.job))

    def say(self, text: str) -> None:
        """Append one line to the agent's log."""
        try:
            with open(os.path.join(self.folder, "agent.log"), "a") as file:
                file.write("%s %s\n" % (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), text))
        except OSError:
            pass  # the disk is full

    def poll_trainer(self) -> None:
        """Record the trainer's exit."""
        if self.trainer is None or self.state["trainer"]["state"] != "running":
            return
        code = self.trainer.poll()
        if code is None:
            return
        if self.ended_at is None:
            self.ended_at = steady()
            self.signal_trainer(signal.SIGKILL)  # its remaining child processes must not continue training
            self.gpu.stop()
            self.say("the trainer exited with code %d" % code)
        if self.metrics.is_over() and self.knows_why_it_failed(code):
            self.note_exit(code)

    def note_exit(self, code: int) -> None:
        """Record the trainer's exit, for the owner to see."""
        self.state["trainer"].update(state="exited", exit_code=code, ended_at=time.time())
        self.save()

    def knows_why_it_failed(self, code: int) -> bool:
        """Return whether it is known if the GPU made the trainer fail; looking takes seconds, minutes if it hangs."""
        failed_by_itself = code != 0 and not self.state["trainer"]["asked"]
        if not failed_by_itself or self.state["notice"] is not None or self.gpu_failed_at or not self.gpu.worked:
            return True
        looked = self.gpu.look()
        if looked is not None and looked[0] != 0:
            self.note_gpu_problem(looked[1])
        return looked is not None

    def note_gpu_problem(self, problem: str) -> None:
        """Record that the GPU does not work any more: another machine helps."""
        self.gpu_failed_at = steady()
        self.state["gpu_problem"] = problem
        self.say("the GPU has failed: %s" % problem)
        self.save()

    def poll_gpu(self) -> None:
        """End a trainer that hangs because its GPU is broken: it never exits by itself, and may hang in the kernel."""
        if self.trainer is None or self.trainer.poll() is not None or self.state["trainer"]["state"] != "running":
            return
        if self.gpu_failed_at is not None:
            self.end_hanging_trainer(steady() - self.gpu_failed_at - float(self.job["stop_timeout_s"]))
        elif self.gpu.is_looking or (self.may_hang() and self.gpu.worked):
            looked = self.gpu.look()
            self.gpu_looked_at = steady()
            if looked is not None and looked[0] == BROKEN:
                self.note_gpu_problem(looked[1])
                self.request_stop("its GPU is broken: %s" % looked[1])

    def may_hang(self) -> bool:
        """Return whether the trainer has written nothing for so long that its GPU may be the cause."""
        return steady() - self.gpu_looked_at > GPU_IDLE_S and self.idle_for_s() > GPU_IDLE_S

    def end_hanging_trainer(self, late_s: float) -> None:
        """Kill a trainer that was told to stop `late_s` ago; give it up if that does not end it."""
        if late_s > 0:
            self.signal_trainer(signal.SIGKILL)
        if late_s > KILL_S:
            self.ended_at = steady()
            self.say("the trainer cannot be killed: it hangs in the kernel")
            self.note_exit(-signal.SIGKILL)

    def poll_metadata(self) -> None:
        """Record an interruption notice or a rebalance recommendation."""
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
                self.noticed_at = steady()
                self.save()
                self.request_stop("interruption notice %s" % text.strip())
            self.note_metadata_problem(self.metadata.problem)

    def note_metadata_problem(self, problem: str) -> None:
        """Report, once, that the metadata does not answer; and that it does again."""
        self.unanswered = self.unanswered + 1 if problem else 0
        told = bool(self.state.get("metadata_problem"))
        if self.unanswered == DEAF_AFTER and not told:
            self.state["metadata_problem"] = "%s: %s" % (self.metadata.base, problem)
            self.say("the instance metadata does not answer (%s): no interruption notice can be seen" % problem)
            self.save()
        elif told and not problem:
            self.state["metadata_problem"] = ""
            self.say("the instance metadata answers again")
            self.save()

    def owner_silence_s(self) -> float:
        """Return the seconds since the owner's last sign of life."""
        return min(self.age_s("owner"), self.age_s("heard"))

    def age_s(self, name: str) -> float:
        """Return the seconds since one of the agent's files was written."""
        return self.changes.age_s(os.path.join(self.folder, name), self.started_at)

    def idle_for_s(self) -> float:
        """Return the seconds since the trainer last wrote metrics or log."""
        names = ("out/trainer.log", "agent/metrics.jsonl")
        paths = [metrics_path(self.root, self.state), *(os.path.join(self.root, name) for name in names)]
        return min(self.changes.age_s(path, self.started_at) for path in paths)

    def poll_age_s(self) -> float:
        """Return the seconds since the owner's last poll; a download does not renew the budget."""
        return self.age_s("owner")

    def guaranteed_s(self) -> float:
        """Return how many seconds the budget and the time limit cover from the owner's last poll on."""
        try:
            with open(os.path.join(self.folder, "owner")) as file:
                return float(file.read())
        except (OSError, ValueError):
            return float("inf")

    def allowed_silence_s(self) -> float:
        """Return how many seconds without contact are allowed: the owner timeout, at most what the budget covers.

        While the trainer runs and its checkpoints go to S3, only the budget counts.
        """
        running = self.trainer is not None and self.trainer.poll() is None
        if (self.job.get("s3") or self.job.get("trains_alone")) and running:
            return self.guaranteed_s()
        keep_s = 0.0 if running else self.keep_outputs_s()
        return min(max(float(self.job["owner_timeout_s"]), keep_s), self.guaranteed_s())

    def keep_outputs_s(self) -> float:
        """Return how long the machine is kept for outputs of the ended program that are neither at home nor in S3."""
        is_safe = is_mirrored(self.root) or are_stored(self.root)
        return 0.0 if is_safe else float(self.job.get("keep_outputs_s", 0))

    def saving_s(self, guaranteed_s: float) -> float:
        """Return how many seconds before the budget ends the trainer must save: a third of the stop timeout."""
        return min(float(self.job["stop_timeout_s"]) / 3, guaranteed_s / 2) if guaranteed_s < float("inf") else 0.0

    # -- the remote store

    def poll_uploader(self) -> None:
        """Keep `checkpoint_uploader.py` running. If it cannot start, report that; the trainer continues."""
        place = self.job.get("s3")
        if not place or (self.uploader is not None and self.uploader.poll() is None):
            return
        if steady() - self.uploader_started_at < 5:
            return
        self.uploader_started_at = steady()
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
        """Return whether all checkpoints and outputs of the exited trainer are in S3; True without a remote store."""
        if not self.job.get("s3"):
            return True
        uploader = uploader_state(self.root)
        if not uploader.get("done"):
            return False  # the state in S3 does not have the trainer's exit yet
        stored = {(entry["name"], entry["sha256"]) for entry in uploader.get("stored", [])}
        found, waiting = outputs(self.root, self.state)
        needed = {(one["name"], one["sha256"]) for one in found if one["name"].startswith("checkpoint-")}
        return not waiting and needed <= stored and are_stored(self.root)

    def enforce_limits(self) -> None:
        """Stop the trainer and shut the instance down when a limit is reached.

        An instance under notice in its first hour is left to AWS.
        """
        limit, silence_s, guaranteed_s = self.job.get("time_limit_s"), self.owner_silence_s(), self.guaranteed_s()
        why = ""
        if limit and steady() - self.started_at > limit:
            why = "the time limit of %.0f s is reached" % limit
        elif self.poll_age_s() > guaranteed_s - self.saving_s(guaranteed_s):
            why = "no contact with the owner for %.0f s, and the budget or the time limit may be used up" % silence_s
        elif self.job.get("idle_s") and self.idle_for_s() > float(self.job["idle_s"]):
            why = "the trainer has written nothing for %.0f s" % self.idle_for_s()
        elif self.outlived_notice():
            why = "AWS did not end the instance after its interruption notice"
        elif silence_s > self.allowed_silence_s():
            why = "no contact with the owner for %.0f s" % silence_s
        if not why or self.is_left_to_aws():
            return
        if not self.state["ending"]:
            self.state["ending"] = why
            self.save()
        self.request_stop(why)
        if self.may_shut_down():
            self.say("shutdown: %s" % why)
            self.is_shutting_down = True
            self.signal_trainer(signal.SIGKILL)  # a program that ignores SIGTERM would delay the shutdown, billed
            failed = call_as_root(self.job["shutdown"])
            if failed:
                self.say("the shutdown has not begun: %s" % failed)
            time.sleep(5)

    def extend_deadline(self) -> None:
        """Move the guard's deadline forward, at most to the end of the budget; the guard powers off when it passes.

        Not once this process shuts the machine down: where that fails, the guard has other ways.
        """
        if self.is_shutting_down or steady() - self.held_at < HOLD_EVERY_S:
            return
        self.held_at = steady()
        left_s = max(0.0, self.guaranteed_s() - self.poll_age_s()) + 2 * HOLD_EVERY_S  # this process shuts down earlier
        hold(max(min(HOLD_S, left_s), LEAVE_TO_AWS_S + HOLD_EVERY_S if self.is_left_to_aws() else 0.0))

    def is_left_to_aws(self) -> bool:
        """Return whether AWS is about to end the instance in its first hour, free of charge; True for 180 s at most."""
        if self.noticed_at is None or steady() - self.started_at >= 3600:
            return False
        return steady() - self.noticed_at < LEAVE_TO_AWS_S

    def outlived_notice(self) -> bool:
        """Return whether the trainer has exited on a notice that AWS did not act on: nothing trains here any more."""
        is_late = self.noticed_at is not None and steady() - self.noticed_at > OUTLIVED_S
        return is_late and self.state["trainer"]["state"] == "exited"

    def may_shut_down(self) -> bool:
        """Return whether the machine may shut down: the trainer has exited and its checkpoints are in S3, or a timeout
        has passed. With the budget used up it does not wait for either."""
        now = steady()
        if self.poll_age_s() > self.guaranteed_s():
            return True
        if self.trainer is not None and self.trainer.poll() is None:
            return now - (self.stop_sent_at or now) > float(self.job["stop_timeout_s"])
        if self.is_uploaded():
            return True
        return now - (self.ended_at or now) > max(UPLOAD_TIMEOUT_S, self.keep_outputs_s())

    def give_way(self) -> None:
        """End the trainer and the helpers: a watch process of the next generation of the group follows."""
        self.say("a new generation of the group begins")
        self.signal_trainer(signal.SIGKILL)
        if self.trainer is not None:
            self.trainer.wait()
        self.gpu.stop()
        for process in (self.metrics.process, self.uploader):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def run(self) -> None:
        """Watch until the machine ends, or goes on in another generation of its group."""
        self.extend_deadline()
        self.descendants.adopt()
        self.start_trainer()
        self.gpu.start()
        Hasher(self.root, lambda: self.state).start()
        self.mirror.start()
        polled_metadata_at = float("-inf")
        while True:
            self.poll_trainer()
            self.descendants.reap(self.trainer.pid if self.trainer is not None else None)
            self.poll_gpu()
            self.poll_uploader()
            if steady() - polled_metadata_at >= self.job["metadata_poll_s"]:
                polled_metadata_at = steady()
                self.poll_metadata()
            if is_asked(self.root):
                self.give_way()
                return
            if os.path.exists(os.path.join(self.folder, "stop")):
                self.request_stop("requested by the owner")
            self.enforce_limits()
            self.extend_deadline()
            time.sleep(TICK_S)


def call_as_root(words: list[str]) -> str:
    """Run `sudo ...`; without sudo, the command itself, since such an image logs in as root. Return why it failed."""
    for command in (words, words[1:]):
        try:
            done = run(command, SHUTDOWN_S)
        except OSError:
            continue
        return "" if done.code == 0 else "exit code %d: %s" % (done.code, last_line(done.output))
    return "%s is not installed" % words[1]
