"""The watch process: a clock that is set meanwhile, a GPU that fails under the trainer, a shutdown that fails."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.instance import deadline
from infra.instance import watch as module
from infra.instance.watch import Watch
from tests.support.bare_machine import INSTANCE

LOST = "Unable to determine the device handle for GPU0000:00:1E.0: GPU is lost.  Reboot the system to recover this GPU"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a run's folder, with the bootstrap in it, and a folder `programs` that is searched first."""
    for name in ("agent", "out", "code", "bin", "programs"):
        (tmp_path / name).mkdir()
    for name in ("bootstrap.sh", "common.sh"):
        shutil.copy(INSTANCE / name, tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIXEL_ORCH_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("PIXEL_ORCH_ETC_SSH", str(tmp_path / "ssh"))
    monkeypatch.setenv("PIXEL_ORCH_LIMITS", "nvidia-smi=1")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


def program(root: Path, name: str, body: str) -> None:
    """Put a program there."""
    path = root / "programs" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def watching(root: Path, command: str = "sleep 60", **job: Any) -> Watch:
    """Return a watch process whose trainer runs."""
    order = {
        "command": ["sh", "-c", command],
        "env": {},
        "path_first": "/usr/bin",
        "owner_timeout_s": 1800.0,
        "stop_timeout_s": 300.0,
        "metadata_poll_s": 5.0,
        "shutdown": ["true", "true"],
        **job,
    }
    (root / "agent" / "owner").touch()
    (root / "agent" / "heard").touch()
    watch = Watch(str(root), order)
    watch.start_trainer()
    watch.gpu.start()
    return watch


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    give_up_at = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def trainer_has_ended(watch: Watch) -> bool:
    """Poll once; return whether the owner is told that it has."""
    watch.poll_trainer()
    watch.poll_gpu()
    return bool(watch.state["trainer"]["state"] == "exited")


def end(watch: Watch) -> None:
    """End what still runs."""
    watch.signal_trainer(signal.SIGKILL)
    watch.gpu.stop()


# -- the clock


@pytest.mark.parametrize("step_s", [2400.0, -2400.0, 86_400.0 * 365])
def test_a_clock_that_is_set_ends_nothing_and_hides_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    """40 minutes are more than the owner timeout: ages count by CLOCK_BOOTTIME."""
    ended: list[Any] = []
    monkeypatch.setattr(module, "call_as_root", lambda words: ended.append(words) or "")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    watch = watching(root, time_limit_s=2000.0, idle_s=1900.0)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + step_s)
    for name in ("owner", "heard"):  # a poll, after the step
        os.utime(root / "agent" / name, (now + step_s, now + step_s))
    (root / "out" / "metrics.jsonl").touch()
    os.utime(root / "out" / "metrics.jsonl", (now + step_s, now + step_s))
    watch.enforce_limits()
    assert (ended, watch.state["ending"], watch.state["trainer"]["state"]) == ([], "", "running")
    steady = module.steady()
    for place in (module, deadline):
        monkeypatch.setattr(place, "steady", lambda: steady + 1801)
    watch.enforce_limits()
    assert watch.state["ending"].startswith("no contact with the owner for 1801 s")
    end(watch)


def test_nothing_of_the_machine_measures_time_by_the_clock_that_can_be_set() -> None:
    """`time.time()` is for people to read; in shell scripts neither `date` nor SECONDS counts."""
    for path in sorted(INSTANCE.glob("*.sh")):
        lines = [line.split("#")[0] for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
        assert not [line for line in lines if "date +" in line or "$SECONDS" in line or "SECONDS +" in line], path.name


# -- the GPU

LOGS = '*loop*) for n in 1 2 3; do echo "Tesla T4, 1590, 5000, 98, 3100, 15360"; done; exec sleep 60 ;;'


def smi(root: Path, answer: str, code: int = 0) -> None:
    """Put an nvidia-smi there that logs the load, and answers other questions like this."""
    program(root, "nvidia-smi", f"case \"$*\" in {LOGS} *) cat <<'END'\n{answer}\nEND\nexit {code} ;;\nesac")


@pytest.mark.parametrize(
    ("answer", "code", "problem"),
    [
        (LOST, 15, f"nvidia-smi exited with code 15: {LOST}"),
        ("Failed to initialize NVML: Driver/library version mismatch", 18, "Driver/library version mismatch"),
        ("Tesla T4", 0, ""),
    ],
)
def test_the_gpu_is_looked_at_when_a_trainer_fails(root: Path, answer: str, code: int, problem: str) -> None:
    smi(root, "Tesla T4")
    watch = watching(root, "while [ ! -e ../fail ]; do sleep 0.02; done; exit 1")
    until(lambda: watch.gpu.worked)
    smi(root, answer, code)
    (root / "fail").touch()
    until(lambda: trainer_has_ended(watch))
    assert watch.state["trainer"]["exit_code"] == 1
    assert problem in watch.state.get("gpu_problem", "")
    assert bool(problem) is bool(watch.state.get("gpu_problem"))
    assert not watch.gpu.is_logging


@pytest.mark.parametrize("command", ["exit 0", "kill -TERM $$"])
def test_it_is_not_looked_at_without_need(root: Path, command: str) -> None:
    smi(root, LOST, 15)
    watch = watching(root, f"while [ ! -e ../fail ]; do sleep 0.02; done; {command}")
    until(lambda: watch.gpu.worked)
    watch.state["trainer"]["asked"] = command != "exit 0"
    (root / "fail").touch()
    until(lambda: trainer_has_ended(watch))
    assert "gpu_problem" not in watch.state


@pytest.mark.slow
def test_an_nvidia_smi_that_hangs_neither_stops_the_agent_nor_is_believed_to_work(root: Path) -> None:
    smi(root, "Tesla T4")
    watch = watching(root, "while [ ! -e ../fail ]; do sleep 0.02; done; exit 1")
    until(lambda: watch.gpu.worked)
    program(root, "nvidia-smi", "exec sleep 60")
    (root / "fail").touch()
    longest = 0.0
    while not trainer_has_ended(watch):
        began = time.monotonic()
        watch.poll_trainer()
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.02)
    assert watch.state["gpu_problem"] == "nvidia-smi did not end within 1 s; it printed nothing"
    assert longest < 1.0, "metadata, limits and the guard's deadline go on"


def test_a_trainer_that_hangs_with_its_gpu_is_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(root, "Tesla T4")
    watch = watching(root, stop_timeout_s=0.0)
    until(lambda: watch.gpu.worked)
    watch.poll_gpu()
    assert not watch.gpu.is_looking, "it may be busy: it has written something a moment ago"
    smi(root, LOST, 15)
    monkeypatch.setattr(module, "GPU_IDLE_S", 0.0)
    until(lambda: trainer_has_ended(watch))
    assert watch.state["trainer"]["asked"] is True
    assert "GPU is lost" in watch.state["gpu_problem"]


@pytest.mark.slow
def test_a_trainer_that_hangs_in_the_kernel_is_given_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(root, LOST, 15)
    watch = watching(root, stop_timeout_s=0.0)
    until(lambda: watch.gpu.worked)
    monkeypatch.setattr(watch, "signal_trainer", lambda number: None)
    monkeypatch.setattr(module, "GPU_IDLE_S", 0.0)
    until(lambda: trainer_has_ended(watch))
    assert watch.state["trainer"]["exit_code"] == -9
    assert "it hangs in the kernel" in (root / "agent" / "agent.log").read_text()
    assert watch.trainer is not None
    os.killpg(watch.trainer.pid, signal.SIGKILL)


# -- the end


def test_a_shutdown_that_hangs_is_left_to_the_guard(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(root, "sudo", "echo waiting for a password; exec sleep 60")
    (root / "run").mkdir()
    (root / "run" / "deadline").write_text("7\n")
    monkeypatch.setattr(module, "SHUTDOWN_S", 0.2)
    watch = watching(root, "exit 0", time_limit_s=0.001, shutdown=["sudo", "shutdown", "-h", "now"])
    until(lambda: trainer_has_ended(watch))
    monkeypatch.setattr(time, "sleep", lambda seconds, pause=time.sleep: pause(min(seconds, 0.05)))
    watch.enforce_limits()
    watch.extend_deadline()
    assert (root / "run" / "deadline").read_text() == "7\n"
    log = (root / "agent" / "agent.log").read_text()
    assert "the shutdown has not begun: exit code 124: sudo shutdown -h now" in log
    assert "did not end within 0.2 s; its last output: waiting for a password" in log


# -- the start


def test_the_agent_lives_on_when_the_session_that_started_it_ends(root: Path) -> None:
    """`setsid` for where there is no systemd; what systemd is asked is in test_programs.py."""
    agent = INSTANCE / "agent.py"
    job = (
        '{"command": ["sleep", "60"], "env": {}, "path_first": "/usr/bin", "owner_timeout_s": 60, "stop_timeout_s": 1, '
        '"metadata_poll_s": 5, "shutdown": ["true"]}'
    )
    (root / "environment").write_text('export HTTPS_PROXY="http://proxy:3128"\nhttp_proxy=http://proxy:3128 # ours\n')
    session = subprocess.Popen(
        [sys.executable, str(agent), "start", str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(INSTANCE.parents[1])},
        start_new_session=True,
    )
    assert session.communicate(job.encode(), timeout=30)[0] == b'{"started": true}\n'
    state = root / "agent" / "state.json"
    until(lambda: '"running"' in state.read_text())
    with_group = [pid for pid in _pids() if _group(pid) == session.pid]
    assert with_group == []
    trainer = int(state.read_text().partition('"pid": ')[2].split(",")[0])
    variables = Path(f"/proc/{trainer}/environ").read_text().split("\0")
    assert "HTTPS_PROXY=http://proxy:3128" in variables
    assert "http_proxy=http://proxy:3128" in variables
    (no_proxy,) = [value for value in variables if value.startswith("no_proxy=")]
    assert {"169.254.169.254", "localhost", "127.0.0.1"} <= set(no_proxy.partition("=")[2].split(","))
    parent = int(Path(f"/proc/{trainer}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    os.killpg(trainer, signal.SIGKILL)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _group(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[2])
    except OSError:
        return 0


def test_a_container_is_killed_by_docker_and_its_signals_are_not_judged(root: Path) -> None:
    """`docker run` handles each signal, and SIGKILL does not pass through it."""
    program(root, "docker", f'echo "$*" >> {root}/docker-calls')
    watch = watching(root, image="me/train:1")
    assert "stop_signal" not in watch.state
    watch.signal_trainer(signal.SIGKILL)
    until((root / "docker-calls").exists)
    assert (root / "docker-calls").read_text() == f"rm -f pixel-orch-{root.name}\n"
    end(watch)
