"""Connects to a run's instances by SSH: keys, addresses, proxies, entries for the user's own ssh."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from orchestrator.cloud.base import Instance
from orchestrator.host.base import Connect, Host
from orchestrator.host.host_keys import known_hosts_lines
from orchestrator.runs.files import write_atomically
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore


def address_of(instance: Instance, spec: RunSpec) -> str:
    """Return the address to connect to: the private one behind a proxy, else the public one."""
    if spec.is_private or (spec.ssh_proxy and not instance.address):
        return instance.private_address or instance.instance_id
    return instance.address


def proxy_of(instance: Instance, spec: RunSpec) -> str | None:
    """Return the ProxyCommand for this instance; %h and %p are filled in by the program that runs it.

    The AWS CLI gets the run's profile and the instance's region, unless the command names them: without the profile it
    would ask another account.
    """
    if not spec.ssh_proxy:
        return spec.ssh_proxy
    command = spec.ssh_proxy.replace("%i", instance.instance_id).replace("%r", instance.region)
    if not is_aws_cli(command):
        return command
    words = command.split()
    for flag, value in (("--profile", spec.profile), ("--region", instance.region)):
        if value and not any(word == flag or word.startswith(f"{flag}=") for word in words):
            command += f" {flag} {shlex.quote(value)}"
    return command


def is_aws_cli(command: str) -> bool:
    """Return whether a ProxyCommand is the AWS CLI itself, and not a shell or another program around it."""
    program = command.split(maxsplit=1)[0] if command.split() else ""
    return Path(program).name == "aws" and not any(letter in command for letter in ";|&<>`$")


def connector(store: RunStore, spec: RunSpec) -> Connect:
    """Return the function that connects to an instance of this run by SSH."""
    policy = spec.recovery

    def connect(instance: Instance, user: str, host_key: str) -> Host:
        from orchestrator.host.shell import SshShell
        from orchestrator.host.ssh_host import SshHost

        shell = SshShell(
            address=address_of(instance, spec),
            port=instance.ssh_port,
            user=user,
            key_path=store.key_path,
            host_key=host_key,
            connect_timeout_s=policy.answer_timeout_s,
            proxy_command=proxy_of(instance, spec),
        )
        shell.open()
        shell.greet(policy.answer_timeout_s)
        _write_ssh_config(store, instance, user, spec, host_key)
        return SshHost(
            shell,
            answer_timeout_s=policy.answer_timeout_s,
            setup_timeout_s=policy.setup_timeout_s,
            renewed=lambda key: _write_ssh_config(store, instance, user, spec, key),
        )

    return connect


def ssh_path(path: Path) -> str:
    """Return a path as OpenSSH's configuration takes it: quoted, since it splits at blanks; `%` begins a token."""
    text = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def ssh_config_folder(home: Path) -> Path:
    """Return the folder with one ssh_config entry for each reachable run; ~/.ssh/config may include it."""
    return home / "ssh_config.d"


def known_hosts_of(store: RunStore, node: int) -> Path:
    """Return the known_hosts file of one node of a run."""
    return store.known_hosts if node == 0 else store.known_hosts.with_name(f"{store.known_hosts.name}.{node}")


def _node_of(store: RunStore, spec: RunSpec, instance: Instance) -> int | None:
    """Return a machine's number in its group, 0 for one that is alone; None while it has not joined the others."""
    if not spec.is_group:
        return 0
    found = [one for one in store.state().attempts if one.instance_id == instance.instance_id and one.generation]
    return found[-1].rank if found else None


def _write_ssh_config(store: RunStore, instance: Instance, user: str, spec: RunSpec, host_key: str) -> None:
    """Write the entry of a machine: `pixel-orch-RUN`, and `pixel-orch-RUN.K` for node K of a group."""
    address, proxy, node = address_of(instance, spec), proxy_of(instance, spec), _node_of(store, spec, instance)
    if node is None:
        return
    known_hosts, name = known_hosts_of(store, node), f"{store.run}.{node}" if node else store.run
    known_hosts.write_text("\n".join(known_hosts_lines(address, instance.ssh_port, host_key)) + "\n")
    lines = [
        f"Host pixel-orch-{name}",
        f"  HostName {address}",
        f"  Port {instance.ssh_port}",
        f"  User {user}",
        f"  IdentityFile {ssh_path(store.key_path)}",
        "  IdentitiesOnly yes",
        "  StrictHostKeyChecking yes",
        f"  UserKnownHostsFile {ssh_path(known_hosts)}",
        *([f"  ProxyCommand {proxy}"] if proxy else []),
    ]
    folder = ssh_config_folder(store.home)
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomically(folder / name, ("\n".join(lines) + "\n").encode(), mode=0o600)


def forget_ssh_config(store: RunStore) -> None:
    """Remove the entries of a run that is over."""
    folder = ssh_config_folder(store.home)
    for path in [folder / store.run, *folder.glob(f"{store.run}.*")]:
        path.unlink(missing_ok=True)


def make_run_key(store: RunStore, own: str | None = None) -> None:
    """Make the run's SSH key, readable by its owner only; or link to a key of the user.

    Raises:
        SpecError: the user's key cannot be read.
    """
    from orchestrator.host.shell import make_key_pair
    from orchestrator.host.user_key import public_half

    if own is not None:
        store.key_path.with_suffix(".pub").write_text(public_half(Path(own)) + "\n")
        store.key_path.symlink_to(own)
        return

    private, public = make_key_pair(f"pixel-orch-{store.run}")
    descriptor = os.open(store.key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(private)
    store.key_path.with_suffix(".pub").write_text(public + "\n")
