"""EC2's real error texts come out as the right type of ours, with the text kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, NoRegionError

from docs.make_ec2_errors import error_page
from orchestrator.cloud.aws.errors import MEANINGS, map_boto_errors, translate
from orchestrator.errors import (
    AccessError,
    CapacityError,
    CloudError,
    NotFoundError,
    QuotaError,
    ThrottledError,
)

# Texts as users of EC2 have published them in the issues of SkyPilot, Ray, Gardener and ParallelCluster.
REAL = [
    (
        "InsufficientInstanceCapacity",
        "We currently do not have sufficient p2.xlarge capacity in the Availability Zone you requested (us-east-1a). "
        "Our system will be working on provisioning additional capacity. You can currently get p2.xlarge capacity by "
        "not specifying an Availability Zone in your request or choosing us-east-1b, us-east-1c, us-east-1d, "
        "us-east-1e.",
        CapacityError,
    ),
    (
        "InsufficientInstanceCapacity",
        "You can't start the Spot Instance 'i-003b000000000000' because there is no available Spot capacity.",
        CapacityError,
    ),
    (
        "VcpuLimitExceeded",
        "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket that "
        "the specified instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to request "
        "an adjustment to this limit.",
        QuotaError,
    ),
    ("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded", QuotaError),
    ("MaxFleetCountExceeded", "You've reached your quota for maximum Fleet Requests for this account.", QuotaError),
    (
        "Unsupported",
        "Your requested instance type (p4d.24xlarge) is not supported in your requested Availability Zone",
        CapacityError,
    ),
    (
        "SpotMaxPriceTooLow",
        "Your Spot request price of 0.01 is lower than the minimum required Spot request fulfillment price of 0.27.",
        CapacityError,
    ),
    ("RequestLimitExceeded", "Request limit exceeded.", ThrottledError),
    ("UnauthorizedOperation", "You are not authorized to perform this operation.", AccessError),
    ("InvalidInstanceID.NotFound", "The instance ID 'i-0123' does not exist", NotFoundError),
    ("InvalidParameterCombination", "No instances specified", CloudError),
]


def client_error(code: str, message: str) -> ClientError:
    """Return what botocore raises for that answer."""
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"RequestId": "r-1"}}
    return ClientError(answer, "RunInstances")  # type: ignore[arg-type]


@pytest.mark.parametrize(("code", "text", "kind"), REAL)
def test_real_texts_give_the_right_type(code: str, text: str, kind: type[CloudError]) -> None:
    error = translate(client_error(code, text), "p2.xlarge in us-east-1a")
    assert type(error) is kind
    assert (error.code, error.operation, error.request_id) == (code, "RunInstances", "r-1")
    assert text.rstrip(".") in str(error)
    assert "p2.xlarge in us-east-1a" in str(error)
    assert "\n" not in str(error)


def test_every_code_of_the_table_has_a_type_of_its_own_tree() -> None:
    for code, meaning in MEANINGS.items():
        error = translate(client_error(code, "text"), "")
        assert type(error) is meaning.kind
        assert error.scope == meaning.scope
        assert issubclass(meaning.kind, CloudError)
        assert (meaning.does in str(error)) == meaning.says_so


def test_an_unknown_code_is_passed_on_and_nothing_else_is_tried() -> None:
    error = translate(client_error("SomethingNew", "What it is."), "p2.xlarge")
    assert (type(error), error.scope) == (CloudError, "request")
    assert str(error) == "RunInstances (p2.xlarge): SomethingNew: What it is"


@pytest.mark.parametrize(
    "code",
    [  # what EC2's API reference, Karpenter and ParallelCluster name as answers to a launch
        *("InsufficientInstanceCapacity", "UnfulfillableCapacity", "MaxSpotInstanceCountExceeded", "VcpuLimitExceeded"),
        *("InstanceLimitExceeded", "SpotMaxPriceTooLow", "Unsupported", "InsufficientFreeAddressesInSubnet"),
        *("MaxFleetCountExceeded", "ReservationCapacityExceeded", "RequestLimitExceeded", "EC2ThrottledException"),
        *("InvalidParameterValue", "InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable"),
        *("InvalidKeyPair.NotFound", "InvalidGroup.NotFound", "InvalidSubnetID.NotFound", "UnauthorizedOperation"),
        *("AuthFailure.ServiceLinkedRoleCreationNotPermitted", "OptInRequired", "PendingVerification"),
        *("IdempotentParameterMismatch", "InternalError", "ExpiredToken", "InvalidInstanceID.NotFound"),
    ],
)
def test_every_answer_to_a_launch_is_in_the_table(code: str) -> None:
    assert code in MEANINGS


def test_the_table_in_the_docs_is_made_from_the_table_in_the_code() -> None:
    written = (Path(__file__).parents[3] / "docs" / "ec2-errors.md").read_text()
    assert written == error_page(), "run: python -m docs.make_ec2_errors"


def test_an_encoded_authorization_message_is_left_out() -> None:
    error = translate(
        client_error("UnauthorizedOperation", "No. Encoded authorization failure message: " + "A" * 900), ""
    )
    assert len(str(error)) < 250


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (NoCredentialsError(), AccessError, "--cloud local"),
        (NoRegionError(), AccessError, "--region"),
        (EndpointConnectionError(endpoint_url="https://ec2.us-east-1.amazonaws.com"), CloudError, "check the network"),
    ],
)
def test_no_error_of_botocore_gets_past_the_sill(raised: Exception, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says), map_boto_errors("us-east-1"):
        raise raised


def test_a_zone_without_a_default_subnet_rules_out_that_zone_alone() -> None:
    text = "No default subnet for availability zone: 'us-west-2d'. Please specify a subnet."
    answer: Any = {"Error": {"Code": "MissingInput", "Message": text}}
    assert translate(ClientError(answer, "RunInstances"), "g5.xlarge in us-west-2d").scope == "zone"
    answer = {"Error": {"Code": "MissingInput", "Message": "No subnets found for the default VPC 'vpc-1'."}}
    assert translate(ClientError(answer, "RunInstances"), "g5.xlarge in us-west-2a").scope == "region"
