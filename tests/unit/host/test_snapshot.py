"""What a run sends is fixed at its launch: later changes of the folder reach no attempt."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.host import snapshot
from orchestrator.host.sync import Tree, manifest, workdir_tree, write_tar
from orchestrator.runs.store import RunStore
from tests.support.story import Story


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
