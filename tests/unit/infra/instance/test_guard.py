"""The guard of user-data: it ends a machine that nobody holds any more, and only that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.plan.requests import user_data

AGENT = Path(__file__).parents[4] / "infra" / "instance" / "agent.py"
TICK_S = "0.02"
LIMIT_S = 20.0
FAKE = '#!/bin/sh\necho "$0 $*" >> "$PIXEL_ORCH_RUN/log"\n[ "${0##*/}" != systemd-run ]\n'


class Ground:
    """A folder that stands for /run/pixel-orch, and programs that only write down that they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        for name in ("systemctl", "shutdown", "poweroff", "systemd-run"):
            program = folder / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(FAKE)
            program.chmod(0o755)
        self.env = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PIXEL_ORCH_RUN": str(self.run)}

    def begin(self, alone_min: int, most_min: int = 0) -> None:
        """Run what cloud-init would."""
        config = json.loads(user_data("", "", "", alone_min, most_min).partition("\n")[2])
        (words,) = config["bootcmd"]
        subprocess.run([*words, TICK_S], env=self.env, check=True, timeout=LIMIT_S)

    def agent(self, *words: str) -> float:
        """Ask the agent's `hold`; return the deadline in seconds from now."""
        command = [sys.executable, str(AGENT), "hold", str(self.folder), *words]
        done = subprocess.run(command, env=self.env, check=True, capture_output=True, timeout=LIMIT_S)
        return float(json.loads(done.stdout)["until_s"]) - uptime_s()

    @property
    def deadline_s(self) -> float:
        """When it ends the machine, in seconds from now."""
        return float((self.run / "deadline").read_text()) - uptime_s()

    def has_ended(self) -> bool:
        """Whether the machine was told to power off."""
        log = self.run / "log"
        said = log.read_text().splitlines() if log.exists() else []
        return f"{self.folder / 'bin' / 'systemctl'} poweroff" in said

    def until(self, condition: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < give_up_at
            time.sleep(0.01)


def uptime_s() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    subprocess.run(["pkill", "-f", f"pixel-orch-guard {TICK_S} {made.run}"], check=False)


def test_a_machine_that_nobody_holds_is_ended_after_the_minutes_alone(ground: Ground) -> None:
    ground.begin(alone_min=3)
    assert 177 < ground.deadline_s <= 180
    (ground.run / "deadline").write_text(str(int(uptime_s()) + 1))
    assert not ground.has_ended()
    ground.until(ground.has_ended)


def test_a_deadline_of_nonsense_ends_nothing(ground: Ground) -> None:
    ground.begin(alone_min=3)
    for nonsense in ("", "soon\n", "-5"):
        (ground.run / "deadline").write_text(nonsense)
        time.sleep(5 * float(TICK_S))
    assert not ground.has_ended()
    (ground.run / "deadline").write_text("0")
    ground.until(ground.has_ended)


def test_whoever_sets_the_machine_up_may_hold_it_for_as_long_as_the_budget_buys(ground: Ground) -> None:
    ground.begin(alone_min=3, most_min=20)
    assert 598 < ground.agent("600") <= 600
    assert ground.deadline_s == pytest.approx(600, abs=2)
    assert ground.agent("90000") == pytest.approx(20 * 60, abs=2)


def test_without_a_budget_there_is_no_most(ground: Ground) -> None:
    ground.begin(alone_min=3)
    assert ground.agent("90000") == pytest.approx(90000, abs=2)


def test_the_next_boot_begins_anew(ground: Ground) -> None:
    ground.begin(alone_min=3)
    ground.agent("90000")
    ground.begin(alone_min=3)
    assert ground.deadline_s <= 180


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hangs", "fails"])
def test_a_shutdown_that_does_not_work_is_followed_by_stronger_ones(ground: Ground, how: str) -> None:
    body = "sleep 60" if how == "hangs" else "exit 1"
    text = f'#!/bin/sh\necho "${{0##*/}} $*" >> "$PIXEL_ORCH_RUN/log"\n{body}\n'
    for name in ("systemctl", "shutdown", "poweroff"):
        (ground.folder / "bin" / name).write_text(text)
    ground.begin(alone_min=3)
    (ground.run / "deadline").write_text("0")
    last = "systemctl poweroff --force --force" if how == "hangs" else "poweroff -f -f"
    ground.until(lambda: last in (ground.run / "log").read_text().splitlines())
    said = [line for line in (ground.run / "log").read_text().splitlines() if "poweroff" in line or "shutdown" in line]
    systemctl = [line for line in said if line.startswith("systemctl")]
    assert systemctl[:3] == ["systemctl poweroff", "systemctl poweroff --force", "systemctl poweroff --force --force"]
    assert ("shutdown -h now" in said) is (how == "fails")


@pytest.mark.slow
def test_a_machine_that_is_held_again_in_time_lives(ground: Ground) -> None:
    """The first command may have hung; whoever holds the machine then keeps it from the stronger ones."""
    ground.begin(alone_min=3)
    (ground.run / "deadline").write_text("0")
    ground.until(ground.has_ended)
    (ground.run / "deadline").write_text(str(int(uptime_s()) + 600))
    time.sleep(20 * float(TICK_S))
    assert not [line for line in (ground.run / "log").read_text().splitlines() if line.endswith("poweroff --force")]


def test_upgrades_in_the_background_do_not_start(ground: Ground) -> None:
    ground.begin(alone_min=3)
    asked = lambda: (ground.run / "log").read_text().split("\n") if (ground.run / "log").exists() else []  # noqa: E731
    ground.until(lambda: any("stop --no-block" in line for line in asked()))
    for verb in ("mask --runtime", "stop --no-block"):
        (line,) = [line for line in asked() if verb in line]
        assert {"apt-daily-upgrade.timer", "unattended-upgrades.service", "dnf-automatic.timer"} <= set(line.split())


def test_where_there_is_no_guard_holding_does_nothing(ground: Ground) -> None:
    ground.agent("600")
    assert not ground.run.exists()
