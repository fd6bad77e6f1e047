"""Whatever a folder holds: nothing from outside of it is listed, nothing of it is lost, and the list can be sent."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.formatting import one_line
from orchestrator.host.secret_names import is_secret
from orchestrator.host.sync import Tree, manifest, workdir_tree, write_tar
from orchestrator.plan.preview import tree_text
from tests.unit.host.test_sync import git

PARTS = [
    b"a",
    b"b.py",
    b"-rf",
    b"--",
    b"new\nline",
    b"\xff\xfe",
    b"caf\xe9",
    b"t\tb",
    b"*",
    b"[x]",
    b"$(x)",
    b"\x1b[2J",
]
PARTS += [b"l" * 255, b" ", b"..x", b".env", b"id_rsa", b":(top)", "\u202e".encode(), b"%s", b"\\"]
TARGETS = [
    b"a",
    b"b.py",
    b".",
    b"..",
    b"../..",
    b"../outside",
    b"/etc/passwd",
    b"a/../..",
    b"a/b.py",
    b"\xff\xfe",
    b"-rf",
]

path_of_parts = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map(b"/".join)
files = st.lists(path_of_parts, min_size=1, max_size=8)
links = st.lists(st.tuples(path_of_parts, st.sampled_from(TARGETS)), max_size=8)


def grown(folder: bytes, names: Sequence[bytes], targets: Sequence[tuple[bytes, bytes]]) -> None:
    """Make files and links; one that is in the way of another is left out."""
    for name in names:
        make(folder, name, lambda path: open(path, "xb").close())
    for name, target in targets:
        make(folder, name, lambda path, target=target: os.symlink(target, path))


def make(folder: bytes, name: bytes, how) -> None:  # type: ignore[no-untyped-def]
    """Make one of them, never through a link."""
    above = os.path.dirname(name)
    places = [os.path.join(folder, *above.split(b"/")[: n + 1]) for n in range(above.count(b"/") + 1)] if above else []
    try:
        for place in places:
            if os.path.islink(place):
                return
            os.makedirs(place, exist_ok=True)
        how(os.path.join(folder, name))
    except OSError:
        return


@pytest.mark.parametrize("has_git", [False, True], ids=["walked", "by git"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(names=files, targets=links)
def test_the_list_holds_all_of_a_folder_and_nothing_else(
    has_git: bool, names: list[bytes], targets: list[tuple[bytes, bytes]]
) -> None:
    above = Path(tempfile.mkdtemp())
    try:
        (above / "outside").write_text("private")
        work = above / "work"
        work.mkdir()
        if has_git:
            git(work, "init", "-q")
        grown(os.fsencode(work), names, targets)
        check_list(work)
    finally:
        shutil.rmtree(above)


def check_list(work: Path) -> None:
    """Compare the list with what is on the disk, and send it."""
    on_disk = {os.path.relpath(path, work) for path in map(str, work.rglob("*")) if ".git" not in Path(path).parts}
    regular = {name for name in on_disk if os.path.isfile(work / name) and not os.path.islink(work / name)}
    try:
        tree = workdir_tree(work)
    except SpecError:
        assert all(is_secret(name) for name in regular)
        return
    sent = set(tree.files)
    assert regular == {name for name in sent if not os.path.islink(work / name)} | (set(tree.left_out) & regular)
    assert all(map(is_secret, tree.left_out))
    root = os.path.realpath(work) + "/"
    for name in sent:
        assert os.path.realpath(work / os.path.dirname(name)).startswith(root.rstrip("/"))
        if os.path.islink(work / name):
            assert os.path.realpath(work / name).startswith(root), "a link leads out"
            assert not os.path.isabs(os.readlink(work / name))
    for line in tree_text(tree).splitlines():
        assert one_line(line) == line
    arrived = received(tree)
    assert arrived == sent


def received(tree: Tree) -> set[str]:
    """Return the names that arrive in the tar."""
    stream = io.BytesIO()
    write_tar(tree, list(manifest(tree)), [], stream.write)
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        return {member.name for member in tar} - {".sync.json"}


def test_a_name_is_shown_in_one_line() -> None:
    assert one_line("a\nb\x1b[2J\u202e\udcff é") == r"a\nb\x1b[2J\u202e\udcff é"
