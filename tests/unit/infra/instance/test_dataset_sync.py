"""The program that fills the folder of a data set from S3 on the instance, and copies a prepared one there."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import IO, Any

import pytest
from botocore.exceptions import ClientError

from infra.instance import dataset_sync
from model.config.data_recipe import Options
from model.data import load
from model.data.prepare.prepare import prepare
from model.data.prepare.verify import verify
from model.data.shards import CHECKED


class Store:
    """A client of S3, as far as it is used: objects in a folder, and failures in turn."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.failures: list[Exception] = []
        self.kept: dict[str, dict[str, str]] = {}  # metadata by key, in the order of their coming

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        self.asked.append(f"{Bucket}/{Key}")
        if self.failures:
            raise self.failures.pop(0)
        path = self.folder / Key.rpartition("/")[2]
        if not path.exists():
            error = {"Error": {"Code": "NoSuchKey", "Message": "The specified key does not exist."}}
            raise ClientError(error, "GetObject")
        return {"Body": io.BytesIO(path.read_bytes())}

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        if Key not in self.kept:
            raise ClientError({"Error": {"Code": "404", "Message": "Not Found"}}, "HeadObject")
        return {"Metadata": self.kept[Key]}

    def put_object(self, *, Bucket: str, Key: str, Body: IO[bytes], Metadata: dict[str, str]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        (self.folder / Key.rpartition("/")[2]).write_bytes(Body.read())
        self.kept[Key] = Metadata


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "digits"
    prepare("digits", Options(out=folder, shard_bytes=30_000))
    return folder


def fill(store: Store, folder: Path, waits: list[float] | None = None) -> tuple[dict[str, Any], list[list[str]]]:
    there: list[list[str]] = []
    sleep = [].append if waits is None else waits.append
    source = dataset_sync.Source("s3://bucket/some/where", store, sleep)
    told = dataset_sync.fill(source, str(folder), lambda _: there.append(sorted(p.name for p in folder.glob("[!.]*"))))
    return told, there


def test_the_folder_fills_in_the_order_that_a_training_wants(prepared: Path, tmp_path: Path) -> None:
    store = Store(prepared)
    told, there = fill(store, tmp_path / "data")
    assert there == [["manifest.json", "shard-00000.npy"]]  # then the trainer may begin
    assert store.asked[0] == "bucket/some/where/manifest.json"
    splits = {shard.file: shard.split for shard in verify(tmp_path / "data").shards}
    order = [splits[key.rpartition("/")[2]] for key in store.asked[1:]]
    small = [split for split in splits.values() if split != "train"]
    assert order == ["train", *small, *["train"] * (len(splits) - len(small) - 1)]
    assert {"valid", "test"} == set(small)
    assert told["files"] == told["of"] == len(store.asked)
    assert told["bytes"] == sum(path.stat().st_size for path in prepared.glob("[!.]*"))
    checked = (tmp_path / "data" / CHECKED).read_bytes()
    load(str(tmp_path / "data")).split("train")
    assert (tmp_path / "data" / CHECKED).read_bytes() == checked  # the trainer checks none of them again
    fill(again := Store(prepared), tmp_path / "data")
    assert again.asked == []  # all of it is there


def test_a_failure_is_tried_again_after_a_growing_wait(prepared: Path, tmp_path: Path) -> None:
    store, waits = Store(prepared), list[float]()
    store.failures = [OSError("reset"), OSError("reset"), OSError("reset")]
    fill(store, tmp_path / "data", waits)
    assert waits == [1, 2, 4]
    verify(tmp_path / "data")


def test_a_damaged_object_never_gets_its_name(prepared: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "bucket"
    damaged.mkdir()
    for path in prepared.glob("[!.]*"):
        (damaged / path.name).write_bytes(path.read_bytes())
    shard = damaged / "shard-00001.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    sha256 = hashlib.sha256(shard.read_bytes()).hexdigest()
    with pytest.raises(
        dataset_sync.DataError, match=rf"cannot fetch s3://bucket/some/where/shard-00001.npy: .*{sha256}"
    ):
        fill(Store(damaged), tmp_path / "data")
    assert not (tmp_path / "data" / "shard-00001.npy").exists()


def test_what_is_not_there_is_one_line_at_once(tmp_path: Path) -> None:
    store, waits = Store(tmp_path), list[float]()
    with pytest.raises(
        dataset_sync.DataError, match=r"cannot fetch s3://bucket/some/where/manifest.json: .*does not exist"
    ):
        fill(store, tmp_path / "data", waits)
    assert waits == []
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": 3}))
    with pytest.raises(dataset_sync.DataError, match=r"manifest.json is not a manifest"):
        fill(store, tmp_path / "data")
    with pytest.raises(dataset_sync.DataError, match=r"is not an S3 URL; give s3://BUCKET/PREFIX"):
        dataset_sync.Source("https://bucket", store)


def test_what_was_prepared_is_kept_with_the_manifest_last_and_comes_back_equal(prepared: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.failures = [OSError("reset")]
    source = dataset_sync.Source("s3://bucket/some/where", store, lambda _: None)
    told = dataset_sync.keep(source, str(prepared))
    assert told["files"] == len(store.kept) == len(list(prepared.glob("[!.]*")))
    assert list(store.kept)[-1] == "some/where/manifest.json"
    assert told["bytes"] == sum(path.stat().st_size for path in prepared.glob("[!.]*"))
    assert dataset_sync.keep(source, str(prepared))["bytes"] == 0  # nothing is written twice
    fill(store, tmp_path / "data")
    assert verify(tmp_path / "data") == verify(prepared)


def test_another_file_is_never_written_over(prepared: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.kept["some/where/shard-00001.npy"] = {"sha256": "another"}
    with pytest.raises(dataset_sync.DataError, match=r"shard-00001.npy has other content; give another --data-bucket"):
        dataset_sync.keep(dataset_sync.Source("s3://bucket/some/where", store), str(prepared))
    assert "some/where/manifest.json" not in store.kept


def test_data_of_another_recipe_are_refused(prepared: Path, tmp_path: Path) -> None:
    source = dataset_sync.Source("s3://bucket/some/where", Store(prepared))
    made = json.loads((prepared / "manifest.json").read_text())["recipe"]["asked"]
    with pytest.raises(
        dataset_sync.DataError, match=r'not {"size": 32}; give another --data-bucket, or leave out --prep'
    ):
        dataset_sync.fill(source, str(tmp_path / "data"), lambda _: None, {"size": 32})
    assert not (tmp_path / "data" / "manifest.json").exists()
    dataset_sync.fill(source, str(tmp_path / "data"), lambda _: None, made)


def test_each_upload_tells_s3_to_overwrite_nothing() -> None:
    import boto3
    from botocore.awsrequest import AWSPreparedRequest

    class SentError(Exception):
        pass

    sent: list[Any] = []

    def stop(request: AWSPreparedRequest, **_: Any) -> None:
        sent.append(request)
        raise SentError

    s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="AKIA", aws_secret_access_key="x")
    dataset_sync.overwrite_nothing(s3)
    s3.meta.events.register("before-send.s3.PutObject", stop)
    with pytest.raises(SentError):
        s3.put_object(Bucket="b", Key="k", Body=io.BytesIO(b"x"), Metadata={"sha256": "7"})
    assert sent[0].headers["If-None-Match"] in ("*", b"*")
    assert "if-none-match" in str(sent[0].headers["Authorization"]), "it is signed"
