"""Bad input is one clear line, exit code 2, and nothing is created. The commands run as a user runs them."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from orchestrator.cli import bench, check, setup
from orchestrator.cli.flags import EXAMPLES, parser
from orchestrator.cli.main import main
from orchestrator.plan.settings import spec_from
from orchestrator.runs.events import InstanceStarted
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore

LOCAL = ["launch", "--cloud", "local", "-y"]
GOOD = [*LOCAL, "--instance", "p2.xlarge", "--spot"]


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder with an empty home and no trace of AWS."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """Run a command that must be refused; return its one line."""
    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    lines = [line for line in err.strip().splitlines() if not line.startswith(("usage:", " "))]
    assert code == 2, err
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert out == ""
    return lines[0]


BAD = [
    ([*LOCAL, "--spot"], "--instance is missing"),
    ([*LOCAL, "--spot", "--instance", "p2.xlrage"], "did you mean p2.xlarge"),
    ([*LOCAL, "--spot", "--instance", ""], "names no instance type"),
    ([*LOCAL, "--spot", "--instance", "p2.xlarge,"], "names no instance type"),
    ([*LOCAL, "--spot", "--instance", "$(reboot)"], "unknown instance type"),
    ([*LOCAL, "--spot", "--instance", "p2.xlarge\x00"], "unknown instance type"),
    ([*LOCAL, "--instance", "p2.xlarge"], "add --spot"),
    ([*GOOD, "--on-demand"], "two markets"),
    ([*GOOD, "--max-price", "-1"], "--max-price"),
    ([*GOOD, "--max-price", "nan"], "--max-price"),
    ([*GOOD, "--max-price", "cheap"], "--max-price"),
    (
        [*LOCAL, "--instance", "p2.xlarge", "--on-demand", "--max-price", "1"],
        "on-demand prices are fixed",
    ),
    ([*GOOD, "--region", "us-eats-1"], "did you mean us-east-1"),
    (["launch", "--cloud", "gcp", "--instance", "p2.xlarge", "--spot", "-y"], "unknown cloud 'gcp'"),
    ([*GOOD, "-n", "Bad Name"], "is not a run's name"),
    ([*GOOD, "-n", "-x"], "-n"),
    ([*GOOD, "-n", "x" * 41], "is not a run's name"),
    ([*GOOD, "-n", ""], "is not a run's name"),
    ([*GOOD, "-n", "ünïcode"], "is not a run's name"),
    ([*GOOD, "--steps", "0"], "steps"),
    ([*GOOD, "--steps", "many"], "--steps"),
    ([*GOOD, "--set", "learning_rat=1"], "learning_rate"),
    ([*GOOD, "--set", "learning_rate=nan"], "learning_rate"),
    ([*GOOD, "--set", "nonsense"], "NAME=VALUE"),
    ([*GOOD, "--workdir", "~nobody-here/x", "--", "true"], "is not a folder"),
    ([*GOOD, "--key", "~nobody-here/x"], "is not a file"),
    ([*GOOD, "--env-file", "~nobody-here/x"], "cannot read ~nobody-here/x"),
    ([*GOOD, "--from", "~nobody-here/x"], "--from: there is no ~nobody-here/x"),
    ([*GOOD, "-f", "~nobody-here/x"], "cannot read ~nobody-here/x"),
    ([*GOOD, "--ssh-proxy", "nc 'x %h"], '--ssh-proxy: "nc \'x %h": no closing quotation'),
    ([*GOOD, "--ssh-proxy", "nc %h %p\n  ProxyJump x"], "--ssh-proxy: give one command in one line"),
    ([*GOOD, "--ssh-proxy", " "], "--ssh-proxy: give one command in one line"),
    ([*GOOD, "--set", "facts=1"], "facts in --set cannot be given"),
    ([*GOOD, "--set", "seed=\udce9"], "half a character"),
    ([*GOOD, "--env", "A=\ud800"], "half a character"),
    ([*GOOD, "--workdir", "caf\udce9", "--", "true"], "half a character"),
    ([*GOOD, "--workdir", ".", "--", "echo", "\udcff"], "half a character"),
    (["status", "\udcff"], "half a character"),
    (["train", "--out", "\udcff"], "half a character"),
    (["bench", "-t", "p2.xlarge", "--spot", "--command", "echo 'a"], '--command: "echo \'a": no closing quotation'),
    (["bench", "-t", "p2.xlarge", "--spot", "--command", "echo \\"], "no escaped character"),
    ([*GOOD, "--model", "gan"], "model"),
    ([*GOOD, "--dataset", "imagenet"], "dataset"),
    ([*GOOD, "--env", "1X=2"], "--env"),
    ([*GOOD, "--env", "PIXEL_ORCH_OUT=/"], "set by pixel-orch itself"),
    ([*GOOD, "--workdir", "missing", "--", "python", "x.py"], "is not a folder"),
    ([*GOOD, "--workdir", "."], "--workdir needs a command"),
    ([*GOOD, "--", "python", "x.py"], "needs --workdir"),
    ([*GOOD, "--include", "x"], "--include needs --workdir"),
    ([*GOOD, "--workdir", ".", "--include", "x", "--", "true"], "--include: x is not in"),
    ([*GOOD, "--workdir", ".", "--", "true"], "no file to send"),
    ([*GOOD, "--workdir", ".", "--steps", "3", "--", "true"], "setting of the bundled trainer"),
    ([*GOOD, "--interrupt-after", "-3"], "--interrupt-after"),
    ([*GOOD, "--interrupt-after", "nan"], "--interrupt-after"),
    (
        ["launch", "--instance", "g4dn.xlarge", "--spot", "-y", "--region", "us-east-1", "--interrupt-after", "3"],
        "embedded",
    ),
    ([*GOOD, "--budget", "0"], "--budget"),
    ([*GOOD, "--budget", "nan"], "--budget"),
    ([*GOOD, "--budget", "lots"], "--budget: 'lots' is not a number"),
    (["dashboard", "--port", "1"], "--port: 1 is not a port; give one from 1024"),
    ([*GOOD, "--max-duration", "-3h"], "--max-duration"),
    ([*GOOD, "--max-duration", "soon"], "--max-duration"),
    ([*GOOD, "--max-duration", "5x"], "'5x' is not a duration"),
    ([*GOOD, "--idle-minutes-to-autostop", "0"], "--idle-minutes-to-autostop"),
    ([*GOOD, "--faults", "missing.yaml"], "--faults"),
    ([*GOOD, "--strategy", "luck"], "--strategy: 'luck'"),
    ([*GOOD, "--subnet", "subnet-xyz"], "is not a subnet id"),
    ([*GOOD, "--subnet", "$(reboot)"], "is not a subnet id"),
    ([*GOOD, "--ssh-cidr", "0.0.0.0/0"], "is too wide; use a /8 or smaller"),
    ([*GOOD, "--ssh-cidr", "here"], "is not a network"),
    ([*GOOD, "--ssh-cidr", "2001:db8::/32"], "IPv6"),
    ([*GOOD, "--login-user", "root; reboot"], "is not a user name"),
    ([*GOOD, "--key", "missing.pem"], "is not a file"),
    ([*GOOD, "--key", "."], "is not a file"),
    ([*GOOD, "--disk-size", "3"], "--disk-size"),
    ([*GOOD, "--disk-size", "big"], "--disk-size"),
    ([*GOOD, "--tag", "team"], "--tag: 'team' is not NAME=VALUE"),
    ([*GOOD, "--tag", "aws:team=x"], "is reserved"),
    ([*GOOD, "--tag", "pixel-orch:run=x"], "is reserved"),
    ([*GOOD, "--tag", "x=" + "y" * 257], "up to 256"),
    ([*GOOD, "--env", "NOT_SET_ANYWHERE"], "is not set here"),
    ([*GOOD, "--env-file", "missing.env"], "cannot read missing.env"),
    (["launch", "--instance", "p2.xlarge", "--spot", "-y", "--profile", "nobody", "--region", "us-east-1"], "nobody"),
    (["check", "--instance", "p2.xlrage"], "did you mean p2.xlarge"),
    (["ssh"], "name a run"),
    ([*GOOD, "--detach", "--interrupt-after", "3"], "--interrupt-after needs a launch in the foreground"),
    (["launch", "--resume", "nobody", "-y"], "no run is called nobody"),
    ([*GOOD, "--private"], "--private needs the network that connects to the instance"),
    ([*GOOD, "--from", "nowhere"], "--from: there is no nowhere"),
    ([*GOOD, "--from", "s3://b"], "--from: 's3://b' is not an S3 URL"),
    ([*GOOD, "--prepare", "levels=4"], "--prepare: digits comes with the trainer"),
    ([*GOOD, "--dataset", "cifar10", "--prepare", "levels"], "--prepare: 'levels' is not NAME=VALUE"),
    ([*GOOD, "--dataset", "cifar10", "--prepare", "levels=1"], "is not a whole number from 2 to 256"),
    (["stop", "nobody"], "no run is called nobody"),
    ([*GOOD, "-f", "missing.yaml"], "cannot read missing.yaml"),
    ([*GOOD, "-f", "."], "cannot read ."),
    ([*GOOD, "--max-duration", "1e-400"], "out of all proportion"),
    ([*GOOD, "--max-duration", "1e11d"], "too short, or longer than 100 years"),
    ([*GOOD, "--budget", "1e400"], "out of all proportion"),
    ([*GOOD, "--env-file", "/dev/zero"], "is larger than 1 MiB"),
    ([*GOOD, "--workdir", "d" * 5000], "too long"),
    ([*GOOD, "--bogus"], "--bogus; pixel-orch launch --help lists the flags"),
    ([*GOOD, "--max-prize", "1"], "did you mean --max-price?"),
    ([*GOOD, "train.py"], "the command of your own program follows --"),
    (["frobnicate"], "there is no command 'frobnicate'; pixel-orch --help"),
    (["lauch"], "there is no command 'lauch'; did you mean launch?"),
    (["status", "--outptu", "json"], "did you mean --output?"),
    (["cost-report", "--htlm", "x"], "did you mean --html?"),
    ([*GOOD, "--workdir", ".", "--", "python x.py"], "'python x.py' is quoted as one word; give -- python x.py"),
    ([*GOOD, "--from", "nosuchrun"], "give a run's name, a checkpoint"),
    ([], "COMMAND"),
    (["status", "nobody"], "no run is called nobody"),
    (["status", "../x"], "is not a run's name"),
    (["logs", "nobody"], "no run is called nobody"),
    (["attach", "nobody"], "no run is called nobody"),
    (["pull", "nobody"], "no run is called nobody"),
    (["ssh", "nobody"], "no run is called nobody"),
    (["down", "nobody", "-y"], "no run is called nobody"),
    (["down", "no*", "-y"], "no run matches"),
    (["down"], "name a run"),
    (["report", "nobody"], "no run is called nobody"),
    (["cleanup", "--cloud", "mars"], "unknown cloud 'mars'"),
    (["check", "--cloud", "mars"], "unknown cloud 'mars'"),
    (["status", "--", "x"], "takes nothing after --"),
    (["launch", "--cloud", "local", "--instance", "p2.xlarge", "--spot"], "stdin is not a terminal; pass -y"),
    (["launch", "--instance", "p2.xlarge", "--spot"], "no AWS credentials found"),
    (["launch", "--instance", "p2.xlarge", "--spot", "-y", "--region", "us-east-1"], "no AWS credentials found"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_bad_input_is_one_line_exit_2_and_creates_nothing(
    at_home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    says: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert says in refused(capsys, words)
    assert not (at_home / "home" / "runs").exists()
    assert not (at_home / "home" / "local").exists()


FILES = {
    "empty": (b"", "is empty"),
    "blank": (b"\n# only a comment\n", "is empty"),
    "binary": (bytes(range(256)), "is not a text file"),
    "broken": (b"instance: [p2.xlarge\nspot: {", "line"),
    "a list": (b"- p2.xlarge\n", "give key: value lines"),
    "a word": (b"hello", "give key: value lines"),
    "unknown key": (b"instnace: p2.xlarge\n", "did you mean instance"),
    "yes": (b"instance: p2.xlarge\nyes: true\n", "yes is not a setting of a run; give --yes on the command line"),
    "a flag": (b"detach: true\n", "detach is not a setting of a run"),
    "wrong type": (b"instance: p2.xlarge\nsteps: many\n", "steps must be int"),
    "bool for a number": (b"instance: p2.xlarge\nsteps: true\n", "steps must be int"),
    "both markets": (b"instance: p2.xlarge\nspot: true\non-demand: true\n", "two markets"),
    "NaN price": (b"instance: p2.xlarge\nspot: true\nmax-price: .nan\n", "--max-price"),
    "open quote": (b"workdir: .\ncommand: python 'x\ninstance: p2.xlarge\nspot: true\n", "no closing quotation"),
    "no command": (b"workdir: .\ncommand: ''\ninstance: p2.xlarge\nspot: true\n", "command: it is empty"),
    "facts": (b"instance: p2.xlarge\nspot: true\nset: {facts: 1}\n", "facts in --set cannot be given"),
    "on": (b"instance: p2.xlarge\nspot: true\nenv: {DEBUG: on}\n", 'write DEBUG: "on"'),
    "alias": (b"env: &a {A: x}\ntag: *a\n", "aliases (*a) are not read"),
    "surrogate": (b'name: "\\ud800"\n', "half a character"),
    "python object": (b"instance: !!python/object/apply:os.system ['true']\n", "line"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_one_line_that_names_it(at_home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    content, says = FILES[name]
    Path("run.yaml").write_bytes(content)
    line = refused(capsys, [*LOCAL, "-f", "run.yaml"])
    assert says in line
    assert "run.yaml" in line or name in ("both markets", "NaN price", "open quote", "no command", "facts")
    assert not (at_home / "home").exists()


def test_flags_win_over_the_file(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text(
        "instance: [g4dn.xlarge, g5.xlarge]\non-demand: true\ncloud: local\nsteps: 50\nset: {seed: 3, hidden: 8}\n"
        "env: {A: 1}\nname: from-file\n"
    )
    words = ["launch", "-f", "run.yaml", "--spot", "--steps", "70", "--set", "seed=4", "--env", "B=x=y", "-n", "mine"]
    args: argparse.Namespace = parser().parse_args(words)
    spec = spec_from(vars(args), [])
    assert spec.trainer is not None
    assert (spec.run, spec.market, spec.instances) == ("mine", "spot", ("g4dn.xlarge", "g5.xlarge"))
    assert (spec.trainer.steps, spec.trainer.seed, spec.trainer.hidden) == (70, 4, 8)
    assert spec.env == {"A": "1", "B": "x=y"}


def test_a_home_that_cannot_be_written_is_refused(
    at_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (at_home / "file").write_text("")
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(at_home / "file" / "home"))
    assert "PIXEL_ORCH_HOME" in refused(capsys, GOOD)


def test_without_credentials_the_line_says_both_ways_on(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, ["launch", "--instance", "p2.xlarge", "--spot", "-y", "--region", "us-east-1"])
    assert "aws configure" in line
    assert "--cloud local" in line


def test_a_retired_type_is_refused_on_aws_with_what_to_take_instead(
    at_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    line = refused(capsys, ["launch", "--instance", "p2.xlarge", "--spot", "-y", "--region", "us-east-1"])
    assert "retired" in line
    assert "g4dn.xlarge" in line


@pytest.mark.parametrize("line", ["just words", "1X=2", "=secret-value"])
def test_a_bad_line_of_an_env_file_is_named_by_its_number_and_not_shown(
    at_home: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    (at_home / "cwd" / "x.env").write_text(f"# a comment\nA=1\n{line}\n")
    said = refused(capsys, [*GOOD, "--env-file", "x.env"])
    assert "x.env, line 3 is not NAME=VALUE" in said
    assert "secret-value" not in said


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_help_shows_an_example_within_80_columns(name: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", name, "--help"], capture_output=True, text=True, check=True
    )
    assert "example" in shown.stdout.lower()
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_the_help_of_all_and_of_a_command_within_a_command_too() -> None:
    top = parser()
    commands = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction)).choices
    runs = next(a for a in commands["runs"]._actions if isinstance(a, argparse._SubParsersAction)).choices
    assert "example" in runs["prune"].format_help()
    for each in (top, runs["prune"]):
        assert max(map(len, each.format_help().splitlines())) <= 80


def test_what_check_and_setup_say_keeps_to_80_columns() -> None:
    says = "ami-08b0b07f1ceccf87d Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20261101, user ubuntu"
    first, *more = check.finding_lines("ok       us-east-1 image  ", says)
    assert len(first) <= 80
    assert more
    assert all(line.startswith(" " * 26) and len(line) <= 80 for line in more)
    assert max(map(len, setup.AT_REST.splitlines())) <= 80


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from orchestrator.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'boto3', 'fabric', 'pydantic', 'yaml', 'torch'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.slow
def test_no_command_of_the_orchestrator_imports_torch(at_home: Path) -> None:
    code = (
        "import sys; from orchestrator.cli import launch, status; from orchestrator.host import shell, ssh_host\n"
        "from orchestrator.cloud.aws import AwsCloud\n"
        "print('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_a_model_of_the_users_own_is_not_taken_for_ours(at_home: Path) -> None:
    Path("model.py").write_text("print('the wrong one')")
    shown = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "sample", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert "the wrong one" not in shown.stdout
    assert "--checkpoint" in shown.stdout


def test_an_empty_store_is_said(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert "no runs yet" in capsys.readouterr().out
    assert main(["status", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["report"]) == 0
    assert "no runs yet" in capsys.readouterr().out
    assert main(["down", "-a", "-y"]) == 0
    assert main(["cleanup", "--cloud", "local", "-y"]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_sync_dry_run_lists_and_sends_nothing(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.py").write_text("print(1)")
    assert main([*GOOD, "--workdir", ".", "--sync-dry-run", "--", "python", "a.py"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "a.py"
    assert not (at_home / "home").exists()


def damaged(home: Path) -> RunStore:
    """Return a run whose first line of events is torn."""
    spec = RunSpec(run="torn", cloud="local", instances=("p2.xlarge",), market="spot", regions=("us-east-1",))
    store = RunStore.create(home, spec)
    (store.folder / "events.jsonl").write_bytes(b'{"kind":"run_crea\xff\x00\n')
    return store


def test_a_run_whose_first_line_is_damaged_is_listed_so_and_can_be_pruned(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = damaged(at_home / "home")
    assert store.state().run == "torn"
    assert main(["status"]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[:2] == ["torn", "DAMAGED"]
    assert re.fullmatch(r"\d+s", row[-1]), "its age is the file's"
    assert main(["status", "torn"]) == 0
    assert "is damaged" in capsys.readouterr().out
    assert main(["runs", "prune", "torn", "-y"]) == 0
    assert not store.folder.exists()


def test_what_a_damaged_run_has_rented_is_not_forgotten(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = damaged(at_home / "home")
    store.append(
        InstanceStarted(
            at=1.0, attempt=1, instance_id="i-1", instance_type="p2.xlarge", zone="us-east-1a", region="us-east-1",
            market="spot", price_usd_h=0.3,
        )
    )  # fmt: skip
    assert main(["runs", "prune", "torn", "-y"]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert store.folder.exists()


def test_prune_refuses_a_name_that_no_run_has(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged(at_home / "home")
    for words in (["nosuch"], ["zzz*"], ["torn", "nosuch"]):
        assert main(["runs", "prune", *words, "-y"]) == 2
        assert "no run matches" in capsys.readouterr().err
    assert (at_home / "home" / "runs" / "torn").exists()


def test_a_bench_passes_on_what_launch_takes(at_home: Path) -> None:
    Path("run.yaml").write_text("budget: 3\ndisk-size: 200\n")
    words = ["bench", "-t", "g4dn.xlarge", "--spot", "--cloud", "local", "-f", "run.yaml", "--env", "A=b c"]
    words += ["--max-price", "0.4", "--ami", "ami-1", "--subnet", "subnet-0000000000000000a"]
    child = bench.prepare_child(at_home / "home", "b", "g4dn.xlarge", parser().parse_args(words), [], share=2)
    spec = child.spec
    assert (spec.env, spec.ami, spec.disk_gib) == ({"A": "b c"}, "ami-1", 200)
    assert (spec.max_price_usd_h, spec.subnets) == (Decimal("0.4"), ("subnet-0000000000000000a",))
    assert spec.limits.budget_usd == Decimal("1.5"), "each type gets its share, of a file's budget too"
