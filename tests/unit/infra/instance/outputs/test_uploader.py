"""States of the outputs in S3: whole or not at all, restored on the next machine, and nothing of a stranger is used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infra.instance.outputs import mirror as mirror_module
from infra.instance.outputs import uploader
from infra.instance.outputs.answers import acknowledge, allow, are_stored, changes, is_mirrored, told
from infra.instance.outputs.complete_files import CompleteFiles, open_to_write
from infra.instance.outputs.downloader import OutputDownloader
from infra.instance.outputs.files import Rules
from infra.instance.outputs.mirror import Mirror, sealed_state
from infra.instance.outputs.stored_state import from_bytes
from infra.instance.outputs.stream import send_contents
from infra.instance.outputs.uploader import ReplacedError
from infra.instance.trainer_files import read_json
from tests.support.bucket import Bucket
from tests.unit.infra.instance.test_checkpoint_uploader import FIRST, OTHER, RUN, SECOND, STRANGER, Machine, own

THIRD = "i-0aaaaaaaaaaaaaaa3"


class Mirrored:
    """A machine with a program, the mirror of its outputs, and its uploader."""

    def __init__(self, bucket: Bucket, folder: Path, instance_id: str = FIRST) -> None:
        self.machine = Machine(bucket, folder, instance_id)
        self.root, self.instance_id = self.machine.root, instance_id
        self.code, self.out = self.root / "code", self.root / "out"
        self.now = 1000.0
        self.state: dict[str, Any] = {"trainer": {"state": "running"}, "notice": None}
        self.store = self.machine.store
        self.store.write_ledger()
        self.uploader = self.store.outputs
        self.bucket = self.machine.bucket

    def begin(self) -> Mirrored:
        """Begin to watch, as the agent does before the program starts."""
        complete = CompleteFiles(lambda: self.now, open_to_write)
        rules, clock = Rules(), lambda: self.now
        self.mirror = Mirror(str(self.root), rules, lambda: self.state, is_stored=True, clock=clock, complete=complete)
        self.mirror.note_sent()
        allow(str(self.root), "0")
        return self

    def look(self, times: int = 2) -> dict[str, Any]:
        for _ in range(times):
            self.mirror.look()
            self.now += 2
        return told(str(self.root)) or {}

    def write(self, **files: bytes) -> Mirrored:
        for name, content in files.items():
            path = self.code / name.replace("__", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return self

    def end(self) -> None:
        self.state["trainer"] = {"state": "exited", "exit_code": 0}
        (self.root / "agent" / "state.json").write_text(json.dumps(self.state))
        self.look()

    def stored(self) -> dict[str, bytes]:
        """Return the state that S3 has of this machine, by the paths of its files."""
        raw = self.bucket.objects.get(f"{own(self.instance_id)}/outputs/state.json", (b'{"number":0,"files":[]}', {}))
        found = {}
        for entry in from_bytes(raw[0]).files:
            if entry["kind"] == "file":
                content = self.bucket.objects[f"{own(self.instance_id)}/outputs/objects/{entry['sha256']}"][0]
                assert hashlib.sha256(content).hexdigest() == entry["sha256"]
                found[f"{entry['root']}/{entry['path']}"] = content
        return found

    def restore(self, known: dict[str, int] | None = None, run: tuple[str, ...] = (*RUN, THIRD)) -> dict[str, Any]:
        """Restore from S3, as the owner asks for before the program starts."""
        place = {"bucket": "b", "prefix": self.store.prefix, "instances": list(run)}
        return OutputDownloader(str(self.root), self.bucket, place).restore(known or {})


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def first(bucket: Bucket, tmp_path: Path) -> Mirrored:
    return Mirrored(bucket, tmp_path).begin()


def test_a_state_is_stored_whole_and_its_contents_once(first: Mirrored) -> None:
    first.write(model__pt=b"one", log__csv=b"1\n2\n").look()
    assert first.uploader.upload_newest()
    assert first.stored() == {"work/model.pt": b"one", "work/log.csv": b"1\n2\n"}
    puts = len(first.bucket.objects)
    assert not first.uploader.upload_newest(), "it is stored"
    first.write(model__pt=b"two", same__pt=b"one").look()
    assert first.uploader.upload_newest()
    assert first.stored() == {"work/model.pt": b"two", "work/log.csv": b"1\n2\n", "work/same.pt": b"one"}
    assert len(first.bucket.objects) == puts + 1, "a content is uploaded once, and nothing is deleted"
    assert first.uploader.told() == {"state": 2, "is_final": False, "bytes": 10}


def test_an_uploader_that_is_started_again_uploads_nothing_twice(first: Mirrored, tmp_path: Path) -> None:
    first.write(model__pt=b"one").look()
    first.uploader.upload_newest()
    again = Machine(first.bucket, tmp_path, FIRST).store.outputs
    assert again.there == {hashlib.sha256(b"one").hexdigest()}
    assert again.upload_newest()
    assert again.sent_bytes == 0
    with (first.root / "agent" / "outputs" / "uploaded").open("a") as file:
        file.write("0123")  # a crash left half of a line
    assert Machine(first.bucket, tmp_path, FIRST).store.outputs.there == again.there


def test_large_files_go_in_parts_and_are_read_once(first: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploader, "PART_BYTES", 10)
    content = bytes(range(97))
    first.write(large__bin=content, small__bin=b"0123456789", empty__bin=b"").look()
    assert first.uploader.upload_newest()
    assert first.stored() == {"work/large.bin": content, "work/small.bin": b"0123456789", "work/empty.bin": b""}
    assert first.bucket.uploads == {}


@pytest.mark.parametrize("part_bytes", [5, 1 << 20])
def test_what_was_written_to_before_it_was_stored_is_not_stored_as_another_content(
    first: Mirrored, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    """Without room for copies the files themselves are read."""
    monkeypatch.setattr(uploader, "PART_BYTES", part_bytes)
    monkeypatch.setattr(mirror_module, "ROOM_BYTES", 1 << 60)
    first.write(model__pt=b"0123456789").look()
    first.write(model__pt=b"9876543210")
    assert not first.uploader.upload_newest()
    assert first.bucket.objects == {}
    assert first.bucket.uploads == {}
    first.look()
    assert first.uploader.upload_newest()
    assert first.stored() == {"work/model.pt": b"9876543210"}


def test_a_file_that_has_grown_since_is_stored_as_it_was(first: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploader, "PART_BYTES", 4)
    with (first.code / "train.log").open("wb") as file:
        file.write(b"first line\nsec")
        file.flush()
        first.write(model__pt=b"m").look()
        file.write(b"ond line\n")
        file.flush()
        assert first.uploader.upload_newest()
    assert first.stored() == {"work/train.log": b"first line\n", "work/model.pt": b"m"}


def replacing(first: Mirrored, monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Let the machine be told of its end, and write a newer state, at the first request of this kind."""
    asked: list[str] = []
    before: Callable[..., Any] = getattr(Bucket, name)

    def once(self: Bucket, *words: Any, **more: Any) -> Any:
        asked.append(more["Key"])
        if len(asked) == 1:
            first.state["notice"] = {"action": "terminate"}
            first.write(model__pt=b"the newer one").look()
        return before(self, *words, **more)

    monkeypatch.setattr(Bucket, name, once)
    return asked


@pytest.mark.parametrize(("name", "part_bytes"), [("put_object", 1 << 20), ("upload_part", 4)])
def test_a_state_that_is_replaced_while_it_is_uploaded_is_given_up_for_the_newer_one(
    first: Mirrored, monkeypatch: pytest.MonkeyPatch, name: str, part_bytes: int
) -> None:
    monkeypatch.setattr(uploader, "PART_BYTES", part_bytes)
    first.write(model__pt=b"0123456789" * 9).look()
    replacing(first, monkeypatch, name)
    assert not first.uploader.upload_newest()
    assert first.stored() == {}
    assert first.bucket.uploads == {}, "what was begun is aborted"
    assert first.uploader.upload_newest()
    assert first.stored() == {"work/model.pt": b"the newer one"}


def test_while_a_state_is_uploaded_no_new_one_is_made_and_its_copies_stay(
    first: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    first.write(model__pt=b"one").look()
    put, seen = Bucket.put_object, []

    def slowly(self: Bucket, **words: Any) -> Any:
        if not seen:
            seen.append(first.write(model__pt=b"two").look(4)["state"])
            assert acknowledge(str(first.root), 1)["acknowledged"]
            first.look()
        return put(self, **words)

    monkeypatch.setattr(Bucket, "put_object", slowly)
    assert first.uploader.upload_newest()
    assert (seen, first.stored()) == ([1], {"work/model.pt": b"one"})
    assert first.look()["state"] == 2, "the marker is gone"
    assert first.uploader.upload_newest()
    assert first.stored() == {"work/model.pt": b"two"}


def test_an_owner_with_a_slow_line_holds_up_no_state_and_gets_the_one_that_it_reads(first: Mirrored) -> None:
    root = str(first.root)
    first.write(model__pt=b"one", log__csv=b"1\n").look()
    told_of = changes(root, 1, 0)["files"]
    first.write(model__pt=b"two", log__csv=b"1\n2\n").look(4)
    assert sealed_state(root)["state"] == 2
    sent: list[bytes] = []
    send_contents(root, [[f"work/{e['path']}", e["sha256"], 0] for e in told_of], sent.append)
    assert b"one" in b"".join(sent)
    assert b"2\n" not in b"".join(sent)
    assert acknowledge(root, 1) == {"acknowledged": True}
    first.look()
    newer = {entry["path"]: entry for entry in changes(root, 2, 1)["files"]}
    assert sorted(newer) == ["log.csv", "model.pt"]
    assert "after" not in newer["log.csv"], "it was made before the owner had the state that it would follow"
    assert acknowledge(root, 2) == {"acknowledged": True}
    assert is_mirrored(root) is False, "the program runs"
    assert os.listdir(first.root / "agent" / "outputs" / "copies")


def test_the_end_is_told_in_s3_only_with_the_last_outputs(first: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    root, state = str(first.root), f"{own(FIRST)}/state.json"
    first.write(model__pt=b"one").end()
    first.store.upload_new_files()
    assert state not in first.bucket.objects
    assert not read_json(first.store.ledger, {})["done"]
    assert not are_stored(root)
    first.uploader.upload_newest()
    first.store.upload_new_files()
    words = json.loads(first.bucket.objects[state][0])
    assert (words["trainer"]["state"], words["outputs"]["state"], words["outputs"]["is_final"]) == ("exited", 1, True)
    ledger = read_json(first.store.ledger, {})
    assert (ledger["done"], ledger["outputs"]) == (True, {"state": 1, "is_final": True, "bytes": 3})
    assert are_stored(root)
    first.write(late__pt=b"of a process that lives on").look()
    first.store.upload_new_files()
    assert not read_json(first.store.ledger, {})["done"], "not any more"
    assert not are_stored(root)
    first.uploader.upload_newest()
    first.store.upload_new_files()
    assert read_json(first.store.ledger, {})["done"]


def test_how_it_ended_is_told_at_last_though_the_outputs_cannot_be_stored(
    first: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    first.write(model__pt=b"one").end()
    now = [1000.0]
    monkeypatch.setattr("infra.instance.checkpoint_uploader.time.monotonic", lambda: now[0])
    first.store.upload_new_files()
    now[0] += 901.0
    first.store.upload_new_files()
    assert json.loads(first.bucket.objects[f"{own(FIRST)}/state.json"][0])["trainer"]["state"] == "exited"
    assert not read_json(first.store.ledger, {})["done"]


def test_a_refusal_of_s3_is_told_and_tried_again(first: Mirrored) -> None:
    first.write(model__pt=b"one").look()
    bucket = first.uploader.s3
    first.uploader.s3 = bucket.of(f"AROAEXAMPLE0123456789:{STRANGER}")
    with pytest.raises(ClientError, match="AccessDenied"):
        first.uploader.upload_newest()
    first.uploader.s3, first.uploader.problem = bucket, "outputs: AccessDenied"
    first.store.tell_of_outputs()
    assert read_json(first.store.ledger, {})["problem"] == "outputs: AccessDenied"
    assert first.uploader.upload_newest()


@pytest.mark.slow
def test_many_small_files_are_all_stored(first: Mirrored) -> None:
    for number in range(300):
        first.write(**{f"many/{number}__txt": b"%d" % number})
    first.look()
    assert first.uploader.upload_newest()
    assert len(first.stored()) == 300


# -- the next machine


def lay_out(machine: Mirrored) -> dict[str, bytes]:
    return {
        str(path.relative_to(machine.root)): path.read_bytes()
        for folder in (machine.code, machine.out)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def test_the_next_machine_writes_the_newest_state_to_its_paths_with_its_times(
    first: Mirrored, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "PART_BYTES", 8)
    monkeypatch.setattr("infra.instance.outputs.downloader.PART_BYTES", 8)
    first.write(**{"run/model__pt": b"a content of two parts", "twin__pt": b"a content of two parts", "äö ü": b"x"})
    (first.out / "last.ckpt").write_bytes(b"last")
    (first.code / "newest").symlink_to("run/model.pt")
    os.utime(first.code / "run" / "model.pt", ns=(10**18, 10**18))
    os.chmod(first.code / "run" / "model.pt", 0o751)
    first.look()
    first.uploader.upload_newest()
    second = Mirrored(bucket, tmp_path, SECOND)
    (second.code / "run").write_bytes(b"a file of the sent folder where there is a folder now")
    answer = second.restore()
    assert (answer["instance"], answer["number"], answer["files"], answer["refused"]) == (FIRST, 1, 5, [])
    assert lay_out(second) == lay_out(first)
    status = (second.code / "run" / "model.pt").stat()
    assert (status.st_mtime_ns, status.st_mode & 0o777) == (10**18, 0o751)
    assert os.readlink(second.code / "newest") == "run/model.pt"
    assert not (second.root / "agent" / "outputs" / "incoming").exists()

    second.begin()
    now = second.look()
    assert (now["state"], now["home"], now["new_files"]) == (1, 0, 5), "the owner does not have it"
    assert len(changes(str(second.root), 1, -1)["files"]) == 5
    assert second.uploader.upload_newest(), "its own folder has all of it"
    assert second.stored() == first.stored()
    third = Mirrored(bucket, tmp_path, THIRD)
    assert third.restore()["instance"] == FIRST, "the second machine has made no state of its own"
    assert third.restore({SECOND: 1})["instance"] == "", "the owner has what the second one began with"
    second.write(more__pt=b"more").look()
    assert sealed_state(str(second.root))["state"] == 2
    assert second.uploader.upload_newest()
    assert third.restore()["instance"] == SECOND


def test_what_the_owner_has_too_is_known_as_such(first: Mirrored, bucket: Bucket, tmp_path: Path) -> None:
    first.write(model__pt=b"one").look()
    first.uploader.upload_newest()
    second = Mirrored(bucket, tmp_path, SECOND)
    assert second.restore({FIRST: 1})["number"] == 1
    now = second.begin().look()
    assert (now["state"], now["home"], now["new_files"]) == (1, 1, 0)


@pytest.mark.parametrize("known", [{FIRST: 2}, {SECOND: 1}, {FIRST: 1, SECOND: 1}])
def test_an_owner_with_a_newer_state_sends_its_own(
    first: Mirrored, bucket: Bucket, tmp_path: Path, known: dict[str, int]
) -> None:
    first.write(model__pt=b"one").look()
    first.uploader.upload_newest()
    third = Mirrored(bucket, tmp_path, THIRD)
    is_same = known.get(FIRST) == 1
    answer = third.restore(known)
    assert (answer["instance"], answer["refused"]) == (FIRST if is_same else "", [])
    assert bool(lay_out(third)) == is_same


@pytest.mark.parametrize("damage", ["gone", "other", "longer", "list"])
def test_a_damaged_state_is_refused_as_a_whole_and_the_one_before_it_is_used(
    first: Mirrored, bucket: Bucket, tmp_path: Path, damage: str
) -> None:
    first.write(model__pt=b"one", log__csv=b"1\n").look()
    first.uploader.upload_newest()
    second = Mirrored(bucket, tmp_path, SECOND).begin()
    second.write(model__pt=b"two", log__csv=b"2\n").look()
    second.uploader.upload_newest()
    key = f"{own(SECOND)}/outputs/objects/{hashlib.sha256(b'two').hexdigest()}"
    if damage == "gone":
        del bucket.objects[key]
    elif damage == "list":
        bucket.objects[f"{own(SECOND)}/outputs/state.json"] = (b"[" * 100000, {})
    else:
        bucket.objects[key] = ({"other": b"xxx", "longer": b"twoo"}[damage], {})
    third = Mirrored(bucket, tmp_path, THIRD)
    answer = third.restore()
    assert answer["instance"] == FIRST
    assert SECOND in answer["refused"][0]
    assert lay_out(third) == {"code/model.pt": b"one", "code/log.csv": b"1\n"}
    fourth = Mirrored(bucket, tmp_path / "more", THIRD)
    assert fourth.restore({SECOND: 1})["instance"] == "", "the owner has what is damaged, and sends it"
    assert lay_out(fourth) == {}


def test_what_a_stranger_stored_is_not_used(first: Mirrored, bucket: Bucket, tmp_path: Path) -> None:
    first.write(model__pt=b"one").look()
    first.uploader.upload_newest()
    raw = bucket.objects[f"{own(FIRST)}/outputs/state.json"][0]
    digest = hashlib.sha256(b"one").hexdigest()
    for folder in (own(STRANGER), own(SECOND, OTHER), f"{own(STRANGER)}/machines/AROAX:{SECOND}"):
        bucket.objects[f"{folder}/outputs/state.json"] = (raw.replace(b'"number": 1', b'"number": 9'), {})
        bucket.objects[f"{folder}/outputs/objects/{digest}"] = (b"one", {})
    assert Mirrored(bucket, tmp_path, THIRD).restore()["number"] == 1


ENTRY = {"root": "work", "path": "a", "kind": "file", "size": 1, "mtime_ns": 0, "mode": 0o644, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../a"}, {"path": "/etc/cron.d/a"}, {"path": "a//b"}, {"path": ""}, {"path": "a\0"}, {"path": 7},
        {"path": "x" * 256}, {"root": "agent"}, {"root": ["work"]}, {"kind": "device"}, {"size": -1}, {"size": True},
        {"size": 1 << 60}, {"mode": 0o4755}, {"sha256": "../../x"}, {"sha256": None}, {"mtime_ns": 1e300},
        {"kind": "link", "target": "../x"}, {"kind": "link", "target": "/etc/passwd"}, {"kind": "link", "target": ""},
        {"kind": "link", "target": "a/../b"}, {"kind": "link"},
    ],
)  # fmt: skip
def test_a_list_that_leads_out_of_the_run_s_folder_is_refused(change: dict[str, Any]) -> None:
    def read(entries: list[Any]) -> Any:
        return from_bytes(json.dumps({"number": 1, "is_final": False, "files": entries}).encode())

    assert read([ENTRY]).files == [ENTRY]
    with pytest.raises(ValueError, match=r"."):
        read([{**ENTRY, **change}])
    with pytest.raises(ValueError, match="twice"):
        read([ENTRY, ENTRY])


def test_a_list_that_is_none_is_refused() -> None:
    for raw in (b"", b"[]", b"{}", b'{"number": -1, "files": []}', b'{"files": {}}', b"[" * 100_000):
        with pytest.raises(ValueError, match=r"."):
            from_bytes(raw)


def test_s3_that_does_not_answer_is_said(first: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListObjectsV2")
    monkeypatch.setattr(Bucket, "paginate", lambda *_, **__: (_ for _ in ()).throw(refusal))
    answer = first.restore()
    assert (answer["instance"], answer["files"]) == ("", 0)
    assert "AccessDenied" in answer["problem"]


def test_a_restore_that_was_cut_off_is_done_again(
    first: Mirrored, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first.write(model__pt=b"one", z__pt=b"zwei").look()
    first.uploader.upload_newest()
    second = Mirrored(bucket, tmp_path, SECOND)
    replace, done = os.replace, []

    def dies(source: Any, target: Any) -> None:
        if str(target).endswith(".pt"):
            done.append(target)
            if len(done) == 2:
                raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dies)
        assert "No space left" in second.restore()["problem"]
    assert second.restore()["files"] == 2
    assert lay_out(second) == lay_out(first)


def test_the_marker_is_renewed_and_a_newer_state_ends_an_upload(first: Mirrored) -> None:
    first.write(model__pt=b"one").look()
    first.uploader._mark, first.uploader._number = first.uploader._mark_now(), 1
    first.uploader._check()
    assert (first.root / "agent" / "outputs" / "uploading").exists()
    (first.root / "agent" / "outputs" / "uploading").unlink()
    first.write(model__pt=b"two").look()
    with pytest.raises(ReplacedError):
        first.uploader._check()
