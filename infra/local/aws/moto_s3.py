"""moto's S3: buckets and objects, as they are put into it and taken out of it beside the API."""

from dataclasses import dataclass
from typing import Any

from infra.local.aws.moto_ec2 import ACCOUNT_ID


@dataclass(frozen=True)
class StoredObject:
    """The content and the metadata of one object."""

    content: bytes
    metadata: dict[str, str]


def _backend() -> Any:
    from moto.s3.models import s3_backends

    return s3_backends[ACCOUNT_ID]["aws"]


def add_bucket(name: str, region: str) -> None:
    """Make a bucket, unless it is there."""
    backend = _backend()
    if name not in backend.buckets:
        backend.create_bucket(name, region)


def add_object(bucket: str, key: str, stored: StoredObject) -> None:
    """Put an object into a bucket."""
    _backend().put_object(bucket, key, stored.content).set_metadata(stored.metadata)


def bucket_region(bucket: str) -> str | None:
    """The region of a bucket; None if there is no such bucket."""
    found = _backend().buckets.get(bucket)
    return None if found is None else str(found.region_name)


def keys(bucket: str) -> set[str]:
    """The keys of a bucket's objects."""
    return set(_backend().buckets[bucket].keys)


def get_object(bucket: str, key: str) -> StoredObject | None:
    """One object; None if it is not there."""
    found = _backend().buckets[bucket].keys.get(key)
    return None if found is None else StoredObject(found.value, dict(found.metadata))
