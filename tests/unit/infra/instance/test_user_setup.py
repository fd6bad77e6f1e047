"""The set-up of a program, in a folder that stands for a machine: the run's own environment, and what goes there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.instance.layout import files_to_send
from tests.support.wheels import make_wheel


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Give a run's folder with our programs, its code and a Python that has two packages: `machinepk` and a torch."""
    for name, content in files_to_send(has_bucket=False, has_dataset=False).items():
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in ("code", "agent", "out"):
        (tmp_path / "run" / name).mkdir()
    return tmp_path / "run"


def its_python(machine: Path) -> Path:
    """Make a virtual environment that stands for the machine's Python: with pip, torch, `torchrun` and a package."""
    venv = machine.parent / "machine"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    import pip

    (site / "pip").symlink_to(Path(pip.__file__).parent)
    for name, version in (("torch", "2.6.0"), ("machinepk", "1.0")):
        (site / f"{name}.py").write_text(f"__version__ = {version!r}\n")
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    program = venv / "bin" / "torchrun"
    program.write_text(f"#!{venv}/bin/python\nimport sys\nprint(sys.prefix)\n")
    program.chmod(0o755)
    return venv / "bin" / "python"


def environment(machine: Path, python: Path | str = sys.executable) -> dict[str, str]:
    """Make the run's environment; return what is said of it."""
    words = [python, machine / "bin" / "run_environment.py", machine / "env"]
    said: dict[str, str] = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    return said


def order(place: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"env": {}, "limit_s": 60, "digest": "1", **place, **more}


def set_up(machine: Path, asked: dict[str, Any], **env: str) -> tuple[dict[str, Any], str]:
    """Run the set-up; return its answer, and what it said while it ran."""
    words = [sys.executable, machine / "bin" / "user_setup.py", machine]
    path = "/usr/bin:/bin"  # without a uv of this machine
    done = subprocess.run(
        words, input=json.dumps(asked).encode(), capture_output=True, check=False, env={"PATH": path, **env}
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.splitlines()[-1]), done.stderr.decode()


def output(*words: Path | str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


# -- the environment


def test_it_sees_the_machines_packages_and_is_its_own(machine: Path) -> None:
    base = its_python(machine)
    place = environment(machine, base)
    python = place["python"]
    assert python == str(machine / "env" / "bin" / "python")
    assert output(python, "-c", "import torch; print(torch.__version__)") == "2.6.0"
    assert output(python, "-c", "import sys; print(sys.prefix)") == str(machine / "env")
    assert place["path_first"].split(":") == [str(machine / "env" / "bin"), str(base.parent)]
    for name in ("python", "python3", "pip", "pip3", "torchrun"):
        assert (machine / "env" / "bin" / name).exists()
    assert output(machine / "env" / "bin" / "torchrun") == str(machine / "env"), "torchrun sees what the run installs"
    assert str(machine / "env") not in output(base, "-c", "import sys; print(sys.path)")


def test_it_is_made_once_and_anew_where_its_making_broke_off(machine: Path) -> None:
    place = environment(machine)
    (machine / "env" / "kept").touch()
    assert environment(machine) == place
    assert (machine / "env" / "kept").exists()
    (machine / "env" / "pixel-orch-environment.json").unlink()
    assert environment(machine) == place
    assert not (machine / "env" / "kept").exists()


# -- commands


@pytest.mark.slow
def test_a_command_runs_in_the_folder_with_the_environment_and_the_variables(machine: Path) -> None:
    place = environment(machine)
    command = 'pwd; command -v python; echo "$VIRTUAL_ENV $TOKEN"; echo made > made'
    answer, _ = set_up(machine, order(place, command=command, env={"TOKEN": "t1"}))
    assert answer["how"] == "setup command"
    lines = (machine / "agent" / "user_setup.log").read_text().splitlines()
    assert lines[1:] == [str(machine / "code"), place["python"], f"{machine}/env t1"]
    assert (machine / "code" / "made").exists()


@pytest.mark.slow
def test_a_command_that_fails_has_its_last_lines(machine: Path) -> None:
    place = environment(machine)
    answer, _ = set_up(machine, order(place, command="echo first\nfalse\necho never"))
    assert (answer["failed"], answer["tail"]) == ("the setup command ended with exit code 1", "first")
    answer, _ = set_up(machine, order(place, command="echo again; exit 0"))
    assert "failed" not in answer, "what failed is tried again"


@pytest.mark.slow
def test_a_command_without_an_end_is_ended_and_says_so_meanwhile(machine: Path) -> None:
    place = environment(machine)
    asked = order(place, command="printf 'step 1\\rstep 2'; sleep 60", limit_s=1)
    answer, said = set_up(machine, asked, PIXEL_ORCH_TELL_EVERY_MS="200")
    assert (answer["failed"], answer["tail"]) == ("the setup command did not end within 1 s", "step 2")
    assert "setup: the setup command: 0 s so far; its last output: step 2" in said.splitlines()


@pytest.mark.slow
def test_what_is_done_is_not_done_again_until_it_changes(machine: Path) -> None:
    place = environment(machine)
    for digest in ("1", "1", "2"):
        set_up(machine, order(place, command="echo x >> count", digest=digest))
    assert (machine / "code" / "count").read_text() == "x\nx\n"


@pytest.mark.slow
def test_another_torch_by_the_users_own_command_is_said(machine: Path) -> None:
    place = environment(machine, its_python(machine))
    make_wheel(machine / "code", "torch", "2.1.0")
    command = "pip install --no-index ./torch-2.1.0-py3-none-any.whl"
    answer, _ = set_up(machine, order(place, command=command))
    assert answer["how"] == "setup command; torch 2.6.0 of the machine is replaced by 2.1.0"


# -- dependency files


@pytest.mark.slow
def test_requirements_are_installed_for_the_run_alone_and_the_machines_torch_stays(machine: Path) -> None:
    base = its_python(machine)
    place = environment(machine, base)
    code = machine / "code"
    make_wheel(code / "wheels", "torch", "2.1.0")
    make_wheel(code / "wheels", "tinypk", requires=["torch>=2", "machinepk"], script="tinyprogram")
    (code / "requirements.txt").write_text("--no-index\n-f wheels\ntorch==2.1.0\ntinypk\n")
    answer, said = set_up(machine, order(place, found={"kind": "requirements", "file": "requirements.txt"}))
    assert answer["how"] == "requirements.txt with pip; torch 2.6.0 of the machine is kept: not torch==2.1.0"
    assert "setup: pip install (requirements.txt)" in said
    where = "import tinypk, torch; print(tinypk.__file__, torch.__version__)"
    told = output(place["python"], "-c", where).split()
    assert told[0].startswith(f"{machine}/env/")
    assert told[1] == "2.6.0"
    assert output(machine / "env" / "bin" / "tinyprogram") == told[0]
    assert subprocess.run([base, "-c", "import tinypk"], capture_output=True, check=False).returncode == 1


@pytest.mark.slow
def test_a_package_that_needs_another_torch_is_an_error_and_not_another_torch(machine: Path) -> None:
    place = environment(machine, its_python(machine))
    code = machine / "code"
    make_wheel(code / "wheels", "torch", "2.1.0")
    make_wheel(code / "wheels", "tinypk", requires=["torch==2.1.0"])
    (code / "requirements.txt").write_text("--no-index\n-f wheels\ntinypk\n")
    answer, _ = set_up(machine, order(place, found={"kind": "requirements", "file": "requirements.txt"}))
    assert answer["failed"] == "pip install (requirements.txt) ended with exit code 1"
    assert "tinypk 1.0 depends on torch==2.1.0" in answer["tail"]


@pytest.mark.slow
def test_the_dependencies_of_a_project(machine: Path) -> None:
    place = environment(machine, its_python(machine))
    make_wheel(machine / "code" / "wheels", "tinypk", requires=["machinepk"])
    found = {"kind": "pyproject", "file": "pyproject.toml", "dependencies": ["tinypk", "torch<2"]}
    asked = order(place, found={**found, "is_dynamic": False, "is_package": False})
    asked["env"] = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(machine / "code" / "wheels")}
    answer, _ = set_up(machine, asked)
    assert answer["how"] == "pyproject.toml with pip; torch 2.6.0 of the machine is kept: not torch<2"
    assert output(place["python"], "-c", "import tinypk; print(tinypk.VERSION)") == "1.0"


CONDA = """#!/bin/sh
[ "$1 $2" = "env create" ] || exit 2
while [ "$1" != -p ]; do shift; done
mkdir -p "$2/bin" && ln -s PYTHON "$2/bin/python"
"""


@pytest.mark.slow
def test_an_environment_file_needs_conda_or_says_what_is_missing(machine: Path) -> None:
    place = environment(machine, its_python(machine))
    make_wheel(machine / "code" / "wheels", "tinypk")
    found = {"kind": "conda", "file": "environment.yml", "pip": ["tinypk"], "packages": ["machinepk", "scipy"]}
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(machine / "code" / "wheels")}
    answer, _ = set_up(machine, order(place, found=found, env=env))
    assert answer["how"] == (
        "the pip part of environment.yml with pip; this image has no conda, so that scipy is not installed"
    )
    conda = machine / "env" / "bin" / "mamba"
    conda.write_text(CONDA.replace("PYTHON", sys.executable))
    conda.chmod(0o755)
    answer, _ = set_up(machine, order(place, found=found, digest="2"))
    assert answer["how"].startswith("environment.yml with mamba; its Python and torch are those of environment.yml")
    assert answer["python"] == str(machine / "conda-env" / "bin" / "python")


UV = """#!/bin/sh
echo "uv $*" >> "LOG"
case "$*" in
    export*) [ -e uv.lock ] || exit 2; printf 'torch==2.1.0\\ntinypk==1.0\\n' ;;
    *--dry-run*) echo "Would install 1 package" >&2; echo " + WOULD" >&2 ;;
    *) shift 4; exec PYTHON -m pip install --no-index --find-links wheels "$@" ;;
esac
"""


def uv(machine: Path, would: str = "tinypk==1.0") -> Path:
    """Put a program on the machine that stands for uv; return what was asked of it."""
    log = machine / "asked-of-uv"
    path = machine / "env" / "bin" / "uv"
    text = (
        UV.replace("LOG", str(log)).replace("WOULD", would).replace("PYTHON", str(machine / "env" / "bin" / "python"))
    )
    path.write_text(text)
    path.chmod(0o755)
    return log


@pytest.mark.slow
def test_a_lock_is_installed_without_its_torch(machine: Path) -> None:
    place = environment(machine, its_python(machine))
    log = uv(machine)
    make_wheel(machine / "code" / "wheels", "tinypk")
    (machine / "code" / "uv.lock").touch()
    found = {"kind": "uv_lock", "file": "pyproject.toml", "dependencies": [], "is_dynamic": False, "is_package": False}
    answer, _ = set_up(machine, order(place, found=found))
    assert answer["how"] == "uv.lock with uv; torch 2.6.0 of the machine is kept: not torch==2.1.0"
    assert "--no-deps" in log.read_text().splitlines()[-1]
    assert output(place["python"], "-c", "import tinypk; print(tinypk.VERSION)") == "1.0"


@pytest.mark.slow
@pytest.mark.parametrize(("would", "tool"), [("tinypk==1.0", "uv"), ("torch==2.9.0", "pip")])
def test_uv_is_used_where_it_would_install_no_torch(machine: Path, would: str, tool: str) -> None:
    place = environment(machine, its_python(machine))
    uv(machine, would)
    make_wheel(machine / "code" / "wheels", "tinypk")
    (machine / "code" / "requirements.txt").write_text("./wheels/tinypk-1.0-py3-none-any.whl\n")
    answer, _ = set_up(machine, order(place, found={"kind": "requirements", "file": "requirements.txt"}))
    assert answer["how"] == f"requirements.txt with {tool}"
