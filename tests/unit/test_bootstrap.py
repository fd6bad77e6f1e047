"""Which Python and which torch a rented machine gets; with an `nvidia-smi` that says what the test wants."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INFRA = Path(__file__).parents[2] / "infra"
GOOD = """#!/bin/sh
[ "$1" = - ] && { cat > /dev/null; echo 2.13.0; exit 0; }
exec REAL "$@"
"""
NO_TORCH = """#!/bin/sh
if [ "$1" = - ]; then
    cat > "$0.script"
    if grep -q importlib "$0.script"; then exit 1; fi
    shift
    exec REAL "$0.script" "$@"
fi
if [ "$1" = -m ]; then echo "$@" >> "$0.calls"; exit FAILS; fi
exec REAL "$@"
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Give a machine's home with our files, and a folder for its programs."""
    (tmp_path / "run" / "bin").mkdir(parents=True)
    (tmp_path / "programs").mkdir()
    for name in ("bootstrap.sh", "torch_builds.json"):
        shutil.copy(INFRA / name, tmp_path / "run" / "bin")
    for name in ("bash", "cat", "grep", "head", "rm", "true"):
        (tmp_path / "programs" / name).symlink_to(str(shutil.which(name)))
    return tmp_path


def program(machine: Path, name: str, text: str) -> None:
    """Put a program on the machine."""
    path = machine / "programs" / name
    path.write_text(text.replace("REAL", sys.executable))
    path.chmod(0o700)


def bootstrap(machine: Path, *words: str) -> tuple[int, dict[str, str], str]:
    """Run the bootstrap; return exit code, answer, and what it said."""
    env = {"HOME": str(machine), "PATH": str(machine / "programs")}
    command = ["/bin/bash", str(machine / "run" / "bin" / "bootstrap.sh"), str(machine / "run"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=60)
    lines = done.stdout.strip().splitlines()
    answer = json.loads(lines[-1]) if done.returncode == 0 else {}
    return done.returncode, answer, done.stdout + done.stderr


def gpu(machine: Path, name: str) -> None:
    """Let the machine have a GPU."""
    program(machine, "nvidia-smi", f"#!/bin/sh\necho {name!r}\n")


def test_a_python_that_has_all_of_it_is_taken(machine: Path) -> None:
    program(machine, "python3", GOOD)
    code, answer, said = bootstrap(machine, "bundled")
    assert code == 0, said
    assert answer == {
        "python": str(machine / "programs" / "python3"),
        "torch": "2.13.0",
        "gpu": "",
        "why": "found",
        "s3_python": "",
    }


def test_a_program_of_ones_own_needs_no_torch(machine: Path) -> None:
    program(machine, "python3", NO_TORCH.replace("FAILS", "1"))
    code, answer, said = bootstrap(machine, "own")
    assert code == 0, said
    assert answer["torch"] == ""
    assert "nothing was installed" in answer["why"]


def test_a_gpu_without_kernels_is_refused_unless_the_cpu_is_allowed(machine: Path) -> None:
    program(machine, "python3", NO_TORCH.replace("FAILS", "1"))
    gpu(machine, "GRID K520")
    code, _, said = bootstrap(machine, "bundled")
    assert code == 3
    assert "no torch build has kernels for GRID K520" in said
    program(machine, "python3", GOOD.replace('[ "$1" = - ]', '[ "$1" = - ] && [ -z "$2" ]'))
    program(machine, "python3.11", GOOD)
    code, answer, said = bootstrap(machine, "bundled", "cpu")
    assert code == 0, said
    assert answer["why"] == "found"


def test_a_venv_that_cannot_be_made_is_tried_again_after_its_package(machine: Path) -> None:
    """Ubuntu's plain image has python3 without ensurepip; sudo apt-get is what helps there."""
    program(machine, "python3", NO_TORCH.replace("FAILS", "1"))
    program(machine, "sudo", '#!/bin/sh\necho "$@" >> "$0.calls"\n')
    code, _, said = bootstrap(machine, "bundled")
    assert code == 3
    assert "cannot make a virtual environment" in said
    assert "apt-get install -y -qq python3-venv" in (machine / "programs" / "sudo.calls").read_text()
    assert (machine / "programs" / "python3.calls").read_text().count("-m venv") == 2


@pytest.mark.parametrize(
    ("name", "has"), [("Tesla T4", True), ("NVIDIA A10G", True), ("Tesla K80", True), ("GRID K520", False)]
)
def test_the_table_says_what_is_installed_for_a_gpu(machine: Path, name: str, has: bool) -> None:
    table = json.loads((INFRA / "torch_builds.json").read_text())
    capability = next(cc for gpu_name, cc in table["gpus"].items() if gpu_name in name)
    assert any(capability in build["capabilities"] for build in table["builds"]) is has
    assert os.access(INFRA / "bootstrap.sh", os.R_OK)
