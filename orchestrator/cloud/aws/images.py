"""The image of an instance: the given one, else AWS's Deep Learning AMI by SSM parameter, else by name.

AWS renames its parameters at times; DescribeImages by owner and name finds the same image without them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from orchestrator.cloud.aws.errors import map_boto_errors
from orchestrator.cloud.base import Image
from orchestrator.errors import CloudError, NotFoundError, SpecError

# https://docs.aws.amazon.com/dlami/latest/devguide/find-dlami-id.html
DLAMI_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
DLAMI_OWNER = "898082745236"
DLAMI_NAME = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) *"

# The x86 images with the open-source driver, release notes of 2026-10
# (https://docs.aws.amazon.com/dlami/latest/devguide/appendix-ami-release-notes.html).
OSS_DRIVER_FAMILIES = ("g4dn", "g5", "g6", "gr6", "g6f", "gr6f", "g6e", "p4d", "p4de", "p5", "p5e", "p5en", "p6-b200")

SHORT_NAMES = {"p4": "p4d"}  # in descriptions and release notes "P4, P4de"; no type is called p4

USERS = (  # a part of an image's name -> its login user (AWS: "Manage system users on your Linux instance")
    ("ubuntu", "ubuntu"),
    ("debian", "admin"),
    ("centos", "centos"),
    ("fedora", "fedora"),
    ("rhel", "ec2-user"),
    ("al2023", "ec2-user"),
    ("amzn", "ec2-user"),
    ("amazon linux", "ec2-user"),
)


def find_image(ec2: Any, ssm: Any, region: str, image_id: str | None) -> Image:
    """Return the image to start.

    Raises:
        SpecError: the image that was named is not in this region, or is not for x86_64.
        CloudError: no Deep Learning AMI is found; the message says to name one.
    """
    if image_id is not None:
        return _described(ec2, region, image_id, "--ami")
    try:
        with map_boto_errors(f"{region}, Deep Learning AMI"):
            found = str(ssm.get_parameter(Name=DLAMI_PARAMETER)["Parameter"]["Value"])
        return _described(ec2, region, found, "SSM parameter")
    except (NotFoundError, SpecError):
        return _newest(ec2, region)


def _described(ec2: Any, region: str, image_id: str, source: str) -> Image:
    try:
        with map_boto_errors(f"{region}, {image_id}"):
            images = ec2.describe_images(ImageIds=[image_id])["Images"]
    except CloudError as error:
        if error.code.startswith("InvalidAMIID"):
            images = []
        else:
            raise
    if not images:
        raise SpecError(
            f"--ami: {image_id} is not an image in {region} that this account may use; image ids are of one region"
        )
    return _image(images[0], source)


def _newest(ec2: Any, region: str) -> Image:
    filters = [{"Name": "name", "Values": [DLAMI_NAME]}, {"Name": "state", "Values": ["available"]}]
    with map_boto_errors(f"{region}, Deep Learning AMI by name"):
        images = ec2.describe_images(Owners=[DLAMI_OWNER], Filters=filters)["Images"]
    if not images:
        raise CloudError(f"no Deep Learning AMI found in {region}; name an image with --ami ami-...")
    return _image(max(images, key=lambda image: str(image.get("CreationDate", ""))), "newest by name")


def _image(raw: Mapping[str, Any], source: str) -> Image:
    architecture = raw.get("Architecture", "x86_64")
    if architecture != "x86_64":
        raise SpecError(f"--ami: {raw['ImageId']} is for {architecture}; the known instance types are x86_64")
    name = str(raw.get("Name") or raw.get("Description") or "")
    root = str(raw.get("RootDeviceName") or "/dev/sda1")
    disks = [d["Ebs"] for d in raw.get("BlockDeviceMappings", []) if d.get("DeviceName") == root and "Ebs" in d]
    return Image(
        image_id=str(raw["ImageId"]),
        login_user=login_user(name),
        root_device=root,
        least_disk_gib=int(disks[0].get("VolumeSize", 0)) if disks else 0,
        name=name,
        source=source,
        families=supported_families(name, str(raw.get("Description") or "")),
    )


def supported_families(name: str, description: str) -> tuple[str, ...]:
    """Return the instance families that a Deep Learning AMI's driver supports; empty for any other image.

    AWS's images list them in their descriptions ("Supported EC2 instances: G4dn, G5, ..."); without that the list
    of the release notes is used.
    """
    told = re.search(r"Supported EC2 instances?:\s*([A-Za-z0-9, -]+)", description)
    if told:
        words = (word.strip().lower() for word in told[1].split(","))
        return tuple(dict.fromkeys(SHORT_NAMES.get(word, word) for word in words if word))
    return OSS_DRIVER_FAMILIES if name.startswith("Deep Learning") and "OSS Nvidia Driver" in name else ()


def login_user(image_name: str) -> str:
    """Return the login user of an image of this name; `ubuntu` if the name does not tell."""
    lower = image_name.lower()
    return next((user for word, user in USERS if word in lower), "ubuntu")
