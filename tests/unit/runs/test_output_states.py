"""The outputs of a run on this disk: whole states only, whatever happens, and nothing of the user's destroyed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from orchestrator.runs import output_states
from orchestrator.runs.output_states import OutputStates
from orchestrator.runs.output_tree import (
    TreeChanges,
    TreeFile,
    TreeState,
    check_target,
    check_tree_path,
    places,
    read_entry,
)

Files = dict[str, bytes | str]  # a content, or the target of a link


def file_of(name: str, content: bytes | str, time: int = 0) -> TreeFile:
    root, _, path = name.partition("/")
    assert root in ("work", "out")
    if isinstance(content, str):
        return TreeFile(root=root, path=path, kind="link", target=content)  # type: ignore[arg-type]
    digest = hashlib.sha256(content).hexdigest()
    mtime_ns = 1_700_000_000_000_000_007 + time
    return TreeFile(root=root, path=path, size_bytes=len(content), mtime_ns=mtime_ns, sha256=digest)  # type: ignore[arg-type]


def take(folder: Path, files: Files, *, deleted: tuple[str, ...] = (), number: int = 1, attempt: int = 1) -> TreeState:
    """Let a state arrive, as the mirror does: the contents first."""
    states = OutputStates(folder)
    states.incoming.mkdir(parents=True, exist_ok=True)
    for content in files.values():
        if isinstance(content, bytes):
            (states.incoming / hashlib.sha256(content).hexdigest()).write_bytes(content)
    listed = tuple(file_of(name, content, number) for name, content in files.items())
    base = states.newest()
    return states.commit(base, TreeChanges(number, base.number, False, listed, deleted), attempt)


def found(folder: Path) -> Files:
    """Return what lies in `outputs/`."""
    top = folder / "outputs"
    return {
        str(path.relative_to(top)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(top.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_a_state_lies_in_the_outputs_with_its_times(tmp_path: Path) -> None:
    take(tmp_path, {"work/model.pt": b"1", "out/runs/events": b"e", "work/last": "model.pt", "work/Ä b": b""})
    assert found(tmp_path) == {"model.pt": b"1", "runs/events": b"e", "last": "model.pt", "Ä b": b""}
    assert (tmp_path / "outputs" / "model.pt").stat().st_mtime_ns == 1_700_000_000_000_000_008
    assert OutputStates(tmp_path).damaged(OutputStates(tmp_path).newest()) == []


def test_what_was_deleted_goes_with_the_next_state_and_the_older_one_stays_whole(tmp_path: Path) -> None:
    take(tmp_path, {"work/c-1/model": b"1", "work/log.csv": b"a\n"})
    take(tmp_path, {"work/c-2/model": b"2", "work/log.csv": b"a\nb\n"}, deleted=("work/c-1/model",), number=2)
    assert found(tmp_path) == {"c-2/model": b"2", "log.csv": b"a\nb\n"}
    assert not (tmp_path / "outputs" / "c-1").exists()
    states = OutputStates(tmp_path)
    assert states.damaged(states.older()) == []
    assert {file.name: path.read_bytes() for file, path in states.contents(states.older())} == {
        "work/c-1/model": b"1",
        "work/log.csv": b"a\n",
    }
    states.swap()
    assert found(tmp_path) == {"c-1/model": b"1", "log.csv": b"a\n"}
    assert OutputStates(tmp_path).newest().number == 3
    OutputStates(tmp_path).swap()
    assert found(tmp_path) == {"c-2/model": b"2", "log.csv": b"a\nb\n"}


def test_a_file_that_becomes_a_folder_and_a_folder_that_becomes_a_file(tmp_path: Path) -> None:
    take(tmp_path, {"work/a": b"file", "work/b/c": b"in a folder"})
    gone = ("work/a", "work/b/c")
    take(tmp_path, {"work/a/d": b"in a folder", "work/b": b"file"}, deleted=gone, number=2)
    assert found(tmp_path) == {"a/d": b"in a folder", "b": b"file"}
    states = OutputStates(tmp_path)
    assert states.damaged(states.older()) == []


def test_equal_contents_and_a_moved_file_need_one_download(tmp_path: Path) -> None:
    take(tmp_path, {"work/a": b"same", "work/b": b"same"})
    states = OutputStates(tmp_path)
    moved = file_of("work/best/a", b"same", 5)
    states.commit(states.newest(), TreeChanges(2, 1, False, (moved,), ("work/a",)), 1)
    assert found(tmp_path) == {"best/a": b"same", "b": b"same"}


@pytest.mark.parametrize("call", ["replace", "unlink", "symlink", "fsync"])
def test_a_crash_at_any_point_leaves_a_whole_state(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class CrashError(BaseException):
        pass

    old: Files = {"work/a": b"old", "work/b/c": b"old", "work/link": "a", "work/same": b"same", "work/gone": b"gone"}
    new: Files = {"work/a": b"new", "work/b": b"file now", "work/link": "b", "work/d/e": b"new"}
    after = {"a": b"new", "b": b"file now", "link": "b", "same": b"same", "d/e": b"new"}
    before = {"a": b"old", "b/c": b"old", "link": "a", "same": b"same", "gone": b"gone"}
    finished, count = False, 0
    while not finished:
        count += 1
        folder = tmp_path / str(count)
        take(folder, old)
        calls = 0
        real = getattr(os, call)

        def crashing(*words: object, real: object = real, count: int = count, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls == count:
                raise CrashError
            return real(*words, **more)  # type: ignore[operator]

        with monkeypatch.context() as patch:
            patch.setattr(os, call, crashing)
            try:
                take(folder, new, deleted=("work/b/c", "work/gone"), number=2)
                finished = True
            except CrashError:
                pass
        states = OutputStates(folder)
        newest = states.newest()
        assert newest.number in (1, 2)
        assert found(folder) == (after if newest.number == 2 else before), f"after a crash at {call} {count}"
        assert states.damaged(newest) == []
        if newest.number == 1:
            take(folder, new, deleted=("work/b/c", "work/gone"), number=2)
            assert found(folder) == after
        states = OutputStates(folder)
        assert states.damaged(states.older()) == []
    assert count > 1 or call == "symlink"


def test_what_the_user_put_or_changed_there_is_set_aside_and_never_destroyed(tmp_path: Path) -> None:
    take(tmp_path, {"work/model.pt": b"1"})
    (tmp_path / "outputs" / "model.pt").write_bytes(b"edited by hand")
    (tmp_path / "outputs" / "notes.txt").write_bytes(b"mine")
    (tmp_path / "outputs" / "new").write_bytes(b"mine too")
    take(tmp_path, {"work/model.pt": b"2", "work/new/a": b"n"}, number=2)
    assert found(tmp_path) == {"model.pt": b"2", "notes.txt": b"mine", "new/a": b"n"}
    aside = {path.read_bytes() for path in (tmp_path / "set-aside").rglob("*") if path.is_file()}
    assert aside == {b"edited by hand", b"mine too"}


def test_a_state_that_was_changed_here_is_known(tmp_path: Path) -> None:
    take(tmp_path, {"work/a": b"1234", "work/b": b"b", "work/l": "a"})
    path = tmp_path / "outputs" / "a"
    times = path.stat()
    path.write_bytes(b"4321")
    os.utime(path, ns=(times.st_mtime_ns, times.st_mtime_ns))  # the same size and time: only the content tells
    (tmp_path / "outputs" / "l").unlink()
    states = OutputStates(tmp_path)
    assert sorted(states.damaged(states.newest())) == ["work/a", "work/l"]
    states.put_aside()
    assert OutputStates(tmp_path).newest().files == {}
    assert [path.read_bytes() for path in (tmp_path / "set-aside").rglob("b")] == [b"b"]


def test_a_content_that_is_not_here_changes_nothing(tmp_path: Path) -> None:
    take(tmp_path, {"work/a": b"1"})
    states = OutputStates(tmp_path)
    with pytest.raises(OSError, match="not here"):
        states.commit(states.newest(), TreeChanges(2, 1, False, (file_of("work/a", b"never came"),), ()), 1)
    assert found(tmp_path) == {"a": b"1"}
    assert OutputStates(tmp_path).newest().number == 1


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lies below"):
        take(tmp_path, {"work/a": "b", "work/a/c": b"through a link"})


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ({"work/a": b"", "out/a": b"", "out/b": b""}, ["a", "PIXEL_ORCH_OUT/a", "b"]),
        ({"work/a": b"", "out/a/b": b""}, ["a", "PIXEL_ORCH_OUT/a/b"]),
        ({"work/a/b": b"", "out/a": b""}, ["a/b", "PIXEL_ORCH_OUT/a"]),
        ({"work/a\nb": b"", "work/\x1b[2J": b"", "work/\udcff": b""}, ["a%0Ab", "%1B[2J", "%FF"]),
        ({"work/a\nb": b"", "work/a%0Ab": b""}, ["a%0Ab", "a%0Ab~"]),
        ({"work/PIXEL_ORCH_OUT/a": b"", "work/a": b"", "out/a": b""}, ["PIXEL_ORCH_OUT/a", "a", "PIXEL_ORCH_OUT/a~"]),
    ],
)
def test_every_name_has_a_place_of_its_own(file: Files, expected: list[str]) -> None:
    files = [file_of(name, content) for name, content in file.items()]
    placed = places(files)
    assert [placed[one.name] for one in files] == expected


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../a", "a/../../b", "a//b", "./a", "a/.", "a\0b", "x" * 300])
def test_paths_that_leave_their_folder_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_tree_path(path)


@pytest.mark.parametrize("target", ["", "/etc", "../..", "../../a", "b/../../../c", "b/../c", "./b", "b//c", "b/"])
def test_links_that_leave_their_folder_are_refused(target: str) -> None:
    with pytest.raises(ValueError, match="link out of"):
        check_target("folder/link", target)


@pytest.mark.parametrize("target", ["b", "../b", "c/d", "../c/d"])
def test_links_within_their_folder_are_taken(target: str) -> None:
    assert check_target("folder/link", target) == target


@pytest.mark.parametrize(
    "entry",
    [
        {"root": "home", "path": "a", "sha256": "0" * 64},
        {"root": "work", "path": "a"},
        {"root": "work", "path": "a", "sha256": "0" * 64, "size": -1},
        {"root": "work", "path": "a", "sha256": "0" * 64, "size": 1, "after": 2},
        {"root": "work", "path": "a", "sha256": "0" * 64, "mode": 0o4755},
        {"root": "work", "path": "a", "sha256": "0" * 64, "mtime_ns": 1 << 70},
        {"root": "work", "path": "a", "kind": "device", "sha256": "0" * 64},
        {"root": "work", "path": "a", "kind": "link", "target": "/etc/passwd"},
        ["work/a"],
    ],
)
def test_entries_of_a_machine_that_make_no_sense_are_refused(entry: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_entry(entry)


def test_a_damaged_list_is_no_state_and_its_files_stay(tmp_path: Path) -> None:
    take(tmp_path, {"work/a": b"1"})
    (tmp_path / "states" / "newest.json").write_text('{"number": ')
    assert OutputStates(tmp_path).newest() == TreeState()
    assert found(tmp_path) == {"a": b"1"}
    take(tmp_path, {"work/a": b"2"}, number=2)
    assert found(tmp_path) == {"a": b"2"}
    assert [path.read_bytes() for path in (tmp_path / "set-aside").rglob("a")] == [b"1"]


def test_what_came_of_a_state_that_will_never_be_whole_is_kept(tmp_path: Path) -> None:
    states = OutputStates(tmp_path)
    states.incoming.mkdir(parents=True)
    one, two = file_of("work/results/one", b"1"), file_of("work/two", b"2")
    (states.incoming / one.sha256).write_bytes(b"1")
    count, folder = states.keep_incomplete(TreeChanges(1, 0, True, (one, two), ()))
    assert count == 1
    assert (folder / "results" / "one").read_bytes() == b"1"


def test_many_files_are_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "sync", lambda: synced.append("all"))
    monkeypatch.setattr(output_states, "SYNC_EACH", 3)
    take(tmp_path, {f"work/{n}/a": str(n).encode() for n in range(10)})
    assert synced == ["all", "all"]
