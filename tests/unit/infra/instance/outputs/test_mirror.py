"""States of a program's outputs: made of complete files, of one moment, and sent as differences."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from infra.instance.outputs import mirror as mirror_module
from infra.instance.outputs.answers import acknowledge, allow, changes, is_mirrored, told
from infra.instance.outputs.complete_files import CompleteFiles, open_to_write
from infra.instance.outputs.files import Rules
from infra.instance.outputs.frames import FrameReader
from infra.instance.outputs.mirror import DIFFERENCE, Mirror
from infra.instance.outputs.stream import Restorer, send_contents


class Watched:
    """A run's folder on a machine, its program, and a clock that nobody waits for."""

    def __init__(self, root: Path, **rules: Any) -> None:
        self.root = root
        self.now = 1000.0
        self.has_difference = True
        self.state: dict[str, Any] = {"trainer": {"state": "running"}, "notice": None}
        self.code, self.out = root / "code", root / "out"
        for folder in (self.code, self.out, root / "agent"):
            folder.mkdir(exist_ok=True)
        processes = root / "processes"  # ours alone: to look into those of the whole machine takes long
        processes.mkdir()
        (processes / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
        complete = CompleteFiles(lambda: self.now, lambda: open_to_write(str(processes)))
        self.mirror = Mirror(str(root), Rules(**rules), lambda: self.state, clock=lambda: self.now, complete=complete)
        self.mirror.note_sent()
        self.base = self.mirror.number
        allow(str(root), "inf")

    def look(self, times: int = 2) -> dict[str, Any]:
        """Look so often, two seconds apart; return what the owner is told."""
        for _ in range(times):
            self.mirror.look()
            self.now += 2
        if not self.has_difference:
            (self.root / "agent" / "outputs" / DIFFERENCE).unlink(missing_ok=True)
        found = told(str(self.root))
        assert found is not None
        return found

    def end(self) -> dict[str, Any]:
        self.state["trainer"]["state"] = "exited"
        return self.look()

    def changes(self) -> dict[str, Any]:
        return changes(str(self.root), self.mirror.number, self.base)

    def names(self) -> list[str]:
        return sorted(f"{entry['root']}/{entry['path']}" for entry in self.changes()["files"])

    def contents(self, *names: str) -> dict[str, bytes | None]:
        """Return what the owner downloads; None for what is gone."""
        entries = {f"{e['root']}/{e['path']}": e for e in self.changes()["files"]}
        asked = [[name, entries[name]["sha256"], 0] for name in names]
        sent = io.BytesIO()
        send_contents(str(self.root), asked, sent.write)
        found: list[bytes | None] = []
        data = io.BytesIO()

        def end(number: int, is_whole: bool) -> None:
            assert number == len(found)
            found.append(data.getvalue() if is_whole else None)
            data.seek(0)
            data.truncate()

        reader = FrameReader(data.write, lambda zeros: data.write(bytes(zeros)), end)
        for byte in sent.getvalue():
            reader.feed(bytes([byte]))
        return dict(zip(names, found, strict=True))

    def acknowledge(self) -> None:
        assert acknowledge(str(self.root), self.mirror.number)["acknowledged"]
        self.base = self.mirror.number


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


@pytest.fixture(params=["the difference", "whole states"])
def answering(watched: Watched, request: pytest.FixtureRequest) -> Watched:
    """Give a run whose answers come from the short file of the difference, or from the long ones of both states."""
    watched.has_difference = request.param == "the difference"
    return watched


def test_what_was_sent_is_no_output_until_the_program_writes_to_it(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("pass")
    (tmp_path / "code" / "config.json").write_text("{}")
    watched = Watched(tmp_path)
    assert watched.look()["state"] == 0
    (watched.code / "config.json").write_text('{"lr": 1}')
    (watched.code / "model.pt").write_bytes(b"weights")
    (watched.out / "last.ckpt").write_bytes(b"more")
    assert watched.look()["new_files"] == 3
    assert watched.names() == ["out/last.ckpt", "work/config.json", "work/model.pt"]


def test_caches_and_temporary_files_are_left_out_unless_they_are_asked_for(tmp_path: Path) -> None:
    ignored = ("__pycache__", "*.tmp", ".git")
    watched = Watched(tmp_path, ignored=ignored)
    for name in ("__pycache__/a.pyc", ".git/config", "x/y.tmp", "x/y.pt"):
        (watched.code / name).parent.mkdir(parents=True, exist_ok=True)
        (watched.code / name).write_text(name)
    watched.look()
    assert watched.names() == ["work/x/y.pt"]
    asked = Rules(only=["x/**", "*.pyc"], ignored=ignored, never=["*.pt"])
    assert [name for name in ("x/y.tmp", "x/y.pt", "__pycache__/a.pyc", "z/x/y.csv") if asked.is_output(name)] == [
        "x/y.tmp",
        "__pycache__/a.pyc",
    ]


@pytest.mark.parametrize(
    ("pattern", "takes", "leaves"),
    [
        ("results", ["results/a", "b/results/c/d"], ["my-results/a", "resultsx"]),
        ("results/", ["results/a"], ["other/a"]),
        ("./results/*.csv", ["results/a.csv"], ["results/b/a.csv", "results/a.csvx"]),
        ("runs/**/*.pt", ["runs/a.pt", "runs/1/2/a.pt"], ["a.pt", "runs/1/a.ckpt"]),
        ("*.p[ty]", ["a.pt", "x/b.py"], ["a.pz"]),
        ("[!a].bin", ["b.bin"], ["a.bin"]),
        ("[a-c]x[!0-9]", ["bxy"], ["dxy", "bx3", "bx/"]),
        ("[z-a]b[!z-a]", [], ["zb1", "ab1"]),
        ("[!]x]", ["a"], ["]", "x"]),
        ("[]&&^\\~~]", ["]", "&", "\\"], ["a"]),
        ("a+b (1).txt", ["a+b (1).txt"], ["aab (1).txt"]),
        ("Modell ü?.pt", ["Modell ü1.pt"], ["Modell u1.pt"]),
    ],
)
def test_patterns(pattern: str, takes: list[str], leaves: list[str]) -> None:
    rules = Rules(only=[pattern])
    assert [name for name in takes if not rules.is_output(name)] == []
    assert [name for name in leaves if rules.is_output(name)] == []


def test_a_program_that_fills_the_disk_has_its_outputs_told_all_the_same(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = watched.root / "agent" / "outputs" / "room"
    write = mirror_module.write_json

    def full(path: str, *words: Any) -> None:
        if room.exists():
            raise OSError(28, "No space left on device")
        write(path, *words)

    monkeypatch.setattr(mirror_module, "write_json", full)
    (watched.code / "model.pt").write_bytes(b"weights")
    watched.state["trainer"]["state"] = "exited"
    for _ in range(3):
        watched.mirror.turn()
    found = watched.look()
    assert (found["is_final"], found["new_files"]) == (True, 1)
    assert watched.contents("work/model.pt") == {"work/model.pt": b"weights"}


def test_a_file_that_is_written_holds_the_state_back(watched: Watched) -> None:
    (watched.code / "a.pt").write_bytes(b"a")
    with (watched.code / "b.pt").open("wb") as file:
        file.write(b"half")
        file.flush()
        waiting = watched.look(5)
        assert (waiting["state"], waiting["pending_files"]) == (0, 2)
        file.write(b" and the rest")
    assert watched.look()["state"] == 1
    assert watched.contents("work/b.pt") == {"work/b.pt": b"half and the rest"}


def test_a_file_that_is_overwritten_later_is_sent_as_it_was(answering: Watched) -> None:
    (answering.code / "last.ckpt").write_bytes(b"epoch 1")
    (answering.code / "history.csv").write_text("1\n")
    answering.look()
    (answering.code / "last.ckpt").write_bytes(b"epoch 2 is longer")
    assert answering.contents("work/last.ckpt") == {"work/last.ckpt": b"epoch 1"}
    answering.mirror.look()  # the owner reads state 1: no other replaces it
    answering.look()
    assert answering.mirror.number == 1
    answering.acknowledge()
    answering.look()
    assert answering.mirror.number == 2
    assert answering.contents("work/last.ckpt") == {"work/last.ckpt": b"epoch 2 is longer"}


def test_a_file_that_changes_while_the_state_is_made_delays_it(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    (watched.code / "a.pt").write_bytes(b"a1")
    (watched.code / "b.pt").write_bytes(b"b1")
    watched.mirror.look()
    watched.now += 2
    digest = Mirror._digest

    def slow(self: Mirror, path: str, size: int, had: int, is_copied: bool) -> tuple[str, str] | None:
        answer = digest(self, path, size, had, is_copied)
        if path.endswith("b.pt"):  # the program goes on while b is read: a belongs to a later moment now
            (watched.code / "a.pt").write_bytes(b"a2")
        return answer

    monkeypatch.setattr(Mirror, "_digest", slow)
    watched.mirror.look()
    assert watched.mirror.number == 0
    monkeypatch.setattr(Mirror, "_digest", digest)
    watched.now += 2
    watched.look()
    assert watched.contents("work/a.pt", "work/b.pt") == {"work/a.pt": b"a2", "work/b.pt": b"b1"}


def test_a_growing_file_is_taken_as_whole_lines_and_only_its_end_is_sent(answering: Watched) -> None:
    with (answering.code / "log.csv").open("w") as file:
        file.write("1,2\n3,")
        file.flush()
        assert answering.look()["state"] == 1
        assert answering.contents("work/log.csv") == {"work/log.csv": b"1,2\n"}
        answering.acknowledge()
        file.write("4\n5,6\n7")
        file.flush()
        answering.now += 60
        answering.look()
    entry = answering.changes()["files"][0]
    assert (entry["size"], entry["after"]) == (12, 4)
    assert entry["sha256"] == hashlib.sha256(b"1,2\n3,4\n5,6\n").hexdigest()
    answering.acknowledge()
    answering.end()
    assert answering.changes()["files"][0]["size"] == 13, "once it is closed, its last line needs no end"


def test_an_event_file_is_taken_as_whole_records(watched: Watched) -> None:
    record = struct.pack("<QI", 5, 0) + b"hello" + bytes(4)
    with (watched.out / "events.out.tfevents.1.host").open("wb") as file:
        file.write(record + record + record[:9])
        file.flush()
        watched.look()
        assert watched.changes()["files"][0]["size"] == 2 * len(record)


def test_a_rewritten_log_is_sent_whole(answering: Watched) -> None:
    (answering.code / "a.log").write_text("one\n")
    answering.look()
    answering.acknowledge()
    (answering.code / "a.log").write_text("another\n")
    answering.now += 60
    answering.look()
    assert "after" not in answering.changes()["files"][0]


@pytest.mark.slow
def test_a_restless_file_and_one_that_is_never_closed_hold_nothing_back_for_ever(watched: Watched) -> None:
    (watched.code / "model.pt").write_bytes(b"weights")
    with (watched.code / "database").open("wb") as busy:
        for step in range(60):
            (watched.code / "state.json").write_text(f'{{"step": {step}}}')
            os.utime(watched.code / "state.json", ns=(step, step))
            busy.write(b"x")
            busy.flush()
            watched.look(1)
            watched.now += 13
    assert "work/model.pt" in watched.names()
    assert "work/state.json" in watched.names()
    assert "work/database" not in watched.names()
    watched.end()
    assert "work/database" in watched.names()


def test_folders_links_and_what_is_deleted(answering: Watched) -> None:
    for step in (500, 1000):
        folder = answering.code / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.bin").write_bytes(bytes(step))
        (folder / "trainer_state.json").write_text("{}")
    (answering.code / "latest").symlink_to("checkpoint-1000")
    (answering.code / "absolute").symlink_to(answering.code / "checkpoint-500" / "model.bin")
    (answering.code / "outside").symlink_to("/etc/hostname")
    os.mkfifo(answering.code / "pipe")
    now = answering.look()
    assert sorted(name for name, _ in now["left"]) == ["outside", "pipe"]
    targets = {e["path"]: e["target"] for e in answering.changes()["files"] if e["kind"] == "link"}
    assert targets == {"latest": "checkpoint-1000", "absolute": "checkpoint-500/model.bin"}
    answering.acknowledge()
    for path in (answering.code / "checkpoint-500").iterdir():
        path.unlink()
    (answering.code / "checkpoint-500").rmdir()
    (answering.code / "absolute").unlink()
    answering.look()
    difference = answering.changes()
    assert difference["files"] == []
    assert sorted(difference["deleted"]) == [
        "work/absolute",
        "work/checkpoint-500/model.bin",
        "work/checkpoint-500/trainer_state.json",
    ]


def test_without_an_allowance_a_state_is_made_at_a_notice_and_at_the_end_only(watched: Watched) -> None:
    allow(str(watched.root), "3")
    (watched.code / "model.pt").write_bytes(b"weights")
    assert watched.look(5)["state"] == 0
    watched.state["notice"] = {"action": "terminate"}
    assert watched.look()["state"] == 1
    assert not is_mirrored(str(watched.root))
    watched.acknowledge()
    assert watched.end()["is_final"]
    assert is_mirrored(str(watched.root))


def test_a_program_without_outputs_is_mirrored_at_its_end(watched: Watched) -> None:
    now = watched.end()
    assert (now["state"], now["is_final"]) == (0, True)
    assert is_mirrored(str(watched.root))


def test_little_room_on_the_disk_makes_no_copies(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "ROOM_BYTES", 1 << 60)
    (watched.code / "model.pt").write_bytes(b"weights")
    watched.look()
    assert os.listdir(watched.root / "agent" / "outputs" / "copies") == []
    assert watched.contents("work/model.pt") == {"work/model.pt": b"weights"}
    (watched.code / "model.pt").unlink()
    assert watched.contents("work/model.pt") == {"work/model.pt": None}


def sent_state(number: int, files: dict[str, bytes], links: dict[str, str]) -> io.BytesIO:
    """Return a stream as the owner sends it."""
    from infra.instance.outputs.frames import write_file

    entries: list[dict[str, Any]] = []
    stream = io.BytesIO()
    for position, (name, content) in enumerate(files.items()):
        root, _, path = name.partition("/")
        digest = hashlib.sha256(content).hexdigest()
        entries.append({"root": root, "path": path, "kind": "file", "size": len(content), "sha256": digest})
        entries[-1].update(mtime_ns=1_234_567_890_123_456_789, mode=0o755)
        write_file(stream.write, io.BytesIO(content), len(content), position)
    for name, target in links.items():
        root, _, path = name.partition("/")
        entries.append({"root": root, "path": path, "kind": "link", "target": target, "size": 0})
    listed = json.dumps({"state": number, "files": entries}).encode()
    return io.BytesIO(len(listed).to_bytes(8, "big") + listed + stream.getvalue())


def test_a_state_is_restored_with_its_times_and_is_then_what_the_owner_has(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "data").write_text("sent as a file, replaced by a folder")
    sparse = bytes(3 << 20) + b"end"
    stream = sent_state(
        7, {"work/data/Modell ü 1.pt": b"weights", "out/sparse": sparse, "work/empty": b""}, {"work/last": "data"}
    )
    answer = Restorer(str(tmp_path)).run(stream)
    assert answer == {"restored": 4, "damaged": []}
    restored = tmp_path / "code" / "data" / "Modell ü 1.pt"
    assert restored.stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert restored.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out" / "sparse").read_bytes() == sparse
    assert os.readlink(tmp_path / "code" / "last") == "data"
    watched = Watched(tmp_path)
    now = watched.look()
    assert (now["state"], now["home"], now["new_files"]) == (7, 7, 0)
    restored.write_bytes(b"trained on")
    watched.look()
    assert watched.mirror.number == 8
    assert watched.names() == ["work/data/Modell ü 1.pt"]


def test_another_state_replaces_one_that_was_restored_before(tmp_path: Path) -> None:
    Restorer(str(tmp_path)).run(sent_state(2, {"work/a": b"2", "work/b": b"2"}, {}))
    Restorer(str(tmp_path)).run(sent_state(1, {"work/a": b"1"}, {}))
    assert (tmp_path / "code" / "a").read_bytes() == b"1"
    assert not (tmp_path / "code" / "b").exists()


def test_a_damaged_transfer_is_told(tmp_path: Path) -> None:
    stream = sent_state(1, {"work/a": b"content"}, {})
    stream.getbuffer()[-12] ^= 1
    assert Restorer(str(tmp_path)).run(stream)["damaged"] == ["a"]
    assert not (tmp_path / "code" / "a").exists()


@pytest.mark.slow
def test_a_program_that_never_stands_still_is_taken_as_it_was_before_its_newest_checkpoint(watched: Watched) -> None:
    states = []
    for step in range(1, 60):
        folder = watched.code / "out" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model").write_bytes(b"m%d" % step)
        watched.mirror.look()
        watched.now += 0.8
        (folder / "optimizer").write_bytes(b"o%d" % step)
        for old in sorted((watched.code / "out").iterdir(), key=lambda one: int(one.name.split("-")[1]))[:-3]:
            for path in old.iterdir():
                path.unlink()
            old.rmdir()
        watched.mirror.look()
        watched.now += 0.8
        if len(states) < watched.mirror.number:
            states.append({name.split("/", 1)[1] for name in watched.mirror.files})
    assert len(states) > 3
    for names in states:
        folders = {os.path.dirname(name) for name in names}
        assert names == {f"{folder}/{name}" for folder in folders for name in ("model", "optimizer")}, "none is half"


@pytest.mark.slow
def test_half_of_a_slow_checkpoint_is_in_no_state(watched: Watched) -> None:
    (watched.code / "config").write_text("{}")
    watched.look()
    for part in ("checkpoint-1/model", "model-1.pt"):
        path = watched.code / part
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"complete, and still for long")
    with (watched.code / "checkpoint-1" / "optimizer").open("wb") as file, (watched.code / "optimizer-1.pt").open("wb"):
        for _ in range(100):
            file.write(b"more")
            file.flush()
            watched.look(1)
            assert set(watched.mirror.files) == {"work/config"}
