"""What a launch says before it rents: the command, the files, what is not sent, and where the settings come from."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import launch as launch_command
from orchestrator.cli.main import main
from orchestrator.host.connect import ssh_path
from orchestrator.plan.launch_preparation import PreparedLaunch, read_request
from orchestrator.plan.planner import make_plan
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore
from tests.support.memory import MemoryCloud, VirtualClock
from tests.unit.cli.test_command_line import GOOD, at_home, refused

__all__ = ["at_home"]
STRANGERS = "ssh_proxy: \"sh -c 'touch ran; exec nc %h %p'\"\nworkdir: ..\ncommand: \"sh -c 'find . -type f'\"\n"


def test_a_strangers_settings_are_refused_until_they_are_named(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pixel-orch.yaml").write_text(STRANGERS)
    for words in (GOOD, [*GOOD, "-d"], [*GOOD, "--dry-run"], [*GOOD, "--sync-dry-run"], GOOD[:-1]):
        line = refused(capsys, words)
        assert "pixel-orch.yaml: ssh-proxy is not allowed" in line
        assert line.endswith("if you trust it, name it: -f pixel-orch.yaml")
    bench = ["bench", "-t", "g4dn.xlarge", "--spot", "--cloud", "local", "-y"]
    assert "ssh-proxy is not allowed" in refused(capsys, bench)
    assert not (at_home / "home").exists()
    assert main([*GOOD, "-f", "pixel-orch.yaml", "--sync-dry-run"]) == 0
    out, err = capsys.readouterr()
    assert err == "settings: ssh-proxy, workdir, command from pixel-orch.yaml\n"
    assert f"from {at_home}; nothing was sent" in out


def test_where_settings_come_from_is_on_standard_error_and_json_stays_clean(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pixel-orch.yaml").write_text("spot: true\nworkdir: .\n")
    Path("a\nb.py").write_text("")
    Path(".env").write_text("")
    words = ["launch", "--cloud", "local", "-t", "p2.xlarge", "--sync-dry-run"]
    assert main([*words, "-o", "json", "--", "true"]) == 0
    out, err = capsys.readouterr()
    assert err == "settings: spot, workdir from ./pixel-orch.yaml\n"
    told = json.loads(out)
    assert (told["files"], told["left_out"]) == (["a\nb.py", "pixel-orch.yaml"], [".env"])
    assert main([*words, "--", "true"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        r"a\nb.py",
        "pixel-orch.yaml",
        "Not sent, as they may hold secrets (--include PATH sends one): .env.",
        f"2 files, 22 bytes from {at_home / 'cwd'}; nothing was sent",
    ]


def test_the_question_shows_command_files_secrets_and_settings(
    at_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("pixel-orch.yaml").write_text("spot: true\n")
    Path("t.py").write_text("x" * 2_000_000)
    Path("id_rsa").write_text("")
    flags = {"cloud": "local", "instance": "p2.xlarge", "workdir": "."}
    request = read_request(flags, ["python", "t.py", "--name", "a b\x1b[2J"], at_home / "home")
    cloud = MemoryCloud(VirtualClock())
    plan = make_plan(request.spec, cloud, "home")
    monkeypatch.setattr(launch_command, "confirm", lambda question, default: False)
    shown = io.StringIO()
    prepared = PreparedLaunch(request, plan, cloud, at_home, None)
    assert launch_command._agreed(prepared, launch_command.Screen(shown)) is False
    said = shown.getvalue()
    assert r"Command: python t.py --name 'a b\x1b[2J'" in said
    assert re.search(rf"Files: 2 files, 2.00 MB from\s+{at_home / 'cwd'}", said)
    assert "Settings: spot from ./pixel-orch.yaml" in said
    assert "id_rsa." in said


def test_a_check_without_a_region_says_that_the_region_is_missing(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "-o", "json"]) == 1
    told = {found["name"]: found["says"] for found in json.loads(capsys.readouterr().out)["checks"]}
    assert told["AWS credentials"].startswith("no AWS credentials found")
    assert told["AWS region"].startswith("no AWS region is set; give --region")


@pytest.mark.parametrize(
    "words",
    [
        *([word, "goood"] for word in ("status", "logs", "stop", "attach", "pull", "ssh", "report")),
        *(["down", "goood", "-y"], ["down", "goood*", "-y"], ["runs", "prune", "goood", "-y"]),
        *(["launch", "--resume", "goood", "-y"], [*GOOD, "--from", "goood"]),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_mistyped_run_is_guessed(at_home: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    for name in ("good", "other"):
        spec = RunSpec(run=name, cloud="local", instances=("p2.xlarge",), market="spot", regions=("us-east-1",))
        RunStore.create(at_home / "home", spec)
    assert re.search(r"did you mean (the run )?good\?", refused(capsys, words))


def test_a_path_with_percent_signs_is_one_to_openssh(tmp_path: Path) -> None:
    key = tmp_path / '50% "of" all\\' / "key"
    config = tmp_path / "config"
    config.write_text(f"Host x\n  IdentityFile {ssh_path(key)}\n  UserKnownHostsFile {ssh_path(key)}\n")
    try:
        shown = subprocess.run(["ssh", "-F", config, "-G", "x"], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("no OpenSSH client")
    told = dict(line.split(" ", 1) for line in shown.stdout.splitlines() if " " in line)
    assert told["identityfile"].replace("%%", "%") == str(key)
    assert told["userknownhostsfile"].replace("%%", "%") == str(key)


def test_a_home_with_a_percent_sign_can_be_asked_for_help(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(at_home / "50%s%(prog)d"))
    for words in (["status"], ["status", "--help"], ["launch", "--help"]):
        done = subprocess.run([sys.executable, "-m", "orchestrator.cli", *words], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
