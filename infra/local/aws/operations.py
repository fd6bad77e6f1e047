"""The API operations that the embedded cloud serves, by name: what a fault can strike."""

import difflib
from functools import lru_cache

from infra.local.aws.quotas import OPERATIONS as QUOTA_OPERATIONS

USUAL = frozenset(
    {
        *("RunInstances", "CreateFleet", "TerminateInstances", "DescribeInstances", "DescribeInstanceStatus"),
        *("DescribeInstanceTypes", "DescribeInstanceTypeOfferings", "DescribeSpotPriceHistory", "DescribeImages"),
        *("CreateSecurityGroup", "DeleteSecurityGroup", "DescribeSecurityGroups", "AuthorizeSecurityGroupIngress"),
        *("CreateLaunchTemplate", "DeleteLaunchTemplate", "DescribeLaunchTemplates", "DescribeSubnets", "DescribeVpcs"),
        *("GetProducts", *QUOTA_OPERATIONS, "GetParameter", "GetInstanceProfile"),
        *("CreateStack", "UpdateStack", "DeleteStack", "DescribeStacks", "DescribeStackEvents"),
    }
)
"""Those that are known without the vendor's models, which take half a second to read."""
OF_S3 = frozenset(
    {
        *("HeadBucket", "CreateBucket", "DeleteBucket", "ListObjectsV2", "ListMultipartUploads", "DeleteObjects"),
        *("HeadObject", "GetObject", "PutObject", "DeleteObject"),
        *("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"),
    }
)
"""As `permissions.action_of` names them: by method and query, so that a copy is a PutObject."""
_BY_MODEL = ("ec2", "ssm", "iam", "cloudformation")


@lru_cache(maxsize=1)
def _by_model() -> frozenset[str]:
    import botocore.session

    session = botocore.session.Session()
    return frozenset(name for service in _BY_MODEL for name in session.get_service_model(service).operation_names)


def check(name: str) -> None:
    """Raise ValueError if no request is ever of that operation; it names the nearest."""
    if name in USUAL or name in OF_S3 or name in _by_model():
        return
    near = difflib.get_close_matches(name, USUAL | OF_S3, n=1) or difflib.get_close_matches(name, _by_model(), n=1)
    hint = f"did you mean {near[0]}?" if near else "for example RunInstances, DescribeInstances or GetObject"
    raise ValueError(f"unknown operation {name!r} in a fault; {hint}")
