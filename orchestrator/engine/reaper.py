"""Ends instances: asks, waits until they are gone, writes down who ended them and at what price they ran.

Every exit path of the engine goes through `Reaper.end_all`. It names what it cannot end; `cleanup` finds that by its
tag.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import suppress

from orchestrator.clock import Clock
from orchestrator.cloud.base import OWNER_TAG, Cloud, Image, Instance
from orchestrator.engine.started import instance_started
from orchestrator.errors import OFF_THE_LINE, AccessError, CloudError, CredentialsError
from orchestrator.market.pools import pool_of
from orchestrator.market.price_series import price_at
from orchestrator.runs.events import (
    EndedBy,
    Event,
    InstanceEnded,
    InstanceRunning,
    PriceChanged,
    PriceSeen,
    TerminateRequested,
)
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.state import Attempt, RunState

FREE_WHEN_INTERRUPTED_S = 3600.0
"""AWS bills nothing for a spot instance that it interrupts within its first hour
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/billing-for-interrupted-spot-instances.html)."""

PRICES_EVERY_S = 60.0
ACCESS_TIMEOUT_S = 60.0
SHORTEST_PAUSE_S = 0.25
UNSURE_S = 30.0  # EC2 is eventually consistent: so long after a launch it may not list the instance
CLOCKS_DIFFER_S = 600.0  # this machine's and AWS's
GONE_TIMEOUT_S = 900.0  # a GPU instance may stay in shutting-down for minutes


class Reaper:
    """Ends the instances of one run.

    Args:
        cloud: where they are.
        clock: the time.
        state: gives the fold of all events so far.
        emit: writes an event down before anything else happens.
        spec: of the run.
        image_of: gives what instances of a region were started from; it tells the disk and the login user of an
            instance that only the cloud knows of.
        home_id: instances of another home, whose run has the same name, are left alone; "" asks for none.
        trouble: is told why EC2 cannot be asked, each time.
    """

    def __init__(
        self,
        *,
        spec: RunSpec,
        cloud: Cloud,
        clock: Clock,
        state: Callable[[], RunState],
        emit: Callable[[Event], None],
        image_of: Callable[[str], Image],
        home_id: str = "",
        trouble: Callable[[CloudError], None] = lambda error: None,
    ) -> None:
        self.spec = spec
        self.run = spec.run
        self.cloud = cloud
        self.clock = clock
        self.state = state
        self.emit = emit
        self.outlives_notice_s = spec.recovery.outlives_notice_s  # past its notice; then we end it ourselves
        self.poll_every_s = max(spec.recovery.poll_s, SHORTEST_PAUSE_S)  # between two DescribeInstances
        self.image_of = image_of
        self.home_id = home_id
        self.trouble = trouble
        self._polled_at = -math.inf
        self._priced_at: dict[int, float] = {}  # by the number of the attempt

    def instance(self, instance_id: str) -> Instance | None:
        """Return what EC2 says of one of the run's instances now, or None if it does not know it (yet, or any more)."""
        return next((i for i in self.cloud.instances(self.run) if i.instance_id == instance_id), None)

    def is_running(self, attempt: Attempt) -> bool:
        """Return whether EC2 does not say that the instance ends or is gone; no answer is no news."""
        try:
            instance = self.instance(attempt.instance_id)
        except CloudError:
            return True
        return instance is not None and instance.state in ("pending", "running")

    def should_leave_to_aws(self, attempt: Attempt, even_under_notice: bool = False) -> bool:
        """Return whether AWS is about to end it, for free: then we must not, or it is billed."""
        if even_under_notice or attempt.noticed_ends_at is None or attempt.market != "spot":
            return False
        is_free = attempt.noticed_ends_at - attempt.launched_at < FREE_WHEN_INTERRUPTED_S
        return is_free and self.clock.now() < attempt.noticed_ends_at + self.outlives_notice_s

    def end(self, attempt: Attempt, reason: str, *, even_under_notice: bool = False) -> None:
        """Ask EC2 to end it, unless AWS does so for free. Does not wait."""
        if attempt.is_over or self.should_leave_to_aws(attempt, even_under_notice):
            return
        instance = self.instance(attempt.instance_id)
        if instance is not None and instance.state in ("shutting-down", "terminated"):
            return  # it ends already, and not by pixel-orch
        known = self.state().attempt(attempt.number)
        if known is None or not known.terminate_requested:  # a request that failed is repeated, not its event
            self.emit(
                TerminateRequested(
                    at=self.clock.now(), attempt=attempt.number, instance_id=attempt.instance_id, reason=reason
                )
            )
        self.cloud.terminate(attempt.region, [attempt.instance_id])

    def poll(self, *, force: bool = False) -> None:
        """Ask EC2 which instances of the run are gone, at most every `poll_every_s` seconds, and write it down.

        No answer changes nothing: a laptop that is offline for a while must not end a healthy training.
        """
        now = self.clock.now()
        if not force and now - self._polled_at < self.poll_every_s:
            return
        self._polled_at = now
        try:
            self._poll(now)
        except CloudError as error:
            if isinstance(error, AccessError):
                self.trouble(error)

    def _poll(self, now: float) -> None:
        open_attempts = self.state().open_attempts()
        if not open_attempts:
            return
        known = {instance.instance_id: instance for instance in self.cloud.instances(self.run)}
        for unknown in self._unknown(known.values()):
            self._end_unknown(unknown)
        for attempt in open_attempts:
            instance = known.get(attempt.instance_id)
            if instance is not None:
                self.note_running(attempt, instance)
            is_young = now - attempt.launched_at < 60  # EC2 is eventually consistent: it may not be listed yet
            if (instance is not None and instance.is_gone) or (instance is None and not is_young):
                self._write_down_end(attempt, instance)
            elif attempt.noticed_ends_at is not None and now > attempt.noticed_ends_at + self.outlives_notice_s:
                self.end(attempt, "outlived its interruption notice")

    def lost_requests(self) -> list[Instance]:
        """Return instances of the run that no event names: a process died between RunInstances and its answer."""
        return self._unknown(self.cloud.instances(self.run))

    def _unknown(self, found: Iterable[Instance]) -> list[Instance]:
        """Return the instances of this home and run that no event names."""
        state = self.state()
        had = {attempt.instance_id for attempt in state.attempts}
        return [
            instance
            for instance in found
            if instance.instance_id not in had
            and self.home_id in ("", instance.tags.get(OWNER_TAG, self.home_id))
            and self._is_of(state, instance)
        ]

    @staticmethod
    def _is_of(state: RunState, instance: Instance) -> bool:
        """Return whether a request of this run made it: not an older run of the same name."""
        if any(r.client_token == instance.client_token for r in state.requests):
            return True
        return any(r.at - CLOCKS_DIFFER_S < instance.launched_at for r in state.requests)  # CreateFleet has own tokens

    def note(self, instance: Instance) -> None:
        """Write down an instance that the run cannot use: it is billed like any other."""
        state = self.state()
        number = instance.attempt
        asked = next((r for r in reversed(state.requests) if r.attempt == number), state.requests[-1])
        if state.attempt(number) is not None:
            number = 1 + max(a.number for a in state.attempts)
        self.emit(
            instance_started(
                instance,
                number,
                now=self.clock.now(),
                asked_at=state.asked_at(asked.attempt),
                price_usd_h=asked.price_usd_h,
                spec=self.spec,
                image=self.image_of(instance.region),
            )
        )

    def note_running(self, attempt: Attempt, instance: Instance) -> None:
        """Write down, once, that EC2 says `running`: one that never does is not billed."""
        if attempt.ran_at is None and instance.state == "running":
            self.emit(InstanceRunning(at=self.clock.now(), attempt=attempt.number, instance_id=attempt.instance_id))

    def _end_unknown(self, instance: Instance) -> None:
        self.note(instance)
        attempt = self.state().attempts[-1]
        if instance.state in ("pending", "running"):
            self.end(attempt, "no event names it")

    def end_all(
        self, reason: str, *, even_under_notice: bool = False, patience_s: float = ACCESS_TIMEOUT_S
    ) -> list[str]:
        """End every instance of the run and wait until EC2 says that they are gone.

        Args:
            reason: for the events.
            even_under_notice: whether to end also what AWS ends for free in a moment.
            patience_s: how long to ask again while the credentials do not work; a policy gets `ACCESS_TIMEOUT_S`.

        Returns:
            The ids of those that are not gone.

        Raises:
            CloudError: EC2 could not be asked for so long.
        """
        began_at = self.clock.now()
        give_up_at = began_at + GONE_TIMEOUT_S
        asked: set[str] = set()  # and answered; a request of a crashed process is repeated
        unsure_until = began_at + (UNSURE_S if self.has_unsure_requests() else 0.0)
        while True:
            problem = []
            try:
                before = len(asked)
                self._ask_for_ends(asked, reason, even_under_notice=even_under_notice)
                if len(asked) > before:  # from now on it may take its time in shutting-down
                    give_up_at = self.clock.now() + GONE_TIMEOUT_S
            except CloudError as error:  # the network is down, or EC2 throttles: retry until the time is up
                self.trouble(error)
                limit_s = GONE_TIMEOUT_S
                if isinstance(error, AccessError):  # a person may log in, a helper may get well; a policy stays
                    limit_s = patience_s if isinstance(error, CredentialsError) else ACCESS_TIMEOUT_S
                if self.clock.now() > began_at + limit_s:
                    raise
                problem = [str(error)]
            self.poll(force=True)
            left = [attempt.instance_id for attempt in self.state().open_attempts()] + problem
            if (not left and self.clock.now() >= unsure_until) or self.clock.now() > give_up_at:
                return left
            self.clock.sleep(self.poll_every_s)

    def has_unsure_requests(self) -> bool:
        """Return whether EC2 may have started an instance lately that it does not list yet."""
        state = self.state()
        lost = [f.at for f in state.failures if f.code.endswith(OFF_THE_LINE)]
        moments = [request.at for request in state.unanswered_requests()] + lost
        return any(self.clock.now() - at < 4 * UNSURE_S for at in moments)

    def _ask_for_ends(self, asked: set[str], reason: str, *, even_under_notice: bool) -> None:
        """Terminate every instance that was not asked for yet."""
        for instance in self.lost_requests():
            self.note(instance)
        for attempt in self.state().open_attempts():
            if attempt.instance_id not in asked and not self.should_leave_to_aws(attempt, even_under_notice):
                self.end(attempt, reason, even_under_notice=even_under_notice)
                asked.add(attempt.instance_id)

    def close_security_groups(self, regions: set[str]) -> None:
        """Remove the security groups; one that cannot be removed costs nothing; `cleanup` removes it later."""
        for region in regions:
            with suppress(Exception):  # whatever it is, it must not keep the run from its final state
                self.cloud.close_security_group(region, self.run, self.home_id)
            if self.spec.is_group:
                with suppress(Exception):  # the same; it costs nothing
                    self.cloud.close_placement_groups(region, self.run, self.home_id)

    def _write_down_end(self, attempt: Attempt, instance: Instance | None) -> None:
        ended_by, reason = who_ended(attempt, instance)
        ended_at = self.clock.now()
        if instance is None and attempt.noticed_ends_at is not None:
            ended_at = min(ended_at, attempt.noticed_ends_at)
        self._write_down_prices(attempt, ended_at)
        self.emit(
            InstanceEnded(
                at=self.clock.now(),
                attempt=attempt.number,
                instance_id=attempt.instance_id,
                ended_at=ended_at,
                ended_by=ended_by,
                reason=reason,
                reason_code=instance.reason_code if instance is not None else "",
            )
        )

    def note_prices(self, number: int) -> None:
        """Write down the price of each instance-hour as it begins: a budget counts the price in force."""
        attempt = self.state().attempt(number)
        if attempt is not None and not attempt.is_over:
            hours = 1 + int((self.clock.now() - attempt.launched_at) // 3600)
            if len(attempt.prices_usd_h) < hours and self._is_price_due(number):
                self._priced_at[number] = self.clock.now()
                self._write_down_prices(attempt, self.clock.now())

    def _is_price_due(self, number: int) -> bool:
        return self.clock.now() - self._priced_at.get(number, -math.inf) > PRICES_EVERY_S

    def _write_down_prices(self, attempt: Attempt, ended_at: float) -> None:
        if attempt.market != "spot":
            return
        try:
            history = self.cloud.price_history(pool_of(attempt), attempt.launched_at, ended_at)
        except CloudError:
            return  # the bill then uses the price at the launch, and marks it as an estimate
        for hour in range(math.ceil((ended_at - attempt.launched_at) / 3600) or 1):
            price = price_at(history, attempt.launched_at + 3600 * hour)
            if price is not None and hour not in attempt.prices_usd_h:
                self.emit(PriceSeen(at=self.clock.now(), attempt=attempt.number, hour=hour, price_usd_h=float(price)))
        for point in history:
            if point.at < ended_at and point.at not in attempt.price_changes:
                self.emit(
                    PriceChanged(
                        at=self.clock.now(), attempt=attempt.number, since=point.at, price_usd_h=float(point.usd_h)
                    )
                )


def who_ended(attempt: Attempt, instance: Instance | None) -> tuple[EndedBy, str]:
    """Return who ended it, and EC2's words, from StateReason.Code; the bill depends on it. Pure."""
    if instance is None:
        if attempt.terminate_requested:
            return "pixel-orch", "no longer listed"
        return (
            ("aws", "no longer listed, was under notice") if attempt.noticed_ends_at else ("other", "no longer listed")
        )
    words = instance.end_text
    if instance.reason_code.startswith("Server."):
        return "aws", words
    if instance.reason_code == "Client.InstanceInitiatedShutdown":
        return "instance", words
    return ("pixel-orch" if attempt.terminate_requested else "other"), words
