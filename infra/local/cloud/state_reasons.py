"""The reasons why an embedded instance ends, with EC2's texts (EC2 API reference: StateReason)."""

from dataclasses import dataclass
from datetime import datetime, timezone


@dataclass(frozen=True)
class StateReason:
    """Why an instance ends: EC2's StateReason and StateTransitionReason."""

    code: str
    message: str
    transition: str

    @classmethod
    def by(cls, code: str, what: str, who: str) -> "StateReason":
        """Build EC2's texts: the message repeats the code, the transition contains the time."""
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S GMT")
        return cls(code, f"{code}: {what}", f"{who} ({now})" if who else "")


def ended_by_user() -> StateReason:
    """The reason after TerminateInstances or StopInstances."""
    return StateReason.by("Client.UserInitiatedShutdown", "User initiated shutdown", "User initiated")


def ended_by_itself() -> StateReason:
    """The reason after `shutdown` on the instance."""
    return StateReason.by("Client.InstanceInitiatedShutdown", "Instance initiated shutdown", "")


def ended_by_interruption() -> StateReason:
    """The reason after a spot interruption by EC2."""
    return StateReason.by("Server.SpotInstanceTermination", "Spot instance termination", "Service initiated")


def failed_to_launch() -> StateReason:
    """The reason after a failed boot."""
    return StateReason.by("Server.InternalError", "Internal error on launch", "")
