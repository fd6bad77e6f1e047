"""The machine images of the embedded cloud: the Deep Learning AMIs, by SSM parameter, by id and by name. Pure data.

Parameter names are those of "Finding a DLAMI ID" (AWS Deep Learning AMIs, developer guide) and of public launch code.
Ids are invented; as on AWS, they differ between regions.
"""

import hashlib
from dataclasses import dataclass

DLAMI_OWNER = "898082745236"
"""Amazon's account for Deep Learning AMIs."""
PARAMETER_PREFIX = "/aws/service/deeplearning/ami/x86_64/"
PARAMETER_SUFFIX = "/latest/ami-id"
_CREATED = 1793491200  # 2026-11-01, unix seconds
_NAMES = {
    "base-oss-nvidia-driver-gpu-ubuntu-22.04": "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20261101",
    "base-oss-nvidia-driver-gpu-ubuntu-24.04": "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) 20261101",
    "base-oss-nvidia-driver-gpu-amazon-linux-2023": (
        "Deep Learning Base OSS Nvidia Driver GPU AMI (Amazon Linux 2023) 20261101"
    ),
    "oss-nvidia-driver-gpu-pytorch-2.7-ubuntu-22.04": (
        "Deep Learning OSS Nvidia Driver AMI GPU PyTorch 2.7 (Ubuntu 22.04) 20261101"
    ),
}


@dataclass(frozen=True)
class Image:
    """One AMI of one region; `created` is in unix seconds."""

    image_id: str
    name: str
    parameter: str
    created: int = _CREATED


def images(region: str) -> list[Image]:
    """The images of a region."""
    return [
        Image(
            f"ami-0{hashlib.sha256(f'{region}/{kind}'.encode()).hexdigest()[:16]}",
            name,
            f"{PARAMETER_PREFIX}{kind}{PARAMETER_SUFFIX}",
        )
        for kind, name in _NAMES.items()
    ]
