"""A machine of a group: gloo's network interface, and processes in a session of their own that end with the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.instance.group_side import gloo_interface, interface_to, kill_all
from infra.instance.watch import Watch

DETACHED = (
    "import subprocess, time; p = subprocess.Popen(['sleep', '60'], start_new_session=True); print(p.pid, flush=True)"
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def runs(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], object]) -> None:
    """Wait for another process."""
    give_up_at = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """Give a watch process whose program starts another in a session of its own, as torchrun does, and waits."""
    for name in ("agent", "out", "code"):
        (tmp_path / name).mkdir()
    job = {
        "command": [sys.executable, "-c", f"{DETACHED}; time.sleep(60)"],
        "env": {},
        "path_first": "/usr/bin",
        "stop_timeout_s": 60.0,
        "metrics": {"patterns": {}},
    }
    made = Watch(str(tmp_path), job)
    made.start_trainer()
    yield made
    made.signal_trainer(signal.SIGKILL)
    if made.trainer is not None:
        made.trainer.wait()


def detached(watch: Watch) -> int:
    """Return the number of the process in a session of its own."""
    log = Path(watch.root) / "out" / "trainer.log"
    until(lambda: log.read_text().endswith("\n"))
    return int(log.read_text())


def test_a_process_in_a_session_of_its_own_ends_with_a_generation(watch: Watch) -> None:
    pid = detached(watch)
    assert runs(pid)
    watch.give_way()
    until(lambda: not runs(pid))


def test_a_process_in_a_session_of_its_own_does_not_outlive_the_program(watch: Watch) -> None:
    pid = detached(watch)
    assert watch.trainer is not None
    os.kill(watch.trainer.pid, signal.SIGKILL)  # as `sh` ends at SIGTERM while torchrun's processes go on
    watch.trainer.wait()
    assert runs(pid)
    watch.poll_trainer()
    until(lambda: not runs(pid))


def test_processes_with_another_mark_are_left_alone() -> None:
    with (
        subprocess.Popen(["sleep", "60"], env={"A": "one"}) as one,
        subprocess.Popen(["sleep", "60"], env={"A": "on"}) as on,
    ):
        assert kill_all("A=one") == 1
        assert one.wait(timeout=30) == -signal.SIGKILL
        assert on.poll() is None
        on.kill()


def test_gloo_gets_the_interface_to_the_first_machine_unless_the_user_chose_one() -> None:
    assert gloo_interface({"PIXEL_ORCH_MASTER_ADDR": "127.3.4.5"}) == {"GLOO_SOCKET_IFNAME": "lo"}
    assert gloo_interface({"PIXEL_ORCH_MASTER_ADDR": "127.3.4.5", "GLOO_SOCKET_IFNAME": "ens5"}) == {}
    assert gloo_interface({}) == {}


def test_the_interface_of_an_address_that_is_none_is_not_known() -> None:
    assert interface_to("no.such.host.invalid.") == ""
    assert interface_to("999.1.1.1") == ""
