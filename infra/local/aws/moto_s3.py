"""moto's S3: buckets and objects, read and written without the API."""

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
    """Create a bucket unless it exists."""
    backend = _backend()
    if name not in backend.buckets:
        backend.create_bucket(name, region)


def add_object(bucket: str, key: str, stored: StoredObject) -> None:
    """Put an object into a bucket."""
    _backend().put_object(bucket, key, stored.content).set_metadata(stored.metadata)


def bucket_region(bucket: str) -> str | None:
    """Return the region of a bucket, or None if there is no such bucket."""
    found = _backend().buckets.get(bucket)
    return None if found is None else str(found.region_name)


def keys(bucket: str) -> set[str]:
    """Return the keys of a bucket's objects."""
    return set(_backend().buckets[bucket].keys)


def get_object(bucket: str, key: str) -> StoredObject | None:
    """Return an object, or None if there is no such key."""
    found = _backend().buckets[bucket].keys.get(key)
    return None if found is None else StoredObject(found.value, dict(found.metadata))
