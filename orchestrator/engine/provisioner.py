"""From ranked offers to one instance: pool after pool, or all of them in one fleet; round after round if none serves.

What a refusal rules out is its `scope`: an empty pool is no reason to leave out the next zone, a quota is one to leave
out all zones of the region, and what is wrong with the request or the account is wrong everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING

from orchestrator.cloud.base import Call, Instance
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
)
from orchestrator.market import budget as limits
from orchestrator.market import offers as ranking
from orchestrator.market.pools import Offer, Pool
from orchestrator.plan.requests import NOBODY, Plan, user_data
from orchestrator.runs.events import CapacityAwaited, InstanceStarted, LaunchFailed, LaunchRequested
from orchestrator.runs.state import Attempt

if TYPE_CHECKING:
    from orchestrator.engine.engine import Engine

CAPACITY_WAITS_S = (15.0, 30.0, 60.0, 120.0, 300.0)  # between two rounds over all pools; the last one repeats
SHORT_BOOT_S = 60.0  # from the launch, when billing begins, to the start of the guard
QUOTA_LAG_S = 300.0  # after an instance is gone EC2 may count its vCPUs for some minutes
KNOCK_EVERY_S = 60.0  # between two questions for our own address
SAME_TOKEN_WAITS_S = (1.0, 2.0, 4.0, 8.0)  # throttling and 5xx: the same request with the same token


class Renter:
    """Gets instances for one run."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.regions_opened: dict[str, str] = {}  # region -> security group
        self._admitted: dict[str, str | None] = {}  # region -> the address that may connect
        self._knocked_at = -math.inf

    def rent(self) -> Attempt:
        """Return a new attempt with an instance, from the first pool that serves.

        Raises:
            CapacityError: no pool did (at once for a first attempt, after hours of trying for a later one).
            QuotaError, AccessError, CloudError: nothing that is left to ask would help.
            BudgetError: what is left does not buy another minute.
        """
        engine = self.engine
        requests = engine.state().requests
        number = 1 + max((r.attempt for r in requests if engine.state().attempt(r.attempt)), default=0)
        began_at = engine.clock.now()
        self._turn = 1 + sum(r.attempt == number for r in requests)
        for wait_s in growing(CAPACITY_WAITS_S):
            attempt = self._round(number)
            if attempt is not None:
                return attempt
            tried_s = engine.clock.now() - began_at
            policy = engine.policy
            limit_s = policy.first_capacity_wait_s if number == 1 else policy.capacity_wait_s
            if tried_s + wait_s > limit_s:
                raise self._no_capacity(number, tried_s)
            now = engine.clock.now()
            engine.emit(CapacityAwaited(at=now, pools=len(engine.plan.offers), again_at=now + wait_s))
            engine.sleep_watchfully(wait_s)
        raise AssertionError("the waits do not end")

    def _round(self, number: int) -> Attempt | None:
        """Ask every pool once that the answers so far do not rule out; None if none has capacity now."""
        engine = self.engine
        refused: list[tuple[Offer, CloudError]] = []
        in_order = ranking.next_round(self._offers(is_first=number == 1), self._lost_pools())
        for group in self._groups(in_order):
            if any(ranking.rules_out(error.scope, offer, group[0]) for offer, error in refused):
                continue
            engine.check_stop()
            answer = self._try(group, number)
            if isinstance(answer, Attempt):
                return answer
            refused.append((group[0], answer))
        if refused and not any(isinstance(error, CapacityError) for _, error in refused):
            if all(isinstance(error, QuotaError) for _, error in refused) and self._quota_may_be_ours():
                return None
            raise refused[0][1]  # quotas, images, subnets: waiting does not help
        return None

    def _quota_may_be_ours(self) -> bool:
        """Return whether an earlier machine of the run still counts: EC2 does so until a while after its end."""
        self.engine.reaper.look()  # while we wait nobody else asks which of them are gone
        now = self.engine.clock.now()
        return any(a.ended_at is None or now - a.ended_at < QUOTA_LAG_S for a in self.engine.state().attempts)

    def _groups(self, in_order: Sequence[Offer]) -> list[list[Offer]]:
        """Return what is asked for in one request each: one pool, or with strategy `any` all pools of a region."""
        if self.engine.spec.strategy == "price":
            return [[offer] for offer in in_order]
        regions = dict.fromkeys(offer.pool.region for offer in in_order)
        return [[offer for offer in in_order if offer.pool.region == region] for region in regions]

    def _offers(self, *, is_first: bool) -> tuple[Offer, ...]:
        """Return the plan's offers; while recovering, with the prices of now."""
        if not is_first and self.engine.refresh is not None:
            with suppress(PixelOrchError):  # no new prices: the old order will do
                return self.engine.refresh()
        return self.engine.plan.offers

    def _try(self, group: Sequence[Offer], number: int) -> Attempt | CloudError:
        """Send one request; return the attempt, or why there is none."""
        engine = self.engine
        self._check_limits(group)
        call, template = self._request(group, number)
        self._turn += 1
        offer, token = group[0], str(call.parameters["ClientToken"])
        is_one = len(group) == 1
        engine.emit(
            LaunchRequested(
                at=engine.clock.now(),
                attempt=number,
                client_token=token,
                instance_type=offer.pool.instance_type if is_one else ",".join(_types(group)),
                zone=offer.pool.zone if is_one else "any",
                region=offer.pool.region,
                market=offer.market,
                price_usd_h=max(each.price_usd_h for each in group),
            )
        )
        for wait_s in (*SAME_TOKEN_WAITS_S, None):
            try:
                instance = engine.cloud.launch(call, template)
            except CloudError as error:
                if wait_s is None or not may_pass(error):
                    self._launch_failed(number, token, group, error)
                    if error.scope in ("request", "account", "moment") or isinstance(error, AccessError):
                        raise
                    return error
                engine.clock.sleep(wait_s)  # it may have been served: the same token gives the same instance
            else:
                price_usd_h = _price_of(instance, group)
                engine.emit(started(engine.clock.now(), number, instance, price_usd_h, engine.plan))
                return engine.state().attempts[-1]
        raise AssertionError("the last wait is None")

    def _check_limits(self, group: Sequence[Offer]) -> None:
        """Reserve before renting: of all that may be started, the dearest must be affordable for a minute."""
        engine, now, state = self.engine, self.engine.clock.now(), self.engine.state()
        attempts = limits.feared(engine.spec, state.attempts, now)
        too_little = limits.too_little_to_begin(engine.spec.limits, attempts, self._cap_usd_h(group), now)
        if too_little:
            if group[0].market == "spot" and engine.spec.max_price_usd_h is None:
                too_little += " (a spot price may rise to on-demand unless --max-price caps it)"
            more = f"pixel-orch launch --resume {engine.spec.run} --budget MORE"
            raise BudgetError(too_little, is_budget=True, next_step=more)
        over = limits.reached(engine.spec.limits, attempts, led_since=state.led_since, heard_at=now, now=now)
        if over:
            raise BudgetError(over, next_step=f"pixel-orch launch --resume {engine.spec.run}")

    def _cap_usd_h(self, group: Sequence[Offer]) -> Decimal:
        return max(limits.price_cap_usd_h(self.engine.spec, offer) for offer in group)

    def _request(self, group: Sequence[Offer], number: int) -> tuple[Call, Call | None]:
        engine = self.engine
        private, public = engine.make_keys(f"pixel-orch-{engine.spec.run}-{number}-host")
        authorized = engine.store.key_path.with_suffix(".pub").read_text().strip()
        engine.host_key_path(number).write_text(public)
        cloud_config = user_data(private, public, authorized, *self._alone_min(group))
        door = self._open_door(group[0].pool.region)
        if engine.spec.strategy == "any":
            template, fleet = engine.plan.fleet(group, number, self._turn, door, cloud_config)
            return fleet, template
        return engine.plan.launch(group[0], number, self._turn, door, cloud_config), None

    def _alone_min(self, group: Sequence[Offer]) -> tuple[int, int]:
        """Return (minutes after its boot at which an instance without an agent ends itself, the most of them).

        The second is what the budget surely buys, 0 without one: up to then a long set-up may ask for more time.
        """
        alone_s = self.engine.policy.owner_timeout_s + self.engine.policy.setup_timeout_s
        allow_s = self.engine.allow_s(self._cap_usd_h(group))
        if allow_s is None:
            return math.floor(alone_s / 60), 0
        most_min = max(1, math.floor((allow_s - SHORT_BOOT_S) / 60))
        return min(math.floor(alone_s / 60), most_min), most_min

    def _launch_failed(self, number: int, token: str, group: Sequence[Offer], error: CloudError) -> None:
        is_one = len(group) == 1
        self.engine.emit(
            LaunchFailed(
                at=self.engine.clock.now(),
                attempt=number,
                client_token=token,
                instance_type=group[0].pool.instance_type if is_one else ",".join(_types(group)),
                zone=group[0].pool.zone if is_one else "any",
                code=error.code,
                scope=type(error).__name__,
                message=str(error),
            )
        )

    def _open_door(self, region: str) -> str:
        asked = self.engine.spec.ssh_cidr
        cidr = None if asked == NOBODY else asked or self.engine.cloud.caller_cidr()
        if region not in self.regions_opened or self._admitted.get(region) != cidr:
            door = self.engine.plan.security_group(region)
            self.regions_opened[region] = self.engine.cloud.open_door(region, door, cidr)
            self._admitted[region] = cidr
        return self.regions_opened[region]

    def knock_again(self, region: str) -> bool:
        """Admit our address, should it be another one than before; return whether it was.

        A laptop moves, a line gets a new address, or another machine has taken the run over: then a host that is well
        does not answer us. Asked not more often than every minute.
        """
        now = self.engine.clock.now()
        if self.engine.spec.ssh_cidr is not None or now - self._knocked_at < KNOCK_EVERY_S:
            return False
        self._knocked_at = now
        before = self._admitted.get(region)
        try:
            self._open_door(region)
        except CloudError:
            return False  # our own line is down, or EC2 does not answer: that is no news of the host
        return self._admitted.get(region) != before

    def _lost_pools(self) -> list[Pool]:
        """Return the pools that were lost, the latest last."""
        lost = [a for a in self.engine.state().attempts if a.lost_because]
        return list(dict.fromkeys(Pool(a.instance_type, a.zone, a.region) for a in lost))

    def _no_capacity(self, number: int, tried_s: float) -> CapacityError:
        offers, market = self.engine.plan.offers, self.engine.spec.market
        zones = ", ".join(dict.fromkeys(offer.pool.zone for offer in offers))
        advice = "Add types with --instance a,b" + (", or allow --on-demand." if market == "spot" else ".")
        kept = f" The newest checkpoint of {number - 1} attempt(s) is at home." if number > 1 else ""
        return CapacityError(
            f"No {market} capacity for {', '.join(_types(offers))} in {zones} "
            f"({len(offers)} pools tried, {tried_s:.0f} s).{kept} {advice}",
            code="NoCapacity",
        )


def started(now: float, number: int, instance: Instance, price_usd_h: float, plan: Plan) -> InstanceStarted:
    """Return the fact that EC2 gave us an instance; it is billed from its launch on, not from our hearing of it."""
    return InstanceStarted(
        at=min(now, instance.launched_at) if instance.launched_at else now,
        attempt=number,
        instance_id=instance.instance_id,
        instance_type=instance.instance_type,
        zone=instance.zone,
        region=instance.region,
        market=instance.market,
        price_usd_h=price_usd_h,
        login_user=plan.login_user(instance.region),
        disk_gib=plan.disk_gib(instance.region),
        public_addresses=0 if plan.spec.is_private else 1,
    )


def may_pass(error: CloudError) -> bool:
    """Return whether the same request may do better in a moment.

    Throttling, a 5xx, a broken connection, or EC2 not yet knowing what it made a moment ago (eventual consistency).
    """
    passing = ("InternalError", "InternalFailure", "InternalServerError", "ServiceUnavailable", "Unavailable")
    return (
        isinstance(error, (ThrottledError, NotFoundError)) or error.code in passing or error.code.endswith(OFF_THE_LINE)
    )


def growing(waits_s: tuple[float, ...]) -> Iterator[float]:
    """Give the waits, then the last of them for ever."""
    yield from waits_s
    while True:
        yield waits_s[-1]


def _types(offers: Sequence[Offer]) -> list[str]:
    return list(dict.fromkeys(offer.pool.instance_type for offer in offers))


def _price_of(instance: Instance, group: Sequence[Offer]) -> float:
    """Return the price of the pool that served; of an unknown one the highest that we asked for."""
    pool = Pool(instance.instance_type, instance.zone, instance.region)
    return next((o.price_usd_h for o in group if o.pool == pool), max(o.price_usd_h for o in group))
