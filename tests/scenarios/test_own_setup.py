"""A program's own packages on the embedded cloud: installed for the run alone, on each of its machines. Slow."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.runs.events import HostReady
from tests.support.stage import Stage, last_json, staged
from tests.support.wheels import make_wheel

pytestmark = pytest.mark.slow

PROGRAM = """
import os, subprocess, sys
import tinypk
subprocess.run("pip install -q --no-index wheels/typedpk-1.0-py3-none-any.whl", shell=True, check=True)
where = subprocess.run(["python", "-c", "import typedpk; print(typedpk.__file__)"], capture_output=True, text=True)
assert where.stdout.startswith(sys.prefix + "/lib"), where
assert tinypk.__file__.startswith(sys.prefix + "/lib")
print("installed below", os.path.dirname(sys.prefix))
os.execvp("python", ["python", *sys.argv[1:]])
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    for found in staged(tmp_path):
        make_wheel(found.work / "wheels", "tinypk")
        make_wheel(found.work / "wheels", "typedpk")
        (found.work / "main.py").write_text(PROGRAM)
        yield found


def launch_words(stage: Stage, *flags: str, program: tuple[str, ...]) -> list[str]:
    words = [
        "launch",
        "--cloud",
        "local",
        "-t",
        "p2.xlarge",
        "--spot",
        "-y",
        "-n",
        "tiny",
        "--workdir",
        str(stage.work),
    ]
    return [*words, *flags, "--", *program]


def test_a_run_has_its_packages_on_each_machine_and_the_user_keeps_his_environment(stage: Stage) -> None:
    (stage.work / "requirements.txt").write_text("--no-index\n-f wheels\ntinypk\n")
    program = ("python", "main.py", "train.py", "60", "0.05")
    process = stage.start(*launch_words(stage, "-o", "json", program=program))
    stage.until_step(10)
    stage.embedded().interrupt(stage.instance_id(1), notice=False)
    assert process.wait(timeout=90) == 0, stage.said(process)
    said = stage.said(process)
    assert "Setup: requirements.txt (1 package) is installed on the machine with pip" in " ".join(said.split())
    assert "; requirements.txt with pip in " in said
    ready = [event for event in stage.store.events() if isinstance(event, HostReady)]
    assert [event.attempt for event in ready] == [1, 2]
    assert all(event.user_setup_how == "requirements.txt with pip" for event in ready)
    assert all(0 < event.user_setup_s <= event.setup_s for event in ready)
    told = last_json(said)
    assert (told["state"], told["setup"]) == ("SUCCEEDED", "requirements.txt with pip")
    assert told["user_setup_s"] == pytest.approx(sum(event.user_setup_s for event in ready))
    assert 0 < told["user_setup_usd"] < told["cost_usd"]
    for name in ("tinypk", "typedpk"):
        assert importlib.util.find_spec(name) is None, "the user's own environment is as it was"
    stage.check_nothing_is_left()


def test_a_setup_command_that_fails_ends_the_machine_and_a_resume_can_mend_it(stage: Stage) -> None:
    command = "echo so far so good; pip install --no-index nosuchpk"
    words = launch_words(stage, "--setup", command, program=("python3", "train.py", "10", "0.02"))
    code, said = stage.run(*words)
    assert code == 1
    assert "set-up: the setup command ended with exit code 1; its last lines:\n" in said
    assert "  so far so good\n" in said
    assert "No matching distribution found for nosuchpk" in said
    assert len(stage.state().attempts) == 1
    stage.check_nothing_is_left()
    code, said = stage.run("launch", "--resume", "tiny", "-y", "--setup", "pip install --no-index -f wheels tinypk")
    assert code == 0, said
    assert stage.state().state == "SUCCEEDED"
    stage.check_nothing_is_left()


def test_a_mistyped_script_rents_nothing(stage: Stage) -> None:
    code, said = stage.run(*launch_words(stage, program=("python", "trian.py")))
    assert code == 2
    assert "error: --: trian.py is not among the files that are sent; did you mean train.py?" in said
    assert not stage.home.exists()
