"""What EC2's state reason codes mean (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html)."""

from __future__ import annotations

from orchestrator.runs.events import InstanceEnded


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


def end_code(event: InstanceEnded) -> str:
    """Return EC2's StateReason.Code; version 0.1.0 wrote it only as the beginning of the reason."""
    if event.reason_code is not None:
        return event.reason_code
    code = event.reason.partition(":")[0]
    return code if code.startswith(("Server.", "Client.")) else ""
