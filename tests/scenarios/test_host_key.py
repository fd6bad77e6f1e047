"""The host key that came with user-data is replaced by one that was made on the instance."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.host.host_keys import fingerprint
from orchestrator.runs.events import HostKeyRenewed
from tests.support.stage import Stage, staged

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage."""
    yield from staged(tmp_path)


def test_the_host_key_of_user_data_is_replaced_and_the_new_one_pinned(stage: Stage) -> None:
    launch = stage.start(*stage.launch_words("2000", "0.05"))
    stage.until_step(3)
    (renewed,) = [e for e in stage.store.events() if isinstance(e, HostKeyRenewed)]
    pinned = (stage.store.attempt_folder(1) / "host_key.pub").read_text()
    assert renewed.problem == ""
    assert renewed.fingerprint == fingerprint(pinned)
    assert len(pinned.strip().splitlines()) == 1, "the old one is not accepted any more"
    ssh_folder = stage.home / "local" / "instances" / stage.instance_id() / "etc" / "ssh"
    assert pinned.split()[1] in (ssh_folder / "ssh_host_ed25519_key.pub").read_text()
    assert pinned.split()[1] in stage.store.known_hosts.read_text()
    os.killpg(launch.pid, signal.SIGKILL)
    launch.wait()
    attach = stage.start("attach", "tiny")  # another process connects by the new key, and does not renew it again
    stage.until(lambda: stage.store.owner_pid() == attach.pid, "the new owner")
    before = stage.state().attempts[0].last_step
    stage.until(lambda: stage.state().attempts[0].last_step > before, "progress")
    assert len([e for e in stage.store.events() if isinstance(e, HostKeyRenewed)]) == 1
    code, said = stage.run("down", "tiny", "-y")
    assert code == 0, said
    attach.wait(30)
    stage.check_nothing_is_left()


def test_a_host_that_shows_a_wrong_key_is_never_spoken_to(stage: Stage) -> None:
    (stage.work.parent / "faults.yaml").write_text("faults:\n  - {event: wrong-host-key, times: 1}\n")
    words = stage.launch_words("20", "0.02", flags=("--faults", str(stage.work.parent / "faults.yaml")))
    code, said = stage.run(*words)
    assert code == 0, said
    first, second = stage.state().attempts
    assert "host key" in first.lost_because
    assert first.last_step == 0
    assert second.last_step == 20
    stage.check_nothing_is_left()
