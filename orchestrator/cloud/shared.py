"""One cloud for many runs in one process: describes are shared, and calls stay within EC2's documented rates.

Two hundred runs that each poll their own instances make 40 calls a second. Here they share one DescribeInstances, which
is at most `fresh_s` old: no staler than EC2's eventual consistency.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from orchestrator.cloud.base import RUN_TAG, Call, Cloud, Image, Instance, Leftover, Network
from orchestrator.market.pools import Pool
from orchestrator.market.price_series import PricePoint

# (burst, calls a second) by operation: "Request token bucket sizes and refill rates" of
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/throttling.html
RATES = {"launch": (5, 2.0), "terminate": (100, 5.0), "mutate": (50, 5.0), "describe": (100, 20.0)}
MARKET_FRESH_S = 60.0  # offerings, prices, images and networks
Answer = TypeVar("Answer")


class TokenBucket:
    """A token bucket: `burst` calls at once, then `per_s` a second."""

    def __init__(self, burst: int, per_s: float, *, now: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.burst = burst
        self.per_s = per_s
        self._now = now
        self._sleep = sleep
        self._tokens = float(burst)
        self._at = now()
        self._lock = threading.Lock()
        self.taken = 0

    def take(self) -> None:
        """Wait for a token."""
        with self._lock:  # waiting callers queue here
            now = self._now()
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_s)
            self._at = now
            if self._tokens < 1:
                self._sleep((1 - self._tokens) / self.per_s)
                now = self._now()
                self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_s)
                self._at = now
            self._tokens -= 1
            self.taken += 1


class SharedCloud:
    """`Cloud` for the engines of one process.

    Args:
        cloud: the cloud that answers.
        fresh_s: how old the shared list of instances may be.
        now, sleep: a monotonic clock.
    """

    def __init__(
        self,
        cloud: Cloud,
        *,
        fresh_s: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.cloud = cloud
        self.title = cloud.title
        self.fresh_s = fresh_s
        self._now = now
        self._buckets = {name: TokenBucket(*rate, now=now, sleep=sleep) for name, rate in RATES.items()}
        self._lock = threading.Lock()
        self._locks: dict[Any, threading.Lock] = {}
        self._kept: dict[Any, tuple[float, Any]] = {}

    def calls(self) -> dict[str, int]:
        """Return how many calls of each kind were made so far."""
        return {name: bucket.taken for name, bucket in self._buckets.items() if bucket.taken}

    def _shared(self, key: tuple[Any, ...], fresh_s: float, ask: Callable[[], Answer]) -> Answer:
        """Return a fresh enough answer, or ask; callers with the same question wait for that answer."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            kept = self._kept.get(key)
            if kept is not None and self._now() - kept[0] < fresh_s:
                answer: Answer = kept[1]
                return answer
            self._buckets["describe"].take()
            began = self._now()
            fresh = ask()
            self._kept[key] = (began, fresh)
            return fresh

    # -- what is shared

    def instances(self, run: str | None = None) -> list[Instance]:
        """Return the instances of a run, from one list for all runs."""
        everything = self._shared(("instances",), self.fresh_s, lambda: self._by_run(self.cloud.instances()))
        if run is None:
            return [instance for some in everything.values() for instance in some]
        return everything.get(run, [])

    @staticmethod
    def _by_run(found: Sequence[Instance]) -> dict[str, list[Instance]]:
        by_run: dict[str, list[Instance]] = {}
        for instance in found:
            by_run.setdefault(instance.tags.get(RUN_TAG, ""), []).append(instance)
        return by_run

    def offerings(self, instance_types: Sequence[str]) -> list[Pool]:
        """Return the pools of these types."""
        key = ("offerings", tuple(instance_types))
        return self._shared(key, MARKET_FRESH_S, lambda: self.cloud.offerings(instance_types))

    def spot_prices(self, pools: Sequence[Pool]) -> dict[Pool, PricePoint]:
        """Return the prices of now, a minute old at most."""
        return self._shared(("prices", tuple(pools)), MARKET_FRESH_S, lambda: self.cloud.spot_prices(pools))

    def on_demand_prices(self, pools: Sequence[Pool]) -> dict[Pool, float]:
        """Return the on-demand prices, a minute old at most."""
        return self._shared(("list", tuple(pools)), MARKET_FRESH_S, lambda: self.cloud.on_demand_prices(pools))

    def image(self, region: str, image_id: str | None = None) -> Image:
        """Return the image to start."""
        return self._shared(("image", region, image_id), MARKET_FRESH_S, lambda: self.cloud.image(region, image_id))

    def network(self, region: str, subnets: Sequence[str]) -> Network:
        """Return where these subnets are."""
        key = ("network", region, tuple(subnets))
        return self._shared(key, MARKET_FRESH_S, lambda: self.cloud.network(region, subnets))

    def quota_vcpus(self, region: str, code: str) -> float | None:
        """Return a quota."""
        return self._shared(("quota", region, code), MARKET_FRESH_S, lambda: self.cloud.quota_vcpus(region, code))

    def cluster_types(self, instance_types: Sequence[str]) -> set[str]:
        """Return the types that can be in a cluster placement group."""
        key = ("cluster", tuple(instance_types))
        return self._shared(key, MARKET_FRESH_S, lambda: self.cloud.cluster_types(instance_types))

    def caller_cidr(self) -> str:
        """Return the public address of this machine."""
        return self._shared(("cidr",), MARKET_FRESH_S, self.cloud.caller_cidr)

    def credentials_end_at(self) -> float | None:
        """Return when the credentials expire."""
        return self._shared(("credentials",), MARKET_FRESH_S, self.cloud.credentials_end_at)

    # -- what is each run's own

    def price_history(self, pool: Pool, start: float, end: float) -> list[PricePoint]:
        """Return the changes of a price."""
        self._buckets["describe"].take()
        return self.cloud.price_history(pool, start, end)

    def dry_run(self, call: Call) -> None:
        """Send a DryRun."""
        self._buckets["mutate"].take()
        self.cloud.dry_run(call)

    def open_security_group(self, region: str, call: Call, cidr: str | None, *, within: bool = False) -> str:
        """Create a run's security group."""
        self._buckets["mutate"].take()
        return self.cloud.open_security_group(region, call, cidr, within=within)

    def close_security_group(self, region: str, run: str, home_id: str = "") -> None:
        """Delete a run's security group."""
        self._buckets["mutate"].take()
        self.cloud.close_security_group(region, run, home_id)

    def open_placement_group(self, call: Call) -> None:
        """Create a placement group."""
        self._buckets["mutate"].take()
        self.cloud.open_placement_group(call)

    def close_placement_groups(self, region: str, run: str, home_id: str = "") -> list[str]:
        """Delete a run's placement groups."""
        self._buckets["mutate"].take()
        return self.cloud.close_placement_groups(region, run, home_id)

    def leftovers(self, home_id: str) -> list[Leftover]:
        """Return what runs have left besides instances."""
        self._buckets["describe"].take()
        return self.cloud.leftovers(home_id)

    def remove_leftover(self, left: Leftover) -> bool:
        """Delete one of them."""
        self._buckets["mutate"].take()
        return self.cloud.remove_leftover(left)

    def launch_group(self, call: Call) -> tuple[Instance, ...]:
        """Launch all of a group or none; the shared list has them after its next refresh."""
        self._buckets["launch"].take()
        return self.cloud.launch_group(call)

    def launch(self, call: Call, template: Call | None = None) -> Instance:
        """Launch; the shared list has the instance after its next refresh."""
        self._buckets["launch"].take()
        return self.cloud.launch(call, template)

    def terminate(self, region: str, instance_ids: Sequence[str]) -> None:
        """Terminate instances."""
        self._buckets["terminate"].take()
        self.cloud.terminate(region, instance_ids)
