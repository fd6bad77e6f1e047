"""The host key is replaced with programs that warn, hang or are missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.instance import agent

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEb0"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of programs that is all of PATH but for coreutils, and an /etc/ssh with a key."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "ssh_host_ed25519_key").write_text("old\n")
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("cat", "mv", "rm", "sh", "sleep", "test"):
        (folder / name).symlink_to(f"/bin/{name}" if os.path.exists(f"/bin/{name}") else f"/usr/bin/{name}")
    fake(folder, "sudo", 'echo "sudo: unable to resolve host ip-10-0-0-1" >&2; shift; exec "$@"')
    fake(folder, "ssh-keygen", f'while [ $# -gt 1 ]; do shift; done; echo new >"$1"; echo "{PUBLIC}" >"$1.pub"')
    fake(folder, "restorecon", f'echo "restorecon $*" >> {folder}/calls')
    fake(folder, "systemctl", f'echo "systemctl $*" >> {folder}/calls; [ "$2" = sshd ]')
    fake(folder, "pkill", f'echo "pkill $*" >> {folder}/calls')
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PIXEL_ORCH_ETC_SSH", str(tmp_path / "etc"))
    return folder


def fake(folder: Path, name: str, body: str) -> None:
    """Put a program there."""
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def test_a_warning_of_sudo_is_not_taken_for_the_key(programs: Path) -> None:
    assert agent.rekey("prepare") == {"public": PUBLIC}
    assert agent.rekey("activate") == {"activated": True}
    key = programs.parent / "etc" / "ssh_host_ed25519_key"
    assert key.read_text() == "new\n"
    calls = (programs / "calls").read_text().splitlines()
    assert calls[0] == f"restorecon {key} {key}.pub", "with SELinux, before the server reads it"
    assert calls[1:] == ["systemctl reload ssh", "systemctl reload sshd"]


def test_where_there_is_no_selinux_nothing_is_labelled(programs: Path) -> None:
    (programs / "restorecon").unlink()
    agent.rekey("prepare")
    assert agent.rekey("activate") == {"activated": True}


@pytest.mark.slow
def test_a_systemctl_that_hangs_is_left_for_the_next_way(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "ANSWER_S", 0.3)
    fake(programs, "systemctl", "exec sleep 60")
    agent.rekey("prepare")
    assert agent.rekey("activate") == {"activated": True}
    assert (programs / "calls").read_text().splitlines()[-1] == "pkill -HUP -o sshd"


@pytest.mark.slow
def test_an_ssh_keygen_that_hangs_is_named(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "ANSWER_S", 0.3)
    fake(programs, "ssh-keygen", "echo Generating; exec sleep 60")
    with pytest.raises(
        SystemExit, match=r"rekey: ssh-keygen: (.|\n)*did not end within 0.3 s; its last output: Generating"
    ):
        agent.rekey("prepare")
