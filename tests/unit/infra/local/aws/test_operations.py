"""The operations that a fault can name are those that the embedded cloud serves."""

import pytest

from infra.local.aws import operations
from infra.local.aws.permissions import action_of
from infra.local.cloud.faults import parse_fault


@pytest.mark.parametrize("operation", ["RunInstances", "DescribeRegions", "GetObject", "GetParameter", "CreateStack"])
def test_any_operation_that_is_served_may_fail(operation: str) -> None:
    assert parse_fault({"operation": operation, "error": "RequestLimitExceeded"}).operation == operation


def test_the_names_of_s3_are_those_that_are_struck() -> None:
    methods = [
        action_of(m, k, q)[0] for m in ("HEAD", "GET", "PUT", "POST", "DELETE") for k in ("", "a") for q in QUERIES
    ]
    assert set(methods) == operations.OF_S3


QUERIES: list[dict[str, str]] = [{}, {"uploads": ""}, {"uploadId": "1"}]
