"""Waits for an AWS that cannot be asked: no network, or credentials that do not work for a while.

A run that has a machine, or a checkpoint to go on from, is not given up because a credential helper is unwell for some
minutes. A refusal that does not heal by itself, such as that of a policy, is raised at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from orchestrator.engine.journal import Journal
from orchestrator.engine.stop import StopRequest
from orchestrator.errors import CloudError, may_heal
from orchestrator.runs.events import CloudOutOfReach

PATIENCE_S = 900.0
ASK_AGAIN_S = 5.0
TOLD_EVERY_S = 120.0
Answer = TypeVar("Answer")


class Patience:
    """Asks again until there is an answer.

    Args:
        journal: of the run; its watchers are told that AWS cannot be asked.
        stop: ends the wait.
    """

    def __init__(self, journal: Journal, stop: StopRequest) -> None:
        self.journal = journal
        self.clock = journal.clock
        self.stop = stop
        self._told_at = -math.inf

    def ask(self, question: Callable[[], Answer], *, check: Callable[[], None] | None = None) -> Answer:
        """Return the answer to a question.

        Args:
            question: is repeated; it can be asked twice without harm.
            check: is called before each repetition, and may end the wait by an error of its own.

        Raises:
            CloudError: there was none within `PATIENCE_S`, or waiting does not help.
            Cancelled: a stop was asked for.
        """
        give_up_at = self.clock.now() + PATIENCE_S
        while True:
            try:
                return question()
            except CloudError as error:
                if not may_heal(error) or self.clock.now() >= give_up_at:
                    raise
                self.tell(error)
            self.clock.sleep(ASK_AGAIN_S)
            self.stop.check()
            if check is not None:
                check()

    def tell(self, error: CloudError) -> None:
        """Tell the watchers, now and then, that AWS cannot be asked. Writes nothing down."""
        now = self.clock.now()
        if now - self._told_at >= TOLD_EVERY_S:
            self._told_at = now
            self.journal.tell(CloudOutOfReach(at=now, reason=error.reason))
