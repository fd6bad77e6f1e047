"""A real OpenSSH server on 127.0.0.1, with a user, a home, a configuration and a host key of its own.

The server and all that it starts live in namespaces of their own (`unshare`): it sees another /etc/passwd, /etc/ssh,
/run and /home than this machine, and none of its processes outlives it. As root the server logs in a user `pixel` with
another uid, who has sudo where that is installed. Without root, user namespaces serve: the user has our own uid then.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.host.shell import SshShell, make_key_pair
from orchestrator.host.ssh_host import SshHost

USER = "pixel"
HOME = "/home/pixel"
AS_ROOT_UID = 4242
START_LIMIT_S = 10.0
STUBS = ("shutdown", "poweroff", "halt", "reboot", "systemctl", "systemd-run")
METADATA = "http://127.0.0.1:9"  # nobody: this is no instance

IS_ROOT = os.geteuid() == 0


def program(name: str) -> str | None:
    """Return the path of a program, also of one that only root has in its PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")


def why_not() -> str:
    """Return why this machine cannot run such a server, "" if it can."""
    if program("sshd") is None:
        return "there is no sshd: apt-get install openssh-server"
    if program("unshare") is None:
        return "there is no unshare (util-linux)"
    if program("python3") is None or not Path("/usr/bin/python3").exists():
        return "there is no /usr/bin/python3 that the user of the server could run"
    tried = subprocess.run([*_unshare(), "mount", "-t", "tmpfs", "tmpfs", "/run"], capture_output=True, check=False)
    if tried.returncode != 0:
        return f"namespaces are not allowed here: {tried.stderr.decode(errors='replace').strip()}"
    return ""


def _unshare() -> list[str]:
    if IS_ROOT:
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["unshare", "--user", "--map-current-user", "--keep-caps",
            "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]  # fmt: skip


class OpenSsh:
    """One running server.

    Args:
        folder: an empty folder; `home` in it is the user's home.
        shell: the user's login shell.
        options: of sshd_config, in the order given; a value may hold several lines.
        banner: what the server says before authentication.
    """

    def __init__(
        self,
        folder: Path,
        *,
        shell: str = "/bin/bash",
        options: Mapping[str, str] | None = None,
        banner: str = "",
    ) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.uid, self.gid = (AS_ROOT_UID, AS_ROOT_UID) if IS_ROOT else (os.getuid(), os.getgid())
        self.etc = folder / "etc"
        self.log = folder / "sshd.log"
        self.key = folder / "key"
        self.port = _free_port()
        self.host_key = ""
        (self.etc / "ssh").mkdir(parents=True)
        self.home.mkdir(mode=0o755)
        self._write_keys()
        self._write_users(shell)
        self._write_config({"UsePAM": "no", **(options or {})}, banner)
        self._own(self.home)
        self.process = self._started()

    # -- what the user has

    def write(self, name: str, content: str | bytes) -> None:
        """Put a file into the user's home, for example `.bashrc`."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        for each in (path, *path.relative_to(self.home).parents):
            self._own(self.home / each)

    def _own(self, path: Path) -> None:
        if IS_ROOT:
            os.chown(path, self.uid, self.gid)

    # -- ways in

    def shell(self, *, connect_timeout_s: float = 10.0) -> SshShell:
        """Return a connection that is not open yet."""
        return SshShell(
            address="127.0.0.1",
            port=self.port,
            user=USER,
            key_path=self.key,
            host_key=self.host_key,
            connect_timeout_s=connect_timeout_s,
        )

    def host(self, *, answer_timeout_s: float = 20.0, setup_timeout_s: float = 60.0) -> SshHost:
        """Return a host over such a connection."""
        return SshHost(self.shell(), answer_timeout_s=answer_timeout_s, setup_timeout_s=setup_timeout_s)

    @property
    def has_sudo(self) -> bool:
        """Whether the user may become root there."""
        return IS_ROOT and program("sudo") is not None

    def processes(self, text: str) -> int:
        """Return how many processes there have this text in their command line."""
        return sum(text in words for words in self._processes().values())

    def _processes(self) -> dict[int, str]:
        """Return the command lines of all processes of the server's namespace, by their number here."""
        found = {}
        ours = os.readlink(f"/proc/{self.process.pid}/ns/pid_for_children")
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(path / "ns" / "pid") == ours:
                    words = (path / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(path.name)] = words.decode(errors="replace")
            except OSError:
                continue
        return found

    def freeze(self) -> None:
        """Stop every process: connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._processes():
            with suppress(OSError):
                os.kill(pid, number)

    def stop(self) -> None:
        """End the server and every process that it started."""
        self.process.kill()
        self.process.wait()

    # -- set up

    def _write_keys(self) -> None:
        private, public = make_key_pair("run")
        self.key.write_text(private)
        self.key.chmod(0o600)
        (self.etc / "ssh" / "authorized_keys").write_text(public + "\n")
        private, public = make_key_pair("")
        (self.etc / "ssh" / "ssh_host_ed25519_key").write_text(private)
        (self.etc / "ssh" / "ssh_host_ed25519_key").chmod(0o600)
        (self.etc / "ssh" / "ssh_host_ed25519_key.pub").write_text(public.strip() + "\n")
        self.host_key = public.strip()

    def _write_users(self, shell: str) -> None:
        line = f"{USER}:x:{self.uid}:{self.gid}:test:{HOME}:{shell}\n"
        others = [entry for entry in Path("/etc/passwd").read_text().splitlines() if not entry.startswith(USER + ":")]
        (self.etc / "passwd").write_text(line + "\n".join(others) + "\n")
        (self.etc / "group").write_text(Path("/etc/group").read_text() + f"{USER}-rig:x:{self.gid}:\n")
        (self.etc / "shadow").write_text(f"{USER}:*:19000:0:99999:7:::\nroot:*:19000:0:99999:7:::\n")
        (self.etc / "sudoers").write_text(
            f"Defaults secure_path=/run/rig:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
            f'Defaults env_keep += "PIXEL_ORCH_ETC_SSH"\n{USER} ALL=(ALL) NOPASSWD: ALL\n'
        )
        (self.etc / "sudoers").chmod(0o440)

    def _write_config(self, options: Mapping[str, str], banner: str) -> None:
        (self.etc / "banner").write_text(banner)
        own = {
            "Port": str(self.port),
            "ListenAddress": "127.0.0.1",
            "HostKey": "/etc/ssh/ssh_host_ed25519_key",
            "PidFile": "/run/sshd.pid",
            "AuthorizedKeysFile": "/etc/ssh/authorized_keys",
            "SetEnv": f"AWS_EC2_METADATA_SERVICE_ENDPOINT={METADATA}",
            "PasswordAuthentication": "no",
            "StrictModes": "no",  # in a user namespace the folders above belong to nobody
            "LogLevel": "VERBOSE",
            "Banner": "/etc/ssh/banner" if banner else "none",
        }
        lines = [f"{name} {line}" for name, value in {**own, **options}.items() for line in value.splitlines()]
        (self.etc / "ssh" / "sshd_config").write_text("\n".join(lines) + "\n")
        (self.etc / "ssh" / "banner").write_text(banner)

    def _started(self) -> subprocess.Popen[bytes]:
        etc, words = shlex.quote(str(self.etc)), []
        words += ["mount --make-rprivate /", "mount -t tmpfs -o mode=755 tmpfs /run", "mkdir -p /run/sshd /run/rig"]
        for name in STUBS:  # nothing that runs here may reach this machine's own
            words += [f"printf '#!/bin/sh\\nexit 0\\n' >/run/rig/{name}", f"chmod 755 /run/rig/{name}"]
        files = [
            "passwd",
            "group",
            *(["shadow", *(["sudoers"] if Path("/etc/sudoers").exists() else [])] if IS_ROOT else []),
        ]
        words += [f"mount --bind {etc}/{name} /etc/{name}" for name in files]
        words += [f"mount --bind {etc}/ssh /etc/ssh"]
        words += ["mount -t tmpfs -o mode=755 tmpfs /home", f"mkdir {HOME}"]
        words += [f"mount --bind {shlex.quote(str(self.home))} {HOME}"]
        words += [f"exec {program('sshd')} -D -e -f /etc/ssh/sshd_config"]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [*_unshare(), "sh", "-c", " && ".join(words)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            )  # fmt: skip
        give_up_at = time.monotonic() + START_LIMIT_S
        while b"Server listening" not in self.log.read_bytes():
            if process.poll() is not None or time.monotonic() > give_up_at:
                process.kill()
                process.wait()
                raise RuntimeError(f"sshd did not start: {self.log.read_text(errors='replace')}")
            time.sleep(0.005)
        return process


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def openssh(folder: Path, **how: object) -> Iterator[OpenSsh]:
    """Give a server; nothing of it is left."""
    server = OpenSsh(folder, **how)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.stop()
