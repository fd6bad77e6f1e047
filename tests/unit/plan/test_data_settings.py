"""Data that no instance can have, and preparations that cannot work, are refused before a machine is rented."""

from __future__ import annotations

import pytest

from model.config import TrainConfig
from orchestrator.errors import SpecError
from orchestrator.plan.validators import check_data, check_prepare


@pytest.mark.parametrize(
    ("dataset", "pairs", "says"),
    [
        ("digits", {"levels": "4"}, "--prepare: digits comes with the trainer; drop the flag"),
        ("/data/mine", {"levels": "4"}, "--prepare is for a data set that is known by name"),
        ("cifar10", {"out": "here"}, "--prepare out: the instance has its own data folder"),
        ("cifar10", {"source": "cifar.tar.gz"}, "'cifar.tar.gz' is not a URL; give http://"),
        ("cifar10", {"source": "s3://b/cifar"}, "is not a URL"),
        ("cifar10", {"levels": "300"}, "--prepare: argument --levels: '300' is not a whole number from 2 to 256"),
        ("cifar10", {"colour": "4"}, "--prepare: unrecognized arguments: --colour=4"),
        ("cifar10", {"size": "32"}, "--prepare: --size does not apply to cifar10; omit it"),
        ("cifar10", {"unverified": "maybe"}, "--prepare: argument --unverified: ignored explicit argument 'maybe'"),
        ("udacity-2-1", {"topic": "front=/a"}, "--prepare: argument --topic: 'front=/a' is not CAMERA=TOPIC"),
        ("udacity-2-1", {"topic": "left=/a"}, "left is not among --cameras; add it: --cameras left,center"),
        ("cifar10", {"topic": "left=/a"}, "--topic does not apply to cifar10"),
        ("cifar10", {"lev": "8"}, "--prepare: unrecognized arguments: --lev=8"),
    ],
)
def test_a_preparation_that_cannot_work_is_refused_before_a_machine_is_rented(
    dataset: str, pairs: dict[str, str], says: str
) -> None:
    with pytest.raises(SpecError) as caught:
        check_prepare(TrainConfig(dataset=dataset), pairs)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_preparation_that_can_work() -> None:
    drive = {"size": "32", "stride": "4", "min_speed": "2", "unverified": "true", "source": "https://here.example.com"}
    assert check_prepare(TrainConfig(dataset="udacity-2-1"), drive) == drive
    cameras = {"topic": "left=/a/image_raw,center=/b/image_raw", "cameras": "left,center"}
    assert check_prepare(TrainConfig(dataset="udacity-2-1"), cameras) == cameras
    assert check_prepare(TrainConfig(), {}) == {}
    with pytest.raises(SpecError, match="--prepare is for the bundled trainer"):
        check_prepare(None, drive)


@pytest.mark.parametrize(
    ("dataset", "url", "says"),
    [
        ("/data/mine", None, "then give the data set's name"),
        ("imagenet-small-64", None, "no server has its files; prepare it here"),
        ("udacity-2-1", None, "give --data-bucket s3://BUCKET/PREFIX"),
        ("images", None, "no server has its files"),
        ("cifar10", "my-bucket/cifar10", "is not an S3 URL; give one, for example s3://my-data/cifar10"),
        ("cifar10", "s3://x", "is not an S3 URL"),
        ("digits", "s3://my-data/digits", "digits comes with the trainer; drop the flag"),
    ],
)
def test_data_that_an_instance_cannot_have_are_refused_before_it_is_rented(
    dataset: str, url: str | None, says: str
) -> None:
    with pytest.raises(SpecError) as caught:
        check_data(TrainConfig(dataset=dataset), url)
    assert says in str(caught.value)


def test_data_that_an_instance_can_have() -> None:
    assert check_data(TrainConfig(), None) is None
    assert check_data(TrainConfig(dataset="mnist-static"), None) is None  # it is fetched there
    assert check_data(TrainConfig(dataset="udacity-2-1"), "s3://my-data/drive") == "s3://my-data/drive"
    assert check_data(TrainConfig(dataset="udacity-2-1"), None, "https://mirror.example.com/udacity") is None
    assert check_data(None, None) is None
    with pytest.raises(SpecError, match="--data-bucket is for the bundled trainer"):
        check_data(None, "s3://my-data/drive")
