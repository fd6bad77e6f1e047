"""Where settings files are looked for, which of them wins, and what a file may say that nobody named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.cli.flags import parser
from orchestrator.errors import SpecError
from orchestrator.plan.settings import spec_from
from orchestrator.plan.settings_file import KEYS, OF_A_FOLDER, read_settings, settings_file


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Run with this home, in an empty folder."""
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return home


def of_the_user(tmp_path: Path, text: str) -> None:
    """Write the user's own file."""
    mine = tmp_path / "config" / "pixel-orch" / "config.yaml"
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text(text)


def test_settings_are_found_where_people_look(at_home: Path, tmp_path: Path) -> None:
    of_the_user(tmp_path, "region: us-west-2\nspot: true\n")
    Path("pixel-orch.yaml").write_text("region: eu-west-1\n")
    assert settings_file(None) == {"region": "eu-west-1", "spot": True}
    Path("named.yaml").write_text("region: us-east-2\n")
    assert settings_file("named.yaml") == {"region": "us-east-2"}, "a file that is named stands alone"


def test_what_was_read_from_which_file_is_known(at_home: Path, tmp_path: Path) -> None:
    of_the_user(tmp_path, "disk-size: 200\n")
    Path("pixel-orch.yaml").write_text("steps: 3\ncheckpoint-every: 2\n")
    mine = tmp_path / "config" / "pixel-orch" / "config.yaml"
    told = [str(source) for source in read_settings(None).sources]
    assert told == [f"disk-size from {mine}", "steps, checkpoint-every from ./pixel-orch.yaml"]


VALUES = {
    "name": "x",
    "spot": "true",
    "region": "us-east-1",
    "model": "row-lstm",
    "dataset": "digits",
    "steps": "3",
    "checkpoint_every": "2",
    "set": "{seed: 3}",
    "workdir": ".",
    "budget": "3",
    "max_duration": "3h",
    "idle_minutes_to_autostop": "3",
}


@pytest.mark.parametrize("key", KEYS)
def test_a_found_file_may_hold_the_keys_of_a_training_and_no_other(at_home: Path, tmp_path: Path, key: str) -> None:
    kind = KEYS[key]
    other = {dict: "{A: b}", bool: "true", int: "200"}.get(kind, "x") if isinstance(kind, type) else "x"
    text = f"{key.replace('_', '-')}: {VALUES.get(key, other)}\n"
    Path("pixel-orch.yaml").write_text(text)
    if key in OF_A_FOLDER:
        assert key in settings_file(None)
        return
    with pytest.raises(SpecError) as caught:
        settings_file(None)
    line = str(caught.value)
    assert line.startswith(f"pixel-orch.yaml: {key.replace('_', '-')} is not allowed")
    assert line.endswith("name it: -f pixel-orch.yaml")
    assert key in settings_file("pixel-orch.yaml"), "named, it may hold all"
    of_the_user(tmp_path, text)
    Path("pixel-orch.yaml").unlink()
    assert key in settings_file(None), "and so may the user's own"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workdir: ..", "workdir leads out of the folder"),
        ("workdir: /", "workdir leads out of the folder"),
        ("workdir: ~", 'write workdir: "~"'),
        ("workdir: '~'", "workdir leads out of the folder"),
        ("workdir: link", "workdir leads out of the folder"),
        ("dataset: ../data", "which is no registered data set"),
        ("set: {dataset: /data}", "which is no registered data set"),
        ("spot: false", "spot is false"),
        ("sport: true", "unknown key 'sport'; did you mean spot?"),
        ("yes: true", "yes is not a setting of a run"),
    ],
)
def test_a_value_of_a_found_file_stays_in_the_folder(at_home: Path, text: str, says: str) -> None:
    Path("link").symlink_to("..")
    Path("pixel-orch.yaml").write_text(text + "\n")
    with pytest.raises(SpecError, match=r"^pixel-orch\.yaml") as caught:
        settings_file(None)
    assert says in str(caught.value)


def test_a_found_link_or_pipe_is_not_read(at_home: Path, tmp_path: Path) -> None:
    of_the_user(tmp_path, "spot: true\n")
    Path("pixel-orch.yaml").symlink_to(tmp_path / "config" / "pixel-orch" / "config.yaml")
    with pytest.raises(SpecError, match="not a plain file"):
        settings_file(None)
    Path("pixel-orch.yaml").unlink()
    os.mkfifo("pixel-orch.yaml")
    with pytest.raises(SpecError, match="not a plain file"):
        settings_file(None)


def test_a_relative_config_folder_would_be_below_the_current_one(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "cwd" / "config" / "pixel-orch").mkdir(parents=True)
    Path("config/pixel-orch/config.yaml").write_text("ssh-proxy: touch ran\n")
    assert settings_file(None) == {}


@pytest.mark.parametrize(
    ("mine", "found", "holds"),
    [
        ("budget: 3", "budget: 100", 3),
        ("budget: 3", "budget: 0.5", 0.5),
        ("max-duration: 2h", "max-duration: 7201", "2h"),
        ("max-duration: 2h", "max-duration: 90m", "90m"),
        ("idle-minutes-to-autostop: 5", "idle-minutes-to-autostop: 6", 5),
    ],
)
def test_a_found_limit_only_lowers_the_users_own(
    at_home: Path, tmp_path: Path, mine: str, found: str, holds: object
) -> None:
    of_the_user(tmp_path, f"{mine}\n")
    Path("pixel-orch.yaml").write_text(f"{found}\n")
    assert list(settings_file(None).values()) == [holds]


@pytest.mark.parametrize(
    "text", ["steps: 1000000000", "set: {hidden: 4096}", "region: ap-southeast-1", "budget: 9\nsteps: 9"]
)
def test_on_aws_what_a_found_file_makes_dearer_needs_a_limit_of_the_users_own(
    at_home: Path, tmp_path: Path, text: str
) -> None:
    Path("pixel-orch.yaml").write_text(text + "\n")
    words = ["launch", "-t", "g4dn.xlarge", "--spot"]
    with pytest.raises(SpecError, match=r"^pixel-orch.yaml: .* changes what is billed; add --budget or --max-duration"):
        spec_from(vars(parser().parse_args(words)), [])
    for more in (["--budget", "5"], ["--max-duration", "1h"], ["--cloud", "local"], ["-f", "pixel-orch.yaml"]):
        spec_from(vars(parser().parse_args([*words, *more])), [])
    of_the_user(tmp_path, "max-duration: 2h\n")
    spec_from(vars(parser().parse_args(words)), [])
