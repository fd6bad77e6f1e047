"""What EC2's state reason codes mean (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html)."""

from __future__ import annotations


def is_spot_interruption(reason_code: str) -> bool:
    """Return whether an EC2 StateReason.Code is that of a spot interruption."""
    return reason_code.startswith("Server.Spot")


FAILED_LAUNCHES = frozenset(
    {
        "Server.InsufficientInstanceCapacity",
        "Server.InternalError",
        "Client.InternalError",
        "Client.InvalidSnapshot.NotFound",
        "Client.VolumeLimitExceeded",
    }
)
"""The codes with which an instance goes from `pending` to `terminated`."""
