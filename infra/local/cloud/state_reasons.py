"""How an embedded instance ends, in the words that describe shows for it (EC2 API reference: StateReason)."""

from dataclasses import dataclass
from datetime import datetime, timezone


@dataclass(frozen=True)
class StateReason:
    """How an instance ends: EC2's StateReason and StateTransitionReason."""

    code: str
    message: str
    transition: str

    @classmethod
    def by(cls, code: str, what: str, who: str) -> "StateReason":
        """EC2's wording: the code is repeated in the message, the transition has the time."""
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S GMT")
        return cls(code, f"{code}: {what}", f"{who} ({now})" if who else "")


def ended_by_user() -> StateReason:
    """TerminateInstances or StopInstances was called."""
    return StateReason.by("Client.UserInitiatedShutdown", "User initiated shutdown", "User initiated")


def ended_by_itself() -> StateReason:
    """`shutdown` on the instance."""
    return StateReason.by("Client.InstanceInitiatedShutdown", "Instance initiated shutdown", "")


def ended_by_interruption() -> StateReason:
    """A spot interruption by EC2."""
    return StateReason.by("Server.SpotInstanceTermination", "Spot instance termination", "Service initiated")


def failed_to_launch() -> StateReason:
    """The host did not boot."""
    return StateReason.by("Server.InternalError", "Internal error on launch", "")
