"""`ssh`: OpenSSH with the run's key and the pinned host key."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from orchestrator.cli.flags import SSH_LETTERS, SSH_VALUES
from orchestrator.cli.pull import check_node, live_instance
from orchestrator.cloud.connect import cloud_of
from orchestrator.errors import SpecError
from orchestrator.host.connect import address_of, known_hosts_of, proxy_of, ssh_config_folder, ssh_path
from orchestrator.host.host_keys import known_hosts_lines
from orchestrator.runs.files import read_bounded, write_atomically
from orchestrator.runs.home import home_from_environment
from orchestrator.runs.store import RunStore

MOST_CONFIG_BYTES = 4 << 20


def ssh(args: argparse.Namespace, command: Sequence[str]) -> int:
    """Do `pixel-orch ssh`: OpenSSH with the run's key and the pinned host key."""
    home = home_from_environment()
    if args.add_include:
        return _add_include(home)
    if not args.run:
        raise SpecError("ssh: name a run; pixel-orch status lists them")
    store = RunStore.open(home, args.run)
    spec = store.spec()
    if shutil.which("ssh") is None:
        raise SpecError("ssh: no `ssh` program is installed; install the OpenSSH client")
    not_running = SpecError(f"RUN: no instance of {store.run} is running; see pixel-orch status {store.run}")
    check_node(store, args.node)
    if not store.state().open_attempts():
        raise not_running
    with cloud_of(spec, home) as cloud:
        live = live_instance(store, cloud, node=args.node)
        if live is None:
            raise not_running
        attempt, instance = live
        host_key = store.host_key_path(attempt.number).read_text()
        address, proxy = address_of(instance, spec), proxy_of(instance, spec)
        known_hosts = known_hosts_of(store, args.node)
        known_hosts.write_text("\n".join(known_hosts_lines(address, instance.ssh_port, host_key)) + "\n")
        options = {
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "yes",
            "IdentityFile": ssh_path(store.key_path),
            "UserKnownHostsFile": ssh_path(known_hosts),
            "LogLevel": "ERROR",
            **({"ProxyCommand": proxy} if proxy else {}),
        }
        words = ["ssh", "-F", "none", "-p", str(instance.ssh_port)]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        return _run_in_foreground([*words, *own_flags(args), f"{attempt.login_user}@{address}", *command])


def own_flags(args: argparse.Namespace) -> list[str]:
    """Return the flags of OpenSSH that were given: of an option that is set twice, ssh takes the first."""
    words = ["-N", "-o", "ExitOnForwardFailure=yes"] if args.ssh_N else []  # it would wait for nothing
    for letter in SSH_LETTERS:
        words += [f"-{letter}"] * (getattr(args, f"ssh_{letter}") or 0)
    for letter, _, _ in SSH_VALUES:
        for value in getattr(args, f"ssh_{letter}") or []:
            words += [f"-{letter}", value]
    return words


def _run_in_foreground(words: list[str]) -> int:
    import subprocess

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the remote program
    try:
        code = subprocess.run(words, check=False).returncode
        return code if code >= 0 else 128 - code  # Ctrl-C ends `ssh -N` by a signal
    finally:
        signal.signal(signal.SIGINT, before)


def _add_include(home: Path) -> int:
    """Make `pixel-orch-RUN` known to the user's own `ssh`, `scp` and editors: one Include line in ~/.ssh/config."""
    config = Path(os.path.expanduser("~/.ssh/config")).resolve()  # it may be a link into a folder of dotfiles
    line = f'Include "{ssh_config_folder(home)}/*"'
    if not line.isprintable() or '"' in line[9:-1]:
        raise SpecError(f"PIXEL_ORCH_HOME: {home} cannot be written into {config}; set it to a plain path")
    before = read_bounded(config, MOST_CONFIG_BYTES) if os.path.lexists(config) else b""
    if line.encode() in before.splitlines():
        print(f"{config} has this line already: {line}")
        return 0
    config.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(config, f"{line}\n\n".encode() + before, mode=0o600)  # a line after a Host belongs to it
    print(f"added to {config}: {line}\nNow `ssh pixel-orch-RUN` works for every running run.")
    return 0
