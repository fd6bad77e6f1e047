"""moto's Systems Manager: the public parameters below /aws with the image ids, which no client can write."""

from datetime import datetime, timezone
from typing import Any

from infra.local.aws import images
from infra.local.aws.moto_ec2 import ACCOUNT_ID


def _parameters(region: str) -> Any:
    from moto.ssm.models import ssm_backends

    return ssm_backends[ACCOUNT_ID][region]._parameters


def remove_image_parameters(region: str) -> None:
    """Remove the image parameters of a region."""
    parameters = _parameters(region)
    for image in images.images(region):
        parameters.pop(image.parameter, None)


def add_image_parameters(region: str) -> None:
    """Write a parameter for each image of a region."""
    from moto.ssm.models import Parameter

    parameters = _parameters(region)
    for image in images.images(region):
        parameters[image.parameter].append(
            Parameter(  # type: ignore[abstract] # moto instantiates it in the same way
                account_id=ACCOUNT_ID,
                name=image.parameter,
                value=image.image_id,
                parameter_type="String",
                description=None,
                allowed_pattern=None,
                keyid=None,
                last_modified_date=datetime.fromtimestamp(image.created, timezone.utc),
                version=1,
                data_type="aws:ec2:image",
            )
        )
