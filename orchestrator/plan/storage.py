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
    from orchestrator.cloud.aws.s3 import S3Home


def resolved(spec: RunSpec, home: Path) -> RunSpec:
    """Return the spec with what only AWS knows of its second home: that the bucket is usable, its region, the role.

    Raises:
        SpecError: a bucket is missing or not ours, or no instance profile lets the machine use it.
    """
    if spec.data_url is not None:
        spec = spec.model_copy(update={"instance_profile": _data_profile(spec, home)})
    if spec.is_embedded and spec.bucket is None:
        return spec  # IAM on the embedded cloud is there for whoever asks for it
    if spec.bucket is None:
        with suppress(CloudError):  # it would be of use for Systems Manager only: no reason to refuse a launch
            return spec.model_copy(update={"instance_profile": spec.instance_profile or _standing_profile(spec, home)})
        return spec
    profile = spec.instance_profile or _standing_profile(spec, home)
    place = remote_store_of(spec, home)
    region = place.check() if place is not None else ""
    if profile is None:
        raise SpecError(
            "--bucket: no instance profile lets the machine write to it; run `pixel-orch setup`, or name one with "
            "--instance-profile"
        )
    prefix = spec.bucket_prefix or f"pixel-orch/{spec.run}-{secrets.token_hex(4)}"
    return spec.model_copy(update={"instance_profile": profile, "bucket_region": region, "bucket_prefix": prefix})


def _data_profile(spec: RunSpec, home: Path) -> str:
    """Return the instance profile by which the machine reads `--data-bucket`, once the bucket is seen to be there."""
    bucket = str(spec.data_url).removeprefix("s3://").partition("/")[0]
    s3_files(spec, home, bucket).check("--data-bucket")
    profile = spec.instance_profile or _standing_profile(spec, home)
    if profile is None:
        raise SpecError(
            "--data-bucket: no instance profile lets the machine read it; run `pixel-orch setup`, or name one with "
            "--instance-profile"
        )
    return profile


def _standing_profile(spec: RunSpec, home: Path) -> str | None:
    """Return the instance profile that `setup` made, None if there is none or we may not know."""
    from orchestrator.cloud.aws.stack import DEFAULT_NAME, has_profile

    return DEFAULT_NAME if has_profile(DEFAULT_NAME, endpoint=_endpoint_of(spec, home), profile=spec.profile) else None


def remote_store_of(spec: RunSpec, home: Path) -> S3Home | None:
    """Return the run's place in S3, None if it has none."""
    if spec.bucket is None:
        return None
    from orchestrator.cloud.aws.s3 import S3Home

    return S3Home(spec.bucket, spec.bucket_prefix, endpoint=_endpoint_of(spec, home), profile=spec.profile)


def s3_files(spec: RunSpec, home: Path, bucket: str) -> S3Home:
    """Return a bucket's files, whether or not they are this run's."""
    from orchestrator.cloud.aws.s3 import S3Home

    return S3Home(bucket, "", endpoint=_endpoint_of(spec, home), profile=spec.profile)


def _endpoint_of(spec: RunSpec, home: Path) -> dict[str, str]:
    return client_settings(start_embedded(home)) if spec.is_embedded else {}
