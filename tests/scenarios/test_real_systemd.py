"""What only a real systemd shows: the end of an SSH session, the guard's unit, masked timers, cloud-init's bootcmd."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.instance.layout import files_to_send
from orchestrator.plan.requests import user_data
from tests.support.systemd_machine import SystemdMachine, why_not

pytestmark = pytest.mark.slow
LIMIT_S = 60.0
JOB = {
    "command": ["sleep", "600"],
    "env": {},
    "path_first": "/usr/bin",
    "owner_timeout_s": 600,
    "stop_timeout_s": 1,
    "metadata_poll_s": 60,
    "shutdown": ["sudo", "true"],
}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SystemdMachine]:
    """Boot a machine."""
    problem = why_not()
    if problem:
        pytest.skip(problem)
    try:
        made = SystemdMachine(tmp_path)
    except RuntimeError as error:
        pytest.skip(str(error))
    yield made
    made.end()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what the machine does."""
    give_up_at = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.1)


def bootcmd(machine: SystemdMachine, alone_min: int = 30) -> None:
    """Run what cloud-init runs at each boot."""
    (words,) = json.loads(user_data("", "", "", alone_min).partition("\n")[2])["bootcmd"]
    script = "exec " + " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    machine.run(script)


def test_the_agent_and_its_trainer_outlive_the_session_where_logind_kills_its_processes(
    machine: SystemdMachine,
) -> None:
    bootcmd(machine)
    machine.log_in("setsid nohup sleep 599 >/dev/null 2>&1 </dev/null & sleep 0.2")
    machine.send(files_to_send(has_bucket=False, has_dataset=False), "pixel-orch/story")
    agent = "python3 pixel-orch/story/bin/agent.py"
    assert json.loads(machine.log_in(f"{agent} start pixel-orch/story", json.dumps(JOB).encode())) == {"started": True}
    until(lambda: machine.tried("pgrep -f '[s]leep 599'") == 1, "the session's other process to be killed")
    until(lambda: machine.tried("pgrep -f '[s]leep 600'") == 0, "the trainer to start")
    status = json.loads(machine.log_in(f"{agent} status pixel-orch/story 0 0"))
    assert (status["agent_alive"], status["trainer"]["state"]) == (True, "running")
    assert "active" in machine.run("systemctl list-units --no-legend 'pixel-orch-story-*.scope'")
    assert machine.run("loginctl show-user tester --property=Linger") == "Linger=yes\n"
    log = machine.run("cat /home/tester/pixel-orch/story/agent/agent.log")
    assert "beyond the login: in pixel-orch-story-" in log


def test_the_guard_is_a_unit_that_powers_off_and_upgrades_are_masked(machine: SystemdMachine) -> None:
    bootcmd(machine)
    until(lambda: machine.tried("systemctl is-active pixel-orch-guard") == 0, "the guard")
    units = ("apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service", "dnf-automatic.timer")
    masked = " && ".join(f"systemctl is-enabled {unit} | grep -x masked-runtime" for unit in units)
    until(lambda: machine.tried(masked) == 0, "the upgrades to be masked")
    machine.run("systemctl kill --signal=KILL pixel-orch-guard")
    until(lambda: machine.tried("systemctl is-active pixel-orch-guard") == 0, "the guard to be started again")
    machine.run("echo 0 >/run/pixel-orch/deadline")
    until(lambda: not machine.is_up, "the machine to power off")


def test_the_real_cloud_init_runs_the_bootcmd(machine: SystemdMachine) -> None:
    if shutil.which("cloud-init") is None:
        pytest.skip("there is no cloud-init: apt-get install cloud-init")
    machine.run("cat >/run/user-data", user_data("", "", "ssh-ed25519 AAAA test", 30, 90).encode())
    machine.run("cloud-init --file /run/user-data --force single --name bootcmd --frequency always")
    until(lambda: machine.tried("systemctl is-active pixel-orch-guard") == 0, "the guard")
    uptime_s = float(machine.run("cut -d' ' -f1 /proc/uptime"))
    assert float(machine.run("cat /run/pixel-orch/deadline")) == pytest.approx(uptime_s + 1800, abs=60)
    assert float(machine.run("cat /run/pixel-orch/limit")) == pytest.approx(uptime_s + 5400, abs=60)
