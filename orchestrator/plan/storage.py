"""The run's places in S3, checked before a launch: bucket, region, instance profile."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cloud.connect import client_settings, start_embedded
from orchestrator.errors import CloudError, SpecError
from orchestrator.runs.spec import RunSpec

if TYPE_CHECKING:
    from orchestrator.cloud.aws.s3 import S3Store


def resolved(spec: RunSpec, home: Path) -> RunSpec:
    """Return the spec with what only AWS knows: that its bucket is usable, the bucket's region, the instance profile.

    Raises:
        SpecError: a bucket is missing or not accessible, or no instance profile lets the instance use it.
    """
    if spec.data_url is not None:
        spec = spec.model_copy(update={"instance_profile": _data_profile(spec, home)})
    if spec.is_embedded and spec.bucket is None:
        return spec  # the embedded cloud uses IAM only for a bucket
    if spec.bucket is None:
        with suppress(CloudError):  # only Systems Manager needs it: no reason to refuse a launch
            return spec.model_copy(update={"instance_profile": spec.instance_profile or _profile_of_setup(spec, home)})
        return spec
    profile = spec.instance_profile or _profile_of_setup(spec, home)
    place = remote_store_of(spec, home)
    region = place.check() if place is not None else ""
    if profile is None:
        raise SpecError(
            "--bucket: no instance profile lets the instance write to it; run `pixel-orch setup`, or name one with "
            "--instance-profile"
        )
    prefix = spec.bucket_prefix or f"pixel-orch/{spec.run}-{secrets.token_hex(4)}"
    return spec.model_copy(update={"instance_profile": profile, "bucket_region": region, "bucket_prefix": prefix})


def _data_profile(spec: RunSpec, home: Path) -> str:
    """Return the instance profile that reads `--data-bucket`, after checking that the bucket exists."""
    bucket = str(spec.data_url).removeprefix("s3://").partition("/")[0]
    s3_files(spec, home, bucket).check("--data-bucket")
    profile = spec.instance_profile or _profile_of_setup(spec, home)
    if profile is None:
        raise SpecError(
            "--data-bucket: no instance profile lets the instance read it; run `pixel-orch setup`, or name one with "
            "--instance-profile"
        )
    return profile


def _profile_of_setup(spec: RunSpec, home: Path) -> str | None:
    """Return the instance profile that `setup` created, None if there is none or IAM does not say."""
    from orchestrator.cloud.aws.stack import DEFAULT_NAME, has_profile

    return DEFAULT_NAME if has_profile(DEFAULT_NAME, endpoint=_endpoint_of(spec, home), profile=spec.profile) else None


def remote_store_of(spec: RunSpec, home: Path) -> S3Store | None:
    """Return the remote store of a run, None if it has none."""
    if spec.bucket is None:
        return None
    from orchestrator.cloud.aws.s3 import S3Store

    return S3Store(spec.bucket, spec.bucket_prefix, endpoint=_endpoint_of(spec, home), profile=spec.profile)


def s3_files(spec: RunSpec, home: Path, bucket: str) -> S3Store:
    """Return a bucket with all of its files, not only this run's."""
    from orchestrator.cloud.aws.s3 import S3Store

    return S3Store(bucket, "", endpoint=_endpoint_of(spec, home), profile=spec.profile)


def _endpoint_of(spec: RunSpec, home: Path) -> dict[str, str]:
    return client_settings(start_embedded(home)) if spec.is_embedded else {}
