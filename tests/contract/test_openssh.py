"""Hosts as people have them: login shells, start files that print or take over, settings of sshd.

Each case is a real OpenSSH with that shell, those files and those settings. What the product says of it is right, or
one line says why nothing can be done.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.errors import CommandTimeoutError, NoCommandsError
from orchestrator.host import sync
from orchestrator.host.base import Cursor, Job, Setup
from orchestrator.host.shell import SshShell
from tests.support import openssh
from tests.support.openssh import HOME, OpenSsh

PROBLEM = openssh.why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM or "it can run")]

DATA = random.Random(1).randbytes(700_000)
SHELLS = ("bash", "dash", "zsh", "fish", "tcsh")
Given = Callable[..., OpenSsh]


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Given]:
    """Start a server with a shell, files in the home folder, and settings of sshd; nothing of it is left."""
    servers: list[OpenSsh] = []

    def start(shell: str = "bash", files: Mapping[str, str | bytes] | None = None, banner: str = "",
              **options: str) -> OpenSsh:  # fmt: skip
        path = shutil.which(shell)
        if path is None:
            pytest.skip(f"there is no {shell}")
        servers.append(OpenSsh(tmp_path / f"server{len(servers)}", shell=path, options=options, banner=banner))
        for name, content in (files or {}).items():
            servers[-1].write(name, content)
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@contextmanager
def connected(server: OpenSsh) -> Iterator[SshShell]:
    """Give a connection as `connect.connector` makes it."""
    shell = server.shell()
    try:
        shell.open()
        shell.greet(10)
        yield shell
    finally:
        shell.close()


def check_commands(shell: SshShell, data: bytes = DATA) -> None:
    """Commands run as they are, with their input and output whole, and nothing around it."""
    done = shell.run("printf '%s\\n' 'it'\\''s \\ !x'; pwd; echo err >&2; exit 3", timeout_s=10)
    assert (done.stdout, done.stderr, done.exit_code) == (f"it's \\ !x\n{HOME}\n".encode(), b"err\n", 3)
    fed = shell.run("sha256sum", timeout_s=10, feed=lambda write: write(data))
    assert (fed.stdout.split()[:1], fed.stderr) == ([hashlib.sha256(data).hexdigest().encode()], b"")
    pieces: list[bytes] = []
    assert shell.run(f"head -c {len(data)} /dev/zero", timeout_s=10, sink=pieces.append).ok
    assert b"".join(pieces) == bytes(len(data))
    assert shell.run("command -v tar && command -v mkdir", timeout_s=10).ok


# -- login shells and their start files

BINARY = "printf '\\x00\\x1b[2J\\xff{\"protocol\": 2}\\n'; head -c 50000 /dev/urandom"
BASH = {
    "prints": f"echo Welcome; echo careful >&2; {BINARY}",
    "prints a neofetch": "for i in $(seq 300); do printf '\\033[1;32m%s\\033[0m\\n' logo; done",
    "execs zsh when interactive": "case $- in *i*) exec zsh ;; esac; [ -t 1 ] && exec fish",
    "execs zsh": "exec zsh",
    "execs fish": "exec fish",
    "execs tcsh": "exec tcsh",
    "execs a login zsh, and prints": "echo hello; exec zsh -l",
    "reads a line": "read -p 'continue? ' answer; echo $answer",
    "sets -eu": "set -euo pipefail",
    "has functions and aliases": "shopt -s expand_aliases; alias exec='echo no' printf=false;"
    "ls() { echo no; }; tar() { echo no; }; cat() { echo no; }; exec() { echo no; }; printf() { :; }; cd() { :; };"
    "export -f tar cat ls printf cd exec",
    "changes the folder": "cd /tmp",
    "has a PATH of nothing": "export PATH=/nowhere",
    "has no PATH": "unset PATH",
    "has a CDPATH": "export CDPATH=/usr:/tmp",
    "has an unknown LANG": "export LANG=xx_YY.ISO-8859-1 LC_ALL=de_DE@euro",
    "leaves a process behind": "sleep 1000 &",
    "has a trap": "trap 'echo bye' EXIT",
    "has a BASH_ENV": f"export BASH_ENV={HOME}/.bashrc ENV={HOME}/.bashrc",
    "returns": "return",
}
OTHERS = {
    ("dash", ".profile"): "echo noise; exit 3",  # which a command does not read
    ("zsh", ".zshenv"): f"echo noise; {BINARY}; alias exec='echo no' ls=false; cd /tmp; setopt nomatch",
    ("fish", ".config/fish/config.fish"): "echo noise; echo noise >&2; alias tar false; cd /tmp; set -gx PATH /nowhere",
    ("tcsh", ".cshrc"): "echo noise; alias exec echo no; cd /tmp",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_each_login_shell_serves(given: Given, shell: str) -> None:
    with connected(given(shell)) as connection:
        check_commands(connection)


@pytest.mark.parametrize("what", BASH)
def test_a_bashrc_that(given: Given, what: str) -> None:
    for needed in ("zsh", "fish", "tcsh"):
        if f"exec {needed}" in BASH[what] and shutil.which(needed) is None:
            pytest.skip(f"there is no {needed}")
    with connected(given("bash", {".bashrc": BASH[what] + "\n"})) as connection:
        check_commands(connection)


@pytest.mark.parametrize(("shell", "file"), OTHERS)
def test_a_start_file_of_another_shell(given: Given, shell: str, file: str) -> None:
    with connected(given(shell, {file: OTHERS[shell, file] + "\n"})) as connection:
        check_commands(connection)


def test_input_of_several_megabytes_passes_a_shell_that_reads_all_of_it_first(given: Given) -> None:
    server = given("bash", {".bashrc": "exec fish\n"}) if shutil.which("fish") else pytest.skip("there is no fish")
    with connected(server) as connection:
        check_commands(connection, DATA * 8)
    assert not [path for path in server.home.iterdir() if path.name.startswith(".pixel-orch")], "a file is left"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("exit 5", "it ended with 5"),
        ("echo Please log in as ubuntu; exit", "it ended with 0 and printed 'Please log in as ubuntu'"),
        ("exec cat /etc/hostname", "it ended with 0"),
        ("exec >/dev/null 2>&1", "it ended with 0"),
    ],
)
def test_a_start_file_that_lets_nothing_through_is_named_in_one_line(given: Given, content: str, words: str) -> None:
    with pytest.raises(NoCommandsError) as caught, connected(given("bash", {".bashrc": content + "\n"})):
        pass
    text = str(caught.value)
    assert words in text
    assert "~/.bashrc" in text
    assert len(text.splitlines()) == 1


def test_a_start_file_that_takes_too_long_is_not_called_a_dead_host(given: Given) -> None:
    shell = given("bash", {".bashrc": "echo mounting /data; sleep 100\n"}).shell()
    with pytest.raises(CommandTimeoutError, match=r"start of the login shell ran out of time .* mounting /data"):
        shell.greet(1)
    shell.close()


@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/bin/rbash", "/bin/false"])
def test_a_login_shell_that_is_none_is_named(given: Given, shell: str) -> None:
    with pytest.raises(NoCommandsError, match="the login shell runs no command"), connected(given(shell)):
        pass


# -- settings of sshd

PASSES = 'logger x 2>/dev/null; echo audited; eval "$SSH_ORIGINAL_COMMAND"; echo over'
SETTINGS = {
    "one session at a time": {"MaxSessions": "1"},
    "few logins at a time": {"MaxStartups": "1"},
    "a new key after each megabyte": {"RekeyLimit": "1M"},
    "no forwarding at all": {"DisableForwarding": "yes", "AllowTcpForwarding": "no"},
    "no SFTP": {"Subsystem": "sftp /bin/false"},
    "PAM": {"UsePAM": "yes", "PrintMotd": "yes", "PrintLastLog": "yes"},
    "a forced command that passes on": {"ForceCommand": PASSES},
    "a forced command that execs": {"ForceCommand": 'exec $SHELL -c "$SSH_ORIGINAL_COMMAND"'},
    "compression": {"Compression": "yes"},
}


@pytest.mark.parametrize("what", SETTINGS)
def test_sshd_with(given: Given, what: str) -> None:
    if what == "PAM" and not openssh.IS_ROOT:
        pytest.skip("PAM needs a server that runs as root")
    with connected(given("bash", **SETTINGS[what])) as connection:
        check_commands(connection, DATA * (6 if "RekeyLimit" in SETTINGS[what] else 1))


def test_a_banner_a_motd_and_an_rc_file(given: Given) -> None:
    files = {".ssh/rc": "echo from the rc file\n", ".hushlogin": ""}
    with connected(given("bash", files, banner="*** Authorized use only\n" * 200)) as connection:
        check_commands(connection)


def test_an_environment_of_the_users(given: Given) -> None:
    environment = f"PATH=/nowhere\nBASH_ENV={HOME}/noise\nENV={HOME}/noise\nCDPATH=/usr\nPYTHONPATH=/nowhere\n"
    files = {".ssh/environment": environment, "noise": "echo noise; exit 3\n"}
    with connected(given("bash", files, PermitUserEnvironment="yes")) as connection:
        check_commands(connection)


def test_a_server_that_looks_whether_we_live_keeps_an_idle_connection(given: Given) -> None:
    with connected(given("bash", ClientAliveInterval="1", ClientAliveCountMax="1")) as connection:
        first = connection.run("echo $SSH_CONNECTION", timeout_s=10).stdout
        time.sleep(2.5)
        assert connection.run("echo $SSH_CONNECTION", timeout_s=10).stdout == first


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_one_session_at_a_time_is_enough_for_a_set_up_in_parallel(given: Given, shell: str) -> None:
    with connected(given(shell, MaxSessions="1")) as connection:
        done: list[bytes] = []

        def run(number: int) -> None:
            done.append(connection.run(f"sleep 0.5; echo {number}", timeout_s=10).stdout)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        check_commands(connection)
        for thread in threads:
            thread.join()
        assert sorted(done) == [b"0\n", b"1\n", b"2\n"]
        with pytest.raises(CommandTimeoutError):
            connection.run("sleep 1000", timeout_s=0.5)
        check_commands(connection)


def test_a_server_that_opens_no_session_is_named(given: Given) -> None:
    server = given("bash", MaxSessions="0")
    with pytest.raises(NoCommandsError, match=r"opens no session .* see MaxSessions"), connected(server):
        pass


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("internal-sftp", "This service allows sftp connections only."),
        (
            'echo \'Please login as the user "ubuntu" rather than the user "root".\'',
            'Please login as the user "ubuntu"',
        ),
    ],
)
def test_a_forced_command_in_place_of_ours_is_named_with_its_words(given: Given, command: str, words: str) -> None:
    with pytest.raises(NoCommandsError) as caught, connected(given("bash", ForceCommand=command)):
        pass
    assert words in str(caught.value)


def test_a_server_that_is_busy_with_other_logins_is_asked_again(given: Given) -> None:
    server = given("bash", MaxStartups="1")
    with socket.create_connection(("127.0.0.1", server.port)) as other:
        other.recv(100)  # it is being authenticated, and is the only one that may be
        threading.Timer(0.7, other.shutdown, args=(socket.SHUT_RDWR,)).start()
        with connected(server) as connection:
            assert connection.run("true", timeout_s=10).ok


# -- a whole job on the worst of them

TRAINER = """
import os
out = os.environ["PIXEL_ORCH_OUT"]
with open(out + "/.part", "wb") as file:
    file.write(b"w" * 300000)
os.rename(out + "/.part", out + "/checkpoint-5.pt")
print("done", flush=True)
"""
BITES = (
    "has functions and aliases",
    "has a BASH_ENV",
    "has an unknown LANG",
    "changes the folder",
    "has a CDPATH",
)
PYTHONS = f"""mkdir -p {HOME}/shadow; echo 'raise SystemExit(9)' | tee {HOME}/shadow/json.py > {HOME}/shadow/tarfile.py
export PYTHONPATH={HOME}/shadow PYTHONINSPECT=1"""
WORST = {
    "prints": ("bash", {".bashrc": BASH["prints"]}, {}),
    "has functions, BASH_ENV, LANG": ("bash", {".bashrc": "\n".join(BASH[each] for each in BITES)}, {}),
    "execs fish": ("bash", {".bashrc": "exec fish"}, {}),
    "execs zsh, one session": ("bash", {".bashrc": "exec zsh"}, {"MaxSessions": "1"}),
    "has a Python of its own": ("bash", {".bashrc": PYTHONS}, {}),
    "has fish": ("fish", {".config/fish/config.fish": "echo noise"}, {"MaxSessions": "1"}),
}


@pytest.mark.parametrize("what", WORST)
def test_a_whole_job_on_a_host_that(given: Given, tmp_path: Path, what: str) -> None:
    shell, files, options = WORST[what]
    for needed in ("zsh", "fish"):
        if needed in what and shutil.which(needed) is None:
            pytest.skip(f"there is no {needed}")
    server = given(shell, {name: content + "\n" for name, content in files.items()}, **options)
    work = tmp_path / "work"
    work.mkdir()
    (work / "träin \\1.py").write_text(TRAINER)
    job = Job(
        root="pixel-orch/contract", command=("python3", "träin \\1.py"), env={"A": "it's\n"}, config_json=None,
        tree=work, files=sync.workdir_tree(work, ()).files, owner_timeout_s=60, stop_timeout_s=5, metadata_poll_s=60,
    )  # fmt: skip
    host = server.host()
    setup = host.set_up(job)
    (tmp_path / "checkpoint-4.pt").write_bytes(DATA)
    host.send(job, tmp_path / "checkpoint-4.pt")
    assert (server.home / job.root / "out" / "checkpoint-4.pt").read_bytes() == DATA
    host.start(job, Setup(python=setup.python, torch="", gpu="", why=""))
    give_up_at = time.monotonic() + 30
    while (status := host.poll(job.root, Cursor())).trainer != "exited" or len(status.outputs) < 2:
        assert time.monotonic() < give_up_at, status
        time.sleep(0.1)
    assert (status.exit_code, status.log) == (0, b"done\n")
    assert host.fetch(job.root, status.outputs[-1], tmp_path / "home.pt")
    assert (tmp_path / "home.pt").read_bytes() == b"w" * 300_000
    host.close()
