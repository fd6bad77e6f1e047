"""AWS's error codes as the embedded cloud returns them: HTTP status and text, filled in from the call. Pure data.

The texts are from public issue threads and logs (skypilot#656, ray#20774, hammertime#29, firesim#872,
aws-ethereum-miner#23, runs-on#251, aws-parallelcluster's guide); for a code without one, from the list of error codes
in the EC2 API reference. InsufficientInstanceCapacity has status 500, which SDKs retry automatically.
"""

from infra.local.aws import spot_market
from infra.local.aws.wire import ApiError

_CAPACITY = (
    "We currently do not have sufficient {type} capacity in the Availability Zone you requested ({zone}). Our"
    " system will be working on provisioning additional capacity. You can currently get {type} capacity by not"
    " specifying an Availability Zone in your request or choosing {others}."
)
_UNAUTHORIZED = (
    "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/embedded is not"
    " authorized to perform: ec2:{operation} because no identity-based policy allows the ec2:{operation} action."
)
_DENIED = (
    "User: arn:aws:iam::123456789012:user/embedded is not authorized to perform: {operation} because no"
    " identity-based policy allows the {operation} action"
)
_VCPUS = (
    "You have requested more vCPU capacity than your current vCPU limit of {vcpu_limit} allows for the instance bucket"
    " that the specified instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to request"
    " an adjustment to this limit."
)
_INSTANCES = (
    "You have requested more instances (1) than your current instance limit of 0 allows for the specified instance"
    " type. Please visit http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit."
)
_VERIFIED = (
    "Your account is currently being verified. Verification normally takes less than 2 hours. Until your account is"
    " verified, you may not be able to launch additional instances or create additional volumes. If you are still"
    " receiving this message after more than 2 hours, please let us know by writing to aws-verification@amazon.com. We"
    " appreciate your patience."
)
_UNFULFILLABLE = (
    "Unable to fulfill capacity due to your request configuration. Please adjust your request and try again."
)
_MARKETPLACE = (
    "In order to use this AWS Marketplace product you need to accept terms and subscribe. To do so please visit"
    " https://aws.amazon.com/marketplace/pp?sku=0"
)
_LINKED_ROLE = (
    "The provided credentials do not have permission to create the service-linked role for EC2 Spot Instances."
)

STATUS_AND_TEXT: dict[str, tuple[int, str]] = {
    # no capacity in this pool
    "InsufficientInstanceCapacity": (500, _CAPACITY),
    "InsufficientHostCapacity": (
        500,
        "Insufficient capacity to satisfy instance request on any of the hosts.",
    ),
    "InsufficientReservedInstanceCapacity": (
        400,
        "There is insufficient capacity available for the requested Reserved Instances.",
    ),
    "ReservationCapacityExceeded": (
        400,
        "The targeted Capacity Reservation does not have enough available instance capacity to fulfill your request.",
    ),
    "UnfulfillableCapacity": (400, _UNFULFILLABLE),
    "SpotMaxPriceTooLow": (
        400,
        "Your Spot request price of {max_price} is lower than the minimum required Spot request fulfillment price of"
        " {spot_price}.",
    ),
    "Unsupported": (
        400,
        "Your requested instance type ({type}) is not supported in your requested Availability Zone ({zone})."
        " Please retry your request by not specifying an Availability Zone or choosing {others}.",
    ),
    "InsufficientFreeAddressesInSubnet": (
        400,
        "There are not enough free addresses in subnet 'subnet-0123456789abcdef0' to satisfy the requested number of"
        " instances.",
    ),
    # the account's limits
    "VcpuLimitExceeded": (400, _VCPUS),
    "InstanceLimitExceeded": (400, _INSTANCES),
    "MaxSpotInstanceCountExceeded": (400, "Max spot instance count exceeded"),
    "MaxFleetCountExceeded": (400, "You've reached your quota for maximum Fleet Requests for this account."),
    "SecurityGroupLimitExceeded": (400, "The maximum number of security groups for VPC has been reached."),
    "PlacementGroupLimitExceeded": (
        400,
        "You've reached the limit on the number of placement groups that you can have.",
    ),
    "AddressLimitExceeded": (400, "The maximum number of addresses has been reached."),
    "VolumeLimitExceeded": (400, "You have exceeded your maximum gp3 storage limit of 50 TiB in this region."),
    # throttling and server errors: retry later
    "RequestLimitExceeded": (503, "Request limit exceeded."),
    "EC2ThrottledException": (503, "Request limit exceeded."),
    "Throttling": (400, "Rate exceeded"),
    "ThrottlingException": (400, "Rate exceeded"),
    "TooManyRequestsException": (429, "Too Many Requests"),
    "SlowDown": (503, "Please reduce your request rate."),
    "InternalError": (500, "An internal error has occurred"),
    "ServiceUnavailable": (503, "The service is unavailable. Please try again shortly."),
    "Unavailable": (503, "The service is temporarily unavailable."),
    # credentials, policy, the account itself
    "AuthFailure": (401, "AWS was not able to validate the provided access credentials"),
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": (403, _LINKED_ROLE),
    "UnauthorizedOperation": (403, _UNAUTHORIZED),
    "AccessDenied": (403, _DENIED),
    "AccessDeniedException": (400, _DENIED),
    "ExpiredToken": (400, "The security token included in the request is expired"),
    "ExpiredTokenException": (400, "The security token included in the request is expired"),
    "RequestExpired": (400, "Request has expired."),
    "InvalidClientTokenId": (403, "The security token included in the request is invalid"),
    "UnrecognizedClientException": (400, "The security token included in the request is invalid."),
    "SignatureDoesNotMatch": (
        403,
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access"
        " Key and signing method. Consult the service documentation for details.",
    ),
    "OptInRequired": (401, _MARKETPLACE),
    "PendingVerification": (400, _VERIFIED),
    "Blocked": (
        400,
        "This account is currently blocked and not recognized as a valid account. Please contact"
        " https://aws.amazon.com/support if you have questions.",
    ),
    # not found
    "InvalidInstanceID.NotFound": (400, "The instance ID 'i-0123456789abcdef0' does not exist"),
    "InvalidAMIID.NotFound": (400, "The image id '[ami-0123456789abcdef0]' does not exist"),
    "InvalidAMIID.Unavailable": (400, "The image ID 'ami-0123456789abcdef0' is no longer available."),
    "InvalidKeyPair.NotFound": (400, "The key pair 'pixel-orch' does not exist"),
    "InvalidGroup.NotFound": (400, "The security group 'sg-0123456789abcdef0' does not exist"),
    "InvalidSubnetID.NotFound": (400, "The subnet ID 'subnet-0123456789abcdef0' does not exist"),
    "InvalidLaunchTemplateId.NotFound": (
        400,
        "The specified launch template, with template ID lt-0123456789abcdef0, does not exist.",
    ),
    "InvalidPlacementGroup.Unknown": (400, "The Placement Group 'pixel-orch-group' is unknown."),
    "ParameterNotFound": (400, ""),
    "NoSuchResourceException": (400, "The request failed because the specified quota does not exist."),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "VPCIdNotSpecified": (
        400,
        "No default VPC for this user. GroupName is only supported for EC2-Classic and default VPC.",
    ),
    # the request
    "InvalidParameterValue": (
        400,
        "Value (pixel-orch) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
    ),
    "InvalidParameterCombination": (400, "No instances specified"),
    "IdempotentParameterMismatch": (
        400,
        "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
    ),
    "InvalidPlacementGroup.Duplicate": (400, "The placement group 'pixel-orch-group' already exists."),
    "InvalidPlacementGroup.InUse": (400, "The placement group 'pixel-orch-group' is in use and may not be deleted."),
    "DependencyViolation": (400, "resource sg-0123456789abcdef0 has a dependent object"),
}
NOT_IN_A_DRY_RUN = {
    "EC2ThrottledException",
    "InsufficientFreeAddressesInSubnet",
    "InsufficientHostCapacity",
    "InsufficientInstanceCapacity",
    "InsufficientReservedInstanceCapacity",
    "InstanceLimitExceeded",
    "MaxFleetCountExceeded",
    "MaxSpotInstanceCountExceeded",
    "ReservationCapacityExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
    "Unsupported",
    "VcpuLimitExceeded",
}
"""Codes that a dry run never returns, since it requests no capacity."""


def error_from(code: str, values: dict[str, str], message: str | None = None) -> ApiError:
    """Return AWS's error for a code of STATUS_AND_TEXT, with its text filled in.

    `values` may have operation, type, zone, max_price, spot_price, vcpu_limit.
    """
    status, text = STATUS_AND_TEXT[code]
    zone, instance_type = values.get("zone", ""), values.get("type", "")
    offering = spot_market.offering_zones(instance_type, spot_market.region_of(zone))
    others = [name for name in offering if name != zone]
    filled = text.format(
        operation=values.get("operation", ""),
        type=instance_type or "the requested",
        zone=zone or "any",
        others=", ".join(others) or "another region",
        vcpu_limit=values.get("vcpu_limit", "0"),
        max_price=values.get("max_price") or "0.0010",
        spot_price=values.get("spot_price", "0.2700"),
    )
    return ApiError(code, message or filled, status)
