"""What a run sends is fixed at its launch: later changes of the folder reach no attempt."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.host import snapshot
from orchestrator.host.sync import Tree, manifest, workdir_tree, write_tar
from orchestrator.runs.files import sha256_of
from orchestrator.runs.home import home_id, make_home
from orchestrator.runs.store import RunStore
from tests.support.story import Story
from tests.unit.host.test_sync import git


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Give a folder as people have them: odd names, a link, an executable file, hard links."""
    folder = tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    (folder / "train.py").write_text("V = 1\n")
    (folder / "sub" / "run.sh").write_text("echo\n")
    (folder / "sub" / "run.sh").chmod(0o755)
    (folder / "sub" / "link.py").symlink_to("../train.py")
    (folder / "a\nb \udce9").write_text("odd\n")
    os.link(folder / "train.py", folder / "hard.py")
    return folder


@pytest.fixture
def store(home: Path) -> RunStore:
    """Give the store of a run."""
    return Story(home).store


def unpacked(tree: Tree) -> dict[str, bytes | str]:
    """Return what an instance gets: content by path, and the target of a link."""
    packed = io.BytesIO()
    write_tar(tree, tree.files, [], packed.write)
    packed.seek(0)
    found: dict[str, bytes | str] = {}
    with tarfile.open(fileobj=packed) as tar:
        for member in tar:
            assert member.isreg() or member.issym(), f"{member.name} is a {member.type!r}"
            file = tar.extractfile(member) if member.isreg() else None
            found[member.name] = file.read() if file else member.linkname
    del found[".sync.json"]
    return found


def test_every_attempt_gets_what_the_first_one_got(work: Path, store: RunStore) -> None:
    first = snapshot.take(store, workdir_tree(work))
    before = unpacked(first)
    assert before["hard.py"] == before["train.py"] == b"V = 1\n"
    assert before["sub/link.py"] == "../train.py"
    (work / "train.py").write_text("V = 2\n")
    (work / "sub" / "run.sh").unlink()
    later = snapshot.stored(store)
    assert later is not None
    assert unpacked(later) == before
    assert manifest(later) == manifest(first)
    assert manifest(Tree(later.folder, later.files)) == manifest(first), "the copies are what the list says"


def test_a_change_since_the_launch_is_named(work: Path, store: RunStore) -> None:
    before = snapshot.take(store, workdir_tree(work))
    assert snapshot.difference(before, workdir_tree(work)).is_empty
    (work / "train.py").write_text("V = 2\n")  # and with it hard.py, which is the same file
    (work / "new.py").touch()
    (work / "sub" / "run.sh").unlink()
    found = snapshot.difference(before, workdir_tree(work))
    assert snapshot.changed_words(found) == "2 changed (hard.py, train.py), 1 new (new.py), 1 gone (sub/run.sh)"
    assert snapshot.source_of(store) == work


def test_equal_files_of_two_runs_are_one_and_prune_frees_them(work: Path, home: Path, tmp_path: Path) -> None:
    one = Story(home).store
    two = RunStore.create(home, one.spec().model_copy(update={"run": "two"}))
    for store in (one, two):
        snapshot.take(store, workdir_tree(work))
    inodes = {(store.folder / "code" / "train.py").stat().st_ino for store in (one, two)}
    assert len(inodes) == 1
    assert snapshot.clear_objects(home) == 0
    for store in (one, two):
        store.delete_unborn()
    assert snapshot.clear_objects(home) > 0
    assert not [path for path in (home / "objects").rglob("*") if path.is_file()]


def test_what_cannot_be_sent_is_named_with_its_number(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    os.mkfifo(work / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
    (work / "loop").symlink_to("loop")
    (work / "out").symlink_to("/etc/hostname")
    tree = workdir_tree(work)
    assert {"pipe", "sock", "loop", "out"}.isdisjoint(tree.files)
    assert tree.notes == (
        "Not sent, 2 links that lead out of the folder, or in a circle: loop, out.",
        "Not sent, 2 pipes, sockets or devices: pipe, sock.",
    )


def test_a_file_that_becomes_a_pipe_is_one_line_and_never_waited_for(work: Path, store: RunStore) -> None:
    tree = workdir_tree(work)
    (work / "train.py").unlink()
    os.mkfifo(work / "train.py")
    with pytest.raises(SpecError, match=r"--workdir: cannot copy .*train.py"):
        snapshot.take(store, tree)
    (work / "train.py").unlink()
    with pytest.raises(SpecError, match="No such file"):
        snapshot.take(store, tree)
    assert snapshot.stored(store) is None


@pytest.mark.parametrize(
    "text", ["", "[]", '{"files": 7}', '{"files": {"../x": "0"}}', '{"files": {"/x": "0"}}', "\xff"]
)
def test_a_damaged_list_is_one_line(store: RunStore, text: str) -> None:
    (store.folder / snapshot.LIST).write_text(text, encoding="latin-1")
    with pytest.raises(SpecError, match="is damaged"):
        snapshot.stored(store)


@pytest.mark.parametrize("is_in_git", [False, True])
def test_a_home_of_pixel_orch_in_the_folder_is_left_out_and_named(work: Path, is_in_git: bool) -> None:
    """It has the private keys of its runs, and copies of the folder: each launch would send those of the one before."""
    if is_in_git:
        git(work, "init", "-q")
    home = make_home(work / "sub" / ".pixel-orch")
    home_id(home)
    (home / "runs" / "r1").mkdir(parents=True)
    (home / "runs" / "r1" / "key").write_text("private")
    (work / "runs").mkdir()  # somebody else's: TensorBoard's
    (work / "id").write_text("7\n")
    (work / "runs" / "events").write_text("e")
    tree = workdir_tree(work)
    assert not [name for name in tree.files if ".pixel-orch" in name]
    assert {"id", "runs/events", "train.py"} <= set(tree.files)
    assert any("3 files of a home of pixel-orch: sub/.pixel-orch/id" in note for note in tree.notes)
    assert "sub/.pixel-orch/runs/r1/key" not in workdir_tree(work, ["sub"]).files
    assert "sub/.pixel-orch/runs/r1/key" in workdir_tree(work, ["sub/.pixel-orch/runs/r1/key"]).files


def test_a_path_that_is_too_long_is_named(work: Path) -> None:
    here = os.open(work, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=here)
        here, above = os.open("d" * 200, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    tree = workdir_tree(work)
    assert "train.py" in tree.files
    assert any(note.startswith("Not sent, 1 paths that are too long: ddd") for note in tree.notes)


LISTS = """
import pathlib, sys
from orchestrator.host.sync import workdir_tree
tree = workdir_tree(pathlib.Path(sys.argv[1]))
print(ascii((tree.files, tree.notes)))
"""


@pytest.mark.parametrize("is_in_git", [False, True])
def test_folders_that_cannot_be_read_are_named(work: Path, is_in_git: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read all: a process without its powers lists the folder."""
    for name in ("secret", "sub/locked"):
        (work / name).mkdir()
        (work / name / "a.py").write_text("")
    (work / "closed").mkdir()
    (work / "closed" / "a.py").write_text("")
    if is_in_git:
        git(work, "init", "-q")
    for name, mode in (("secret", 0), ("sub/locked", 0), ("closed", 0o444)):
        (work / name).chmod(mode)
    words = [sys.executable, "-c", LISTS, str(work)]
    if os.geteuid() == 0:
        powers = "-dac_override,-dac_read_search"
        words = ["setpriv", f"--bounding-set={powers}", "--inh-caps=-all", *words]
        if shutil.which("setpriv") is None:
            pytest.skip("there is no setpriv (util-linux)")
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    for name, mode in (("secret", 0o755), ("sub/locked", 0o755), ("closed", 0o755)):
        (work / name).chmod(mode)
    assert "'train.py'" in said
    assert "2 folders that you may not read: secret, sub/locked" in said
    assert is_in_git or "1 files that you may not read: closed/a.py" in said


@pytest.mark.parametrize("size_bytes", [1000, 3 << 20])
def test_of_a_file_that_grows_while_it_is_copied_its_beginning_is_sent(
    work: Path, store: RunStore, size_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that is written as fast as it is read filled the disk."""
    log = work / "log"
    log.write_bytes(b"x" * size_bytes)
    real, tree = os.fstat, workdir_tree(work)

    def grows(number: int) -> os.stat_result:
        status = real(number)
        if os.path.samestat(status, log.stat()):
            with log.open("ab") as file:
                file.write(b"y" * (2 << 20))
        return status

    monkeypatch.setattr(os, "fstat", grows)
    taken = snapshot.take(store, tree)
    monkeypatch.undo()
    assert (taken.folder / "log").read_bytes().count(b"x") == size_bytes
    assert (taken.folder / "log").stat().st_size <= size_bytes + (2 << 20)
    assert manifest(snapshot.stored(store) or tree)["log"] == sha256_of(taken.folder / "log")


def test_a_folder_or_pipe_in_the_place_of_a_listed_file_is_named(work: Path, store: RunStore) -> None:
    tree = workdir_tree(work)
    (work / "train.py").unlink()
    for make in (Path.mkdir, os.mkfifo):
        make(work / "train.py")
        with pytest.raises(SpecError, match=r"cannot copy .*/work/train\.py for the run: it is not a file any more"):
            snapshot.take(store, tree)
        os.rmdir(work / "train.py") if make is Path.mkdir else (work / "train.py").unlink()
