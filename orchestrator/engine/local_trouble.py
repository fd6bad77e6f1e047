"""Troubles of this machine that must not end a training elsewhere: a full disk, credentials that expire."""

from __future__ import annotations

import math
from collections.abc import Callable

from orchestrator.cloud.base import Cloud
from orchestrator.engine.journal import NO_ROOM, Journal
from orchestrator.errors import CloudError, DiskFullError
from orchestrator.runs.events import CredentialsExpiring, DiskFull

FULL_TOLD_EVERY_S = 60.0
CREDENTIALS_EVERY_S = 60.0
CREDENTIALS_AHEAD_S = 600.0  # botocore renews those of SSO or a role before that: these it could not


class FullDisk:
    """Bears a full disk for a while: the host is well, and what it has can be downloaded later.

    Args:
        journal: of the run.
        give_up_after_s: how long the disk may stay full.
    """

    def __init__(self, journal: Journal, give_up_after_s: float) -> None:
        self.journal = journal
        self.give_up_after_s = give_up_after_s
        self._since: float | None = None
        self._told_at = -math.inf

    def clear(self) -> None:
        """Take note that the disk takes data again."""
        self._since = None

    def bear(self, error: OSError) -> None:
        """Warn that the disk is full, now and then.

        Raises:
            OSError: it is another error.
            DiskFullError: the disk has been full for too long.
        """
        if error.errno not in NO_ROOM:
            raise error
        now = self.journal.clock.now()
        self._since = self._since if self._since is not None else now
        gives_up_at = self._since + self.give_up_after_s
        store = self.journal.store
        if now >= gives_up_at:
            raise DiskFullError(
                f"the disk of this machine was full for {self.give_up_after_s / 60:.0f} min "
                f"({store.folder}); free space, then: pixel-orch launch --resume {store.run}"
            )
        if now - self._told_at >= FULL_TOLD_EVERY_S:
            self._told_at = now
            self.journal.tell(DiskFull(at=now, folder=str(store.folder), gives_up_at=gives_up_at))


class CredentialsWatch:
    """Warns before the AWS credentials expire; the training goes on over SSH, which needs none."""

    def __init__(
        self, journal: Journal, cloud: Cloud, trouble: Callable[[CloudError], None] = lambda error: None
    ) -> None:
        self.journal = journal
        self.cloud = cloud
        self.trouble = trouble
        self._checked_at = -math.inf
        self._told: float | None = None

    def check(self) -> None:
        """Write the warning down, once for each end of the credentials."""
        now = self.journal.clock.now()
        if now - self._checked_at < CREDENTIALS_EVERY_S:
            return
        self._checked_at = now
        ends_at = None
        try:
            ends_at = self.cloud.credentials_end_at()
        except CloudError as error:
            self.trouble(error)
        if ends_at is not None and ends_at - now < CREDENTIALS_AHEAD_S and ends_at != self._told:
            self._told = ends_at
            self.journal.emit(CredentialsExpiring(at=now, ends_at=ends_at))
