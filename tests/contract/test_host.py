"""One suite for the machines that a run can get: one of the embedded cloud, and a real OpenSSH."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from infra.local import EmbeddedCloud
from orchestrator.errors import CommandTimeoutError, LocalFaultError, UnreachableError
from orchestrator.host import exchange, sync
from orchestrator.host.base import Cursor, Host, HostStatus, Job, Setup
from orchestrator.host.shell import SshShell, TooMuchError, make_key_pair
from orchestrator.host.ssh_host import SshHost
from orchestrator.runs.outputs import ExtraOutput
from tests.contract import test_embedded_fixtures as embedded
from tests.support import openssh

pytestmark = pytest.mark.slow
ROOT = "pixel-orch/contract"


class Rig(Protocol):
    """A machine that a host connects to."""

    home: Path

    def shell(self) -> SshShell:
        """Return a new connection."""

    def freeze(self) -> None:
        """Let it hang."""

    def thaw(self) -> None:
        """Let it go on."""

    def processes(self, text: str) -> int:
        """Return how many of its processes have this text in their command line."""


class Embedded:
    """An instance of the embedded cloud."""

    def __init__(self, cloud: EmbeddedCloud) -> None:
        self.cloud = cloud
        self.ec2 = embedded.client(cloud, "ec2")
        ami = embedded.client(cloud, "ssm").get_parameter(Name=embedded.PARAMETER)["Parameter"]["Value"]
        self.key = cloud.home / "contract_key"
        private, public = make_key_pair("run")
        self.key.write_text(private)
        host_private, host_public = make_key_pair("host")
        config = {
            "ssh_authorized_keys": [public],
            "ssh_keys": {"ed25519_private": host_private, "ed25519_public": host_public},
        }
        launched = self.ec2.run_instances(
            ImageId=ami, InstanceType="p2.xlarge", MinCount=1, MaxCount=1,
            UserData="#cloud-config\n" + embedded.json.dumps(config),
        )  # fmt: skip
        self.instance_id = launched["Instances"][0]["InstanceId"]
        self.port = embedded.ssh_port(embedded.wait_for(self.ec2, self.instance_id, "running"))
        self.host_key = host_public
        (seen,) = (each for each in cloud.instances() if each["id"] == self.instance_id)
        self.home = Path(seen["folder"]) / "home"

    def shell(self) -> SshShell:
        return SshShell(address="127.0.0.1", port=self.port, user="ubuntu", key_path=self.key, host_key=self.host_key)

    def freeze(self) -> None:
        self.cloud.freeze(self.instance_id)

    def thaw(self) -> None:
        self.cloud.thaw(self.instance_id)

    def processes(self, text: str) -> int:
        found = 0
        for pid in embedded.marked_processes(f"{self.cloud.endpoint.cloud_id}/{self.instance_id}"):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                found += text in words.decode(errors="replace")
        return found


@pytest.fixture(scope="module", params=["embedded", "openssh"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Give each kind of machine in turn."""
    folder = tmp_path_factory.mktemp("host")
    if request.param == "embedded":
        cloud = EmbeddedCloud.ensure(folder / "cloud", notice_s=0.5)
        try:
            yield Embedded(cloud)
        finally:
            cloud.stop()
        return
    if problem := openssh.why_not():
        pytest.skip(problem)
    with openssh.openssh(folder) as server:
        yield server


@pytest.fixture
def shell(rig: Rig) -> Iterator[SshShell]:
    """Give an open connection."""
    connection = rig.shell()
    connection.open()
    yield connection
    connection.close()


# -- commands


def test_streams_are_binary_clean_and_the_exit_code_is_the_commands(shell: SshShell) -> None:
    data = bytes(range(256)) * 20_000
    done = shell.run("cat; echo err >&2; exit 7", timeout_s=20, feed=lambda write: write(data))
    assert (done.stdout == data, done.stderr, done.exit_code) == (True, b"err\n", 7)
    pieces: list[bytes] = []
    assert shell.run("cat /proc/self/environ; head -c 3000000 /dev/zero", timeout_s=20, sink=pieces.append).ok
    assert b"".join(pieces).endswith(b"\0" * 3_000_000)


def test_a_command_begins_in_the_home_folder_with_nothing_to_read(shell: SshShell, rig: Rig) -> None:
    (rig.home / "here").touch()
    assert shell.run("ls here; cat", timeout_s=20).stdout == b"here\n"


@pytest.mark.parametrize("text", ["it's", "\\", "\\\\'", "a\nb", "!x", "`id`", "$HOME", "ü漢", "%s\\n", "-n"])
def test_each_character_arrives(shell: SshShell, text: str) -> None:
    quoted = "'" + text.replace("'", "'\\''") + "'"
    assert shell.run(f"printf %s {quoted}", timeout_s=20).stdout.decode() == text


def test_a_signal_shows_in_the_exit_code(shell: SshShell) -> None:
    assert shell.run("kill -9 $$", timeout_s=20).exit_code in (-1, 137)


def test_a_process_that_keeps_the_output_open_is_not_waited_for(shell: SshShell) -> None:
    began = time.monotonic()
    assert shell.run("sleep 30 & echo done", timeout_s=20).stdout == b"done\n"
    assert time.monotonic() - began < 5


def test_more_than_was_asked_for_is_cut(shell: SshShell) -> None:
    taken: list[bytes] = []
    with pytest.raises(TooMuchError, match="longer than the 1000 bytes"):
        shell.run("yes", timeout_s=20, sink=taken.append, most_bytes=1000)
    assert len(b"".join(taken)) == 1000


def test_a_command_that_ends_early_is_not_waited_for_and_its_words_arrive(shell: SshShell) -> None:
    """As a disk that is full there: what is still to be sent does not matter."""
    began = time.monotonic()
    piece = bytes(1 << 18)
    done = shell.run(
        "head -c 100000 >/dev/null; echo No space left on device >&2; exit 5",
        timeout_s=20,
        feed=lambda write: [write(piece) for _ in range(200)],  # type: ignore[arg-type,return-value]
    )
    assert (done.exit_code, done.stderr) == (5, b"No space left on device\n")
    assert time.monotonic() - began < 10


def test_a_file_that_cannot_be_read_here_is_no_fault_of_the_machine(shell: SshShell, tmp_path: Path) -> None:
    with pytest.raises(LocalFaultError, match=r"cannot send .*gone: No such file or directory"):
        shell.run("cat >/dev/null", timeout_s=20, feed=lambda write: write((tmp_path / "gone").read_bytes()))
    assert shell.run("true", timeout_s=20).ok, "the connection is still of use"


def test_a_full_disk_here_is_no_fault_of_the_machine(shell: SshShell, rig: Rig) -> None:
    def full(piece: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        shell.run("yes & sleep 98791", timeout_s=20, sink=full)
    assert shell.run("true", timeout_s=20).ok
    assert rig.processes("sleep 9879") == 0, "what cannot be received does not go on"


# -- time


def test_a_slow_command_is_not_a_dead_host_and_is_ended_with_all_that_it_started(shell: SshShell, rig: Rig) -> None:
    daemon = "setsid -f sleep 3.25 >/dev/null 2>&1"
    slow = f"echo step 1; echo step 2 of 9 >&2; (sleep 98761 & sleep 98762) & {daemon}; sleep 98763"
    with pytest.raises(CommandTimeoutError) as caught:
        shell.run(slow, timeout_s=1)
    assert not isinstance(caught.value, UnreachableError)
    assert "ran out of time (1 s), while the machine answers; it last printed: step 2 of 9" in str(caught.value)
    assert rig.processes("sleep 9876") == 0
    assert rig.processes("sleep 3.25") == 1, "a daemon with a session of its own lives on"
    assert shell.run("true", timeout_s=20).ok


def test_each_retry_of_a_slow_command_finds_none_of_the_earlier_ones(shell: SshShell, rig: Rig) -> None:
    for _ in range(3):
        with pytest.raises(CommandTimeoutError):
            shell.run("trap '' TERM; sleep 98771; sleep 98771", timeout_s=0.5)
        assert rig.processes("sleep 9877") == 0


def test_a_transfer_that_stands_still_is_no_dead_host_either(shell: SshShell) -> None:
    with pytest.raises(CommandTimeoutError, match="ran out of time"):
        shell.run("echo a; sleep 98781", timeout_s=1, sink=lambda piece: None)
    with pytest.raises(CommandTimeoutError, match="ran out of time"):
        shell.run("sleep 98781", timeout_s=1, feed=lambda write: write(bytes(10_000_000)))


@pytest.mark.parametrize("what", ["short", "sending", "receiving"])
def test_a_host_that_hangs_is_unreachable_soon(rig: Rig, shell: SshShell, what: str) -> None:
    assert shell.run("true", timeout_s=20).ok
    rig.freeze()
    began = time.monotonic()
    try:
        how: dict[str, Any] = {"sending": {"feed": lambda write: write(bytes(30_000_000))}, "receiving": {"sink": len}}
        with pytest.raises(UnreachableError):
            shell.run("cat; yes", timeout_s=1, **how.get(what, {}))
        assert time.monotonic() - began < 12
    finally:
        rig.thaw()
    eventually(lambda: rig_answers(rig))


def test_a_host_that_hangs_in_a_long_silent_step_is_noticed_long_before_its_time_out(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PING_AFTER_S", 0.5)
    connection = rig.shell()
    connection._timeout_s = 1.0
    frozen = threading.Timer(1.0, rig.freeze)
    began = time.monotonic()
    try:
        assert connection.run("sleep 1", timeout_s=600).ok, "a host that lives is not disturbed"
        frozen.start()
        with pytest.raises(UnreachableError, match="no answer within 1 s"):
            connection.run("sleep 600", timeout_s=600)
        assert time.monotonic() - began < 12
    finally:
        frozen.join()
        rig.thaw()
        connection.close()
    eventually(lambda: rig_answers(rig))


def test_a_host_that_hangs_in_mid_transfer_is_unreachable_soon(rig: Rig, shell: SshShell) -> None:
    sent = 0

    def feed(write: Callable[[bytes], object]) -> None:
        nonlocal sent
        for _ in range(300):
            write(bytes(1 << 18))
            sent += 1
            if sent == 10:
                rig.freeze()

    began = time.monotonic()
    try:
        with pytest.raises(UnreachableError):
            shell.run("cat >/dev/null", timeout_s=2, feed=feed)
        assert time.monotonic() - began < 15
    finally:
        rig.thaw()
    eventually(lambda: rig_answers(rig))


def rig_answers(rig: Rig) -> bool:
    """Whether a new connection is of use."""
    connection = rig.shell()
    try:
        return connection.run("true", timeout_s=5).ok
    except UnreachableError:
        return False
    finally:
        connection.close()


def eventually(ready: Callable[[], bool], limit_s: float = 20) -> None:
    give_up_at = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def test_two_threads_share_a_connection(shell: SshShell) -> None:
    done: list[bytes] = []
    other = threading.Thread(target=lambda: done.append(shell.run("sleep 1; echo slow", timeout_s=20).stdout))
    other.start()
    assert [shell.run(f"echo {n}", timeout_s=20).stdout for n in range(5)] == [f"{n}\n".encode() for n in range(5)]
    other.join()
    assert done == [b"slow\n"]


# -- a whole run

TRAINER = """
import os, time
out = os.environ["PIXEL_ORCH_OUT"]
print("hello from", os.path.basename(__file__), flush=True)
old = [name for name in os.listdir(out) if name.startswith("checkpoint-4")]
with open(out + "/metrics.jsonl", "a") as file:
    file.write('{"step": 5}\\n')
with open(out + "/.part", "wb") as file:
    file.write(b"weights" * 100000)
os.rename(out + "/.part", out + "/checkpoint-5.pt")
os.makedirs(out + "/more")
with open(out + "/more/nötes.txt", "w") as file:
    file.write("resumed from %s" % old)
"""


def job_of(folder: Path) -> Job:
    """Return a job with a small tree."""
    (folder / "träin 1.py").write_text(TRAINER)
    tree = sync.workdir_tree(folder, ())
    return Job(
        root=ROOT, command=("python3", "träin 1.py"), env={"X": "it's"}, config_json=None, tree=tree.folder,
        files=tree.files, owner_timeout_s=60, stop_timeout_s=5, metadata_poll_s=60,
    )  # fmt: skip


def test_a_job_is_set_up_started_watched_and_its_files_come_home(rig: Rig, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    job = job_of(work)
    host: Host = SshHost(rig.shell(), answer_timeout_s=20, setup_timeout_s=120)
    setup = host.set_up(job)
    assert setup.python
    assert host.set_up(job).python == setup.python, "a second time changes nothing"
    (tmp_path / "checkpoint-4.pt").write_bytes(b"old weights")
    host.send(job, tmp_path / "checkpoint-4.pt")
    host.start(job, Setup(python=setup.python, torch="", gpu="", why=""))
    status = watched(host, lambda each: each.trainer == "exited" and len(each.outputs) == 2)
    assert (status.exit_code, json.loads(status.metrics)["step"]) == (0, 5)
    assert b"hello from" in status.log
    newest = status.outputs[-1]
    assert host.fetch(job.root, newest, tmp_path / newest.name)
    assert newest.sha256 == hashlib.sha256(b"weights" * 100_000).hexdigest()
    extra = host.extra_outputs(job.root)
    assert [each.name for each in extra] == ["more/nötes.txt"]
    assert host.fetch_extra_outputs(job.root, extra, tmp_path / "outputs") == (
        ExtraOutput(extra[0].name, extra[0].size_bytes),
    )
    assert (tmp_path / "outputs" / extra[0].name).read_text() == "resumed from ['checkpoint-4.pt']"
    host.close()


def watched(host: Host, ready: Callable[[HostStatus], bool]) -> HostStatus:
    """Poll until the status is as wanted; all of metrics and log are in the returned one."""
    give_up_at = time.monotonic() + 30
    while True:
        status = host.poll(ROOT, Cursor())
        if ready(status):
            return status
        assert time.monotonic() < give_up_at, status
        time.sleep(0.1)


def test_a_host_key_made_on_the_machine_is_pinned(rig: Rig, tmp_path: Path) -> None:
    if isinstance(rig, openssh.OpenSsh) and not rig.has_sudo:
        pytest.skip("the user of this server has no sudo")
    host = SshHost(rig.shell(), answer_timeout_s=20, setup_timeout_s=60)
    host._send_own_files(job_of(tmp_path))
    pinned: list[str] = []
    public = host.renew_host_key(ROOT, pinned.append)
    assert pinned == [public]
    assert host.poll(ROOT, Cursor()).trainer in ("absent", "exited")
    host.close()
    old = rig.shell()
    rig.host_key = public  # type: ignore[attr-defined]
    with pytest.raises(UnreachableError, match="another host key"):
        old.open()
