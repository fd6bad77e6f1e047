"""A machine with a real systemd, logind, sudo and OpenSSH, in namespaces of its own.

Its root is this machine's, with all writes in memory; its processes, network, name and control groups are its own. So
systemd boots in about a second, nothing of this machine is changed, and nothing of it outlives the test. It needs root,
the packages, and a kernel that allows namespaces.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

SYSTEMD = "/lib/systemd/systemd"
USER = "tester"
BOOT_LIMIT_S = 60.0
PROGRAMS = ("unshare", "nsenter", "systemctl", "busctl", "loginctl", "dbus-daemon", "sudo", "sshd", "ssh", "ssh-keygen")
NSENTER = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

BOOT = """
set -e
cd "$1"
mount -t tmpfs none .
mkdir up work root
mount -t overlay none -o lowerdir=/,upperdir=up,workdir=work root
mount -t proc none root/proc
mount -t sysfs none root/sys 2>/dev/null || mount --rbind /sys root/sys
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 none root/sys/fs/cgroup
else
  mount -t tmpfs none root/sys/fs/cgroup
  mkdir root/sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd none root/sys/fs/cgroup/systemd
fi
for folder in run tmp dev; do mount -t tmpfs none root/$folder; done
for device in null zero full random urandom tty; do
  touch root/dev/$device
  mount --bind /dev/$device root/dev/$device
done
mkdir root/dev/pts root/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 none root/dev/pts
ln -s pts/ptmx root/dev/ptmx
mount -t tmpfs none root/dev/shm
rm -rf root/etc/systemd/system/*.wants/* root/etc/ssh/ssh_host_* root/etc/ssh/sshd_config.d
mkdir -p root/etc/systemd/logind.conf.d root/root/.ssh root/home
printf '[Login]\\nKillUserProcesses=yes\\nRemoveIPC=yes\\n' >root/etc/systemd/logind.conf.d/test.conf
echo 'tester ALL=(ALL) NOPASSWD:ALL' >root/etc/sudoers.d/tester
printf 'UsePAM yes\\nHostKey /etc/ssh/key\\nListenAddress 127.0.0.1\\n' >root/etc/ssh/sshd_config
ssh-keygen -q -t ed25519 -N '' -f root/etc/ssh/key
ssh-keygen -q -t ed25519 -N '' -f root/root/.ssh/id_ed25519
exec chroot root env -i container=other PATH="$2" /lib/systemd/systemd --system --log-target=console
"""
SETTLE = """
set -e
ip link set lo up
useradd --create-home --shell /bin/bash tester
install -d -m 700 -o tester -g tester /home/tester/.ssh
install -m 600 -o tester -g tester /root/.ssh/id_ed25519.pub /home/tester/.ssh/authorized_keys
install -d -m 755 /run/sshd
systemctl start dbus systemd-logind
systemd-run --quiet --unit=test-sshd /usr/sbin/sshd -D
"""


def why_not() -> str:
    """Return why this machine cannot boot such a one, "" if it may."""
    if os.geteuid() != 0:
        return "only root can boot a systemd in namespaces"
    missing = [name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]
    if missing or not Path(SYSTEMD).exists() or not Path("/usr/bin/python3").exists():
        return f"not installed: {', '.join(missing) or 'systemd or python3'}"
    if not list(Path("/lib").glob("*/security/pam_systemd.so")):
        return "not installed: libpam-systemd"
    return ""


class SystemdMachine:
    """One such machine, booted, with a user who may log in by SSH and has sudo.

    Args:
        folder: an empty folder, for its memory and its console.

    Raises:
        RuntimeError: it does not boot here; with the end of its console.
    """

    def __init__(self, folder: Path) -> None:
        self.console = folder / "console"
        self.memory = folder / "memory"
        self.memory.mkdir()
        namespaces = ["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child"]
        with self.console.open("wb") as console:
            self._unshare = subprocess.Popen(
                ["unshare", *namespaces, "sh", "-c", BOOT, "boot", str(self.memory), SYSTEM_PATH],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        try:
            self._await_boot()
            self.run(SETTLE)
            self._until(lambda: self.tried("test -S /run/dbus/system_bus_socket") == 0, "dbus")
            self._until(lambda: self.tried(f"ssh {self._ssh_options()} true") == 0, "sshd")
        except BaseException:
            self.end()
            raise

    def _await_boot(self) -> None:
        self._until(lambda: self.tried("systemctl is-system-running | grep -E 'running|degraded'") == 0, "systemd")

    def _until(self, condition: object, what: str) -> None:
        give_up_at = time.monotonic() + BOOT_LIMIT_S
        while not condition():  # type: ignore[operator]
            if time.monotonic() > give_up_at or not self.is_up:
                words = self.console.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{what} does not start in namespaces here: {words}")
            time.sleep(0.05)

    @property
    def is_up(self) -> bool:
        """Whether its systemd runs."""
        return self._unshare.poll() is None

    @property
    def pid(self) -> int:
        """The pid of its systemd, in the namespace of this process; 0 if there is none."""
        try:
            children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        except OSError:
            return 0
        return int(children[0]) if children else 0

    def _inside(self, script: str) -> list[str]:
        words = ["nsenter", "--target", str(self.pid), *NSENTER]
        return [*words, "env", "-i", f"PATH={SYSTEM_PATH}", "HOME=/root", "/bin/sh", "-c", script]

    def tried(self, script: str) -> int:
        """Run a shell script as root; return its exit code."""
        if not self.pid:
            return -1
        null = subprocess.DEVNULL
        return subprocess.run(
            self._inside(script), stdin=null, stdout=null, stderr=null, check=False, timeout=60
        ).returncode

    def run(self, script: str, data: bytes = b"") -> str:
        """Run a shell script as root; return what it prints."""
        done = subprocess.run(self._inside(script), input=data, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, f"{script}\n{done.stderr.decode(errors='replace')}"
        return done.stdout.decode(errors="replace")

    @staticmethod
    def _ssh_options() -> str:
        options = "-q -o StrictHostKeyChecking=no -o BatchMode=yes -o UserKnownHostsFile=/dev/null"
        return f"{options} {USER}@127.0.0.1"

    def log_in(self, command: str, data: bytes = b"") -> str:
        """Run a command in an SSH session of its own; return what it prints when the session has closed."""
        return self.run(f"ssh {self._ssh_options()} {shlex.quote(command)}", data)

    def send(self, files: dict[str, bytes], folder: str) -> None:
        """Put files into a folder below the user's home."""
        for name, content in files.items():
            path = f"/home/{USER}/{folder}/{name}"
            self.run(f"mkdir -p {shlex.quote(os.path.dirname(path))} && cat >{shlex.quote(path)}", content)
        self.run(f"chown -R {USER}: /home/{USER}")

    def end(self) -> None:
        """End it, with all that runs on it."""
        self._unshare.kill()
        self._unshare.wait(timeout=30)
