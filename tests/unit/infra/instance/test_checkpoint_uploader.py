"""What an instance stores in S3, what the next one takes from there, and that nothing of a strange machine is used."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from botocore.utils import get_environ_proxies

from infra.instance import checkpoint_uploader
from infra.instance.checkpoint_uploader import RemoteStore
from infra.instance.digests import Hasher
from infra.instance.s3_layout import checkpoints
from orchestrator.cloud.aws.s3 import S3Store
from tests.support.bucket import Bucket

PREFIX, OTHER = "pixel-orch/digits-0123abcd", "pixel-orch/cifar-89abcdef"
ROLE = "AROAEXAMPLE0123456789"
FIRST, SECOND, STRANGER = "i-0aaaaaaaaaaaaaaa1", "i-0aaaaaaaaaaaaaaa2", "i-0bbbbbbbbbbbbbbb9"
RUN = [FIRST, SECOND]


class NoMetadata:
    """The metadata of a machine that has none."""

    def get(self, path: str) -> None:
        return None


def user_id(instance_id: str) -> str:
    return f"{ROLE}:{instance_id}"


def own(instance_id: str, prefix: str = PREFIX) -> str:
    return f"{prefix}/machines/{user_id(instance_id)}"


class Machine:
    """An instance with its folder, and its uploader."""

    def __init__(self, bucket: Bucket, folder: Path, instance_id: str) -> None:
        self.root, self.bucket = folder / instance_id, bucket.of(user_id(instance_id))
        for name in ("out", "agent", "code"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        place = {"bucket": "b", "prefix": PREFIX, "region": "us-east-1", "instances": RUN}
        self.store = RemoteStore(str(self.root), place, self.bucket, lambda: user_id(instance_id))

    def trained(self, step: int, content: bytes) -> None:
        """Write a checkpoint and end, and let the watch process and the uploader look once."""
        (self.root / "out" / f"checkpoint-{step}.pt").write_bytes(content)
        (self.root / "out" / "metrics.jsonl").write_text(f'{{"step": {step}}}\n')
        (self.root / "agent" / "state.json").write_text(json.dumps({"trainer": {"state": "exited", "exit_code": 0}}))
        self.digest()
        self.store.upload_new_files()

    def digest(self) -> None:
        """Let the watch process compute what is missing."""
        state = {"trainer": {"state": "exited"}, "code_before": {}}
        Hasher(str(self.root), lambda: state).look()


def planted(bucket: Bucket, key: str, content: bytes) -> None:
    """Put a checkpoint there that looks right in every way."""
    digest = hashlib.sha256(content).hexdigest()
    bucket.put_object(Bucket="b", Key=key, Body=content, Metadata={"sha256": digest, "step": "1"})


def store_of(bucket: Bucket) -> S3Store:
    store = S3Store("b", PREFIX)
    store.__dict__["_s3"] = bucket
    return store


def test_checkpoints_of_the_same_content_are_all_stored(tmp_path: Path) -> None:
    bucket = Bucket()
    machine = Machine(bucket, tmp_path, FIRST)
    machine.trained(10, b"weights")
    machine.trained(20, b"weights")
    stored = {key.rpartition("/")[2] for key in bucket.objects}
    assert {"checkpoint-10.pt", "checkpoint-20.pt"} <= stored


def test_a_machine_stores_everything_in_its_own_folder_and_the_next_one_resumes_from_it(tmp_path: Path) -> None:
    bucket = Bucket()
    Machine(bucket, tmp_path, FIRST).trained(10, b"weights")
    assert set(bucket.objects) == {
        f"{own(FIRST)}/{name}" for name in ("checkpoints/checkpoint-10.pt", "metrics.jsonl", "state.json")
    }
    second = Machine(bucket, tmp_path, SECOND)
    answer = second.store.restore(1)
    assert [one["step"] for one in answer["restored"]] == [10]
    assert (second.root / "out" / "checkpoint-10.pt").read_bytes() == b"weights"
    second.trained(20, b"more weights")
    assert f"{own(SECOND)}/checkpoints/checkpoint-20.pt" in bucket.objects
    assert f"{own(SECOND)}/checkpoints/checkpoint-10.pt" not in bucket.objects, "S3 has it already"

    store = store_of(bucket)
    found = store.checkpoints(RUN)
    assert [(one.step, one.sha256) for one in found] == [
        (step, hashlib.sha256(content).hexdigest()) for step, content in ((10, b"weights"), (20, b"more weights"))
    ]
    assert store.fetch(found[-1], tmp_path / "here.pt")
    assert (tmp_path / "here.pt").read_bytes() == b"more weights"
    assert store.file(FIRST, "metrics.jsonl") == b'{"step": 10}\n'
    assert store.last_words(SECOND)["trainer"]["state"] == "exited"
    assert store.file("i-0000000000000000f", "metrics.jsonl") == b""


@pytest.mark.parametrize(
    "key",
    [
        f"{own(FIRST)}/checkpoints/checkpoint-99.pt",
        f"{own(FIRST)}/state.json",
        f"{own(FIRST, OTHER)}/checkpoints/checkpoint-99.pt",
        f"{PREFIX}/checkpoints/checkpoint-99.pt",
        f"{PREFIX}/attempts/{FIRST}/state.json",
        f"{PREFIX}/machines/x",
        "pixel-orch/data-89abcdef/checkpoints/checkpoint-99.pt",
    ],
)
def test_a_machine_cannot_write_to_the_folder_of_another_one_nor_of_another_run(key: str) -> None:
    bucket = Bucket().of(user_id(SECOND))
    with pytest.raises(ClientError, match="AccessDenied"):
        bucket.put_object(Bucket="b", Key=key, Body=b"")


def test_what_a_stranger_writes_below_the_prefix_of_a_run_is_not_used(tmp_path: Path) -> None:
    bucket = Bucket()
    Machine(bucket, tmp_path, FIRST).trained(10, b"weights")
    stranger = bucket.of(user_id(STRANGER))
    name, end = "checkpoint-99.pt", f"machines/{user_id(STRANGER)}"
    for key in (  # the `*` of the policy covers slashes
        f"{own(STRANGER)}/checkpoints/{name}",
        f"{PREFIX}/checkpoints/{end}/{name}",
        f"{PREFIX}/checkpoints/{end}/checkpoints/{name}",
        f"{own(FIRST)}/checkpoints/{end}/{name}",
        f"{PREFIX}/machines/AROAEVIL:{FIRST}/checkpoints/{end}/{name}",
        f"{PREFIX}/machines/AROAEVIL:{FIRST}/{end}/checkpoints/{name}",
    ):
        planted(stranger, key, b"evil")
    for file in ("state.json", "metrics.jsonl"):
        stranger.put_object(Bucket="b", Key=f"{own(STRANGER)}/{file}", Body=b'{"trainer": {}}')
        stranger.put_object(Bucket="b", Key=f"{PREFIX}/machines/A:{FIRST}/{end}/{file}", Body=b'{"trainer": {}}')

    second = Machine(bucket, tmp_path, SECOND)
    assert [one["name"] for one in second.store.restore(1)["restored"]] == ["checkpoint-10.pt"]
    store = store_of(bucket)
    assert [one.name for one in store.checkpoints(RUN)] == ["checkpoint-10.pt"]
    assert store.last_words(FIRST)["trainer"]["exit_code"] == 0
    assert store.file(FIRST, "metrics.jsonl") == b'{"step": 10}\n'
    assert store.last_words(SECOND) == {}


def test_a_copy_of_the_layout_of_0_1_0_is_still_resumed_from(tmp_path: Path) -> None:
    bucket = Bucket()
    planted(bucket, f"{PREFIX}/checkpoints/checkpoint-10.pt", b"old")
    planted(bucket, f"{PREFIX}/checkpoints/checkpoint-20.pt", b"old too")
    bucket.put_object(Bucket="b", Key=f"{PREFIX}/attempts/{FIRST}/state.json", Body=b'{"trainer": {"state": "x"}}')
    store = store_of(bucket)
    assert [one.step for one in store.checkpoints(RUN)] == [10, 20]
    assert store.fetch(store.checkpoints(RUN)[-1], tmp_path / "here.pt")
    assert store.last_words(FIRST) == {"trainer": {"state": "x"}}
    second = Machine(bucket, tmp_path, SECOND)
    assert [one["step"] for one in second.store.restore(11)["restored"]] == [20]
    second.trained(30, b"new")
    assert [one.step for one in store.checkpoints(RUN)] == [10, 20, 30]
    newest = store_of(bucket).newest_below(PREFIX)
    assert newest is not None
    assert newest.key == f"{own(SECOND)}/checkpoints/checkpoint-30.pt"


def test_of_two_of_one_step_that_of_the_later_machine_counts() -> None:
    keys = [f"{PREFIX}/checkpoints/checkpoint-5.pt"]
    keys += [f"{own(one)}/checkpoints/checkpoint-5.pt" for one in (SECOND, FIRST)]
    assert [one.key for one in checkpoints(PREFIX, keys, RUN)] == [keys[0], keys[2], keys[1]]
    assert checkpoints(PREFIX, [keys[1].replace("digits", "digits-2")], RUN) == []


def test_a_damaged_one_is_passed_over_for_the_earlier_machine_s_of_the_same_step(tmp_path: Path) -> None:
    bucket = Bucket()
    planted(bucket, f"{own(FIRST)}/checkpoints/checkpoint-10.pt", b"good")
    planted(bucket, f"{own(SECOND)}/checkpoints/checkpoint-10.pt", b"damaged")
    bucket.objects[f"{own(SECOND)}/checkpoints/checkpoint-10.pt"] = (b"x", {"sha256": "0" * 64})
    second = Machine(bucket, tmp_path, SECOND)
    answer = second.store.restore(1)
    assert [one["name"] for one in answer["refused"]] == ["checkpoint-10.pt"]
    assert (second.root / "out" / "checkpoint-10.pt").read_bytes() == b"good"


def test_from_s3_takes_the_newest_of_every_machine_or_of_the_named_one() -> None:
    bucket = Bucket()
    planted(bucket, f"{own(FIRST)}/checkpoints/checkpoint-10.pt", b"a")
    planted(bucket, f"{own(SECOND)}/checkpoints/checkpoint-20.pt", b"b")
    planted(bucket, f"{own(SECOND)}/elsewhere/checkpoint-90.pt", b"c")
    store = store_of(bucket)

    def newest(place: str) -> str:
        found = store.newest_below(place)
        return found.key if found else ""

    assert newest(PREFIX) == f"{own(SECOND)}/checkpoints/checkpoint-20.pt"
    assert newest(own(FIRST)) == f"{own(FIRST)}/checkpoints/checkpoint-10.pt"
    assert newest(f"{own(FIRST)}/checkpoints/checkpoint-10.pt") == f"{own(FIRST)}/checkpoints/checkpoint-10.pt"
    assert newest("pixel-orch/no-such-run") == ""


def test_keys_that_are_not_the_instance_s_role_s_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sts:
        said = user_id(FIRST)

        def get_caller_identity(self) -> dict[str, str]:
            return {"UserId": self.said}

    def client(service: str, region: str) -> Any:
        assert (service, region) == ("sts", "eu-west-1")
        return Sts()

    monkeypatch.setattr(checkpoint_uploader, "client", client)
    monkeypatch.setattr(checkpoint_uploader, "Metadata", NoMetadata)
    assert checkpoint_uploader.own_user_id({"region": "eu-west-1"}) == user_id(FIRST)
    for other in ("AIDAEXAMPLE", "AROAEXAMPLE:me@example.org", "123456789012", "AROAX:i-1/../../other"):
        Sts.said = other
        with pytest.raises(PermissionError, match="not those of this instance's role; remove them"):
            checkpoint_uploader.own_user_id({"region": "eu-west-1"})


def test_until_sts_answers_nothing_is_written_and_it_is_asked_again(tmp_path: Path) -> None:
    machine, answers = Machine(Bucket(), tmp_path, FIRST), [OSError("STS does not answer")]

    def ask() -> str:
        if answers:
            raise answers.pop()
        return user_id(FIRST)

    machine.store._ask_user_id = ask
    with pytest.raises(OSError, match="STS does not answer"):
        machine.trained(10, b"weights")
    assert machine.bucket.objects == {}
    machine.store.upload_new_files()
    assert f"{own(FIRST)}/checkpoints/checkpoint-10.pt" in machine.bucket.objects


@pytest.mark.parametrize("leads_out", ["directly", "by the proxy"])
def test_sts_is_asked_without_the_proxy_where_that_works(monkeypatch: pytest.MonkeyPatch, leads_out: str) -> None:
    """Which proxy a client uses is decided when it is made."""
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", ".corp")
    monkeypatch.setenv("NO_PROXY", ".corp")
    made: list[str] = []

    class Sts:
        def get_caller_identity(self) -> dict[str, str]:
            if made[-1] != leads_out:
                raise EndpointConnectionError(endpoint_url="https://sts.eu-west-1.amazonaws.com")
            return {"UserId": user_id(FIRST)}

    def client(service: str, region: str) -> Any:
        made.append("by the proxy" if get_environ_proxies(f"https://{service}.{region}.amazonaws.com") else "directly")
        return Sts()

    monkeypatch.setattr(checkpoint_uploader, "client", client)
    monkeypatch.setattr(checkpoint_uploader, "Metadata", NoMetadata)
    assert checkpoint_uploader.own_user_id({"region": "eu-west-1"}) == user_id(FIRST)
    assert made == ["directly", "by the proxy"][: 1 if leads_out == "directly" else 2]
    assert "amazonaws" not in os.environ["no_proxy"]


def test_the_end_of_a_run_is_told_in_s3_only_with_its_last_checkpoint(tmp_path: Path) -> None:
    """The last checkpoint of a run may take a minute to get its digest: who reads "exited" there must find it."""
    machine = Machine(Bucket(), tmp_path, FIRST)
    digest, machine.digest = machine.digest, lambda: None  # type: ignore[method-assign]
    machine.trained(10, b"weights")
    assert machine.bucket.objects == {}
    digest()
    machine.store.upload_new_files()
    assert f"{own(FIRST)}/checkpoints/checkpoint-10.pt" in machine.bucket.objects
    assert machine.store.is_done
