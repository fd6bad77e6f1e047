"""moto's CloudFormation, which needs extra packages and takes seconds to import."""

import importlib.util
import sys

from infra.local.aws.moto_ec2 import ACCOUNT_ID
from infra.local.aws.wire import ApiError


def check_installed() -> None:
    """Raise ApiError if a package is missing: moto's CloudFormation imports every service that it supports."""
    missing = [name for name in ("cfnlint", "openapi_spec_validator", "graphql") if not importlib.util.find_spec(name)]
    if missing:
        text = f"CloudFormation on the embedded cloud needs {missing[0]}: pip install 'moto[cloudformation]'"
        raise ApiError("UnsupportedOperation", text)


def has_stacks() -> bool:
    """Whether CloudFormation has a stack. Its import takes seconds; if it is not imported, there is no stack."""
    loaded = sys.modules.get("moto.cloudformation.models")
    regions = loaded.cloudformation_backends[ACCOUNT_ID].values() if loaded else ()
    return any(region.stacks for region in regions)
