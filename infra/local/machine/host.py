"""The machine of one embedded instance: home folder, SSH server, instance-metadata endpoint, processes.

All methods except `__init__` run in the event loop's thread.
"""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import asyncssh

from infra.local.machine import processes, shims
from infra.local.machine.cloud_config import CloudConfig
from infra.local.machine.imds import MetadataService, identity_document
from infra.local.machine.sshd import LOGIN_USERS, Machine, SshServer
from infra.local.machine.tcp_gate import TcpGate

URLS_FOR_A_ROLE = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS")  # the services that take the keys of a role


@dataclass(frozen=True)
class HostFacts:
    """The properties of the machine that RunInstances has determined."""

    instance_id: str
    region: str
    zone: str
    instance_type: str
    image_id: str
    lifecycle: str
    account_id: str
    private_ip: str
    launched: datetime
    user_data: bytes = b""
    authorized_keys: tuple[str, ...] = ()
    role: str | None = None
    """The role of its instance profile."""
    role_key_id: str = ""
    launch_index: int = 0
    placement_group: str = ""


@dataclass(frozen=True)
class Quirks:
    """Defects that a machine has from the start."""

    wrong_host_key: bool = False
    skew_s: float = 0.0
    """How many seconds its clock is ahead."""


class EmbeddedHost:
    """A machine that can boot, hang, lose its network, and end. `ssh_port` is bound from the start."""

    def __init__(
        self,
        facts: HostFacts,
        *,
        folder: Path,
        cloud_id: str,
        api_url: str,
        children: processes.Children,
        quirks: Quirks = Quirks(),
    ) -> None:
        self.facts = facts
        self.power_secret = secrets.token_urlsafe(24)
        self.interruption: dict[str, str] | None = None
        self.rebalance_time: str | None = None
        self.frozen = False
        self._ended = False
        self._folder = folder
        self._home = folder / "home"
        self._api_url = api_url
        self._mark = f"{cloud_id}/{facts.instance_id}"
        self._power_url = f"{api_url}/_pixel-orch/instances/{facts.instance_id}/{self.power_secret}/power"
        self._children = processes.InstanceChildren(children)
        self._quirks = quirks
        self._config = CloudConfig.parse(facts.user_data)
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._gate = TcpGate(facts.private_ip)
        self.ssh_port = self._gate.port
        self._metadata = MetadataService(self._metadata_paths, self._thawed)
        self._environment: dict[str, str] = {}
        self._first_boot: asyncio.Task[None] | None = None

    async def boot(self) -> None:
        """Create the folders, serve metadata and SSH, and start the commands of user-data. Raises OSError.

        Stops if `end` is called while it waits.
        """
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        shims.write_shims(self._folder / "bin", self._power_url)
        metadata_port = await self._metadata.start()
        if self._ended:
            self._metadata.close()
            return
        self._environment = self._scrubbed_environment(metadata_port)
        machine = Machine(self._home, self._environment, self._children)
        given = None if self._quirks.wrong_host_key else self._config.host_key
        host_key = given or asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
        etc_ssh = self._folder / "etc" / "ssh"
        etc_ssh.mkdir(parents=True, exist_ok=True, mode=0o700)
        host_key_path = etc_ssh / "ssh_host_ed25519_key"
        if not host_key_path.exists():  # a stopped instance that starts again keeps its key
            host_key_path.touch(mode=0o600)
            host_key_path.write_text(host_key, encoding="utf-8")
        server = SshServer(machine, host_key_path, [*self.facts.authorized_keys, *self._config.authorized_keys])
        self._gate.open(server.serve)
        self._first_boot = asyncio.get_running_loop().create_task(
            self._run_commands(*self._config.boot_commands, *self._config.commands)
        )

    def _scrubbed_environment(self, metadata_port: int) -> dict[str, str]:
        """Return the environment of commands: none of the user's variables, since those may hold secrets."""
        skewed = {}
        if self._quirks.skew_s:
            shims.write_skewed_clock(self._folder, self._quirks.skew_s)
            skewed = {"PYTHONPATH": str(self._folder / "lib")}
        path = [str(self._folder / "bin"), os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin", "/bin"]
        return {
            "HOME": str(self._home),
            "USER": LOGIN_USERS[0],
            "LOGNAME": LOGIN_USERS[0],
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "PATH": ":".join(path),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{metadata_port}",
            "AWS_DEFAULT_REGION": self.facts.region,
            "PIXEL_ORCH_RUN": str(self._folder / "run"),
            "PIXEL_ORCH_ETC_SSH": str(self._folder / "etc" / "ssh"),
            processes.MARK: self._mark,
            **(dict.fromkeys(URLS_FOR_A_ROLE, self._api_url) if self.facts.role else {}),
            **skewed,
        }

    async def _run_commands(self, *commands: str | list[str]) -> None:
        """Run commands one after the other, as cloud-init does; a failure does not stop the next one."""
        with open(self._folder / "cloud-init-output.log", "ab") as log:
            for command in commands:
                argv = command if isinstance(command, list) else ["/bin/sh", "-c", command]
                try:
                    _, exit_code = self._children.start(
                        argv, cwd=self._home, env=self._environment, stdout=log, stderr=subprocess.STDOUT
                    )
                    code: object = await asyncio.shield(exit_code)
                except OSError as error:
                    code = error
                if code != 0:
                    log.write(f"runcmd {argv!r} failed: {code}\n".encode())

    def freeze(self) -> None:
        """Make the machine hang: connections stay open without an answer, the processes get SIGSTOP."""
        self.frozen = True
        self._gate.freeze()
        self._thawed.clear()
        stopped: set[int] = set()
        while more := set(self.pids()) - stopped:  # the next scan finds a process that forked during this one
            processes.send(more, signal.SIGSTOP)
            stopped |= more

    def thaw(self) -> None:
        """Undo freeze; the bytes that were held back are sent."""
        self.frozen = False
        processes.send(self.pids(), signal.SIGCONT)
        self._thawed.set()
        self._gate.thaw()

    def cut(self, after_bytes: int | None) -> None:
        """Reset the SSH connections now, or the next one after `after_bytes` bytes to the client."""
        self._gate.cut(after_bytes)

    def set_link(self, *, down: bool) -> None:
        """Take the network link down or up. While it is down, SSH connections are reset."""
        self._gate.set_down(down)

    def fill_disk(self, *, full: bool) -> None:
        """Prevent files of running and new commands from growing, or allow it again."""
        self._children.may_write = not full
        processes.limit_files(self.pids(), 0 if full else None)

    async def reboot(self) -> None:
        """End all connections and processes, and run the boot commands again."""
        self._gate.cut()
        await self.kill_processes()
        self._first_boot = asyncio.get_running_loop().create_task(self._run_commands(*self._config.boot_commands))

    def pids(self) -> list[int]:
        """Return the pids of the instance's running processes."""
        return processes.belonging(self._mark, home=self._home)

    async def kill_processes(self) -> list[int]:
        """Send SIGKILL to every process of the instance; return the pids that survived, normally none."""
        if self._first_boot is not None:
            self._first_boot.cancel()
        return await asyncio.to_thread(processes.kill_all, self._mark, home=self._home)

    async def end(self) -> list[int]:
        """Power off: close all ports and connections, kill all processes. Returns pids that survived, normally none."""
        self._ended = True
        self._gate.close()
        self._metadata.close()
        self._thawed.set()
        survivors = await self.kill_processes()
        # The second scan finds a command that was being started when the ports closed.
        return survivors or await self.kill_processes()

    def _metadata_paths(self) -> Mapping[str, str]:
        facts = self.facts
        top = "/latest/meta-data"
        document = {
            "accountId": facts.account_id,
            "architecture": "x86_64",
            "availabilityZone": facts.zone,
            "imageId": facts.image_id,
            "instanceId": facts.instance_id,
            "instanceType": facts.instance_type,
            "pendingTime": iso_time(facts.launched.timestamp()),
            "privateIp": facts.private_ip,
            "region": facts.region,
            "version": "2017-09-30",
        }
        paths = {
            f"{top}/ami-id": facts.image_id,
            f"{top}/ami-launch-index": str(facts.launch_index),
            f"{top}/hostname": f"ip-{facts.private_ip.replace('.', '-')}.ec2.internal",
            f"{top}/instance-id": facts.instance_id,
            f"{top}/instance-life-cycle": facts.lifecycle,
            f"{top}/instance-type": facts.instance_type,
            f"{top}/local-ipv4": facts.private_ip,
            f"{top}/placement/availability-zone": facts.zone,
            f"{top}/placement/region": facts.region,
            f"{top}/public-ipv4": "127.0.0.1",
            f"{top}/services/domain": "amazonaws.com",
            "/latest/dynamic/instance-identity/document": identity_document(document),
        }
        if facts.placement_group:
            paths[f"{top}/placement/group-name"] = facts.placement_group
        if facts.role:
            paths[f"{top}/iam/security-credentials/{facts.role}"] = self._role_credentials()
        if facts.user_data:
            paths["/latest/user-data"] = facts.user_data.decode("utf-8", "replace")
        if self.interruption is not None:
            paths[f"{top}/spot/instance-action"] = json.dumps(self.interruption)
            paths[f"{top}/spot/termination-time"] = self.interruption["time"]
        if self.rebalance_time is not None:
            paths[f"{top}/events/recommendations/rebalance"] = json.dumps({"noticeTime": self.rebalance_time})
        return paths

    def _role_credentials(self) -> str:
        """Return temporary keys in the format of the EC2 User Guide, "Retrieve security credentials from instance
        metadata"."""
        now = time.time()
        return json.dumps(
            {
                "Code": "Success",
                "LastUpdated": iso_time(now),
                "Type": "AWS-HMAC",
                "AccessKeyId": self.facts.role_key_id,
                "SecretAccessKey": self.power_secret,
                "Token": "embedded",
                "Expiration": iso_time(now + 6 * 3600),
            }
        )

    def give_notice(self, notice_s: float) -> None:
        """Put an interruption notice into the metadata, for the time `notice_s` seconds from now."""
        self.interruption = {"action": "terminate", "time": iso_time(time.time() + notice_s)}

    def recommend_rebalance(self) -> None:
        """Put a rebalance recommendation into the metadata."""
        self.rebalance_time = iso_time(time.time())


def iso_time(unix_s: float) -> str:
    """Format a time as EC2 does: 2026-11-23T20:00:00Z."""
    return datetime.fromtimestamp(unix_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
