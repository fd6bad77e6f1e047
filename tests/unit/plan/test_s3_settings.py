"""Names of buckets and instance profiles."""

from __future__ import annotations

import pytest

from orchestrator.errors import SpecError
from orchestrator.plan.validators import check_bucket, check_profile


@pytest.mark.parametrize("name", ["my-runs", "s3://my-runs/", "a.b-c.3", "x" * 63])
def test_a_bucket_has_a_name_that_s3_takes(name: str) -> None:
    assert check_bucket(name) == name.removeprefix("s3://").rstrip("/")


@pytest.mark.parametrize(
    "name", ["", "ab", "My-Runs", "my_runs", "-a-b", "a..b", "192.168.0.1", "x" * 64, "a/b", "ab\n"]
)
def test_any_other_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="--bucket"):
        check_bucket(name)


def test_a_profile_is_a_name_and_not_an_arn() -> None:
    assert check_profile("pixel-orch") == "pixel-orch"
    with pytest.raises(SpecError, match="not the ARN"):
        check_profile("arn:aws:iam::1:instance-profile/x")
