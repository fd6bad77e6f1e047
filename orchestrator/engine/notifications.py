"""Tells a web address of the user's (`--notify URL`) what happens to a run: interruption, recovery, budget, end.

Each message is a small JSON object in a POST. Slack's incoming webhooks get the form that they take: `{"text": ...}`
(https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks). A message that does not arrive is lost; the
run goes on, and says so once.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from orchestrator.clock import iso
from orchestrator.engine.journal import Journal
from orchestrator.formatting import counted, money, one_line
from orchestrator.market.billing import total_usd
from orchestrator.runs.deadline_events import DeadlineEndangered
from orchestrator.runs.events import AttemptLost, Event, InterruptionNoticed, LossReason, StateChanged, TrainerStarted
from orchestrator.runs.generations import generations_of
from orchestrator.runs.program_events import NotificationLost
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.state import Attempt
from orchestrator.version import VERSION

TIMEOUT_S = 10.0
LAST_S = 10.0  # the last message may take so long; the machine is gone by then
BUDGET_SHARE = 0.8
SLACK = "hooks.slack.com"
MOST_WORDS = 200  # of a reason
MOST_WAITING = 100  # messages

Send = Callable[[str, bytes], None]
"""Sends a body to an address; raises OSError or ValueError if it does not arrive."""


def post(url: str, body: bytes) -> None:
    """Send a JSON object by POST.

    Raises:
        OSError: there is no answer, or it refuses; proxies are those of the environment.
    """
    headers = {"Content-Type": "application/json", "User-Agent": f"pixel-orch/{VERSION}"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310 (http or https: checked)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
        pass


class Notifier:
    """A `Watcher` that sends messages from a thread of its own: a slow address holds up nothing.

    Args:
        journal: of the run.
        spec: what was asked; its `program.notify` is the address.
        send: what sends.
    """

    def __init__(self, journal: Journal, spec: RunSpec, send: Send = post) -> None:
        self.journal = journal
        self.spec = spec
        self._url = spec.program.notify or ""
        self._send = send
        self._waiting: queue.Queue[bytes] = queue.Queue(MOST_WAITING)
        self._problem = ""
        self._is_told = False
        self._is_budget_told = False
        threading.Thread(target=self._run, name=f"notify-{spec.run}", daemon=True).start()

    def event(self, event: Event) -> None:
        """Send a message of what people want to know of."""
        run = self._name
        if isinstance(event, AttemptLost) and event.cause == LossReason.INTERRUPTED:
            attempt = self.journal.state().attempt(event.attempt)
            if attempt is not None and attempt.noticed_ends_at is None:
                self._tell("interruption", f"{run}: AWS has interrupted {attempt.instance_id} without a notice")
        elif isinstance(event, InterruptionNoticed):
            left_s = max(0.0, event.ends_at - event.at)
            self._tell("interruption", f"{run}: AWS interrupts {event.instance_id} in {left_s:.0f} s")
        elif isinstance(event, DeadlineEndangered):
            self._tell("deadline", f"{run}: the deadline is in danger: {event.reason}; {event.remedy} would help")
        elif isinstance(event, TrainerStarted) and event.attempt > 1:
            self._tell_start(event)
        elif isinstance(event, StateChanged) and self.journal.state().is_final:
            reason = f" ({one_line(event.reason)[:MOST_WORDS]})" if event.reason else ""
            self._tell("end", f"{run}: {event.state}{reason}, ${money(self._usd())}")
            self._finish()
        self._say_problem()

    def _tell_start(self, event: TrainerStarted) -> None:
        """Tell that the run goes on; once for all machines of a group, and not of their first start."""
        attempt = self.journal.state().attempt(event.attempt)
        which = f"machine {event.attempt}"
        if attempt is not None and attempt.generation:
            members = self.journal.state().members(attempt.generation)
            which = f"attempt {attempt.generation} with {counted(len(members), 'machine')}"
        if attempt is None or (attempt.rank == 0 and attempt.generation != 1):
            self._tell("recovery", f"{self._name} goes on: {which}, from step {event.resumed_from + 1}")

    def tick(self, attempt: Attempt, step: int, images_per_s: float | None) -> None:
        """Send a message once four fifths of the budget are spent."""
        budget = self.spec.limits.budget_usd
        if budget and not self._is_budget_told and self._usd() >= BUDGET_SHARE * float(budget):
            self._is_budget_told = True
            self._tell("budget", f"{self._name}: ${money(self._usd())} of the budget of ${money(budget)} are spent")
        self._say_problem()

    @property
    def _name(self) -> str:
        """The run, and where it is nothing on AWS, that too: nobody is to take its dollars for a bill."""
        return f"{self.spec.run} (embedded cloud, nothing is billed)" if self.spec.is_embedded else self.spec.run

    def _usd(self) -> float:
        return float(total_usd(self.journal.state().attempts, self.journal.clock.now()))

    def _tell(self, kind: str, text: str) -> None:
        try:
            self._waiting.put_nowait(json.dumps(self._message(kind, text)).encode())
        except queue.Full:
            self._problem = self._problem or "the messages wait too long"

    def _message(self, kind: str, text: str) -> dict[str, Any]:
        state = self.journal.state()
        if urlsplit(self._url).hostname == SLACK:
            return {"text": text}
        budget = self.spec.limits.budget_usd
        return {
            "event": kind,
            "run": self.spec.run,
            "state": state.state,
            "text": text,
            "cloud": state.cloud,
            "attempts": len(generations_of(state)),
            "interruptions": state.interruptions,
            "cost_usd": self._usd(),
            "budget_usd": None if budget is None else float(budget),
            "at": iso(self.journal.clock.now()),
        }

    def _run(self) -> None:
        while True:
            body = self._waiting.get()
            try:
                self._send(self._url, body)
            except Exception as error:  # noqa: BLE001 (whatever an address does, it is no reason to end a run)
                self._problem = self._problem or one_line(getattr(error, "reason", "") or error)[:MOST_WORDS]
            finally:
                self._waiting.task_done()

    def _finish(self) -> None:
        """Wait for the last message: the process may end right after it."""
        give_up_at = time.monotonic() + LAST_S
        while self._waiting.unfinished_tasks and time.monotonic() < give_up_at:
            time.sleep(0.02)

    def _say_problem(self) -> None:
        if self._problem and not self._is_told:
            self._is_told = True
            self.journal.tell(NotificationLost(at=self.journal.clock.now(), reason=self._problem))
