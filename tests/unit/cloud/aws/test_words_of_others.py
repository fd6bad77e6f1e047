"""What others in the account may have written: tags, prices, a cache, objects beside the run's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from orchestrator.cloud.aws.ec2 import SSH_PORT_TAG, _instance
from orchestrator.cloud.aws.s3 import S3Store
from orchestrator.cloud.aws.spot_history import price_changes
from orchestrator.cloud.base import ATTEMPT_TAG, Instance
from orchestrator.cloud.price_cache import PriceCache
from orchestrator.market.price_series import MOST_USD_H, price_of
from orchestrator.runs.outputs import Output

NOW = datetime(2026, 11, 29, tzinfo=timezone.utc)
ODD_NUMBERS = ["", " ", "abc", "-1", "0", "65536", "9" * 5000, "2.5", "1e3", "٣", "²", "22 ", "-oProxyCommand=x", "\0"]


def described(tags: Mapping[str, str]) -> Instance:
    """Return an instance as DescribeInstances tells of it."""
    raw = {
        "InstanceId": "i-1", "InstanceType": "g4dn.xlarge", "Placement": {"AvailabilityZone": "us-east-1a"},
        "State": {"Name": "running"}, "LaunchTime": NOW, "Tags": [{"Key": k, "Value": v} for k, v in tags.items()],
    }  # fmt: skip
    return _instance(raw, "us-east-1")


@pytest.mark.parametrize("text", ODD_NUMBERS)
def test_a_tag_that_is_no_number_is_none(text: str) -> None:
    instance = described({SSH_PORT_TAG: text, ATTEMPT_TAG: text})
    assert instance.ssh_port == 22
    assert instance.attempt in (0, 65536)


def test_a_tag_that_is_a_number_is_taken() -> None:
    instance = described({SSH_PORT_TAG: "40022", ATTEMPT_TAG: "7"})
    assert (instance.ssh_port, instance.attempt) == (40022, 7)
    assert (described({}).ssh_port, described({}).attempt) == (22, 0)


@given(some.text() | some.sampled_from(["NaN", "sNaN", "-Infinity", "1e9", "-0.1", "1e999999999", "9" * 100]))
def test_a_price_of_somebody_elses_is_finite_and_small_or_none(text: str) -> None:
    with suppress(ValueError):
        found = price_of(text)
        assert found.is_finite()
        assert 0 <= found <= MOST_USD_H


def test_a_price_that_is_none_hides_no_other_change() -> None:
    raw = [
        {"InstanceType": "g", "AvailabilityZone": "z", "Timestamp": NOW, "SpotPrice": price}
        for price in ("0.158", "NaN", "cheap", "-1", "1e400", "", "0.2000")
    ]
    assert [point.usd_h for _, point in price_changes(raw, "r")] == [Decimal("0.158"), Decimal("0.2")]


ENTRY = {"instance_type": "t", "region": "r", "asked_at": 1.0, "start": 0.0, "end": 1.0, "on_demand_usd_h": "1.5",
         "zones": {"ra": [[0.5, "0.3"]]}}  # fmt: skip


@pytest.mark.parametrize("change", [{"zones": []}, {"zones": {"ra": 5}}, {"zones": {"ra": [[0.5, "NaN"]]}},
    {"zones": {"ra": [[0.5]]}}, {"on_demand_usd_h": "sNaN"}, {"on_demand_usd_h": "1e999999"}, {"on_demand_usd_h": []},
    {"asked_at": "x"}, {"asked_at": None}, {"start": {}}, {"instance_type": []}])  # fmt: skip
def test_a_damaged_cache_counts_as_empty(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "cache" / "prices-aws.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"format": 1, "entries": [{**ENTRY, **change}]}))
    assert PriceCache(tmp_path, "aws").entries == {}
    path.write_text(json.dumps({"format": 1, "entries": [ENTRY]}))
    assert len(PriceCache(tmp_path, "aws").entries) == 1


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"7", b"\xff", b'{"format": 1, "entries": {"a": 1}}',
    b'{"format": 1, "entries": [7]}', b'{"format": 1, "entries": [{"asked_at": 1' + b"0" * 5000 + b"}]}"])  # fmt: skip
def test_a_cache_that_is_none_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cache" / "prices-aws.json"
    path.parent.mkdir()
    path.write_bytes(content)
    assert PriceCache(tmp_path, "aws").entries == {}


class Bucket:
    """Stands for boto3's client of S3: what an instance put there."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.listed_size: int | None = None
        self.sent = 0

    def get_paginator(self, name: str) -> Any:
        assert name == "list_objects_v2"
        return self

    def paginate(self, *, Bucket: str, Prefix: str, Delimiter: str = "") -> Iterator[dict[str, Any]]:
        for key, content in self.objects.items():
            rest = key.removeprefix(Prefix)
            if key.startswith(Prefix) and not (Delimiter and Delimiter in rest):
                size = len(content) if self.listed_size is None else self.listed_size
                yield {"Contents": [{"Key": key, "Size": size}]}

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        return {"Metadata": {"sha256": "5" * 64}, "ContentLength": len(self.objects[Key])}

    def download_file(self, bucket: str, key: str, path: str, Callback: Callable[[int], None]) -> None:
        self.sent += len(self.objects[key])
        Path(path).write_bytes(self.objects[key])


def store_of(bucket: Bucket) -> S3Store:
    store = S3Store("b", "runs/x")
    store.__dict__["_s3"] = bucket
    return store


def test_what_an_instance_put_below_the_folder_of_the_checkpoints_is_no_checkpoint() -> None:
    names = ["checkpoint-5.pt", "deep/checkpoint-9.pt", "../checkpoint-8.pt", "checkpoint-٣.pt", "checkpoint-1.",
             "checkpoint-9999999999999.pt", "/checkpoint-7.pt", "checkpoint-6.pt/"]  # fmt: skip
    for folder in ("checkpoints", "machines/AROA1:i-0a/checkpoints"):
        bucket = Bucket({f"runs/x/{folder}/{name}": b"w" for name in names})
        assert [one.name for one in store_of(bucket).checkpoints(["i-0a"])] == ["checkpoint-5.pt"]


def test_an_object_that_grew_since_it_was_listed_is_not_begun(tmp_path: Path) -> None:
    key = "runs/x/checkpoints/checkpoint-5.pt"
    bucket = Bucket({key: b"w" * 1_000_000})
    assert not store_of(bucket).fetch(Output("checkpoint-5.pt", 5, 43, "5" * 64, key), tmp_path / "checkpoint-5.pt")
    assert bucket.sent == 0
    assert list(tmp_path.iterdir()) == []
