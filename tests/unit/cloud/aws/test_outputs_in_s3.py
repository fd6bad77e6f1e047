"""Outputs of a machine in S3, as this machine downloads them: whole, cut at the listed size, nothing of a stranger."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from orchestrator.cloud.aws import s3
from orchestrator.cloud.aws.s3 import S3Store
from orchestrator.errors import CloudError
from orchestrator.runs.output_tree import TreeFile
from tests.support.bucket import Bucket
from tests.unit.infra.instance.test_checkpoint_uploader import FIRST, OTHER, SECOND, STRANGER, own, store_of

CONTENTS = (b"one", b"", b"a larger content")


def file_of(content: bytes) -> TreeFile:
    return TreeFile("work", "a", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


FILES = [file_of(content) for content in CONTENTS]


def key_of(file: TreeFile, instance_id: str = FIRST) -> str:
    return f"{own(instance_id)}/outputs/objects/{file.sha256}"


@pytest.fixture(params=[4, 1 << 20])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """Give a store that a machine has written to; what is large is downloaded in another way than what is small."""
    monkeypatch.setattr(s3, "SMALL_OBJECT_BYTES", request.param)
    bucket = Bucket()
    for content, file in zip(CONTENTS, FILES, strict=True):
        bucket.objects[key_of(file)] = (content, {})
    bucket.objects[f"{own(FIRST)}/outputs/state.json"] = (b"the list", {})
    return store_of(bucket)


def bucket_of(store: S3Store) -> Bucket:
    found = store._s3
    assert isinstance(found, Bucket)
    return found


def test_what_a_machine_stored_is_downloaded_under_its_digest(store: S3Store, tmp_path: Path) -> None:
    assert store.output_state(FIRST) == b"the list"
    assert store.fetch_outputs(FIRST, FILES, tmp_path / "new") == {file.sha256 for file in FILES}
    assert sorted(path.read_bytes() for path in (tmp_path / "new").iterdir()) == sorted(CONTENTS)


def test_of_a_machine_that_stored_none_there_is_none(store: S3Store, tmp_path: Path) -> None:
    bucket_of(store).objects[f"{own(SECOND)}/state.json"] = (b"{}", {})
    for instance_id in (SECOND, "i-0000000000000000f"):
        assert store.output_state(instance_id) == b""
        assert store.fetch_outputs(instance_id, FILES, tmp_path) == frozenset()


def test_a_content_that_is_damaged_or_gone_is_missing_and_the_others_are_there(store: S3Store, tmp_path: Path) -> None:
    objects = bucket_of(store).objects
    objects[key_of(FILES[0])] = (b"onf", {})
    objects[key_of(FILES[2])] = (CONTENTS[2] + b" that has grown", {})
    assert store.fetch_outputs(FIRST, FILES, tmp_path) == {FILES[1].sha256}
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [FILES[1].sha256]
    del objects[key_of(FILES[0])], objects[key_of(FILES[2])]
    assert store.fetch_outputs(FIRST, FILES, tmp_path) == {FILES[1].sha256}


def test_what_a_stranger_wrote_is_not_read(store: S3Store) -> None:
    for folder in (own(STRANGER), own(FIRST, OTHER), f"{own(STRANGER)}/machines/AROAX:{SECOND}"):
        bucket_of(store).objects[f"{folder}/outputs/state.json"] = (b"evil", {})
    assert store.output_state(FIRST) == b"the list"
    assert store.output_state(SECOND) == b""


def test_a_refusal_is_no_missing_content(store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject")

    monkeypatch.setattr(Bucket, "_get", refuses)
    with pytest.raises(CloudError, match="AccessDenied"):
        store.fetch_outputs(FIRST, FILES, tmp_path)
    with pytest.raises(CloudError, match="AccessDenied"):
        store.output_state(FIRST)
