"""The error tree. Each error is one line: what, where, what to do. Its type says who can act on it."""

from __future__ import annotations

from typing import Literal

Scope = Literal["pool", "zone", "quota", "region", "account", "request", "moment"]
"""What a refusal rules out.

pool: this type in this zone. zone: every type in this zone. quota: every type of the same quota family and market in
the region. region: everything in the region. account: everything. request: this request, in every region.
moment: nothing, the same request may succeed later.
"""


OFF_THE_LINE = ("TimeoutError", "ConnectionError", "ClosedError", "HTTPClientError", "ResponseStreamingError")
"""The endings of botocore's error names for a request without an answer: EC2 may have served it."""


MOST_LAST_WORDS = 300  # characters of a trainer's last line in a reason


class PixelOrchError(Exception):
    """Any error that pixel-orch raises on purpose. `exit_code` is that of the command."""

    exit_code = 1

    @property
    def reason(self) -> str:
        """The first line of the error."""
        return next(iter(str(self).splitlines()), "")


class SpecError(PixelOrchError):
    """What was asked for cannot work. Nothing was created, nothing is billed."""

    exit_code = 2


class CloudError(PixelOrchError):
    """The cloud refused or failed.

    Args:
        message: one line for a person.
        code: the vendor's error code, e.g. `RequestLimitExceeded`.
        operation: the API call, e.g. `RunInstances`.
        request_id: for the vendor's support.
        scope: what the refusal rules out, see `Scope`; None takes the usual one of the class.
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
    """This capacity pool (type x zone) has no capacity now: try the next one."""

    usual_scope: Scope = "pool"


class QuotaError(CloudError):
    """A limit of the account. A person must act; another zone does not help."""

    usual_scope: Scope = "quota"


class AccessError(CloudError):
    """Missing or refused credentials, or a policy. Names the missing action where AWS does."""

    exit_code = 2
    usual_scope: Scope = "account"


class CredentialsError(AccessError):
    """The credentials, or the settings that lead to them, do not work now: a helper is unwell, a login has expired.

    A person or a minute may heal it. A run that has a machine waits for that; a policy that forbids does not heal.
    """


def may_heal(error: CloudError) -> bool:
    """Return whether the same question may be answered in some minutes: AWS is out of reach, or a login is unwell."""
    return isinstance(error, CredentialsError) or error.code.endswith(OFF_THE_LINE)


class ThrottledError(CloudError):
    """Too many requests: send the same request again later."""

    usual_scope: Scope = "moment"


class NotFoundError(CloudError):
    """The resource does not exist, or not yet: EC2 is eventually consistent after a launch."""

    usual_scope: Scope = "moment"


class HostError(PixelOrchError):
    """A rented machine failed."""


class UnreachableError(HostError):
    """No answer within the time-out: the machine is frozen or gone, or the connection is cut."""


class WrongHostKeyError(UnreachableError):
    """Another machine answers than the one that was given the host key; the connection is refused."""


class CommandError(HostError):
    """A command on a host failed.

    Args:
        command: what was run.
        exit_code: as the shell reports it; -1 if a signal ended it.
        tail: the last lines of its output.
    """

    def __init__(self, command: str, exit_code: int, tail: str) -> None:
        last = "\n".join(tail.strip().splitlines()[-10:])
        what = last.splitlines()[-1] if last else "it printed nothing"
        super().__init__(f"{command!r} ended with {exit_code}: {what}")
        self.command = command
        self.command_exit_code = exit_code
        self.tail = last


class LocalFaultError(PixelOrchError):
    """A file of this machine cannot be read while it is sent: no machine is at fault."""


class BrokenMachineError(HostError):
    """A machine's hardware does not work; another machine helps."""


class UserSetupError(HostError):
    """What the user's program needs cannot be installed: another machine would not help.

    Args:
        how: what failed, and how.
        tail: the last lines that it printed.
    """

    def __init__(self, how: str, tail: str = "") -> None:
        super().__init__(f"set-up: {_with_last_lines(how, tail)}")
        self.how = how
        self.tail = tail

    @property
    def reason(self) -> str:
        """What failed, and the last line that it printed."""
        return f"set-up: {_with_last_line(self.how, self.tail)}"


class CommandTimeoutError(HostError):
    """A command ran out of time on a host that answers: the host is slow, or the command hangs. It has been ended.

    Args:
        where: the host.
        command: what was run.
        timeout_s: how long it was given.
        tail: the last lines of its output.
    """

    def __init__(self, where: str, command: str, timeout_s: float, tail: str) -> None:
        last = "\n".join(tail.strip().splitlines()[-10:])
        words = last.splitlines()[-1][-MOST_LAST_WORDS:] if last else ""
        what = f"it last printed: {words}" if last else "it printed nothing"
        super().__init__(f"{where}: {command} ran out of time ({timeout_s:.0f} s), while the machine answers; {what}")
        self.command = command
        self.timeout_s = timeout_s
        self.tail = last


class NoCommandsError(HostError):
    """A host answers and runs no command of ours: its login shell or its SSH server does not let it through."""


class DiskFullError(PixelOrchError):
    """The disk of this machine was full for too long."""


class TrainingError(PixelOrchError):
    """The trainer failed by itself: another machine would not help, so there is no recovery.

    Args:
        how: how it ended, for example with which exit code.
        tail: the last lines of its log.
    """

    def __init__(self, how: str, tail: str = "") -> None:
        super().__init__(_with_last_lines(how, tail))
        self.how = how
        self.tail = tail

    @property
    def reason(self) -> str:
        """How it ended, and the last line that it printed."""
        return _with_last_line(self.how, self.tail)


def _with_last_lines(how: str, tail: str) -> str:
    return f"{how}; its last lines:\n{_indented(tail)}" if tail.strip() else how


def _with_last_line(how: str, tail: str) -> str:
    last = next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "")
    half = MOST_LAST_WORDS // 2
    last = last if len(last) <= MOST_LAST_WORDS else f"{last[:half]}…{last[-half:]}"
    return f"{how}: {last}" if last else how


def _indented(tail: str) -> str:
    """Set off the lines of a program, so that none of them passes for a line of ours."""
    return "\n".join(f"  {line}" for line in tail.splitlines())


class OutputsLostError(PixelOrchError):
    """The program finished, and outputs of it were not downloaded before its machine had to end."""


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
