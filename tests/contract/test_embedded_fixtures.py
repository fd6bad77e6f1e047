"""What the tests of the embedded cloud share: one cloud for a module, and instances that are gone after each test."""

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import paramiko
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from infra.local import EmbeddedCloud

PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
SPOT = {"MarketType": "spot"}
Launch = Callable[..., str]


def client(cloud: EmbeddedCloud, service: str, region: str = "us-east-1", **changed: str) -> Any:
    """A plain boto3 client that knows the endpoint and the key, and retries nothing."""
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=cloud.endpoint_url,
        aws_access_key_id=changed.get("key", cloud.endpoint.access_key_id),
        aws_secret_access_key="x",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=20),
    )


class Login:
    """A paramiko connection to an instance."""

    def __init__(self, instance: dict[str, Any], key: paramiko.PKey, user: str = "ubuntu") -> None:
        self.client = paramiko.SSHClient()
        self.client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        self.client.connect(
            "127.0.0.1", ssh_port(instance), user, pkey=key, allow_agent=False, look_for_keys=False, timeout=10
        )

    def run(self, command: str, stdin: bytes = b"") -> tuple[bytes, bytes, int]:
        """stdout, stderr and exit status."""
        writing, reading, errors = self.client.exec_command(command, timeout=20)
        with contextlib.suppress(OSError):
            writing.write(stdin)
        writing.channel.shutdown_write()
        return reading.read(), errors.read(), reading.channel.recv_exit_status()

    def close(self) -> None:
        """Leave."""
        self.client.close()


def ssh_port(instance: dict[str, Any]) -> int:
    return int(next(tag["Value"] for tag in instance["Tags"] if tag["Key"] == "pixel-orch-local:ssh-port"))


def describe(ec2: Any, instance_id: str) -> dict[str, Any]:
    while True:
        try:
            found: dict[str, Any] = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidInstanceID.NotFound":
                raise
        else:
            return found


def wait_for(ec2: Any, instance_id: str, state: str, limit_s: float = 10) -> dict[str, Any]:
    give_up = time.monotonic() + limit_s
    while (found := describe(ec2, instance_id))["State"]["Name"] != state:
        assert time.monotonic() < give_up, f"still {found['State']['Name']}, not {state}"
        time.sleep(0.02)
    return found


def error_of(call: Callable[..., Any], **params: Any) -> tuple[str, str, int]:
    """Code, message and HTTP status that a call is refused with."""
    with pytest.raises(ClientError) as caught:
        call(**params)
    response = caught.value.response
    return response["Error"]["Code"], response["Error"]["Message"], response["ResponseMetadata"]["HTTPStatusCode"]


def marked_processes(text: str) -> list[int]:
    """The pids of all processes with `text` in their environment or command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                if text.encode() in (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


@pytest.fixture(scope="session")
def private_key() -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(new_private_key()))


def new_private_key() -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCloud]:
    """One embedded cloud for a module; a secret is in its environment, to see that no instance gets it."""
    patched = pytest.MonkeyPatch()
    patched.setenv("AWS_SECRET_ACCESS_KEY", "the-users-own-secret")
    patched.setenv("PIXEL_ORCH_LOCAL_BOOT_S", "0.05")
    running = EmbeddedCloud.ensure(tmp_path_factory.mktemp("embedded"))
    patched.undo()
    yield running
    running.stop()
    assert marked_processes(running.endpoint.cloud_id) == []
    assert not (running.home / "local" / "endpoint.json").exists()


@pytest.fixture(scope="module")
def ec2(cloud: EmbeddedCloud) -> Any:
    return client(cloud, "ec2")


@pytest.fixture(scope="module")
def ami(cloud: EmbeddedCloud) -> str:
    found: str = client(cloud, "ssm").get_parameter(Name=PARAMETER)["Parameter"]["Value"]
    return found


@pytest.fixture
def launch(cloud: EmbeddedCloud, ec2: Any, ami: str, private_key: paramiko.PKey) -> Iterator[Launch]:
    """Launch an instance and wait until it runs; returns its id. After the test nothing of any instance is left."""

    launched: list[str] = []

    def launch_one(config: dict[str, Any] | None = None, *, wait: bool = True, **changed: Any) -> str:
        public = f"{private_key.get_name()} {private_key.get_base64()}"
        user_data = "#cloud-config\n" + json.dumps({"ssh_authorized_keys": [public], **(config or {})})
        params = {
            "ImageId": ami,
            "InstanceType": "p2.xlarge",
            "MinCount": 1,
            "MaxCount": 1,
            "Placement": {"AvailabilityZone": "us-east-1b"},
            "InstanceMarketOptions": SPOT,
            "UserData": user_data,
        }
        params.update(changed)
        wanted = {name: value for name, value in params.items() if value is not None}
        instance_id: str = ec2.run_instances(**wanted)["Instances"][0]["InstanceId"]
        launched.append(instance_id)
        if wait:
            wait_for(ec2, instance_id, "running")
        return instance_id

    yield launch_one
    cloud.clear_faults()
    if launched:
        ec2.terminate_instances(InstanceIds=launched)
    for instance_id in launched:
        wait_for(ec2, instance_id, "terminated")
        assert marked_processes(f"{cloud.endpoint.cloud_id}/{instance_id}") == []


@pytest.fixture
def login(launch: Launch, ec2: Any, private_key: paramiko.PKey) -> Iterator[Login]:
    """A running instance and a connection to it."""
    session = Login(describe(ec2, launch()), private_key)
    yield session
    session.close()
