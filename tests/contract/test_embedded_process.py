"""The life of the embedded cloud's process: one is started, found, stopped, and nothing is left of it in any case."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from infra.local import EmbeddedCloud, EmbeddedCloudError
from tests.contract.test_embedded_fixtures import PARAMETER, SPOT, client, marked_processes

ROOT = Path(__file__).parents[2]
SLEEP = "988771"


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PIXEL_ORCH_LOCAL_BOOT_S", "0.01")
    yield
    running = EmbeddedCloud.find(tmp_path)
    if running is not None:
        running.stop()
    assert marked_processes(str(tmp_path)) == []
    assert marked_processes(SLEEP) == []


def launch(cloud: EmbeddedCloud, user_data: str = "") -> str:
    ami = client(cloud, "ssm").get_parameter(Name=PARAMETER)["Parameter"]["Value"]
    launched = client(cloud, "ec2").run_instances(
        ImageId=ami, InstanceType="p2.xlarge", MinCount=1, MaxCount=1, InstanceMarketOptions=SPOT, UserData=user_data
    )
    instance_id: str = launched["Instances"][0]["InstanceId"]
    return instance_id


def launch_sleeper(cloud: EmbeddedCloud) -> str:
    """An instance with a daemon, already running."""
    instance_id = launch(cloud, f'#cloud-config\n{{"runcmd": ["setsid sleep {SLEEP} &"]}}')
    give_up = time.monotonic() + 5
    while not marked_processes(SLEEP):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return instance_id


def elsewhere(program: str, home: Path) -> "subprocess.Popen[str]":
    """Run a Python program with `home` and EmbeddedCloud at hand in another process."""
    prelude = f"from pathlib import Path; from infra.local import EmbeddedCloud; home = Path({str(home)!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_importing_it_loads_nothing_heavy() -> None:
    program = (
        "import infra.local, sys; print(*{'moto', 'asyncssh', 'flask', 'boto3', 'yaml', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.slow
def test_there_is_none_until_it_is_started_and_none_after_it_is_stopped(tmp_path: Path) -> None:
    assert EmbeddedCloud.find(tmp_path) is None
    started = EmbeddedCloud.ensure(tmp_path)
    found = EmbeddedCloud.find(tmp_path)
    assert found is not None
    assert found.endpoint == started.endpoint == EmbeddedCloud.ensure(tmp_path).endpoint
    assert started.stop_if_idle()
    assert not started.endpoint.is_alive()
    assert EmbeddedCloud.find(tmp_path) is None
    assert started.stop_if_idle()
    assert not (tmp_path / "local" / "endpoint.json").exists()
    assert "stopped" in started.log_path.read_text()


@pytest.mark.slow
def test_two_commands_at_once_start_one(tmp_path: Path) -> None:
    starters = [elsewhere("print(EmbeddedCloud.ensure(home).endpoint.cloud_id)", tmp_path) for _ in range(3)]
    assert len({starter.communicate(timeout=30)[0] for starter in starters}) == 1


@pytest.mark.slow
def test_it_outlives_its_starters_kill(tmp_path: Path) -> None:
    starter = elsewhere("print(EmbeddedCloud.ensure(home).endpoint.pid, flush=True); input()", tmp_path)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    os.killpg(os.getpgid(pid), 0)
    assert os.getpgid(pid) != os.getpgid(starter.pid)
    starter.kill()
    starter.communicate()
    found = EmbeddedCloud.find(tmp_path)
    assert found is not None
    assert found.endpoint.pid == pid


@pytest.mark.slow
def test_it_does_not_stop_while_an_instance_runs(tmp_path: Path) -> None:
    cloud = EmbeddedCloud.ensure(tmp_path)
    instance_id = launch(cloud)
    assert not cloud.stop_if_idle()
    client(cloud, "ec2").terminate_instances(InstanceIds=[instance_id])
    give_up = time.monotonic() + 5
    while not cloud.stop_if_idle():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop", "SIGTERM"])
def test_its_end_is_the_end_of_every_process_of_every_instance(tmp_path: Path, how: str) -> None:
    cloud = EmbeddedCloud.ensure(tmp_path)
    launch_sleeper(cloud)
    if how == "SIGTERM":
        os.kill(cloud.endpoint.pid, signal.SIGTERM)
        while cloud.endpoint.is_alive():
            time.sleep(0.01)
    else:
        cloud.stop()
    assert marked_processes(SLEEP) == []
    assert EmbeddedCloud.find(tmp_path) is None


@pytest.mark.slow
def test_what_a_killed_one_has_left_is_cleared_by_the_next_look(tmp_path: Path) -> None:
    cloud = EmbeddedCloud.ensure(tmp_path)
    launch_sleeper(cloud)
    os.kill(cloud.endpoint.pid, signal.SIGKILL)
    while cloud.endpoint.is_alive():
        time.sleep(0.01)
    assert marked_processes(SLEEP) != []
    assert EmbeddedCloud.find(tmp_path) is None
    assert marked_processes(SLEEP) == []
    assert not (tmp_path / "local" / "endpoint.json").exists()
    assert EmbeddedCloud.ensure(tmp_path).endpoint.cloud_id != cloud.endpoint.cloud_id


@pytest.mark.slow
def test_faults_can_be_there_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text('[{"operation": "RunInstances", "error": "VcpuLimitExceeded"}]')
    monkeypatch.setenv("PIXEL_ORCH_LOCAL_FAULTS", str(faults))
    with pytest.raises(ClientError, match="VcpuLimitExceeded"):
        launch(EmbeddedCloud.ensure(tmp_path))


@pytest.mark.slow
def test_one_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXEL_ORCH_LOCAL_FAULTS", str(tmp_path / "none.json"))
    with pytest.raises(EmbeddedCloudError, match=r"did not start(.|\n)*none\.json: cannot be read"):
        EmbeddedCloud.ensure(tmp_path)
    monkeypatch.setenv("PIXEL_ORCH_LOCAL_BOOT_S", "soon")
    with pytest.raises(EmbeddedCloudError, match="PIXEL_ORCH_LOCAL_BOOT_S must be a number"):
        EmbeddedCloud.ensure(tmp_path)


def test_without_its_libraries_it_names_the_extra(tmp_path: Path) -> None:
    program = """
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "moto" else real(name, *more)
try:
    EmbeddedCloud.ensure(home)
except Exception as error:
    print(error)
"""
    said = elsewhere(program, tmp_path).communicate(timeout=20)[0]
    assert "moto" in said
    assert "pip install 'pixel-orch[local]'" in said


@pytest.mark.slow
def test_an_unused_one_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXEL_ORCH_LOCAL_IDLE_S", "1")
    cloud = EmbeddedCloud.ensure(tmp_path)
    give_up = time.monotonic() + 15
    while cloud.endpoint.is_alive():
        assert time.monotonic() < give_up
        time.sleep(0.1)


@pytest.mark.slow
def test_it_does_not_stop_under_a_command_that_is_about_to_launch(tmp_path: Path) -> None:
    other = elsewhere("EmbeddedCloud.ensure(home); print(flush=True); input()", tmp_path)
    assert other.stdout is not None
    other.stdout.readline()
    cloud = EmbeddedCloud.find(tmp_path)
    assert cloud is not None
    began = time.monotonic()
    assert cloud.stop_if_idle()
    assert 2 < time.monotonic() - began < 6
    other.kill()
    other.communicate()


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "local").write_text("in the way")
    with pytest.raises(EmbeddedCloudError, match="cannot keep its state in"):
        EmbeddedCloud.ensure(tmp_path)
