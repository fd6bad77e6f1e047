"""Before anything is rented: what is certain to fail in a command is an error, what may fail a warning."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.host.sync import workdir_tree
from orchestrator.plan import not_sent
from orchestrator.plan.first_look import FirstLook, look
from orchestrator.plan.settings import spec_from

Look = Callable[..., FirstLook]
FILES = {
    "train.py": "print(1)\n",
    "run.sh": "#!/bin/bash\npython train.py\n",
    "plain.sh": "python train.py\n",
    "windows.sh": "#!/bin/bash\r\npython train.py\r\n",
    "src/app/__init__.py": "",
    "src/app/train.py": "",
    "pkg/__init__.py": "",
    "pkg/__main__.py": "",
    "pkg/loop.py": "",
    "bare/__init__.py": "",
    "notes.ipynb": "{}",
    "configs/base.yaml": "lr: 1\n",
}
EXECUTABLE = ("run.sh", "plain.sh", "windows.sh")


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    work = tmp_path / "work"
    write(work, FILES)
    for name in EXECUTABLE:
        (work / name).chmod(0o755)
    return work


@pytest.fixture
def seen(folder: Path) -> Look:
    """Give what a launch on AWS says of a command, or on the embedded cloud."""

    def one(command: str | list[str], *, is_resumed: bool = False, **flags: Any) -> FirstLook:
        words = shlex.split(command) if isinstance(command, str) else command
        given = {"instance": "g4dn.xlarge", "spot": True, "workdir": str(folder), "region": ["us-east-1"], **flags}
        spec = spec_from(given, words)
        return look(spec, workdir_tree(folder, spec.include), is_resumed=is_resumed)

    return one


def refusal(seen: Look, command: str | list[str], **flags: Any) -> str:
    with pytest.raises(SpecError) as caught:
        seen(command, **flags)
    text = str(caught.value)
    assert text.startswith("--: ")
    assert len(text.splitlines()) == 1
    return text[4:]


@pytest.mark.parametrize(
    "command",
    [
        "python train.py --epochs 3",
        "python3 -u -X dev -W ignore ./train.py",
        "python3.11 train.py",
        "/usr/bin/python3 train.py",
        "python -c 'print(1)'",
        "python -m pkg",
        "python -um pkg.loop",
        "python -m app.train",
        "python -m http.server",
        "python -m torch.distributed.run --nproc_per_node 2 train.py",
        "python -m pip install x",
        "python pkg",
        "python .",
        "python -",
        "./run.sh --fast",
        "bash run.sh",
        "bash -x plain.sh",
        "bash -c 'cd src && python nosuch.py'",
        "bash -lc 'pip install -r r.txt && python train.py 2>&1 | tee log'",
        "sh -c 'for i in 1 2; do python nosuch-$i.py; done'",
        "sh -c 'LR=1 python train.py'",
        "sh -c '. ./env && python $SCRIPT'",
        "torchrun --standalone --nproc-per-node=2 train.py --lr 1",
        "env A=1 timeout -k 5 3h nice -n 5 python train.py",
        "nohup python train.py",
        "uv run --with tqdm train.py",
        "uv run python train.py",
        "true",
        "sleep 5",
        "git --version",
    ],
)
def test_what_works_is_said_nothing_about(seen: Look, folder: Path, command: str) -> None:
    write(folder, {"__main__.py": ""})
    assert seen(command).warnings == ()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("python trian.py", "trian.py is not among the files that are sent; did you mean train.py?"),
        ("python nowhere/loop.py", "nowhere/loop.py is not among the files that are sent; did you mean pkg/loop.py?"),
        ("python zzz.py", "zzz.py is not among the files that are sent; --sync-dry-run lists what is"),
        ("python -u ../train.py", "../train.py is outside of --workdir, and only what is below it is sent"),
        ("torchrun --standalone tarin.py", "tarin.py is not among the files that are sent; did you mean train.py?"),
        ("timeout 3h python trian.py", "trian.py is not among the files that are sent; did you mean train.py?"),
        ("sh -c 'pip install x && python trian.py'", "trian.py is not among the files that are sent; did you mean"),
        ("bash rum.sh", "rum.sh is not among the files that are sent; did you mean run.sh?"),
        ("./rum.sh", "./rum.sh is not among the files that are sent; did you mean run.sh?"),
        ("python -m pkg.lop", "-m pkg.lop: there is no pkg/lop.py in what is sent; did you mean pkg.loop?"),
        ("python -m bare", "-m bare: bare/__main__.py is missing, which -m runs"),
        ("python bare", "bare is a folder without __main__.py"),
        ("pyhton train.py", "there is no program pyhton on the machine; did you mean python?"),
        ("train.py", "train.py is a file of the folder and no program; give -- python train.py"),
        ("run.sh", "run.sh is a file of the folder and no program; give -- ./run.sh"),
        ("./train.py", "./train.py is not executable; chmod +x train.py, or give -- python train.py"),
        ("./plain.sh", "./plain.sh does not begin with #!, so that it does not start; give -- bash plain.sh"),
        ("./windows.sh", "./windows.sh has Windows line ends, so that its first line names no program; save it"),
        ("cd src", "cd is a word of the shell; give -- sh -c 'cd src'"),
        ("LR=1 python train.py", "LR=1 would be the program; give --env LR=1 before the --"),
        (
            "papermill nots.ipynb out.ipynb",
            "nots.ipynb is not among the files that are sent; did you mean notes.ipynb?",
        ),
    ],
)
def test_what_is_certain_to_fail_is_an_error_with_what_to_do(seen: Look, command: str, says: str) -> None:
    assert refusal(seen, command).startswith(says)


def test_a_script_that_git_ignores_or_that_may_be_secret_is_named_with_include(seen: Look, folder: Path) -> None:
    write(folder, {"venv/own.py": "", "credentials.py": ""})
    assert "venv/own.py is not sent: git or the usual ignore list leaves it out; --include venv/own.py sends it" in (
        refusal(seen, "python venv/own.py")
    )
    assert "credentials.py is not sent: it may hold secrets; --include" in refusal(seen, "python credentials.py")
    assert seen("python venv/own.py", include=["venv/own.py"]).warnings == ()


def test_a_path_of_this_machine_is_not_there(seen: Look, folder: Path) -> None:
    says = refusal(seen, ["python", str(folder / "train.py")])
    assert says.endswith("is a path of this machine; the program runs in a copy of the folder: give train.py")
    (warning,) = seen(["python", "/home/somebody/train.py"]).warnings
    assert "/home/somebody/train.py is a path of this machine" in warning


# -- doubt


def test_a_setup_command_an_image_of_ones_own_and_a_resume_refuse_nothing(seen: Look) -> None:
    (warning,) = seen("python made.py", setup="make made.py").warnings
    assert warning.startswith("made.py is not among the files that are sent")
    (warning,) = seen("julia train.py", ami="ami-0123456789abcdef0").warnings
    assert warning == "julia is not known to be on the machine; --setup or the image must bring it"
    (warning,) = seen("python trian.py", is_resumed=True).warnings
    assert "did you mean train.py?" in warning


def test_a_program_of_a_package_is_there_where_the_package_is_installed(seen: Look, folder: Path) -> None:
    assert seen("accelerate launch --cpu train.py").warnings == (
        "there may be no program accelerate on the machine; add accelerate to requirements.txt, or give --setup 'pip "
        "install accelerate'",
    )
    write(folder, {"requirements.txt": "accelerate>=0.30\n"})
    assert seen("accelerate launch --cpu train.py").warnings == ()
    assert "did you mean train.py?" in refusal(seen, "accelerate launch --mixed_precision fp16 trian.py")


def test_on_the_embedded_cloud_it_is_known_which_programs_are_there(seen: Look) -> None:
    says = refusal(seen, "nosuchprogram train.py", cloud="local")
    assert says == "there is no program nosuchprogram on the machine; install it with --setup"
    (warning,) = seen("nosuchprogram train.py").warnings
    assert warning == "there may be no program nosuchprogram on the machine; install it with --setup"
    assert seen(["python", "-m", "nosuchmodule"]).warnings == (
        "no module nosuchmodule is among the files that are sent; is its package installed there?",
    )


def test_a_script_that_is_no_python_is_said(seen: Look, folder: Path) -> None:
    write(folder, {"broken.py": "def f(:\n"})
    (warning,) = seen("python broken.py").warnings
    assert warning.startswith("broken.py, line 1: invalid syntax")


# -- data


@pytest.mark.parametrize(
    ("command", "code", "place"),
    [
        ("python train.py --data data", "", "the command"),
        ("python train.py --data=./data/train", "", "the command"),
        ("sh -c 'python train.py data/train'", "", "the command"),
        ("python train.py", "import os\n\nroot = os.path.join('data', 'train')\n", "train.py, line 3,"),
        ("python train.py", "p.add_argument('--root', default='./data')\n", "train.py, line 1,"),
        ("python train.py", "open(f'data/{x}.csv')\n", "train.py, line 1,"),
    ],
)
def test_a_folder_that_is_ignored_and_named_is_a_warning(
    seen: Look, folder: Path, command: str, code: str, place: str
) -> None:
    write(folder, {".venv/x": "", "train.py": code, "data/train/x.npy": "0" * 90_000})
    write(folder, {"node_modules/a": "", "configs/a.json": '{"lr": 1}'})
    ignored(folder, "data")
    (warning,) = seen(command).warnings
    assert warning == f"data/ (0.1 MB) is not sent, since it is ignored, and {place} names it; --include data sends it"
    assert seen(command, include=["data"]).warnings == ()


def test_a_setting_names_it_too(seen: Look, folder: Path) -> None:
    write(folder, {"configs/base.yaml": "lr: 1\nroot: data/train\n", "data/train/x.npy": "1"})
    ignored(folder, "data")
    (warning,) = seen("python train.py").warnings
    assert "configs/base.yaml, line 2, names it" in warning


def test_a_link_out_of_the_folder_cannot_be_included(seen: Look, folder: Path) -> None:
    write(folder, {"train.py": "open('data/x')\n", "../disk/x": "1"})
    (folder / "data").symlink_to("../disk")
    (warning,) = seen("python train.py").warnings
    assert "is not sent, since it is a link out of the folder, and train.py, line 1, names it; copy it" in warning


@pytest.mark.parametrize(
    "code",
    [
        '"""Reads data from data."""\nx = batch["data"]\n',
        'x = {"data": 1}\nx.get("data")\n',
        'if key == "data": pass\n',
        'os.makedirs("data")\n',
        'print("data")\n',
        'x = "database"\n',
        "def f(:\n",
    ],
)
def test_a_word_that_is_no_path_is_none(seen: Look, folder: Path, code: str) -> None:
    write(folder, {"other.py": code, "data/x.npy": "1"})
    ignored(folder, "data")
    assert seen("python train.py").warnings == ()


def test_outputs_of_an_earlier_run_are_no_data(seen: Look, folder: Path) -> None:
    write(folder, {"outputs/a": "1", "exp1/a": "1", "train.py": "open('outputs/a')\n"})
    ignored(folder, "outputs", "exp1")
    assert seen("python train.py --out outputs").warnings == ()
    assert seen("python train.py --save-dir exp1 --log=exp1/log").warnings == ()


def test_the_look_is_bounded(seen: Look, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(not_sent, "MOST_FILES", 1)
    monkeypatch.setattr(not_sent, "MOST_FILE_BYTES", 100)
    write(folder, {"aa.py": "x = 1\n", "zz.py": "open('data/x')\n", "data/x": "1", "big.py": "#" * 200})
    ignored(folder, "data")
    assert seen("python train.py").warnings == ()


def ignored(folder: Path, *names: str) -> None:
    """Let git ignore folders."""
    subprocess.run(["git", "init", "-q", folder], check=True)
    (folder / ".gitignore").write_text("".join(f"/{name}/\n" for name in (*names, ".venv", "node_modules")))
