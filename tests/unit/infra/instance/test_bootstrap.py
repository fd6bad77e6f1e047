"""Which Python and which torch a rented machine gets; `nvidia-smi`, `apt-get` and others say what the test wants."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.bare_machine import (
    APT,
    BUNDLED,
    INSTANCE,
    SUDO,
    bootstrap,
    calls,
    environment,
    gpu,
    packages,
    program,
    python,
    refusal,
    run,
    wheels,
)

pytestmark = pytest.mark.slow  # real shells, which take seconds


# -- what is there already


def test_a_python_that_has_all_of_it_is_taken(machine: Path) -> None:
    packages(python(machine), "torch", *BUNDLED)
    code, answer, said = bootstrap(machine, "bundled")
    assert code == 0, said
    assert answer == {
        "python": str(machine / "programs" / "python3"),
        "torch": "2.13.0",
        "gpu": "",
        "why": "found",
        "s3_python": "",
    }


@pytest.mark.parametrize(("sees", "kernels"), [(False, ("sm_75",)), (True, ("sm_80", "sm_90a")), (True, ())])
def test_a_torch_that_cannot_use_the_gpu_is_not_taken(machine: Path, sees: bool, kernels: tuple[str, ...]) -> None:
    packages(python(machine), "torch", *BUNDLED, sees=sees, kernels=kernels)
    gpu(machine)
    wheels(machine)
    code, answer, said = bootstrap(machine, "bundled", "gpu")
    assert code == 0, said
    assert (answer["why"], answer["gpu"]) == ("installed: torch==2.13.0", "Tesla T4")
    assert answer["python"] == str(machine / "pixel-orch" / "venv" / "bin" / "python")


def test_a_program_of_ones_own_needs_torch_alone(machine: Path) -> None:
    packages(python(machine), "torch")
    gpu(machine)
    code, answer, said = bootstrap(machine, "own", "gpu")
    assert code == 0, said
    assert (answer["torch"], answer["why"], calls(machine)) == ("2.13.0", "found", [])


# -- a program of one's own


def test_on_a_rented_gpu_a_program_of_ones_own_gets_torch(machine: Path) -> None:
    python(machine)
    gpu(machine)
    wheels(machine)
    code, answer, said = bootstrap(machine, "own", "gpu")
    assert code == 0, said
    assert (answer["torch"], answer["gpu"], answer["why"]) == ("2.13.0", "Tesla T4", "installed: torch==2.13.0")
    (install,) = [line for line in calls(machine) if line.startswith("pip")]
    assert install.endswith("torch==2.13.0 numpy"), "nothing that it has not asked for"
    assert answer["python"] == str(machine / "run" / "env" / "bin" / "python"), "an environment of the run's own"


def test_elsewhere_nothing_is_installed_for_it(machine: Path) -> None:
    python(machine)
    wheels(machine)
    code, answer, said = bootstrap(machine, "own")
    assert code == 0, said
    assert answer["torch"] == ""
    assert "nothing was installed" in answer["why"]
    assert calls(machine) == []


def test_it_goes_on_without_torch_only_if_it_may_use_the_cpu(machine: Path) -> None:
    python(machine)
    gpu(machine)
    assert "pip cannot install torch==2.13.0" in refusal(machine, "own", "gpu")
    code, answer, said = bootstrap(machine, "own", "gpu", "cpu")
    assert code == 0, said
    assert answer["torch"] == ""


@pytest.mark.parametrize("purpose", ["bundled", "own"])
def test_where_pip_fails_a_torch_for_the_cpu_will_do_if_that_is_allowed(machine: Path, purpose: str) -> None:
    packages(python(machine), "torch", *BUNDLED, sees=False)
    gpu(machine)
    assert "pip cannot install torch==2.13.0" in refusal(machine, purpose, "gpu")
    code, answer, said = bootstrap(machine, purpose, "gpu", "cpu")
    assert code == 0, said
    assert (answer["torch"], answer["gpu"], answer["why"]) == ("2.13.0", "", "found")


def test_its_python_and_python3_are_the_one_that_was_chosen(machine: Path) -> None:
    """Ubuntu has no `python`; and on Amazon Linux, beside /usr/bin/python3.11, `python3` is another."""
    python(machine, "python3", minor=9)
    packages(python(machine, "python3.11", minor=11), "torch")
    (machine / "programs" / "python3").unlink()
    code, answer, said = bootstrap(machine, "own")
    assert code == 0, said
    assert (machine / "programs" / "environment-of").read_text() == "python3.11\n"
    assert answer["path_first"].split(":")[0] == str(Path(answer["python"]).parent)
    for name in ("python", "python3"):
        path = Path(answer["python"]).parent / name
        words = [path, "-c", "import sys; print(sys.prefix)"]
        told = subprocess.run(words, capture_output=True, text=True, check=True)
        assert told.stdout == f"{machine / 'run' / 'env'}\n"


# -- the GPU


@pytest.mark.parametrize(
    ("says", "code", "why"),
    [
        (None, 0, "nvidia-smi is not installed"),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
            9,
            "exited with code 9: NVIDIA-SMI",
        ),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 0, "printed: NVIDIA-SMI has"),
        ("No devices were found", 0, "nvidia-smi printed: No devices were found"),
        (
            "Failed to initialize NVML: Driver/library version mismatch",
            18,
            "exited with code 18: Failed to initialize NVML",
        ),
    ],
)
@pytest.mark.parametrize("purpose", ["bundled", "own"])
def test_a_gpu_that_does_not_work_is_not_paid_for(
    machine: Path, purpose: str, says: str | None, code: int, why: str
) -> None:
    packages(python(machine), "torch", *BUNDLED, sees=False)
    if says is not None:
        gpu(machine, says, code)
    told = refusal(machine, purpose, "gpu")
    assert why in told
    assert "choose an image with the NVIDIA driver with --ami, or pass --allow-cpu" in told
    for words in (("gpu", "cpu"), ()):  # with --allow-cpu, or on an embedded instance
        done, answer, said = bootstrap(machine, purpose, *words)
        assert done == 0, said
        assert (answer["gpu"], answer["torch"]) == ("", "2.13.0")


def test_a_driver_that_comes_up_late_is_waited_for(machine: Path) -> None:
    packages(python(machine), "torch", *BUNDLED)
    (machine / "cloud" / "instance").mkdir(parents=True)
    ready = machine / "cloud" / "instance" / "boot-finished"
    program(machine, "nvidia-smi", f"#!/bin/sh\n[ -e {ready} ] || exit 9\necho Tesla T4\n")
    after_three = f'[ "$(grep -c sleep PROGRAMS/calls)" -lt 3 ] || touch {ready}'
    program(machine, "sleep", f"#!/bin/sh\necho sleep >> PROGRAMS/calls\n{after_three}\n")
    code, answer, said = bootstrap(machine, "bundled", "gpu")
    assert code == 0, said
    assert (answer["gpu"], len(calls(machine))) == ("Tesla T4", 3)


def test_a_gpu_without_kernels_is_refused_unless_the_cpu_is_allowed(machine: Path) -> None:
    python(machine)
    gpu(machine, "GRID K520")
    wheels(machine)
    told = refusal(machine, "bundled", "gpu")
    assert "no torch build has kernels for GRID K520 on Python 3.11" in told
    assert "--allow-cpu" in told
    code, answer, said = bootstrap(machine, "bundled", "gpu", "cpu")
    assert code == 0, said
    assert (answer["why"], answer["gpu"]) == ("installed: torch==2.13.0", "")


def test_a_torch_that_was_installed_and_sees_no_gpu_is_refused_unless_the_cpu_is_allowed(machine: Path) -> None:
    python(machine)
    gpu(machine)
    wheels(machine, sees=False)
    told = refusal(machine, "bundled", "gpu")
    assert "torch==2.13.0 was installed and cannot be used on Tesla T4: torch 2.13.0 (CUDA 13.0) sees no GPU" in told
    assert "--ami, or pass --allow-cpu to train on the CPU" in told
    code, answer, said = bootstrap(machine, "bundled", "gpu", "cpu")
    assert code == 0, said
    assert answer["gpu"] == ""


@pytest.mark.parametrize(
    ("name", "has"), [("Tesla T4", True), ("NVIDIA A10G", True), ("Tesla K80", True), ("GRID K520", False)]
)
def test_the_table_says_what_is_installed_for_a_gpu(name: str, has: bool) -> None:
    table = json.loads((INSTANCE / "torch_builds.json").read_text())
    capability = next(cc for gpu_name, cc in table["gpus"].items() if gpu_name in name)
    assert any(capability in build["capabilities"] for build in table["builds"]) is has
    assert os.access(INSTANCE / "bootstrap.sh", os.R_OK)


# -- the Python


def test_the_newest_python_that_a_build_fits_makes_the_environment(machine: Path) -> None:
    for minor in (9, 10, 12):
        python(machine, f"python3.{minor}", minor)
    python(machine, "python3", 9)
    wheels(machine)
    assert bootstrap(machine, "bundled")[0] == 0
    assert calls(machine)[0].startswith("python3.12 -m venv")
    shutil.rmtree(machine / "pixel-orch")
    (machine / "programs" / "calls").unlink()
    gpu(machine, "Tesla K80")  # torch 2.0.1, which has no wheel for 3.12
    packages_of_k80 = machine / "programs" / "wheels" / "torch.py"
    packages_of_k80.write_text(packages_of_k80.read_text().replace("(7, 5)", "(3, 7)").replace("sm_75", "sm_37"))
    code, answer, said = bootstrap(machine, "bundled", "gpu")
    assert code == 0, said
    assert calls(machine)[0].startswith("python3.10 -m venv")
    assert answer["why"] == "installed: torch==2.0.1 numpy<2"


def test_a_python_too_old_for_the_bundled_trainer_is_one_line(machine: Path) -> None:
    """Amazon Linux 2023: python3 is 3.9."""
    packages(python(machine, minor=9), "torch", *BUNDLED)
    gpu(machine)
    told = refusal(machine, "bundled", "gpu")
    assert told.startswith("bootstrap: the bundled trainer needs Python 3.10 or later, and this image has 3.9; ")
    code, answer, said = bootstrap(machine, "own", "gpu")
    assert (code, answer.get("torch")) == (0, "2.13.0"), said


@pytest.mark.parametrize("words", [("", ""), ("s3://bucket/digits", "")])
def test_data_are_prepared_by_a_python_that_the_trainers_code_knows(machine: Path, words: tuple[str, str]) -> None:
    python(machine, minor=9)
    (machine / "run" / "bin" / "dataset_sync.py").write_text("import sys; sys.exit(4)")
    (machine / "programs" / "wheels").mkdir()
    code, _, err = run(machine, "data.sh", "digits", *words)
    assert code == 3
    assert "data: the preparation of data needs Python 3.10 or later, and this image has 3.9" in err


# -- virtual environments


def test_a_venv_that_cannot_be_made_is_tried_again_after_its_package(machine: Path) -> None:
    """Ubuntu's plain image has python3 without ensurepip, and apt's lists are locked when it has just booted."""
    python(machine, ensurepip=False)
    wheels(machine)
    program(machine, "sudo", SUDO)
    program(machine, "apt-get", APT.replace("LOCKED", "2"))
    code, _, said = bootstrap(machine, "bundled")
    assert code == 0, said
    done = calls(machine)
    assert [line for line in done if "update" in line] == ["apt-get -qq -o DPkg::Lock::Timeout=300 update"] * 3
    assert done.count("sleep 10") == 2
    assert done[-3].endswith("install -y python3-venv")


def test_apt_is_not_asked_before_the_machine_has_booted_nor_waited_for_for_ever(machine: Path) -> None:
    python(machine, ensurepip=False)
    (machine / "cloud").mkdir()
    program(machine, "apt-get", APT.replace("LOCKED", "1000"))
    told = refusal(machine, "bundled")
    assert told.startswith(f"bootstrap: {machine}/programs/python3 cannot make a virtual environment")
    done = calls(machine)
    assert (done.count("sleep 2"), done.count("sleep 10")) == (150, 20)
    assert done.index("sleep 2") < next(n for n, line in enumerate(done) if line.startswith("apt-get"))


def test_where_no_package_can_help_it_is_one_line_at_once(machine: Path) -> None:
    python(machine, ensurepip=False)
    assert "cannot make a virtual environment" in refusal(machine, "bundled")
    assert [line.split(" /")[0] for line in calls(machine)] == ["python3 -m venv"]


@pytest.mark.parametrize("script", ["bootstrap", "s3", "data"])
def test_an_environment_whose_making_broke_off_is_made_anew(machine: Path, script: str) -> None:
    site = python(machine, ensurepip=False)
    venv = machine / "pixel-orch" / {"bootstrap": "venv", "s3": "s3-venv", "data": "data-venv"}[script]
    (machine / "run" / "bin" / "dataset_sync.py").write_text("")
    wheels(machine)
    (machine / "programs" / "wheels" / "boto3.py").touch()
    if script == "s3":
        packages(site, "torch", *BUNDLED)
    words = {"bootstrap": ("bundled",), "s3": ("bundled", "s3"), "data": ("digits", "s3://bucket/digits", "")}[script]
    name = "data.sh" if script == "data" else "bootstrap.sh"
    assert run(machine, name, *words)[0] == 3
    assert (venv / "bin" / "python").exists(), "as -m venv leaves it behind"
    (machine / "programs" / "has-python3-venv").touch()
    code, out, err = run(machine, name, *words)
    assert code == 0, err
    if script == "s3":
        assert json.loads(out.splitlines()[-1])["s3_python"] == str(venv / "bin" / "python")


def test_two_scripts_at_once_do_not_run_apt_at_once(machine: Path) -> None:
    if shutil.which("flock") is None:
        pytest.skip("no flock on this machine")
    python(machine, ensurepip=False)
    wheels(machine)
    (machine / "programs" / "wheels" / "boto3.py").touch()
    (machine / "run" / "bin" / "dataset_sync.py").write_text("")
    busy = "mkdir PROGRAMS/busy || { touch PROGRAMS/collided; exit 100; }\n/bin/sleep 0.2\n"
    text = APT.replace("LOCKED", "0").replace('case "$*" in', busy + 'case "$*" in', 1)
    program(machine, "apt-get", text + "rmdir PROGRAMS/busy\n")
    (machine / "programs" / "rmdir").symlink_to(str(shutil.which("rmdir")))
    env = environment(machine)
    root = str(machine / "run")
    both = [
        subprocess.Popen(["/bin/bash", f"{root}/bin/{script}", root, *words], env=env, stdout=subprocess.DEVNULL)
        for script, words in (("bootstrap.sh", ["bundled"]), ("data.sh", ["digits", "s3://bucket/digits", ""]))
    ]
    assert [one.wait(timeout=60) for one in both] == [0, 0]
    assert not (machine / "programs" / "collided").exists()
