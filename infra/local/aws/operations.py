"""The names of the API operations that the embedded cloud serves, and that a fault can name."""

import difflib
from functools import lru_cache

from infra.local.aws.quotas import OPERATIONS as QUOTA_OPERATIONS

USUAL = frozenset(
    {
        *("RunInstances", "CreateFleet", "TerminateInstances", "DescribeInstances", "DescribeInstanceStatus"),
        *("DescribeInstanceTypes", "DescribeInstanceTypeOfferings", "DescribeSpotPriceHistory", "DescribeImages"),
        *("CreateSecurityGroup", "DeleteSecurityGroup", "DescribeSecurityGroups", "AuthorizeSecurityGroupIngress"),
        *("CreateLaunchTemplate", "DeleteLaunchTemplate", "DescribeLaunchTemplates", "DescribeSubnets", "DescribeVpcs"),
        *("CreatePlacementGroup", "DeletePlacementGroup", "DescribePlacementGroups", "AllocateAddress"),
        *("GetProducts", *QUOTA_OPERATIONS, "GetParameter", "GetInstanceProfile", "GetCallerIdentity"),
        *("CreateStack", "UpdateStack", "DeleteStack", "DescribeStacks", "DescribeStackEvents"),
    }
)
"""Operations that are known without botocore's service models, which take half a second to load."""
OF_S3 = frozenset(
    {
        *("HeadBucket", "CreateBucket", "DeleteBucket", "ListObjectsV2", "ListMultipartUploads", "DeleteObjects"),
        *("HeadObject", "GetObject", "PutObject", "DeleteObject"),
        *("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"),
    }
)
"""The names that `permissions.action_of` returns: derived from method and query, so that a copy is a PutObject."""
_BY_MODEL = ("ec2", "ssm", "iam", "cloudformation")


@lru_cache(maxsize=1)
def _by_model() -> frozenset[str]:
    import botocore.session

    session = botocore.session.Session()
    return frozenset(name for service in _BY_MODEL for name in session.get_service_model(service).operation_names)


def check(name: str) -> None:
    """Raise ValueError if no request can have that operation; the message suggests the most similar name."""
    if name in USUAL or name in OF_S3 or name in _by_model():
        return
    near = difflib.get_close_matches(name, USUAL | OF_S3, n=1) or difflib.get_close_matches(name, _by_model(), n=1)
    hint = f"did you mean {near[0]}?" if near else "for example RunInstances, DescribeInstances or GetObject"
    raise ValueError(f"unknown operation {name!r} in a fault; {hint}")
