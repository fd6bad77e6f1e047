"""Requirements files are adapted to the torch that the machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.instance.requirements import Lines, adapted, is_of_torch, parsed, read_requirements, taken

THERE = {"torch": "2.6.0+cu124", "numpy": "2.1.0"}


@pytest.mark.parametrize(
    ("line", "name", "specifier"),
    [
        ("torch==2.1.0", "torch", "==2.1.0"),
        ("Torch [opt] >= 2 , < 3 ; python_version > '3.8'", "torch", ">= 2 , < 3"),
        ("torch @ https://download.pytorch.org/whl/torch-2.1.0-cp311-linux_x86_64.whl", "torch", ""),
        ("https://download.pytorch.org/whl/cu121/torch-2.1.0%2Bcu121-cp311-linux_x86_64.whl", "torch", ""),
        ("nvidia_cublas.cu12 (==12.1)", "nvidia-cublas-cu12", "==12.1"),
        ("numpy==2.0 --hash=sha256:00", "numpy", "==2.0"),
        ("--extra-index-url https://x/simple", "", ""),
        ("-e .", "", ""),
        ("./vendored", "", ""),
        ("git+https://github.com/a/b@main#egg=b", "", ""),
    ],
)
def test_a_line_has_a_name_and_versions(line: str, name: str, specifier: str) -> None:
    assert parsed(line) == (name, specifier)


def test_what_belongs_to_one_torch() -> None:
    names = ("torch", "Triton", "nvidia-nccl-cu12", "torchmetrics", "nvidia-ml-py", "numpy")
    assert [name for name in names if is_of_torch(name)] == ["torch", "Triton", "nvidia-nccl-cu12"]


def test_a_torch_that_the_machine_does_not_meet_is_left_out_and_named() -> None:
    lines = Lines(["torch==2.1.0", "nvidia-cublas-cu12==12.1", "torchmetrics", "numpy<2"], ["torch<2.2", "scipy<2"])
    wanted = adapted(lines, THERE, [["torch", "==2.1.0"]])
    assert wanted.lines == ["torchmetrics", "numpy<2"]
    assert wanted.left_out == ["torch==2.1.0"]
    assert wanted.constraints == ["torch==2.6.0+cu124", "scipy<2"]


def test_a_torch_that_it_meets_is_no_word_worth() -> None:
    wanted = adapted(Lines(["torch>=2"]), THERE, [])
    assert (wanted.lines, wanted.left_out, wanted.has_any) == ([], [], False)


def test_torchvision_is_installed_in_the_version_of_the_torch_that_is_there() -> None:
    wanted = adapted(Lines(["torchvision==0.16.0", "tqdm"]), THERE, [])
    assert wanted.lines == ["torchvision", "tqdm"]
    assert wanted.options == ["--extra-index-url", "https://download.pytorch.org/whl/cu124"]
    locked = adapted(Lines(["torchvision==0.16.0", "tqdm"], is_complete=True), THERE, [])
    assert (locked.lines, locked.siblings) == (["tqdm"], ["torchvision"])


def test_a_machine_without_torch_installs_what_is_written() -> None:
    lines = Lines(["torch==2.1.0", "torchvision", "nvidia-cublas-cu12==12.1"])
    wanted = adapted(lines, {}, [])
    assert (wanted.lines, wanted.constraints, wanted.left_out) == (lines.lines, [], [])


def test_files_that_are_included_are_read_and_paths_beside_a_file_stay_right(tmp_path: Path) -> None:
    (tmp_path / "req" / "wheels").mkdir(parents=True)
    (tmp_path / "requirements.txt").write_text(
        "-r req/base.txt  # all\n-c limits.txt\nb \\\n  >=1\n-r requirements.txt\n"
    )
    (tmp_path / "req" / "base.txt").write_text("-f wheels\n--requirement=more.txt\na # comment\n")
    (tmp_path / "req" / "more.txt").write_bytes("c==1\n".encode("utf-16"))  # PowerShell's `pip freeze >`
    (tmp_path / "limits.txt").write_text("torch<2\nd<3\n")
    found = read_requirements(str(tmp_path / "requirements.txt"))
    assert found.lines == [f"--find-links {tmp_path}/req/wheels", "c==1", "a", "b    >=1"]
    assert found.constraints == ["torch<2", "d<3"]
    assert not found.is_complete
    assert taken(["-r req/more.txt", "e"], str(tmp_path)).lines == ["c==1", "e"]


def test_a_file_with_digests_lists_all(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("a==1 \\\n    --hash=sha256:00\n")
    found = read_requirements(str(tmp_path / "r.txt"))
    assert found.is_complete
    assert found.specifiers() == [("a", "==1")]
