"""`launch --image` on the machine: the image is pulled and the program run, through a docker of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.instance.docker import end_container, run_words
from infra.instance.layout import files_to_send
from tests.support.bare_machine import bootstrap, calls, environment, gpu, make_machine, program, python, refusal

IMAGE = "pytorch/pytorch:2.7.0"
ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/me/train:1"
# What Docker does, as far as we use it: `run` starts the program with the variables that were named alone, hands a
# signal on to it, and ends with its exit code.
DOCKER = """#!REAL
import json, os, signal, subprocess, sys

words, here = sys.argv[1:], "PROGRAMS"
with open(here + "/calls", "a") as file:
    file.write(json.dumps(["docker", *words]) + "\\n")
say = lambda text: print(text, file=sys.stderr, flush=True)
if os.path.exists(here + "/locked"):
    say("permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock")
    sys.exit(1)
if words[0] == "pull":
    print("2.7.0: Pulling from pytorch/pytorch\\naaaa: Pulling fs layer", flush=True)
    if os.path.exists(here + "/pull-says"):
        say(open(here + "/pull-says").read())
        sys.exit(1)
    if os.path.exists(here + "/hangs"):
        import time
        time.sleep(60)
if words[0] == "login":
    open(here + "/password", "w").write(sys.stdin.read())
if words[0] == "run":
    env, rest = {"PATH": "/usr/bin:/bin", "FROM_IMAGE": "1"}, words[1:]
    options = {}
    while rest[0].startswith("-"):
        if rest[0] in ("--rm", "--init"):
            rest = rest[1:]
            continue
        if rest[0] == "--env":
            name, equals, value = rest[1].partition("=")
            env[name] = value if equals else os.environ[name]
        options[rest[0]], rest = rest[1], rest[2:]
    program, folder = [options["--entrypoint"], *rest[1:]], options["--workdir"]
    child = subprocess.Popen(program, env=env, cwd=folder, start_new_session=True)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, lambda number, frame: child.send_signal(number))
    code = child.wait()
    sys.exit(code if code >= 0 else 128 - code)
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Give a machine with our programs, Docker, its toolkit for GPUs, and a sudo."""
    made = make_machine(tmp_path)
    for name, content in files_to_send(has_bucket=False, has_dataset=False, has_image=True).items():
        path = made / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in ("code", "agent", "out"):
        (made / "run" / name).mkdir()
    program(made, "docker", DOCKER)
    program(made, "nvidia-ctk", "#!/bin/sh\n")
    program(made, "sudo", '#!/bin/sh\n[ "$1" = -n ] && shift\nexec "$@"\n')
    program(made, "chgrp", '#!/bin/sh\necho "chgrp $*" >> PROGRAMS/calls; rm -f PROGRAMS/locked\n')
    return made


def pull(machine: Path, image: str = IMAGE, *, limit_s: float = 30, gpu_name: str = "Tesla T4") -> dict[str, Any]:
    """Run the set-up; return its answer."""
    order = {"image": image, "gpu": gpu_name, "env": {}, "python": sys.executable, "path_first": "", "limit_s": limit_s}
    order["path_first"] = str(machine / "programs")
    done = subprocess.run(
        [sys.executable, machine / "run" / "bin" / "container.py", "pull", machine / "run"],
        input=json.dumps({**order, "digest": "1"}).encode(),
        capture_output=True,
        env=environment(machine, PIXEL_ORCH_DOCKER_SOCKET="socket"),
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**answer, "said": done.stderr.decode()}


def asked(machine: Path, verb: str) -> list[list[str]]:
    """Return what Docker was asked for."""
    words = [json.loads(line) for line in calls(machine) if line.startswith("[")]
    return [each for each in words if each[1] == verb]


# -- the set-up


def test_the_image_is_pulled_with_a_sign_of_life(machine: Path) -> None:
    answer = pull(machine)
    assert answer["how"] == f"image {IMAGE}" and "failed" not in answer
    assert asked(machine, "pull") == [["docker", "pull", IMAGE]]
    assert answer["said"].splitlines() == [f"setup: docker pull {IMAGE}"]
    assert (machine / "run" / "container-home").is_dir()


@pytest.mark.parametrize(
    ("says", "means"),
    [
        ("Error response from daemon: manifest for x:9 not found: manifest unknown", "has no such tag"),
        ("Error: pull access denied for x, repository does not exist or may require 'docker login'", "needs a login"),
        ("failed to register layer: write /usr/lib: no space left on device", "a larger --disk-size"),
        ("Error response from daemon: Get https://nowhere: dial tcp: no such host", "exit code 1"),
    ],
)
def test_a_wrong_image_is_said_with_dockers_last_lines(machine: Path, says: str, means: str) -> None:
    (machine / "programs" / "pull-says").write_text(says)
    answer = pull(machine)
    assert answer["failed"].startswith(f"docker pull {IMAGE} ended with exit code 1") and means in answer["failed"]
    assert answer["tail"].splitlines()[-1] == says


@pytest.mark.slow
def test_a_pull_has_a_time_limit(machine: Path) -> None:
    (machine / "programs" / "hangs").touch()
    answer = pull(machine, limit_s=0.5)
    assert answer["failed"] == f"docker pull {IMAGE} did not end within 0.5 s"
    assert answer["tail"].splitlines()[-1] == "aaaa: Pulling fs layer"


def test_the_login_user_is_let_in_where_only_root_is(machine: Path) -> None:
    (machine / "programs" / "locked").touch()
    assert pull(machine)["how"] == f"image {IMAGE}"
    assert f"chgrp {os.getgid()} socket" in calls(machine)


@pytest.mark.slow
def test_a_machine_that_cannot_do_it_says_what_is_missing(machine: Path) -> None:
    (machine / "programs" / "nvidia-ctk").unlink()
    assert "no nvidia-container-toolkit" in pull(machine)["failed"]
    assert pull(machine, gpu_name="")["how"], "with --allow-cpu there may be no GPU"
    (machine / "programs" / "docker").unlink()
    assert "this machine has no docker: give an image (--ami) that has it" in pull(machine)["failed"]


@pytest.mark.slow
def test_the_password_of_ecr_is_on_no_command_line(machine: Path) -> None:
    assert "needs the aws command" in pull(machine, ECR)["failed"]
    program(machine, "aws", '#!/bin/sh\necho "aws $*" >> PROGRAMS/calls\necho s3cret\n')
    assert pull(machine, ECR)["how"] == f"image {ECR}"
    assert "aws ecr get-login-password --region eu-west-1" in calls(machine)
    assert asked(machine, "login")[0][2:] == ["--username", "AWS", "--password-stdin", ECR.split("/")[0]]
    assert (machine / "programs" / "password").read_text() == "s3cret\n" and "s3cret" not in "".join(calls(machine))
    program(machine, "aws", "#!/bin/sh\necho 'Unable to locate credentials' >&2\nexit 255\n")
    answer = pull(machine, ECR)
    assert "--instance-profile" in answer["failed"] and answer["tail"] == "Unable to locate credentials"


def test_the_bootstrap_looks_for_no_torch(machine: Path) -> None:
    gpu(machine)
    python(machine)
    code, answer, said = bootstrap(machine, "image", "gpu")
    assert code == 0, said
    assert answer["gpu"] == "Tesla T4" and answer["torch"] == "" and "path_first" not in answer
    assert not [line for line in calls(machine) if line.startswith(("pip", "apt-get"))]


def test_the_bootstrap_still_wants_a_gpu(machine: Path) -> None:
    python(machine)
    assert "the GPU of this instance cannot be used" in refusal(machine, "image", "gpu")


# -- the program


def started(machine: Path, *command: str, names: str = "", **env: str) -> subprocess.Popen[str]:
    """Start a program as the agent does."""
    words = ["run", str(machine / "run"), IMAGE, names, "1", *command]
    env = {"PIXEL_ORCH_OUT": str(machine / "run" / "out"), "PYTHONUNBUFFERED": "1", **env}
    return subprocess.Popen(
        [sys.executable, machine / "run" / "bin" / "container.py", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(machine, **env),
        start_new_session=True,
    )


def output(machine: Path, *command: str, **more: str) -> tuple[int, str]:
    """Run a program to its end; return its exit code and what it printed."""
    process = started(machine, *command, **more)
    said, _ = process.communicate(timeout=30)
    return process.returncode, said


def test_the_program_gets_its_words_its_folder_and_its_variables(machine: Path) -> None:
    code = "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]))"
    ended, said = output(
        machine, sys.executable, "-c", code, "a b", "$x", names="TOKEN,SEED", TOKEN="s3 cret\nline", SEED="1"
    )
    assert ended == 0
    words, folder, env = json.loads(said.splitlines()[-1])
    assert (words, folder) == (["a b", "$x"], str(machine / "run" / "code"))
    assert (env["TOKEN"], env["SEED"], env["FROM_IMAGE"]) == ("s3 cret\nline", "1", "1")
    assert env["PIXEL_ORCH_OUT"] == str(machine / "run" / "out")
    assert env["HOME"] == str(machine / "run" / "container-home")
    assert env["PATH"] == "/usr/bin:/bin", "the image's, not the machine's"
    (call,) = asked(machine, "run")
    assert "s3 cret" not in " ".join(call)
    assert asked(machine, "rm") == [["docker", "rm", "-f", "pixel-orch-run"]], "what an earlier start left"


@pytest.mark.parametrize(("code", "ended"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_exit_code_is_the_programs(machine: Path, code: str, ended: int) -> None:
    assert output(machine, sys.executable, "-c", code)[0] == ended


def test_sigterm_reaches_the_program_which_saves(machine: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "def save(*_):\n    open(os.environ['PIXEL_ORCH_OUT'] + '/saved', 'w').close()\n    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('ready', flush=True)\nsignal.pause()\n"
    )
    process = started(machine, sys.executable, "-c", code)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGTERM)  # as the agent does
    assert process.wait(30) == 143
    assert (machine / "run" / "out" / "saved").stat().st_uid == os.getuid()


def test_the_command_line_of_docker() -> None:
    words = run_words(
        "/home/ubuntu/pixel-orch/r",
        IMAGE,
        ["torchrun", "train.py", "--lr", "1"],
        names=["SEED", "HOME"],
        env={"PIXEL_ORCH_OUT": "x", "https_proxy": "y", "PATH": "z", "SECRET": "of the agent"},
        has_gpu=True,
        user=(1000, 1001),
        login="ubuntu",
    )
    assert " ".join(words) == (
        "docker run --rm --init --name pixel-orch-r --pull never --log-driver none --network host --ipc host "
        "--ulimit memlock=-1 --ulimit stack=67108864 --gpus all --user 1000:1001 "
        "--mount type=bind,source=/home/ubuntu/pixel-orch/r,target=/home/ubuntu/pixel-orch/r "
        "--workdir /home/ubuntu/pixel-orch/r/code --env USER=ubuntu --env LOGNAME=ubuntu "
        "--env SEED --env HOME --env PIXEL_ORCH_OUT --env https_proxy "
        f"--entrypoint torchrun {IMAGE} train.py --lr 1"
    )


def test_only_the_container_of_a_run_with_an_image_is_killed(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{machine / 'programs'}:/usr/bin:/bin")
    end_container({"image": None}, str(machine / "run"))
    assert not calls(machine)
    end_container({"image": IMAGE}, str(machine / "run"))
    from infra.instance import docker

    docker.ending[-1].wait(30)
    assert asked(machine, "rm") == [["docker", "rm", "-f", "pixel-orch-run"]]
