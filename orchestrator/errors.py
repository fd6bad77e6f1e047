"""The error tree. Each error is one line: what, where, what to do. Its type says who can act on it."""

from __future__ import annotations

from typing import Literal

Scope = Literal["pool", "zone", "quota", "region", "account", "request", "moment"]
"""How far a refusal reaches: what else need not be asked after it.

pool: this type in this zone. zone: every type in this zone. quota: every type of the same quota family and market in
the region. region: everything in the region. account: everything. request: this request, wherever it is sent.
moment: nothing at all, the same request may pass later.
"""


OFF_THE_LINE = ("TimeoutError", "ConnectionError", "ClosedError", "HTTPClientError", "ResponseStreamingError")
"""How botocore's names end for what no answer came back of: it may have been served."""


MOST_LAST_WORDS = 300  # of a line that a trainer printed, in a reason


class PixelOrchError(Exception):
    """Anything that pixel-orch says on purpose. `exit_code` is what the command line ends with."""

    exit_code = 1

    @property
    def reason(self) -> str:
        """The error where there is room for one line only."""
        return next(iter(str(self).splitlines()), "")


class SpecError(PixelOrchError):
    """It cannot work as asked. Nothing was created, nothing is billed."""

    exit_code = 2


class CloudError(PixelOrchError):
    """The cloud refused or failed.

    Args:
        message: one line for a person.
        code: the vendor's error code, e.g. `RequestLimitExceeded`.
        operation: the API call, e.g. `RunInstances`.
        request_id: what the vendor's support asks for.
        scope: how far it reaches, see `Scope`; "" takes the kind's own.
    """

    usual_scope: Scope = "request"

    def __init__(
        self, message: str, *, code: str = "", operation: str = "", request_id: str = "", scope: Scope | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.operation = operation
        self.request_id = request_id
        self.scope: Scope = scope or self.usual_scope


class CapacityError(CloudError):
    """This capacity pool (type x zone) cannot serve now: try the next one."""

    usual_scope: Scope = "pool"


class QuotaError(CloudError):
    """The account's limit. A person must act; another zone does not help."""

    usual_scope: Scope = "quota"


class AccessError(CloudError):
    """Credentials or policy. Names the missing action where AWS does."""

    exit_code = 2
    usual_scope: Scope = "account"


class ThrottledError(CloudError):
    """Too many requests: the same request again, later."""

    usual_scope: Scope = "moment"


class NotFoundError(CloudError):
    """The thing is not there, or not there yet: EC2 is eventually consistent after a launch."""

    usual_scope: Scope = "moment"


class HostError(PixelOrchError):
    """A rented machine did not do what it was asked."""


class UnreachableError(HostError):
    """No answer within the time allowed: frozen, gone, or the way there is cut."""


class WrongHostKeyError(UnreachableError):
    """Something answers there that is not the machine we gave a host key to; we do not speak to it."""


class CommandError(HostError):
    """A command on a host failed.

    Args:
        command: what was run.
        exit_code: as the shell reports it; -1 for a death by signal.
        tail: the last lines of what it printed.
    """

    def __init__(self, command: str, exit_code: int, tail: str) -> None:
        last = "\n".join(tail.strip().splitlines()[-10:])
        what = last.splitlines()[-1] if last else "it printed nothing"
        super().__init__(f"{command!r} ended with {exit_code}: {what}")
        self.command = command
        self.command_exit_code = exit_code
        self.tail = last


class DiskFullError(PixelOrchError):
    """Our own disk was full for too long."""


class TrainingError(PixelOrchError):
    """The trainer failed by itself: another machine would not help, so there is no recovery."""

    @property
    def reason(self) -> str:
        """How it ended, and the last that it said."""
        how, _, tail = str(self).partition("; its last lines:\n")
        last = next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "")
        return f"{how}: {last[:MOST_LAST_WORDS]}" if last else how.splitlines()[0]


class BudgetError(PixelOrchError):
    """A limit was reached. The run is checkpointed, its machine terminated; it can be resumed.

    Args:
        what: the limit that was reached, and by what.
        is_budget: whether it is the budget, so that a resumed run needs a larger one.
        next_step: the command that resumes the run, where the default does not fit.
    """

    def __init__(self, what: str, *, is_budget: bool = False, next_step: str = "") -> None:
        super().__init__(f"{what}; go on with: {next_step}" if next_step else what)
        self.what = what
        self.is_budget = is_budget
        self.next_step = next_step
