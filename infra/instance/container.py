#!/usr/bin/env python3
"""Runs the user's program in a Docker image.

    container.py pull ROOT < order        the last line is one JSON object, as that of `user_setup.py`
    container.py run ROOT IMAGE NAMES GPU COMMAND...     becomes `docker run`

NAMES are those of the user's variables, with commas between them; GPU is 1 where the machine's GPUs are used, else 0.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import time
from typing import Any, NoReturn

from infra.instance.docker import HOME_FOLDER, name_of, run_words
from infra.instance.programs import last_line, run, run_as_root
from infra.instance.user_setup import FailedError, Setup, answer, say

ECR = re.compile(r"\d{12}\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
TOOLKIT = ("nvidia-ctk", "nvidia-container-cli", "nvidia-container-runtime-hook")
ASK_S = 60.0
START_TRIES, START_PAUSE_S = 10, 2.0  # the daemon may still start while the machine boots
ECR_NEEDS = (
    "the machine needs a role that allows ecr:GetAuthorizationToken, ecr:BatchGetImage and ecr:GetDownloadUrlForLayer: "
    "give --instance-profile NAME"
)
MEANINGS = (
    ("no space left", "the disk is full: give a larger --disk-size"),
    ("toomanyrequests", "the registry limits anonymous pulls: copy the image to ECR"),
    ("denied", "it does not exist, or needs a login: only ECR is logged in to, with the role of --instance-profile"),
    ("unauthorized", "it needs a login: only ECR is logged in to, with the role of --instance-profile"),
    ("manifest unknown", "the repository has no such tag: check --image"),
    ("not found", "there is no such image: check --image"),
    ("no matching manifest", "the image is not for this machine's processor"),
)
"""What Docker says, in lower case, and what to do; the first that fits."""


class Pull:
    """The set-up of a program that runs in an image: Docker can be used, and the image is there.

    Args:
        root: the run's folder.
        order: as that of `user_setup.py`, with `image` and `gpu`.
    """

    def __init__(self, root: str, order: dict[str, Any]) -> None:
        self.setup = Setup(root, order)
        self.root = root
        self.image: str = order["image"]
        self.has_gpu = bool(order.get("gpu"))

    def run(self) -> str:
        """Pull the image; return how, for people."""
        self.reach_docker()
        if self.has_gpu and not any(map(self.setup.which, TOOLKIT)):
            raise FailedError("this machine has no nvidia-container-toolkit, which --gpus needs: give another --ami")
        self.log_in()
        os.makedirs(os.path.join(self.root, HOME_FOLDER), exist_ok=True)
        try:
            self.setup.step("docker pull %s" % self.image, ["docker", "pull", self.image])
        except FailedError as error:
            said = error.tail.lower()
            meaning = next((": %s" % what for words, what in MEANINGS if words in said), "")
            raise FailedError("%s%s" % (error, meaning), error.tail) from None
        return "image %s" % self.image

    def reach_docker(self) -> None:
        """Make sure that this user may use Docker. The group of its socket is changed where it is not his."""
        if not self.setup.which("docker"):
            raise FailedError("this machine has no docker: give an image (--ami) that has it, or drop --image")
        for turn in range(START_TRIES):
            code, _, why = self.setup.ask(["docker", "version", "--format", "{{.Server.Version}}"], ASK_S)
            if code == 0:
                return
            if "permission denied" in why.lower():
                socket = os.environ.get("PIXEL_ORCH_DOCKER_SOCKET", "/var/run/docker.sock")
                run_as_root(["chgrp", str(os.getgid()), socket], ASK_S)
                run_as_root(["chmod", "g+rw", socket], ASK_S)
            elif turn == 0:
                run_as_root(["systemctl", "start", "docker"], ASK_S)
            else:
                say("docker does not answer: %s" % why)
                time.sleep(START_PAUSE_S)
        raise FailedError("docker does not answer: %s" % why)

    def log_in(self) -> None:
        """Log in to ECR with the machine's role. The password is on no command line."""
        host = self.image.split("/")[0]
        found = ECR.fullmatch(host)
        if not found:
            return
        if not self.setup.which("aws"):
            raise FailedError("the login to ECR needs the aws command, which this machine lacks: give another --ami")
        say("docker login %s" % host)
        words = ["aws", "ecr", "get-login-password", "--region", found[1]]
        done = self._quietly(words)
        if done.returncode != 0:
            raise FailedError("aws ecr get-login-password failed: %s" % ECR_NEEDS, _words(done))
        done = self._quietly(["docker", "login", "--username", "AWS", "--password-stdin", host], done.stdout)
        if done.returncode != 0:
            raise FailedError("docker login %s failed" % host, _words(done))

    def _quietly(self, words: list[str], said: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                words, input=said, capture_output=True, env=self.setup.env, timeout=ASK_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise FailedError("%s did not end within %g s" % (" ".join(words[:3]), ASK_S)) from None


def _words(done: subprocess.CompletedProcess[bytes]) -> str:
    return last_line(done.stderr.decode(errors="replace"))


def pull(root: str, order: dict[str, Any]) -> NoReturn:
    """Do `pull`, and print the answer."""
    began_at = time.monotonic()
    try:
        how = Pull(root, order).run()
    except FailedError as error:
        answer(seconds=time.monotonic() - began_at, how="", failed=str(error), tail=error.tail)
    except OSError as error:
        answer(seconds=time.monotonic() - began_at, how="", failed=str(error), tail="")
    answer(seconds=time.monotonic() - began_at, how=how, python="", path_first="")


def start(root: str, image: str, names: str, gpu: str, command: list[str]) -> NoReturn:
    """Become `docker run`. A container of an earlier start, which the agent did not survive, is removed first."""
    try:
        run(["docker", "rm", "-f", name_of(root)], ASK_S)
    except OSError:
        pass  # the exec below says it
    words = run_words(
        root,
        image,
        command,
        names=[name for name in names.split(",") if name],
        env=os.environ,
        has_gpu=gpu == "1",
        user=(os.getuid(), os.getgid()),
        login=pwd.getpwuid(os.getuid()).pw_name,
    )
    docker = shutil.which("docker")
    if docker is None:
        sys.exit("pixel-orch: cannot start %s: this machine has no docker" % shlex.join(words[:2]))
    os.execv(docker, words)  # noqa: S606  (no shell: the program gets its words as they are)


if __name__ == "__main__":
    place = os.path.abspath(os.path.expanduser(sys.argv[2]))
    if sys.argv[1] == "pull":
        pull(place, json.load(sys.stdin))
    start(place, sys.argv[3], sys.argv[4], sys.argv[5], sys.argv[6:])
