"""The agent ends the machine by itself: time limit, silent owner; and leaves it to AWS where that makes it free."""

from __future__ import annotations

import http.server
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from infra.instance.layout import files_to_send

pytestmark = pytest.mark.slow
SAVES_ON_SIGTERM = (
    "import signal, sys, time, os\n"
    "def save(*_):\n"
    "    open(os.environ['PIXEL_ORCH_OUT'] + '/checkpoint-7.pt', 'w').write('seven')\n"
    "    sys.exit(143)\n"
    "signal.signal(signal.SIGTERM, save)\n"
    "open(os.environ['PIXEL_ORCH_OUT'] + '/ready', 'w').close()\n"
    "time.sleep(60)\n"
)


class Imds(http.server.BaseHTTPRequestHandler):
    """IMDSv2 that gives what the test has put there."""

    content: ClassVar[dict[str, str]] = {}

    def do_PUT(self) -> None:
        self._answer(200, "token")

    def do_GET(self) -> None:
        path = self.path.removeprefix("/latest/meta-data/")
        if self.headers.get("X-aws-ec2-metadata-token") != "token":
            self._answer(401, "")
        elif path in self.content:
            self._answer(200, self.content[path])
        else:
            self._answer(404, "")

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Serve instance metadata on a free port."""
    Imds.content = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Imds)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield Imds.content
    server.shutdown()
    server.server_close()


class Machine:
    """A folder with an agent in it. Its `shutdown` writes a file and ends the agent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.code = root / "code"
        self.code.mkdir()
        (self.code / "t.py").write_text(SAVES_ON_SIGTERM)
        self.is_down = root / "down"
        for name, content in files_to_send(has_bucket=False, has_dataset=False).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

    def agent(self, verb: str, *words: str, data: str = "") -> dict[str, Any]:
        """Run a verb."""
        command = [sys.executable, str(self.root / "bin" / "agent.py"), verb, str(self.root), *words]
        done = subprocess.run(command, input=data, capture_output=True, text=True, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def start(self, **job: Any) -> None:
        """Start agent and trainer and wait until the trainer listens to signals."""
        end = f"import os; open({str(self.is_down)!r}, 'w').close(); os.kill(os.getppid(), 9)"
        base = {
            "command": [sys.executable, "t.py"],
            "env": {},
            "path_first": str(Path(sys.executable).parent),
            "owner_timeout_s": 60,
            "stop_timeout_s": 5,
            "metadata_poll_s": 0.2,
            "time_limit_s": None,
            "shutdown": [sys.executable, "-c", end],
        }
        assert self.agent("start", data=json.dumps({**base, **job})) == {"started": True}
        until(lambda: (self.root / "out" / "ready").exists())

    def status(self) -> dict[str, Any]:
        """One look."""
        return self.agent("status", "0", "0")


def until(ready: Any, limit_s: float = 15) -> None:
    """Wait for another process."""
    give_up_at = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < give_up_at, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def machine(tmp_path: Path, metadata: dict[str, str]) -> Iterator[Machine]:
    """Give a machine; nothing of it is left."""
    machine = Machine(tmp_path)
    yield machine
    subprocess.run(["pkill", "-9", "-f", str(tmp_path)], check=False)
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if str(path.readlink()).startswith(str(tmp_path)):
                subprocess.run(["kill", "-9", path.parts[2]], check=False)
        except OSError:
            continue


def test_a_silent_owner_ends_the_machine_after_a_checkpoint(machine: Machine) -> None:
    machine.start(owner_timeout_s=1.0)
    until(machine.is_down.exists)
    assert (machine.root / "out" / "checkpoint-7.pt").read_text() == "seven"


def test_an_owner_may_be_silent_no_longer_than_the_budget_surely_buys(machine: Machine) -> None:
    machine.start(owner_timeout_s=60)
    machine.agent("status", "0", "0", "1.0")
    until(machine.is_down.exists)
    assert (machine.root / "out" / "checkpoint-7.pt").exists()


def test_the_guard_is_held_while_the_agent_lives_and_no_longer_than_money_lasts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine.root / "run").mkdir()
    monkeypatch.setenv("PIXEL_ORCH_RUN", str(machine.root / "run"))
    (machine.root / "agent").mkdir()
    (machine.root / "agent" / "owner").write_text("100.0")  # what the owner's last look lets it go on for
    machine.start(owner_timeout_s=60)
    until((machine.root / "run" / "deadline").exists)
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    assert 100 < float((machine.root / "run" / "deadline").read_text()) - uptime_s <= 160  # and time to end itself


PLACE = {"bucket": "b", "prefix": "p", "region": "us-east-1", "python": "true"}


def test_with_a_second_home_a_silent_owner_is_no_reason_until_all_is_stored(machine: Machine) -> None:
    machine.start(owner_timeout_s=0.5, s3=PLACE)
    time.sleep(1.5)
    assert not (machine.root / "out" / "checkpoint-7.pt").exists(), "the trainer was let alone"
    machine.agent("stop")
    until(lambda: (machine.root / "out" / "checkpoint-7.pt").exists())
    time.sleep(1.5)
    assert not machine.is_down.exists(), "its last checkpoint is not in S3 yet"
    (stored,) = machine.status()["outputs"]
    (machine.root / "agent" / "s3.json").write_text(json.dumps({"stored": [stored], "problem": ""}))
    assert machine.status()["stored"] == [stored]
    time.sleep(1.0)
    assert not machine.is_down.exists(), "S3 does not know yet how the trainer ended"
    mirror = machine.status()["mirror"]
    assert mirror["is_final"]
    told = {"stored": [stored], "problem": "", "done": True, "outputs": {"state": mirror["state"], "is_final": False}}
    (machine.root / "agent" / "s3.json").write_text(json.dumps(told))
    time.sleep(1.0)
    assert not machine.is_down.exists(), "its last outputs are not in S3 yet"
    told["outputs"] = {"state": mirror["state"], "is_final": True}
    (machine.root / "agent" / "s3.json").write_text(json.dumps(told))
    until(machine.is_down.exists)


def test_with_a_second_home_the_budget_still_ends_the_machine_and_waits_for_nothing(machine: Machine) -> None:
    machine.start(owner_timeout_s=60, s3=PLACE)
    machine.agent("status", "0", "0", "2.0")
    began = time.monotonic()
    until((machine.root / "out" / "checkpoint-7.pt").exists)
    assert time.monotonic() - began < 2.0, "it saves before the money is gone"
    until(machine.is_down.exists)
    assert 1.5 < time.monotonic() - began < 3.5, "S3 does not have it, and there is no money left to wait"


def test_a_second_home_that_cannot_be_reached_is_told(machine: Machine) -> None:
    machine.start(s3={**PLACE, "python": "/no/such/python"})
    until(lambda: "cannot start checkpoint_uploader.py" in machine.status()["s3_problem"])
    assert machine.status()["trainer"]["state"] == "running"


def test_a_full_disk_does_not_hide_the_trainers_end(machine: Machine) -> None:
    machine.start()
    trainer = machine.status()["trainer"]["pid"]
    watching = int(Path(f"/proc/{trainer}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (trainer, watching):
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    machine.agent("stop")
    until(lambda: machine.status()["trainer"]["state"] == "exited")
    look = machine.status()
    assert look["agent_alive"]
    assert (look["trainer"]["exit_code"], look["trainer"]["asked"]) == (143, True)
    assert "the instance cannot write to its disk" in look["ending"]


def test_a_look_is_a_heartbeat(machine: Machine) -> None:
    machine.start(owner_timeout_s=4.0)
    for _ in range(20):
        assert machine.status()["trainer"]["state"] == "running"
        time.sleep(0.25)
    assert not machine.is_down.exists()


def test_the_time_limit_ends_the_machine_after_a_checkpoint(machine: Machine) -> None:
    machine.start(time_limit_s=1.0)
    until(machine.is_down.exists)
    assert (machine.root / "out" / "checkpoint-7.pt").exists()


def test_a_trainer_that_writes_nothing_ends_the_machine_after_a_checkpoint(machine: Machine) -> None:
    machine.start(idle_s=1.0)
    until(machine.is_down.exists)
    assert (machine.root / "out" / "checkpoint-7.pt").exists()
    log = (machine.root / "agent" / "agent.log").read_text()
    assert "the trainer has written nothing for" in log


def test_a_notice_saves_and_leaves_the_machine_to_aws(machine: Machine, metadata: dict[str, str]) -> None:
    machine.start(owner_timeout_s=2.0)
    metadata["spot/instance-action"] = '{"action": "terminate", "time": "2026-11-23T20:00:00Z"}'
    until(lambda: machine.status()["trainer"]["state"] == "exited")
    until(lambda: not machine.status()["waiting_files"])
    look = machine.status()
    assert look["notice"]["time"] == "2026-11-23T20:00:00Z"
    assert look["trainer"]["asked"] is True
    assert look["trainer"]["exit_code"] == 143
    assert [o["name"] for o in look["outputs"]] == ["checkpoint-7.pt"]
    time.sleep(3)  # the owner is silent now; in the first hour AWS ends the machine for free, so the agent must not
    assert not machine.is_down.exists()


def test_a_rebalance_recommendation_is_told_and_stops_nothing(machine: Machine, metadata: dict[str, str]) -> None:
    machine.start()
    metadata["events/recommendations/rebalance"] = '{"noticeTime": "2026-11-23T20:00:00Z"}'
    until(lambda: machine.status()["rebalance"])
    assert machine.status()["trainer"]["state"] == "running"


def test_started_twice_it_runs_once(machine: Machine) -> None:
    machine.start()
    assert machine.agent("start", data="{}") == {"started": False}


def test_stop_saves(machine: Machine) -> None:
    machine.start()
    machine.agent("stop")
    until(lambda: machine.status()["trainer"]["state"] == "exited")
    until(lambda: not machine.status()["waiting_files"])
    assert machine.status()["outputs"][0]["step"] == 7


def test_a_program_that_is_not_there_is_a_failure_with_a_line(machine: Machine) -> None:
    job = {
        "command": ["no-such-program"],
        "env": {},
        "path_first": "/nowhere",
        "owner_timeout_s": 60,
        "stop_timeout_s": 5,
        "metadata_poll_s": 5,
        "time_limit_s": None,
        "shutdown": ["true"],
    }
    machine.agent("start", data=json.dumps(job))
    until(lambda: machine.status()["trainer"]["state"] == "exited")
    look = machine.status()
    assert look["trainer"]["exit_code"] == 127
    assert "cannot start no-such-program" in look["log"]
