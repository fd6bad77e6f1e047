"""Which dependency file is installed, and how it is said; what a command installs by itself is left to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.host.sync import workdir_tree
from orchestrator.plan.dependencies import Dependencies, dependencies_of
from orchestrator.plan.job import job_for
from orchestrator.plan.settings import resumed_spec, spec_from
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore

PROJECT = '[project]\nname = "x"\nversion = "0"\ndependencies = ["tqdm>=4", "Torch_Metrics[all]"]\n'
BUILD = '[build-system]\nrequires = ["setuptools"]\n'
LOCK = 'version = 1\n[[package]]\nname = "tqdm"\nversion = "4"\nsource = { registry = "https://pypi.org/simple" }\n'
CONDA = "dependencies:\n- python=3.11\n- pytorch::pytorch=2.4\n- pandas\n- pip\n- pip:\n  - tqdm==4\n  - -r more.txt\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "train.py").touch()
    return tmp_path / "work"


def spec_of(folder: Path, *words: str, **flags: Any) -> RunSpec:
    given = {"instance": "g4dn.xlarge", "spot": True, "cloud": "local", "workdir": str(folder), **flags}
    return spec_from(given, words or ("python", "train.py"))


def found(folder: Path, files: Mapping[str, str], *words: str, **flags: Any) -> Dependencies:
    for name, text in files.items():
        (folder / name).write_text(text)
    return dependencies_of(spec_of(folder, *words, **flags), workdir_tree(folder))


def test_requirements(folder: Path) -> None:
    got = found(folder, {"requirements.txt": "--no-index\n# all\ntorch==2.1 ; python_version > '3'\n\ntqdm # bar\n"})
    assert got.order == {"found": {"kind": "requirements", "file": "requirements.txt"}}
    assert got.packages == ("torch", "tqdm")
    assert got.text == (
        "Setup: requirements.txt (2 packages) is installed on the machine with pip, or uv if it is there and would not "
        "change torch; its torch is kept; --no-setup: not"
    )
    assert got.as_json()["file"] == "requirements.txt"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (PROJECT, {"dependencies": ["tqdm>=4", "Torch_Metrics[all]"], "is_dynamic": False, "is_package": False}),
        (PROJECT + BUILD, {"dependencies": ["tqdm>=4", "Torch_Metrics[all]"], "is_dynamic": False, "is_package": True}),
        (
            '[project]\nname = "x"\ndynamic = ["dependencies"]\n' + BUILD,
            {"dependencies": [], "is_dynamic": True, "is_package": True},
        ),
        (
            '[tool.poetry]\nname = "x"\n[tool.poetry.dependencies]\npython = "^3.9"\ntqdm = "*"\n' + BUILD,
            {"dependencies": [], "is_dynamic": True, "is_package": True},
        ),
    ],
)
def test_a_project(folder: Path, text: str, want: Mapping[str, Any]) -> None:
    got = found(folder, {"pyproject.toml": text})
    assert got.order == {"found": {"kind": "pyproject", "file": "pyproject.toml", **want}}
    assert got.packages == (() if want["is_dynamic"] and "poetry" not in text else got.packages)


@pytest.mark.parametrize("text", ["[tool.ruff]\nline-length = 100\n", '[project]\nname = "x"\n', "", "# nothing\n"])
def test_a_project_file_that_asks_for_nothing_is_none(folder: Path, text: str) -> None:
    got = found(folder, {"pyproject.toml": text})
    assert (got.order, got.others) == ({}, ())
    assert got.text == "Setup: nothing is installed: no requirements.txt, pyproject.toml or environment.yml is sent"


def test_a_lock_goes_first_and_what_is_not_used_is_named(folder: Path) -> None:
    files = {"uv.lock": LOCK, "pyproject.toml": PROJECT, "requirements.txt": "a\n", "Pipfile": "", "setup.py": ""}
    got = found(folder, files)
    assert got.order["found"]["kind"] == "uv_lock"
    assert (got.file, got.packages, got.others) == ("uv.lock", ("tqdm",), ("requirements.txt", "Pipfile"))
    assert got.text.endswith("; not used: requirements.txt, Pipfile")


def test_a_lock_without_its_project_is_none(folder: Path) -> None:
    assert found(folder, {"uv.lock": LOCK, "requirements.txt": "a\n"}).file == "requirements.txt"


def test_an_environment_file(folder: Path) -> None:
    got = found(folder, {"environment.yml": CONDA})
    assert got.order["found"] == {
        "kind": "conda",
        "file": "environment.yml",
        "pip": ["tqdm==4", "-r more.txt"],
        "packages": ["pandas"],
    }
    assert "conda if the image has it" in got.text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "not = = toml"),
        ("uv.lock", "\x00"),
        ("environment.yml", "dependencies: [}"),
        ("environment.yml", "just a text"),
        ("environment.yml", "- a\n- b\n"),
        ("pyproject.toml", "project = 3\n"),
        ("requirements.txt", "x\n" * (1 << 20)),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_refuses_nothing(folder: Path, name: str, text: str) -> None:
    more = {"pyproject.toml": PROJECT} if name == "uv.lock" else {}
    got = found(folder, {**more, name: text})
    assert f"{name} (it cannot be read)" in got.others
    assert got.file == ("pyproject.toml" if more else "")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("uv", "run", "train.py"), "uv does it by itself"),
        (("poetry", "run", "python", "train.py"), "poetry does it by itself"),
        (("sh", "-c", "pip install -r requirements.txt && python train.py"), "the command does it by itself"),
    ],
)
def test_what_a_command_installs_by_itself_is_not_installed_before(
    folder: Path, words: tuple[str, ...], why: str
) -> None:
    got = found(folder, {"requirements.txt": "tqdm\n"}, *words)
    assert (got.file, got.why_not) == ("", why)
    assert got.order == ({"needs": ["uv"]} if words[0] == "uv" else {})


def test_only_what_is_sent_counts(folder: Path) -> None:
    (folder / "venv").mkdir()
    (folder / "venv" / "requirements.txt").write_text("a\n")
    assert found(folder, {}).order == {}


# -- flags, files, resume


def test_a_command_of_the_users_wins_and_no_setup_installs_nothing(folder: Path, tmp_path: Path) -> None:
    files = {"requirements.txt": "tqdm\n"}
    assert found(folder, files, setup="make all").order == {"command": "make all"}
    assert found(folder, files, setup="make all").text == (
        "Setup: make all (on the machine, before the program starts)"
    )
    assert found(folder, files, no_setup=True).order == {}
    named = tmp_path / "run.yaml"
    named.write_text("setup: |\n  make all\n  make data\n")
    assert found(folder, files, file=str(named)).order == {"command": "make all\nmake data\n"}
    assert found(folder, files, file=str(named), no_setup=True).order == {}
    assert found(folder, files, file=str(named), setup="x").order == {"command": "x"}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"setup": "a", "no_setup": True}, "--setup and --no-setup exclude each other; give one of them"),
        ({"setup": " "}, "--setup: it is empty; give a command"),
        ({"setup": "a\0b"}, "--setup: a"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(folder: Path, flags: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(folder, **flags)
    assert str(caught.value).startswith(says)
    assert len(str(caught.value).splitlines()) == 1


def test_it_is_for_ones_own_program(folder: Path) -> None:
    given = {"instance": "g4dn.xlarge", "spot": True, "cloud": "local", "setup": "make"}
    with pytest.raises(SpecError, match="--setup is for your own program; the bundled trainer needs no set-up"):
        spec_from(given, ())


def test_a_file_that_was_merely_found_may_not_say_it(folder: Path) -> None:
    Path("pixel-orch.yaml").write_text("setup: rm -rf x\n")
    with pytest.raises(SpecError) as caught:
        spec_of(folder)
    assert "pixel-orch.yaml: setup is not allowed in a file that is only found" in str(caught.value)


def test_it_is_kept_with_the_run_and_a_resume_may_change_it(folder: Path, tmp_path: Path) -> None:
    spec = spec_of(folder, setup="make all")
    store = RunStore.create(tmp_path / "home", spec)
    assert store.spec() == spec
    assert '"setup"' not in (store.folder / "spec.json").read_text(), "0.1.0 refuses what it does not know"
    assert resumed_spec({}, (), store.spec()).program == spec.program
    changed = resumed_spec({"setup": "make some"}, (), store.spec())
    store.write_spec(changed)
    assert store.spec().program.setup == "make some"
    (folder / "requirements.txt").write_text("a\n")
    job = job_for(resumed_spec({"no_setup": True}, (), store.spec()), workdir_tree(folder))
    assert job.user_setup is None
    (store.folder / "program.json").unlink()
    (folder / "requirements.txt").write_text("a\n")
    assert job_for(store.spec(), workdir_tree(folder)).user_setup is None, "a run of 0.1.0 installs nothing by itself"
