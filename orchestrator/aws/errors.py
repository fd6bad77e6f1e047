"""EC2's error codes, and what each of them rules out.

One table, so that capacity (try the next pool), quota (a person must act), access and time-outs are never mixed up.
Codes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html. The texts of AWS are passed on as
they are; a hint in them ("choosing us-east-1b...") is a hint and never followed: it has been seen to be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)

from orchestrator.errors import (
    AccessError,
    CapacityError,
    CloudError,
    NotFoundError,
    QuotaError,
    SpecError,
    ThrottledError,
)

CODES: dict[str, type[CloudError]] = {
    # The pool is empty or cannot serve this: another zone or type may.
    "InsufficientInstanceCapacity": CapacityError,  # HTTP 500: the SDK would retry it by itself
    "InsufficientHostCapacity": CapacityError,
    "InsufficientReservedInstanceCapacity": CapacityError,
    "InsufficientFreeAddressesInSubnet": CapacityError,
    "ReservationCapacityExceeded": CapacityError,
    "SpotMaxPriceTooLow": CapacityError,  # this pool's price is above our cap
    "UnfulfillableCapacity": CapacityError,
    "Unsupported": CapacityError,  # this zone does not have the type
    # The account's limit: another zone does not help.
    "VcpuLimitExceeded": QuotaError,
    "InstanceLimitExceeded": QuotaError,
    "MaxSpotInstanceCountExceeded": QuotaError,
    "MaxFleetCountExceeded": QuotaError,
    "SecurityGroupLimitExceeded": QuotaError,
    # Credentials or policy.
    "AuthFailure": AccessError,
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": AccessError,
    "AccessDenied": AccessError,
    "AccessDeniedException": AccessError,
    "ExpiredToken": AccessError,
    "ExpiredTokenException": AccessError,
    "InvalidClientTokenId": AccessError,
    "OptInRequired": AccessError,
    "PendingVerification": AccessError,
    "RequestExpired": AccessError,
    "SignatureDoesNotMatch": AccessError,
    "UnauthorizedOperation": AccessError,
    "UnrecognizedClientException": AccessError,
    # The same request again, later.
    "EC2ThrottledException": ThrottledError,
    "RequestLimitExceeded": ThrottledError,
    "RequestThrottled": ThrottledError,
    "Throttling": ThrottledError,
    "ThrottlingException": ThrottledError,
    # Not there, or not there yet.
    "InvalidInstanceID.NotFound": NotFoundError,
    "InvalidGroup.NotFound": NotFoundError,
    "ParameterNotFound": NotFoundError,
}

ADVICE: dict[type[CloudError], str] = {
    QuotaError: "a person must raise the quota in Service Quotas; another zone does not help",
    AccessError: "check the credentials (aws sts get-caller-identity) and the policy",
}
_ENCODED = re.compile(r"\s*Encoded authorization failure message:.*", re.DOTALL)


def translate(error: ClientError, where: str) -> CloudError:
    """Return our error for one of AWS's. `where` says which zone, type or region the call was about."""
    answer: dict[str, Any] = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    text = _ENCODED.sub("", str(answer.get("Error", {}).get("Message", ""))).strip()
    kind = CODES.get(code, CloudError)
    message = f"{error.operation_name}{f' ({where})' if where else ''}: {code}: {text.rstrip('.') or 'no message'}"
    if kind in ADVICE:
        message += f"; {ADVICE[kind]}"
    request_id = str(answer.get("ResponseMetadata", {}).get("RequestId", ""))
    return kind(message, code=code, operation=str(error.operation_name), request_id=request_id)


@contextmanager
def at_the_sill(where: str = "") -> Iterator[None]:
    """Let no error of boto3 past this point: everything that goes wrong inside comes out as one of ours."""
    try:
        yield
    except ClientError as error:
        raise translate(error, where) from error
    except (NoCredentialsError, PartialCredentialsError, TokenRetrievalError, ProfileNotFound) as error:
        raise AccessError(f"no usable AWS credentials ({error}); {NO_CREDENTIALS}", code="NoCredentials") from error
    except NoRegionError as error:
        raise SpecError("no AWS region is set; say --region, for example --region us-east-1") from error
    except BotoCoreError as error:
        text = " ".join(str(error).split())
        raise CloudError(
            f"{where or 'AWS'}: {text}; check the network and try again", code=type(error).__name__
        ) from error


NO_CREDENTIALS = "run `aws configure` (or set AWS_PROFILE), or try it without an account: --cloud local"
