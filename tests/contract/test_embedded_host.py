"""The machine behind an embedded instance as paramiko, Fabric and OpenSSH's client see it."""

import contextlib
import hashlib
import io
import json
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import paramiko
import pytest
from fabric import Connection

from infra.local import EmbeddedCloud
from tests.contract.test_embedded_fixtures import (
    Launch,
    Login,
    ami,
    cloud,
    describe,
    ec2,
    launch,
    login,
    marked_processes,
    new_private_key,
    private_key,
    ssh_port,
    wait_for,
)

__all__ = ["ami", "cloud", "ec2", "launch", "login", "private_key"]

_METADATA = """
import os, sys, urllib.error, urllib.request
def ask(path, method="GET", **headers):
    url = os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] + "/latest/" + path
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=named), timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, ""
token = ask("api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60")[1]
def meta(path):
    return ask("meta-data/" + path, X_aws_ec2_metadata_token=token)
"""


def ask(login: Login, expression: str) -> Any:
    """Evaluate a Python expression on the instance, with `ask` and `meta` at hand."""
    out, err, code = login.run("python -", f"import json\n{_METADATA}\nprint(json.dumps({expression}))".encode())
    assert code == 0, err.decode()
    return json.loads(out)


def eventually(check: Any, limit_s: float = 5) -> None:
    give_up = time.monotonic() + limit_s
    while not check():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.slow
def test_a_command_runs_in_the_instances_home_without_the_users_secrets(login: Login, cloud: EmbeddedCloud) -> None:
    out, _, code = login.run("pwd; env")
    assert code == 0
    home, *lines = out.decode().splitlines()
    environment = dict(line.partition("=")[::2] for line in lines)
    assert home == environment["HOME"]
    assert Path(home).is_relative_to(cloud.home / "local" / "instances")
    assert set(environment) == {
        "HOME", "USER", "LOGNAME", "SHELL", "LANG", "PATH", "PWD", "SHLVL", "_",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_DEFAULT_REGION", "PIXEL_ORCH_LOCAL_INSTANCE", "PIXEL_ORCH_ETC_SSH",
            "PIXEL_ORCH_RUN",
    }  # fmt: skip
    assert "the-users-own-secret" not in out.decode()


def test_streams_are_binary_clean_and_the_exit_status_is_the_commands(login: Login) -> None:
    data = bytes(range(256)) * 4000
    out, err, code = login.run("tee >(sha256sum >&2); sleep 0.05; exit 7", data)
    assert out == data
    assert err.decode().split()[0] == hashlib.sha256(data).hexdigest()
    assert code == 7


def test_no_output_is_lost_in_many_short_commands(login: Login) -> None:
    for number in range(40):
        assert login.run(f"echo out{number}; echo err{number} >&2; exit {number}") == (
            f"out{number}\n".encode(),
            f"err{number}\n".encode(),
            number,
        )


def test_a_command_killed_by_a_signal_has_no_exit_status(login: Login) -> None:
    assert login.run("kill -9 $$") == (b"", b"", -1)


def test_sftp_and_commands_agree_on_paths(login: Login) -> None:
    sftp = login.client.open_sftp()
    sftp.putfo(io.BytesIO(b"hello"), "out.part")
    sftp.posix_rename("out.part", "out")
    home = login.run("pwd")[0].decode().strip()
    assert sftp.normalize(".") == home
    assert sftp.listdir() == ["out"]
    assert login.run(f"cat {home}/out")[0] == b"hello"
    assert sftp.stat(f"{home}/out").st_size == 5


def test_only_a_known_key_and_user_may_enter(launch: Launch, ec2: Any, private_key: paramiko.PKey) -> None:
    instance = describe(ec2, launch())
    stranger = paramiko.Ed25519Key.from_private_key(io.StringIO(new_private_key()))
    with pytest.raises(paramiko.AuthenticationException):
        Login(instance, stranger)
    with pytest.raises(paramiko.AuthenticationException):
        Login(instance, private_key, "root")
    Login(instance, private_key, "ec2-user").close()


def test_the_host_key_is_the_one_in_user_data_and_fabric_can_pin_it(
    launch: Launch, ec2: Any, private_key: paramiko.PKey
) -> None:
    pem = new_private_key()
    host_key = paramiko.Ed25519Key.from_private_key(io.StringIO(pem))
    instance = describe(ec2, launch({"ssh_keys": {"ed25519_private": pem, "ed25519_public": "unused"}}))
    port = ssh_port(instance)
    with Connection("127.0.0.1", "ubuntu", port, connect_kwargs={"pkey": private_key, "allow_agent": False}) as fabric:
        fabric.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        fabric.client.get_host_keys().add(f"[127.0.0.1]:{port}", "ssh-ed25519", host_key)
        result = fabric.run("echo out; echo err >&2; exit 3", hide=True, warn=True, in_stream=False)
        assert (result.stdout, result.stderr, result.exited) == ("out\n", "err\n", 3)
        fabric.put(io.BytesIO(b"via fabric"), "file")
        assert fabric.run("cat file", hide=True, in_stream=False).stdout == "via fabric"


def test_a_key_pair_of_ec2_opens_its_instances(launch: Launch, ec2: Any) -> None:
    pair = ec2.create_key_pair(KeyName="pair", KeyType="ed25519")
    instance = describe(ec2, launch(KeyName="pair", UserData=None))
    session = Login(instance, paramiko.Ed25519Key.from_private_key(io.StringIO(pair["KeyMaterial"])))
    assert session.run("echo in")[0] == b"in\n"
    session.close()
    ec2.delete_key_pair(KeyName="pair")


def test_runcmd_runs_in_order_and_a_failure_does_not_stop_the_next(
    launch: Launch, ec2: Any, private_key: paramiko.PKey
) -> None:
    session = Login(
        describe(ec2, launch({"runcmd": [["sh", "-c", "echo 1 >> log"], "exit 3", "echo $HOME >> log"]})), private_key
    )
    eventually(lambda: session.run("wc -l < log")[0].strip() == b"2")
    home = session.run("pwd")[0]
    assert session.run("cat log")[0] == b"1\n" + home
    assert b"failed: 3" in session.run("cat ../cloud-init-output.log")[0]
    session.close()


def test_metadata_asks_for_a_token(login: Login) -> None:
    refused = ask(
        login,
        "[ask('meta-data/instance-id'), ask('api/token', 'PUT'), ask('api/token', 'GET'),"
        " ask('meta-data/instance-id', X_aws_ec2_metadata_token='wrong')]",
    )
    assert [status for status, _ in refused] == [401, 400, 405, 401]
    names = ("instance-id", "placement/availability-zone", "spot/instance-action", "")
    (known, instance_id), zone, (no_notice, _), (_, listing) = ask(login, f"[meta(name) for name in {names!r}]")
    assert known == 200
    assert instance_id.startswith("i-")
    assert zone == [200, "us-east-1b"]
    assert no_notice == 404
    assert "placement/" in listing.splitlines()


@pytest.mark.slow
def test_an_interruption_shows_in_the_metadata_and_ends_the_instance(
    launch: Launch, ec2: Any, cloud: EmbeddedCloud, private_key: paramiko.PKey
) -> None:
    instance_id = launch()
    session = Login(describe(ec2, instance_id), private_key)
    cloud.rebalance(instance_id)
    status, text = ask(session, "meta('events/recommendations/rebalance')")
    assert status == 200
    assert list(json.loads(text)) == ["noticeTime"]
    cloud.interrupt(instance_id, notice_s=2.0)  # long enough to ask, also on a busy machine
    status, text = ask(session, "meta('spot/instance-action')")
    assert json.loads(text)["action"] == "terminate"
    assert describe(ec2, instance_id)["State"]["Name"] == "running"
    gone = wait_for(ec2, instance_id, "terminated")
    assert gone["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert gone["StateTransitionReason"].startswith("Service initiated")


def test_an_instance_may_outlive_its_notice(cloud: EmbeddedCloud, launch: Launch, ec2: Any) -> None:
    instance_id = launch()
    cloud.interrupt(instance_id, notice_s=0.01, terminate=False)
    time.sleep(0.1)
    assert describe(ec2, instance_id)["State"]["Name"] == "running"


@pytest.mark.slow
def test_background_processes_survive_a_disconnect_and_end_with_the_instance(
    launch: Launch, ec2: Any, cloud: EmbeddedCloud, private_key: paramiko.PKey
) -> None:
    instance_id = launch()
    session = Login(describe(ec2, instance_id), private_key)
    session.run("nohup sleep 987651 > /dev/null 2>&1 & setsid sleep 987652 > /dev/null 2>&1 &")
    session.run("(setsid sh -c 'sleep 987653 & sleep 987654 & wait' > /dev/null 2>&1 < /dev/null &)")
    session.run("env -i setsid sh -c 'sleep 987655 > /dev/null 2>&1 &'")
    running = session.client.exec_command("sleep 987656")
    session.close()
    del running
    time.sleep(0.2)
    assert len(marked_processes("98765")) >= 6
    (one,) = (one for one in cloud.instances() if one["id"] == instance_id)
    assert len(one["pids"]) >= 6
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for(ec2, instance_id, "terminated")
    assert marked_processes("98765") == []
    assert not Path(one["folder"], "home").exists()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", one["ssh_port"]), timeout=2)


@pytest.mark.parametrize(
    "command", ["sudo -n shutdown -h now", "sudo -E -H poweroff", "shutdown -P now", "shutdown now"]
)
def test_an_instance_can_end_itself(launch: Launch, ec2: Any, private_key: paramiko.PKey, command: str) -> None:
    instance_id = launch(InstanceInitiatedShutdownBehavior="terminate")
    session = Login(describe(ec2, instance_id), private_key)
    session.client.exec_command(command)
    gone = wait_for(ec2, instance_id, "terminated")
    assert gone["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    session.close()


def test_a_planned_shutdown_can_be_cancelled(login: Login, ec2: Any) -> None:
    assert login.run("sudo shutdown -h +1")[2] == 0
    assert login.run("sudo shutdown -c")[2] == 0
    assert login.run("shutdown sometime")[2] == 1
    assert login.run("sudo -u root env FOO=1 sh -c 'echo $FOO'")[0] == b"1\n"


def test_the_programs_with_the_secret_are_the_users_alone(login: Login) -> None:
    folder = Path(login.run("dirname $(command -v shutdown)")[0].decode().strip())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not any(stat.S_IMODE(file.stat().st_mode) & 0o077 for file in folder.iterdir())


def test_a_reboot_ends_the_processes_and_keeps_the_home(launch: Launch, ec2: Any, private_key: paramiko.PKey) -> None:
    instance_id = launch()
    session = Login(describe(ec2, instance_id), private_key)
    session.run("echo kept > file; (setsid sleep 987661 > /dev/null 2>&1 &)")
    ec2.reboot_instances(InstanceIds=[instance_id])
    eventually(lambda: not marked_processes("987661"))
    session = Login(describe(ec2, instance_id), private_key)
    assert session.run("cat file")[0] == b"kept\n"
    session.close()


@pytest.mark.slow
def test_a_frozen_host_accepts_connections_and_says_nothing(
    launch: Launch, ec2: Any, cloud: EmbeddedCloud, private_key: paramiko.PKey
) -> None:
    instance_id = launch()
    session = Login(describe(ec2, instance_id), private_key)
    session.run("(setsid sh -c 'while :; do date >> ticks; sleep 0.02; done' > /dev/null 2>&1 &)")
    session.run("until [ -s ticks ]; do sleep 0.01; done")
    cloud.freeze(instance_id)
    (one,) = (one for one in cloud.instances() if one["id"] == instance_id)
    assert one["frozen"]
    ticks = Path(one["folder"], "home", "ticks").read_text()
    with socket.create_connection(("127.0.0.1", one["ssh_port"]), timeout=2) as silent:
        silent.settimeout(0.3)
        with pytest.raises(TimeoutError):
            silent.recv(1)
        channel = session.client.get_transport().open_session  # type: ignore[union-attr]
        with pytest.raises(paramiko.SSHException, match=r"[Tt]imeout"):
            channel(timeout=0.3)
        assert describe(ec2, instance_id)["State"]["Name"] == "running"
        assert Path(one["folder"], "home", "ticks").read_text() == ticks
        cloud.thaw(instance_id)
        silent.settimeout(5)
        assert silent.recv(4) == b"SSH-"
    assert session.run("echo again")[0] == b"again\n"
    session.close()


def test_a_frozen_instance_can_be_ended(launch: Launch, ec2: Any, cloud: EmbeddedCloud) -> None:
    instance_id = launch({"runcmd": ["sleep 987671"]})
    eventually(lambda: marked_processes("987671"))
    cloud.freeze(instance_id)
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for(ec2, instance_id, "terminated")
    assert marked_processes("987671") == []


def test_a_cut_drops_connections_and_new_ones_are_served(
    launch: Launch, ec2: Any, cloud: EmbeddedCloud, private_key: paramiko.PKey
) -> None:
    instance_id = launch()
    instance = describe(ec2, instance_id)
    session = Login(instance, private_key)
    cloud.cut(instance_id)
    eventually(lambda: not session.client.get_transport().is_active())  # type: ignore[union-attr]
    cloud.cut(instance_id, after_bytes=200_000)
    session = Login(instance, private_key)
    try:
        received = len(session.run("head -c 1000000 /dev/zero")[0])
    except (OSError, EOFError, paramiko.SSHException):
        received = 0
    assert received < 200_000
    session = Login(instance, private_key)
    assert len(session.run("head -c 1000000 /dev/zero")[0]) == 1_000_000
    session.close()


def test_a_terminal_has_a_size_and_a_shell(login: Login) -> None:
    shell = login.client.invoke_shell(term="xterm", width=101, height=33)
    shell.sendall(b"stty size; tty; echo $((6*7)); exit 5\n")
    said = b""
    while data := shell.recv(1000):
        said += data
    assert b"33 101" in said
    assert b"/dev/pts/" in said
    assert b"42" in said
    assert shell.recv_exit_status() == 5


@pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH's client is not installed")
@pytest.mark.slow
def test_openssh_and_scp_work(launch: Launch, ec2: Any, private_key: paramiko.PKey, tmp_path: Path) -> None:
    key = tmp_path / "key"
    pem = new_private_key()
    key.write_text(pem)
    key.chmod(0o600)
    public = paramiko.Ed25519Key.from_private_key(io.StringIO(pem))
    instance = describe(ec2, launch({"ssh_authorized_keys": [f"ssh-ed25519 {public.get_base64()}"]}))
    port = str(ssh_port(instance))
    options = ["-F", "none", "-i", str(key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    ssh = ["ssh", *options, "-p", port, "ubuntu@127.0.0.1"]
    done = subprocess.run(
        [*ssh, "cat; echo err >&2; exit 4"], input=b"in", capture_output=True, check=False, timeout=20
    )
    assert (done.returncode, done.stdout) == (4, b"in")
    assert b"err" in done.stderr
    on_terminal = subprocess.run(
        [*ssh[:1], "-tt", *ssh[1:], "tty; exit 6"], capture_output=True, check=False, timeout=20
    )
    assert on_terminal.returncode == 6
    assert b"/dev/pts" in on_terminal.stdout
    (tmp_path / "data").write_bytes(b"x" * 3_000_000)
    for legacy in ([], ["-O"]):
        copied = subprocess.run(
            ["scp", *legacy, *options, "-P", port, str(tmp_path / "data"), "ubuntu@127.0.0.1:copy"],
            capture_output=True, check=False, timeout=20,
        )  # fmt: skip
        assert copied.returncode == 0, copied.stderr
    sums = subprocess.run([*ssh, "sha256sum < copy"], capture_output=True, check=False, timeout=20)
    assert sums.stdout.split()[0].decode() == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_an_instance_that_ends_while_it_boots_leaves_nothing(cloud: EmbeddedCloud, launch: Launch, ec2: Any) -> None:
    def sockets() -> int:
        count = 0
        for file in Path(f"/proc/{cloud.endpoint.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                count += file.readlink().name.startswith("socket:")
        return count

    before = sockets()
    for _ in range(5):
        ec2.terminate_instances(InstanceIds=[launch(wait=False)])
    eventually(lambda: all(one["state"] == "terminated" for one in cloud.instances()))
    eventually(lambda: sockets() <= before)


def test_a_line_that_is_no_key_is_passed_over(launch: Launch, ec2: Any, private_key: paramiko.PKey) -> None:
    public = f"{private_key.get_name()} {private_key.get_base64()}"
    Login(describe(ec2, launch({"ssh_authorized_keys": ["nonsense", public, ""]})), private_key).close()
