"""EC2's error codes, and what each of them rules out.

One table, so that capacity (try the next pool), quota (a person must act), access and time-outs are told apart.
Codes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html. AWS's texts are passed on
unchanged. A hint in them ("choosing us-east-1b...") is not followed: such hints can be wrong.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from orchestrator.cloud.aws.sdk_errors import NO_CREDENTIALS, translate_sdk
from orchestrator.errors import (
    AccessError,
    CapacityError,
    CloudError,
    CredentialsError,
    NotFoundError,
    PixelOrchError,
    QuotaError,
    Scope,
    ThrottledError,
)


@dataclass(frozen=True)
class Meaning:
    """The meaning of one of EC2's codes.

    Args:
        kind: the class of the error.
        scope: what the refusal rules out, see `orchestrator.errors.Scope`.
        does: what pixel-orch does, or what a person must do.
        says_so: whether `does` is added to AWS's text: where a person must act.
    """

    kind: type[CloudError]
    scope: Scope
    does: str
    says_so: bool = False


def _meanings(
    kind: type[CloudError], scope: Scope, does: str, *codes: str, says_so: bool = False
) -> dict[str, Meaning]:
    return {code: Meaning(kind, scope, does, says_so) for code in codes}


CREDENTIALS = (
    "check the credentials (aws sts get-caller-identity) and the policy (infra/account/policies/operator.json)"
)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
RAISE_QUOTA = "a person must raise the quota in Service Quotas; another zone does not help"

MEANINGS: dict[str, Meaning] = {
    # The pool cannot serve. InsufficientInstanceCapacity comes with HTTP 500: the SDK would retry it by itself.
    **_meanings(
        CapacityError,
        "pool",
        "the next pool is tried, then all of them again after a wait",
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity",
        "ReservationCapacityExceeded",
        "SpotMaxPriceTooLow",  # this pool's price is above our cap
        "UnfulfillableCapacity",
        "Unsupported",  # this zone does not have the type; its text names others, which is a hint
        "Server.InsufficientInstanceCapacity",
    ),
    **_meanings(
        CapacityError,
        "zone",
        "the next zone is tried: no type can start in this subnet",
        "InsufficientFreeAddressesInSubnet",
    ),
    **_meanings(
        CloudError,
        "moment",
        "asked again: it can be deleted when the last instance that has it is terminated",
        "InvalidPlacementGroup.InUse",
        "VolumeInUse",
    ),
    **_meanings(
        CloudError,
        "moment",
        "the placement group that is there is used",
        "InvalidPlacementGroup.Duplicate",
    ),
    # The account's limits: a person must act.
    **_meanings(
        QuotaError,
        "quota",
        RAISE_QUOTA,
        "VcpuLimitExceeded",
        "InstanceLimitExceeded",
        "MaxSpotInstanceCountExceeded",
        says_so=True,
    ),
    **_meanings(
        QuotaError,
        "region",
        "another region, or raise the quota in Service Quotas",
        "MaxFleetCountExceeded",
        "SecurityGroupLimitExceeded",
        "VolumeLimitExceeded",
        "Client.VolumeLimitExceeded",
        "AddressLimitExceeded",
        "LaunchTemplateLimitExceeded",
        "PlacementGroupLimitExceeded",
        says_so=True,
    ),
    # Credentials, policy, the account itself.
    **_meanings(
        AccessError,
        "account",
        CREDENTIALS,
        "AccessDenied",
        "AccessDeniedException",
        "NotAuthorized",
        "UnauthorizedOperation",
        says_so=True,
    ),
    **_meanings(
        CredentialsError,
        "account",
        CREDENTIALS,
        "AuthFailure",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
        says_so=True,
    ),
    **_meanings(
        CredentialsError,
        "account",
        "log in again (aws sso login, or new keys); what runs on AWS goes on within its own limits meanwhile",
        "ExpiredToken",
        "ExpiredTokenException",
        says_so=True,
    ),
    **_meanings(
        CredentialsError, "account", "set this machine's clock", "RequestExpired", "RequestTimeTooSkewed", says_so=True
    ),
    **_meanings(
        AccessError,
        "account",
        "run once: aws iam create-service-linked-role --aws-service-name spot.amazonaws.com",
        "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
        says_so=True,
    ),
    **_meanings(
        AccessError,
        "account",
        "AWS is still checking this account or it is blocked: see its e-mails, or ask its support",
        "Blocked",
        "PendingVerification",
        "AccountDisabled",
        says_so=True,
    ),
    **_meanings(
        AccessError,
        "region",
        "enable the region, or accept the image's terms, in the AWS console",
        "OptInRequired",
        says_so=True,
    ),
    # The same request again, later.
    **_meanings(
        ThrottledError,
        "moment",
        "the same request is sent again after a growing wait, with the same token",
        "EC2ThrottledException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "SlowDown",
    ),
    **_meanings(
        CloudError,
        "moment",
        "the same request is sent again after a growing wait, with the same token",
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "ServiceUnavailable",
        "ServerInternal",
        "Unavailable",
    ),
    # Not there, or not there yet.
    **_meanings(
        NotFoundError,
        "moment",
        "asked again: EC2 is eventually consistent for some seconds after a launch",
        "InvalidInstanceID.NotFound",
        "InvalidGroup.NotFound",
        "InvalidPlacementGroup.Unknown",
        "InvalidSpotInstanceRequestID.NotFound",
        "InvalidVolume.NotFound",
        "NoSuchUpload",
        "InvalidLaunchTemplateId.NotFound",
        "InvalidLaunchTemplateName.NotFoundException",
        "ParameterNotFound",
    ),
    # What this region does not have. Another region may.
    **_meanings(
        CloudError,
        "region",
        "image ids are of one region: leave --ami out, or give one of this region",
        "InvalidAMIID.NotFound",
        "InvalidAMIID.Malformed",
        "InvalidAMIID.Unavailable",
        says_so=True,
    ),
    **_meanings(
        CloudError,
        "region",
        "give --subnet a subnet of this region, or create a default VPC (aws ec2 create-default-vpc)",
        "InvalidSubnetID.NotFound",
        "InvalidSubnet",
        "VPCIdNotSpecified",
        "MissingInput",
        "DefaultVpcDoesNotExist",
        says_so=True,
    ),
    # The request is wrong, wherever it is sent.
    **_meanings(
        CloudError,
        "request",
        "the request cannot work as it is; what AWS says names the parameter",
        "InvalidParameter",
        "InvalidParameterCombination",
        "InvalidParameterValue",
        "InvalidInput",
        "InvalidBlockDeviceMapping",
        "InvalidUserData.Malformed",
        "MissingParameter",
        "UnknownParameter",
        "ValidationError",
        "UnsupportedOperation",
        "InvalidInstanceAttributeValue",
        "Client.InvalidSnapshot.NotFound",
        says_so=True,
    ),
    **_meanings(
        CloudError,
        "request",
        "the key pair, role or group named there does not exist",
        "InvalidKeyPair.NotFound",
        "InvalidIamInstanceProfileArn.Malformed",
        "InvalidGroupId.Malformed",
        says_so=True,
    ),
    **_meanings(
        CloudError,
        "request",
        "a defect of pixel-orch: two requests had one token; please report it",
        "IdempotentParameterMismatch",
        "IdempotentInstanceTerminated",
        says_so=True,
    ),
}
"""Every code that pixel-orch knows. Another one is a `CloudError` of scope "request": it is passed on unchanged, and
nothing else is tried. `docs/ec2-errors.md` is made from this table."""

_ENCODED = re.compile(r"\s*Encoded authorization failure message:.*", re.DOTALL)


def translate(error: ClientError, where: str) -> CloudError:
    """Return the error for one of AWS's. `where` names the zone, type or region of the call."""
    answer: dict[str, Any] = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    text = _ENCODED.sub("", str(answer.get("Error", {}).get("Message", ""))).strip()
    meaning = MEANINGS.get(code, Meaning(CloudError, "request", ""))
    if code == "MissingInput" and "availability zone" in text.lower():  # "No default subnet for availability zone: ..."
        meaning = replace(meaning, scope="zone")
    message = f"{error.operation_name}{f' ({where})' if where else ''}: {code}: {text.rstrip('.') or 'no message'}"
    if meaning.says_so:
        message += f"; {meaning.does}"
    request_id = str(answer.get("ResponseMetadata", {}).get("RequestId", ""))
    return meaning.kind(
        message, code=code, operation=str(error.operation_name), request_id=request_id, scope=meaning.scope
    )


@contextmanager
def map_boto_errors(where: str = "", *, writes_to: Path | None = None) -> Iterator[None]:
    """Turn every error that is raised inside into one of `orchestrator.errors`: no other leaves a call to AWS.

    Args:
        where: the zone, type or region of the call.
        writes_to: a local folder that the call writes to. An OSError of that folder or of a full disk stays one: it is
            this machine's disk that failed, not AWS.

    Raises:
        CloudError: AWS refused or did not answer.
        AccessError: no usable credentials or settings; a provider of credentials failed in whatever way.
    """
    try:
        yield
    except PixelOrchError:
        raise
    except ClientError as error:
        raise translate(error, where) from error
    except OSError as error:
        if writes_to is not None and _is_of_disk(error, writes_to):
            raise
        raise translate_sdk(error, where) from error
    except Exception as error:
        raise translate_sdk(error, where) from error


def _is_of_disk(error: OSError, folder: Path) -> bool:
    name = error.filename if isinstance(error.filename, str) else ""
    return error.errno in DISK_ERRORS or name.startswith(str(folder))


__all__ = ["MEANINGS", "NO_CREDENTIALS", "map_boto_errors", "translate"]
