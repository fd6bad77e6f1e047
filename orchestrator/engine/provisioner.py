"""From ranked offers to one instance: pool after pool, or all in one fleet; round after round if none has capacity.

The `scope` of a refusal is what it rules out: an empty pool rules out this zone, a quota all zones of the region, and
an error of the request or of the account every pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Protocol

from orchestrator.cloud.base import Call, Cloud, Instance
from orchestrator.engine.allowance import Allowance
from orchestrator.engine.journal import Journal
from orchestrator.engine.patience import ASK_AGAIN_S, PATIENCE_S, Patience
from orchestrator.engine.reaper import Reaper
from orchestrator.engine.started import instance_started
from orchestrator.engine.stop import StopRequest
from orchestrator.errors import (
    OFF_THE_LINE,
    AccessError,
    BudgetError,
    CapacityError,
    CloudError,
    NotFoundError,
    PixelOrchError,
    QuotaError,
    ThrottledError,
    may_heal,
)
from orchestrator.market import budget, offers
from orchestrator.market.budget import Limit
from orchestrator.market.pools import Offer, Pool, pool_of
from orchestrator.plan.requests import NOBODY, Plan, user_data
from orchestrator.runs.events import CapacityAwaited, LaunchFailed, LaunchRequested
from orchestrator.runs.state import Attempt

CAPACITY_WAITS_S = (15.0, 30.0, 60.0, 120.0, 300.0)  # between two rounds over all pools; the last one repeats
SHORT_BOOT_S = 60.0  # from the launch, when billing begins, to the start of the guard
QUOTA_LAG_S = 300.0  # after an instance is gone EC2 may count its vCPUs for some minutes
READMIT_EVERY_S = 60.0  # between two questions for the address that this machine has
SAME_TOKEN_WAITS_S = (1.0, 2.0, 4.0, 8.0)  # throttling and 5xx: the same request with the same token


class MakeKeys(Protocol):
    """Makes an SSH key pair; see `host.shell.make_key_pair`."""

    def __call__(self, comment: str) -> tuple[str, str]:
        """Return (private, public)."""
        ...


class _RefusedError(Exception):
    """A launch was refused with `error`; `unheard` is an earlier try of it that EC2 may have served."""

    def __init__(self, error: CloudError, unheard: CloudError | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.unheard = unheard


class Provisioner:
    """Gets instances for one run.

    Args:
        plan: the requests, in the order in which they are tried.
        cloud: who is asked.
        journal, stop, allowance, reaper, patience: the parts of the run's engine.
        make_keys: makes an SSH key pair.
        refresh: gives the offers at the prices of now, for a run that recovers after hours or days.
    """

    def __init__(
        self,
        plan: Plan,
        cloud: Cloud,
        *,
        journal: Journal,
        stop: StopRequest,
        allowance: Allowance,
        reaper: Reaper,
        patience: Patience,
        make_keys: MakeKeys,
        refresh: Callable[[], tuple[Offer, ...]] | None = None,
    ) -> None:
        self.plan = plan
        self.spec = plan.spec
        self.cloud = cloud
        self.journal = journal
        self.clock = journal.clock
        self.stop = stop
        self.allowance = allowance
        self.reaper = reaper
        self.patience = patience
        self.make_keys = make_keys
        self.refresh = refresh
        self.regions_opened: dict[str, str] = {}  # region -> security group
        self._admitted: dict[str, str | None] = {}  # region -> the address that may connect
        self._readmitted_at = -math.inf

    def rent(self) -> Attempt:
        """Return a new attempt with an instance, from the first pool with capacity.

        Raises:
            CapacityError: no pool has capacity (at once for a first attempt, after hours of retries for a later one).
            QuotaError, AccessError, CloudError: no pool that is left would help.
            BudgetError: the rest of the budget does not pay for another minute.
        """
        return self.rent_group((1,))[0]

    def rent_group(self, counts: Sequence[int]) -> list[Attempt]:
        """Return new attempts with one instance each, all from the first pool with capacity for all of them.

        Args:
            counts: how many, the best first: a smaller group is asked for where no pool has room for a larger one.

        Raises:
            as `rent`.
        """
        number = self._next_number()
        began_at = self.clock.now()
        for wait_s in growing(CAPACITY_WAITS_S):
            for count in counts:
                try:
                    attempts = self._round(number, count=count)
                except QuotaError:
                    if count == counts[-1]:
                        raise
                    continue  # it may have room for a smaller group
                if attempts:
                    return attempts
            tried_s = self.clock.now() - began_at
            policy = self.spec.recovery
            limit_s = policy.first_capacity_wait_s if number == 1 else policy.capacity_wait_s
            if tried_s + wait_s > limit_s:
                raise self._no_capacity(number, tried_s, counts[0])
            now = self.clock.now()
            self.journal.emit(CapacityAwaited(at=now, pools=len(self.plan.offers), again_at=now + wait_s))
            self.stop.sleep(wait_s)
        raise AssertionError("the waits do not end")

    def rent_group_now(self, wanted: Sequence[Offer], count: int, *, is_patient: bool = True) -> list[Attempt]:
        """Return so many new attempts, all from the first of these pools with capacity; none if none has it now.

        Args:
            wanted: the pools, in the order in which they are tried.
            count: how many; one for a run on one machine at a time.
            is_patient: whether an AWS that cannot be asked is asked again for a while.

        Raises:
            QuotaError, AccessError, CloudError: no pool that is left would help.
            BudgetError: the rest of the budget does not pay for another minute.
        """
        return self._round(self._next_number(), wanted, is_patient=is_patient, count=count)

    def _next_number(self) -> int:
        """Return the number of the next attempt, and count the requests that there were for it."""
        state = self.journal.state()
        number = state.next_number
        self._turn = 1 + sum(request.attempt == number for request in state.requests)
        return number

    def _round(
        self, number: int, wanted: Sequence[Offer] | None = None, *, is_patient: bool = True, count: int = 1
    ) -> list[Attempt]:
        """Try every pool once that no refusal rules out; return no attempt if none has capacity now."""
        refused: list[tuple[Offer, CloudError]] = []
        asked = self._offers(is_first=number == 1) if wanted is None else wanted
        in_order = offers.next_round(asked, self._lost_pools())
        for group in self._groups(in_order):
            if any(offers.rules_out(error.scope, offer, group[0]) for offer, error in refused):
                continue
            self.stop.check()
            answer = self._try(group, number, is_patient=is_patient, count=count)
            if isinstance(answer, list):
                return answer
            refused.append((group[0], answer))
        if refused and not any(isinstance(error, CapacityError) for _, error in refused):
            if all(isinstance(error, QuotaError) for _, error in refused) and self._quota_may_be_ours():
                return []
            raise refused[0][1]  # quotas, images, subnets: waiting does not help
        return []

    def _quota_may_be_ours(self) -> bool:
        """Return whether an earlier instance of the run may still use up the quota: EC2 counts it for a while."""
        self.reaper.poll()  # nothing else asks during this wait which of them are gone
        now = self.clock.now()
        return any(a.ended_at is None or now - a.ended_at < QUOTA_LAG_S for a in self.journal.state().attempts)

    def _groups(self, in_order: Sequence[Offer]) -> list[list[Offer]]:
        """Return the offers of each request: one pool, or with strategy `any` all pools of a region."""
        if self.spec.strategy == "price":
            return [[offer] for offer in in_order]
        regions = dict.fromkeys(offer.pool.region for offer in in_order)
        return [[offer for offer in in_order if offer.pool.region == region] for region in regions]

    def offers_of_now(self) -> tuple[Offer, ...]:
        """Return the plan's offers, at the prices of now where they can be asked for."""
        return self._offers(is_first=not self.journal.state().attempts)

    def _offers(self, *, is_first: bool) -> tuple[Offer, ...]:
        """Return the plan's offers; while recovering, with the prices of now."""
        if not is_first and self.refresh is not None:
            with suppress(PixelOrchError):  # without new prices the old order is used
                return self.refresh()
        return self.plan.offers

    def _try(
        self, group: Sequence[Offer], number: int, *, is_patient: bool, count: int = 1
    ) -> list[Attempt] | CloudError:
        """Send one request; return the attempts, or why there are none."""
        self._check_limits(group, count)
        # Before the first one nothing is lost, and a person waits for the answer.
        is_first = not is_patient or not self.journal.state().attempts
        call, template = (self._request if is_first else self._patient_request)(group, number, count)
        self._turn += 1
        offer, token = group[0], str(call.parameters["ClientToken"])
        is_one, asked_at = len(group) == 1, self.clock.now()
        self.journal.emit(
            LaunchRequested(
                at=asked_at,
                attempt=number,
                client_token=token,
                instance_type=offer.pool.instance_type if is_one else ",".join(_types(group)),
                zone=offer.pool.zone if is_one else "any",
                region=offer.pool.region,
                market=offer.market,
                price_usd_h=max(each.price_usd_h for each in group),
                count=count,
            )
        )
        try:
            instances = self._send(call, template, group, is_first=is_first, count=count)
        except _RefusedError as refused:
            error = refused.error
            self._launch_failed(number, token, group, refused.unheard or error)
            if error.scope in ("request", "account", "moment") or isinstance(error, AccessError):
                raise error from None
            return error
        for place, instance in enumerate(instances):
            started = instance_started(
                instance,
                number + place,
                now=self.clock.now(),
                asked_at=asked_at,
                price_usd_h=_price_of(instance, group),
                spec=self.spec,
                image=self.plan.image(instance.region),
            )
            self.journal.emit(started)
        return self.journal.state().attempts[-len(instances) :]

    def _patient_request(self, group: Sequence[Offer], number: int, count: int) -> tuple[Call, Call | None]:
        return self.patience.ask(
            lambda: self._request(group, number, count), check=lambda: self._check_limits(group, count)
        )

    def _send(
        self, call: Call, template: Call | None, group: Sequence[Offer], *, is_first: bool, count: int
    ) -> Sequence[Instance]:
        """Send a launch until it is answered: EC2 may have served it, and the same token gives the same instance.

        Raises:
            _RefusedError: EC2 refused, or did not answer for too long.
        """
        unheard: CloudError | None = None
        waits_s = iter(SAME_TOKEN_WAITS_S)
        give_up_at = self.clock.now() + PATIENCE_S
        while True:
            try:
                return (self.cloud.launch(call, template),) if count == 1 else self.cloud.launch_group(call)
            except CloudError as error:
                if error.code.endswith(OFF_THE_LINE):
                    unheard = error
                wait_s = next(waits_s, None) if may_pass(error) else None
                if wait_s is not None:
                    self.clock.sleep(wait_s)
                    continue
                if is_first or not may_heal(error) or self.clock.now() >= give_up_at:
                    raise _RefusedError(error, unheard) from None
                self.patience.tell(error)
            self._check_limits(group, count)
            self.stop.sleep(ASK_AGAIN_S)

    def _check_limits(self, group: Sequence[Offer], count: int) -> None:
        """Check before renting that the budget pays for a minute of the most expensive offer."""
        now, state = self.clock.now(), self.journal.state()
        attempts = budget.worst_case(self.spec, state.attempts, now)
        too_little = budget.too_little_to_begin(self.spec.limits, attempts, self._cap_usd_h(group, count), now)
        if too_little:
            if group[0].market == "spot" and self.spec.max_price_usd_h is None:
                too_little += " (a spot price may rise to on-demand unless --max-price caps it)"
            more = f"pixel-orch launch --resume {self.spec.run} --budget MORE"
            raise BudgetError(too_little, is_budget=True, next_step=more)
        over = budget.reached(self.spec.limits, attempts, led_since=state.led_since, heard_at=now, now=now)
        if over is not None:
            is_budget = over.limit is Limit.BUDGET
            raise BudgetError(over.text, is_budget=is_budget, next_step=f"pixel-orch launch --resume {self.spec.run}")

    def _cap_usd_h(self, group: Sequence[Offer], count: int) -> Decimal:
        """Return the most that an hour of the new machines, and of those of the run's group, can cost."""
        new = count * max(budget.price_cap_usd_h(self.spec, offer) for offer in group)
        return new + self.allowance.burn_cap_usd_h()

    def _request(self, group: Sequence[Offer], number: int, count: int) -> tuple[Call, Call | None]:
        private, public = self.make_keys(f"pixel-orch-{self.spec.run}-{number}-host")
        authorized = self.journal.store.key_path.with_suffix(".pub").read_text().strip()
        for place in range(number, number + count):  # they have one user-data, and so one key, until each makes its own
            self.journal.store.attempt_folder(place)  # makes it
            self.journal.store.host_key_path(place).write_text(public)
        cloud_config = user_data(private, public, authorized, *self._alone_min(group, count))
        group_id = self._open_security_group(group[0].pool.region)
        if self.spec.is_group:
            pool = group[0].pool
            is_placed = pool.instance_type in self.plan.cluster_types
            if is_placed:
                self.cloud.open_placement_group(self.plan.placement_group(pool))
            call = self.plan.launch(
                group[0], number, self._turn, group_id, cloud_config, count=count, is_placed=is_placed
            )
            return call, None
        if self.spec.strategy == "any":
            template, fleet = self.plan.fleet(group, number, self._turn, group_id, cloud_config)
            return fleet, template
        return self.plan.launch(group[0], number, self._turn, group_id, cloud_config), None

    def _alone_min(self, group: Sequence[Offer], count: int) -> tuple[int, int]:
        """Return (minutes after its boot at which an instance without an agent ends itself, their upper limit).

        The limit is what the budget is guaranteed to pay for, 0 without a budget. Up to it a long set-up may extend
        the time.
        """
        alone_s = self.spec.recovery.owner_timeout_s + self.spec.recovery.setup_timeout_s
        allow_s = self.allowance.alone_at_price_s(self._cap_usd_h(group, count))
        if allow_s is None:
            return math.floor(alone_s / 60), 0
        most_min = max(1, math.floor((allow_s - SHORT_BOOT_S) / 60))
        return min(math.floor(alone_s / 60), most_min), most_min

    def _launch_failed(self, number: int, token: str, group: Sequence[Offer], error: CloudError) -> None:
        is_one = len(group) == 1
        self.journal.emit(
            LaunchFailed(
                at=self.clock.now(),
                attempt=number,
                client_token=token,
                instance_type=group[0].pool.instance_type if is_one else ",".join(_types(group)),
                zone=group[0].pool.zone if is_one else "any",
                code=error.code,
                scope=type(error).__name__,
                message=str(error),
            )
        )

    def _open_security_group(self, region: str) -> str:
        asked = self.spec.ssh_cidr
        cidr = None if asked == NOBODY else asked or self.cloud.caller_cidr()
        if region not in self.regions_opened or self._admitted.get(region) != cidr:
            group = self.plan.security_group(region)
            within = {"within": True} if self.spec.is_group else {}
            self.regions_opened[region] = self.cloud.open_security_group(region, group, cidr, **within)
            self._admitted[region] = cidr
        return self.regions_opened[region]

    def readmit(self, region: str) -> bool:
        """Admit the present address of this machine if it has changed; return whether it has.

        After a move to another network, a new address, or a takeover by another machine the security group blocks a
        healthy host. Asks at most once a minute.
        """
        now = self.clock.now()
        if self.spec.ssh_cidr is not None or now - self._readmitted_at < READMIT_EVERY_S:
            return False
        self._readmitted_at = now
        before = self._admitted.get(region)
        try:
            self._open_security_group(region)
        except CloudError:
            return False  # the local network is down, or EC2 does not answer: that says nothing of the host
        return self._admitted.get(region) != before

    def _lost_pools(self) -> list[Pool]:
        """Return the pools of lost instances, the latest last."""
        lost = [a for a in self.journal.state().attempts if a.is_lost]
        return list(dict.fromkeys(pool_of(a) for a in lost))

    def _no_capacity(self, number: int, tried_s: float, count: int) -> CapacityError:
        offers, market = self.plan.offers, self.spec.market
        what = f"No {market} capacity for" if count == 1 else f"No {market} capacity for {count} machines at once of"
        smaller = f" Allow a smaller group with --nodes {max(1, count // 2)}:{count}." if self.spec.is_group else ""
        zones = ", ".join(dict.fromkeys(offer.pool.zone for offer in offers))
        advice = "Add types with --instance a,b" + (", or allow --on-demand." if market == "spot" else ".")
        kept = f" The newest checkpoint of {number - 1} attempt(s) is downloaded." if number > 1 else ""
        return CapacityError(
            f"{what} {', '.join(_types(offers))} in {zones} "
            f"({len(offers)} pools tried, {tried_s:.0f} s).{kept} {advice}{smaller}",
            code="NoCapacity",
        )


def may_pass(error: CloudError) -> bool:
    """Return whether the same request may succeed in a moment.

    Throttling, a 5xx, a broken connection, or eventual consistency: EC2 does not know yet what it just created.
    """
    passing = ("InternalError", "InternalFailure", "InternalServerError", "ServiceUnavailable", "Unavailable")
    return (
        isinstance(error, (ThrottledError, NotFoundError)) or error.code in passing or error.code.endswith(OFF_THE_LINE)
    )


def growing(waits_s: tuple[float, ...]) -> Iterator[float]:
    """Yield the waits, then the last of them forever."""
    yield from waits_s
    while True:
        yield waits_s[-1]


def _types(offers: Sequence[Offer]) -> list[str]:
    return list(dict.fromkeys(offer.pool.instance_type for offer in offers))


def _price_of(instance: Instance, group: Sequence[Offer]) -> float:
    """Return the price of the pool that gave the instance; for an unknown pool the highest that was asked for."""
    pool = Pool(instance.instance_type, instance.zone, instance.region)
    return next((o.price_usd_h for o in group if o.pool == pool), max(o.price_usd_h for o in group))
