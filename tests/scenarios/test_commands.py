"""What one does while a run goes on, from other processes.

Status, logs, pull, ssh, attach, down; and what a pipe gets.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stage import Stage, last_json, staged

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage."""
    yield from staged(tmp_path)


def test_the_commands_beside_a_run_that_goes_on(stage: Stage) -> None:
    launch = stage.start(*stage.launch_words("2000", "0.05"))
    stage.until_step(25)

    code, said = stage.run("status", "-o", "json")
    (row,) = json.loads(said)
    assert code == 0
    assert (row["run"], row["state"], row["owner_pid"]) == ("tiny", "RUNNING", launch.pid)

    code, said = stage.run("status", "tiny")
    assert code == 0
    assert f"process {launch.pid}" in said

    code, said = stage.run("logs", "tiny")
    assert "step 1 weights" in said

    code, said = stage.run("pull", "tiny", "--out", str(stage.work / "mine"), "-o", "json")
    assert code == 0, said
    assert Path(last_json(said)["checkpoint"]).parent == stage.work / "mine"

    code, said = stage.run("cleanup", "--cloud", "local", "-y")
    assert code == 0
    assert "nothing to do" in said, "a run that somebody leads is none of cleanup's business"
    assert stage.state().state == "RUNNING"

    code, said = stage.run("down", "ti*", "-y", "-o", "json")
    assert code == 0, said
    assert last_json(said) == {"ended": ["tiny"]}
    assert launch.wait(30) == 130
    assert stage.state().state == "CANCELLED"
    stage.check_nothing_is_left()

    code, said = stage.run("down", "tiny", "-y")
    assert code == 0
    assert "CANCELLED already" in said
    code, said = stage.run("attach", "tiny", "-o", "json")
    assert last_json(said)["state"] == "CANCELLED"


@pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no OpenSSH client on this machine")
def test_ssh_runs_a_command_with_the_pinned_key(stage: Stage) -> None:
    launch = stage.start(*stage.launch_words("2000", "0.05"))
    stage.until_step(5)
    code, said = stage.run("ssh", "tiny", "--", "echo in $HOME; exit 7")
    assert code == 7
    assert f"in {stage.home}/local/instances/{stage.instance_id()}/home" in said
    os.kill(launch.pid, signal.SIGTERM)
    assert launch.wait(30) == 130
    stage.check_nothing_is_left()


def test_attach_follows_a_run_that_is_led_and_ends_with_it(stage: Stage) -> None:
    launch = stage.start(*stage.launch_words("60", "0.05"))
    stage.until_step(5)
    code, said = stage.run("attach", "tiny")
    assert code == 0, said
    assert "following it" in said
    assert launch.wait(30) == 0
    stage.check_nothing_is_left()


def test_two_runs_at_once_share_the_embedded_cloud_and_the_last_one_ends_it(stage: Stage) -> None:
    first = stage.start(*stage.launch_words("40", "0.05"))
    words = stage.launch_words("60", "0.05")
    words[words.index("tiny")] = "other"
    second = stage.start(*words)
    assert first.wait(60) == 0, stage.said(first)
    assert second.wait(60) == 0, stage.said(second)
    stage.check_nothing_is_left()


def test_a_pipe_gets_plain_lines_of_at_most_80_columns(stage: Stage) -> None:
    code, said = stage.run(*stage.launch_words("40", "0.05"))
    assert code == 0
    assert "\x1b" not in said
    assert "\r" not in said
    assert [line for line in said.splitlines() if len(line) > 80 and str(stage.home) not in line] == []


def test_values_with_quotes_blanks_and_dollars_reach_the_program_unharmed(stage: Stage) -> None:
    odd = "a b'c\"d $(touch pwned) `x` \\ \n line2 ü ; rm -rf ~"
    (stage.work / "odd name $x.py").write_text(
        "import os, sys, json\n"
        "open(os.environ['PIXEL_ORCH_OUT'] + '/metrics.jsonl', 'w').write(json.dumps({'step': 1}) + '\\n')\n"
        "print(json.dumps([os.environ['ODD'], sys.argv[1:]]))\n"
    )
    words = ["launch", "--cloud", "local", "--instance", "p2.xlarge", "--on-demand", "-y", "-n", "tiny"]
    words += ["--workdir", str(stage.work), "--env", f"ODD={odd}", "--", "python3", "odd name $x.py", odd]
    code, said = stage.run(*words)
    assert code == 0, said
    code, said = stage.run("logs", "tiny")
    assert json.loads(said) == [odd, [odd]]
    for path in (stage.home / "runs").rglob("events.jsonl"):
        assert "pwned" not in path.read_text()
    stage.check_nothing_is_left()


def test_metrics_and_checkpoints_in_the_working_folder_are_found_too(stage: Stage) -> None:
    (stage.work / "simple.py").write_text(
        "import json, time\n"
        "time.sleep(1.5)\n"
        "with open('metrics.jsonl', 'a') as file:\n"
        "    for step in range(1, 6):\n"
        "        file.write(json.dumps({'step': step}) + '\\n')\n"
        "open('checkpoint-5.pt', 'w').write('weights')\n"
    )
    words = ["launch", "--cloud", "local", "--instance", "p2.xlarge", "--spot", "-y", "-n", "tiny", "-o", "json"]
    code, said = stage.run(*words, "--workdir", str(stage.work), "--", "python3", "simple.py")
    assert code == 0, said
    answer = last_json(said)
    assert answer["steps"] == 5
    assert Path(answer["checkpoint"]).read_text() == "weights"
