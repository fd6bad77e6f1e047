"""What is read from an image's description: the instance families that its driver supports."""

from __future__ import annotations

import pytest

from orchestrator.cloud.aws.images import OSS_DRIVER_FAMILIES, supported_families

NAME = "Deep Learning OSS Nvidia Driver AMI GPU PyTorch 2.9 (Ubuntu 24.04) 20260317"


@pytest.mark.parametrize(
    ("told", "families"),
    [
        ("G4dn, G5, P4, P4de, P5, P6-B200", ("g4dn", "g5", "p4d", "p4de", "p5", "p6-b200")),
        ("G6e, P4d, P4de", ("g6e", "p4d", "p4de")),
        ("P4, P4d", ("p4d",)),
    ],
)
def test_the_p4_of_a_description_is_p4d(told: str, families: tuple[str, ...]) -> None:
    description = f"Supported EC2 instances: {told}. Release notes: https://docs.aws.amazon.com/dlami/"
    assert supported_families(NAME, description) == families


def test_without_a_list_it_is_that_of_the_release_notes() -> None:
    assert supported_families("Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04)", "") == OSS_DRIVER_FAMILIES
    assert "p4d" in OSS_DRIVER_FAMILIES
