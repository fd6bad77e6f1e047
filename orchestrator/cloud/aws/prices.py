"""EC2's prices: spot history from each region, on-demand from the Price List API.

Regions are asked in parallel, because a page takes a few tenths of a second, and each at most `calls_per_s` times a
second: EC2 refills its bucket of describe calls at some tens a second for the whole account
(https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from orchestrator.cloud.aws.errors import NO_CREDENTIALS, map_boto_errors
from orchestrator.cloud.aws.session import open_client, open_session
from orchestrator.cloud.aws.spot_history import history_parameters, price_changes
from orchestrator.errors import CloudError, CredentialsError
from orchestrator.market.pools import Pool
from orchestrator.market.price_series import PricePoint

PRICE_LIST_REGION = "us-east-1"  # the Price List API has endpoints in few regions, and answers for all of them
CALLS_PER_S = 10.0
WORKERS = 8
ON_DEMAND_FILTERS = {
    "operatingSystem": "Linux",
    "preInstalledSw": "NA",
    "tenancy": "Shared",
    "capacitystatus": "Used",  # the other two rows of a type are prices of capacity reservations
}


@dataclass
class Quotes:
    """The answers.

    `problems` has the reason for each region without an answer; the other regions are not affected.
    """

    spot: dict[Pool, list[PricePoint]] = field(default_factory=dict)
    on_demand_usd_h: dict[tuple[str, str], Decimal] = field(default_factory=dict)  # by (type, region)
    problems: dict[str, str] = field(default_factory=dict)
    requests: int = 0


class PriceSource:
    """Asks EC2 and the price list.

    Args:
        endpoint: `{"endpoint_url": ..., ...}` for the embedded cloud, empty for AWS itself.
        profile: of `~/.aws/config`; None is the default one.
        calls_per_s: most requests a second to one region.

    Raises:
        AccessError: there are no credentials.
    """

    def __init__(
        self,
        *,
        endpoint: Mapping[str, str] | None = None,
        profile: str | None = None,
        calls_per_s: float = CALLS_PER_S,
    ) -> None:
        self._endpoint = dict(endpoint or {})
        self._calls_per_s = calls_per_s
        with map_boto_errors("credentials"):
            self._session = open_session(profile, endpoint=self._endpoint)
            if not self._endpoint and self._session.get_credentials() is None:
                raise CredentialsError(f"no AWS credentials found; {NO_CREDENTIALS}", code="NoCredentials")

    def _client(self, service: str, region: str) -> Any:
        with map_boto_errors(region):
            return open_client(
                self._session,
                service,
                region,
                endpoint=self._endpoint,
                retries={"mode": "standard", "total_max_attempts": 4},
                connect_timeout=5,
                read_timeout=30,
                max_pool_connections=WORKERS,
            )

    def ask(self, instance_types: Sequence[str], regions: Sequence[str], start: float, end: float) -> Quotes:
        """Return the spot price changes of the window, with the last one before it, and the on-demand prices.

        Raises:
            AccessError: every region refuses.
            CloudError: no region answers.
        """
        quotes = Quotes()
        lock = threading.Lock()
        clients = {region: self._client("ec2", region) for region in regions}  # making clients is not thread-safe
        price_list = self._client("pricing", PRICE_LIST_REGION)
        paces = {region: Pace(self._calls_per_s) for region in (*regions, "price list")}
        failures: dict[str, CloudError] = {}

        def spot(region: str, name: str) -> None:
            found = list(self._changes(clients[region], paces[region], region, name, start=start, end=end))
            with lock:
                for pool, change in found:
                    quotes.spot.setdefault(pool, []).append(change)

        def on_demand(_: str, name: str) -> None:
            found = {(name, region): price for region, price in _on_demand(price_list, paces["price list"], name)}
            with lock:
                quotes.on_demand_usd_h.update(found)

        def guarded(task: Any, region: str, name: str) -> None:
            if region in failures:
                return  # a region that failed once is not asked again
            try:
                task(region, name)
            except CloudError as error:
                failures[region] = error

        with ThreadPoolExecutor(WORKERS) as pool_of_threads:
            # The regions take turns, so that the threads do not all ask one region.
            for name in instance_types:
                pool_of_threads.submit(guarded, on_demand, "price list", name)
                for region in regions:
                    pool_of_threads.submit(guarded, spot, region, name)
        if regions and all(region in failures for region in regions):
            raise failures[regions[0]]
        quotes.problems = {region: str(error) for region, error in failures.items()}
        quotes.requests = sum(pace.count for pace in paces.values())
        return quotes

    def on_demand(self, instance_types: Sequence[str]) -> dict[tuple[str, str], Decimal]:
        """Return the on-demand prices an hour by (type, region).

        Raises:
            CloudError: the price list does not answer, or refuses.
        """
        client, pace = self._client("pricing", PRICE_LIST_REGION), Pace(self._calls_per_s)
        return {(name, region): price for name in instance_types for region, price in _on_demand(client, pace, name)}

    @staticmethod
    def _changes(
        client: Any, pace: Pace, region: str, name: str, *, start: float, end: float
    ) -> Iterator[tuple[Pool, PricePoint]]:
        """DescribeSpotPriceHistory, all pages."""
        parameters = history_parameters([name], start, end)
        with map_boto_errors(region):
            for page in pace.pages(client.get_paginator("describe_spot_price_history").paginate(**parameters)):
                yield from price_changes(page["SpotPriceHistory"], region)


def _on_demand(client: Any, pace: Pace, name: str) -> Iterator[tuple[str, Decimal]]:
    """GetProducts: yield (region, dollars an hour) of a type in every region that has it."""
    wanted = {"instanceType": name, **ON_DEMAND_FILTERS}
    filters = [{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in wanted.items()]
    with map_boto_errors("price list"):
        for page in pace.pages(client.get_paginator("get_products").paginate(ServiceCode="AmazonEC2", Filters=filters)):
            for text in page["PriceList"]:
                product = json.loads(text)
                region = product["product"]["attributes"].get("regionCode")
                price = _price_of(product)
                if region and price is not None:
                    yield region, price


def _price_of(product: Mapping[str, Any]) -> Decimal | None:
    """Return the one price an hour of a product's on-demand terms; zero is a placeholder."""
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            price = Decimal(dimension["pricePerUnit"].get("USD", "0"))
            if dimension.get("unit") == "Hrs" and price > 0:
                return price.normalize()
    return None


class Pace:
    """Limits calls to `per_s` a second over all threads."""

    def __init__(self, per_s: float) -> None:
        self._gap_s = 1 / per_s
        self._lock = threading.Lock()
        self._next_at = 0.0
        self.count = 0

    def pages(self, pages: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Yield the pages of a paginator, each requested at its turn."""
        asked = iter(pages)
        while True:
            self.wait()
            page = next(asked, None)
            if page is None:
                return
            yield page
            if not page.get("NextToken"):
                return

    def wait(self) -> None:
        """Wait for this call's turn."""
        with self._lock:
            now = time.monotonic()
            turn_at = max(now, self._next_at)
            self._next_at = turn_at + self._gap_s
            self.count += 1
        if turn_at > now:
            time.sleep(turn_at - now)
