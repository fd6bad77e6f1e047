"""EC2's price history over all pages, zones and regions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from decimal import Decimal
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest

from orchestrator.cloud.aws.prices import Pace, PriceSource
from orchestrator.errors import CloudError
from orchestrator.market.price_series import PricePoint, window

START = 1_790_000_000.0


def by_the_second(changes: list[PricePoint], start: int, end: int) -> Fraction | None:
    """Return the mean the long way: look up the price of every second."""
    found = []
    for second in range(start, end):
        before = [(c.at, place, c.usd_h) for place, c in enumerate(changes) if c.at <= second]
        if before:
            found.append(Fraction(max(before)[2]))
    return sum(found, Fraction(0)) / len(found) if found else None


class FakeEc2(BaseHTTPRequestHandler):
    """Answers DescribeSpotPriceHistory in pages of two, newest first but not strictly so, and GetProducts."""

    changes: ClassVar[list[tuple[str, str, int, str]]] = []  # zone, type, age in seconds, price
    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        target = self.headers.get("X-Amz-Target", "")
        if target.endswith("GetProducts"):
            return self._send(self._products(json.loads(body)), "application/x-amz-json-1.1")
        form = {key: values[0] for key, values in parse_qs(body).items()}
        type(self).asked.append(form["InstanceType.1"])
        mine = [change for change in self.changes if change[1] == form["InstanceType.1"]]
        first = int(form.get("NextToken", "0"))
        token = str(first + 2) if first + 2 < len(mine) else ""
        items = "".join(
            f"<item><instanceType>{name}</instanceType><productDescription>Linux/UNIX</productDescription>"
            f"<spotPrice>{price}</spotPrice><timestamp>{iso(START - age)}</timestamp>"
            f"<availabilityZone>{zone}</availabilityZone></item>"
            for zone, name, age, price in mine[first : first + 2]
        )
        return self._send(
            f"<DescribeSpotPriceHistoryResponse><spotPriceHistorySet>{items}</spotPriceHistorySet>"
            f"<nextToken>{token}</nextToken></DescribeSpotPriceHistoryResponse>",
            "text/xml",
        )

    def _products(self, request: dict[str, Any]) -> str:
        name = next(one["Value"] for one in request["Filters"] if one["Field"] == "instanceType")
        assert {"Type": "TERM_MATCH", "Field": "capacitystatus", "Value": "Used"} in request["Filters"]
        product = {
            "product": {"attributes": {"regionCode": "us-east-1", "instanceType": name}},
            "terms": {"OnDemand": {"x": {"priceDimensions": {"y": {"unit": "Hrs", "pricePerUnit": {"USD": "0.90"}}}}}},
        }
        return json.dumps({"FormatVersion": "aws_v1", "PriceList": [json.dumps(product)]})

    def _send(self, text: str, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@contextmanager
def fake_ec2(changes: list[tuple[str, str, int, str]]) -> Iterator[PriceSource]:
    FakeEc2.changes, FakeEc2.asked = changes, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeEc2)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        yield PriceSource(endpoint={"endpoint_url": url, **keys}, calls_per_s=1000)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_all_pages_of_several_zones_out_of_order_give_the_right_mean() -> None:
    changes = [
        ("us-east-1a", "p2.xlarge", 10, "0.300000"),
        ("us-east-1b", "p2.xlarge", 5, "0.410000"),
        ("us-east-1a", "p2.xlarge", 90, "0.500000"),
        ("us-east-1b", "p2.xlarge", 60, "0.400000"),
        ("us-east-1a", "p2.xlarge", 40, "0.200000"),
        ("us-east-1b", "p2.xlarge", 5000, "0.900000"),
        ("us-east-1a", "p2.xlarge", 7000, "0.100000"),
    ]
    with fake_ec2(changes) as source:
        quotes = source.ask(["p2.xlarge"], ["us-east-1"], START - 100, START)
    assert len(FakeEc2.asked) == 4
    assert quotes.on_demand_usd_h == {("p2.xlarge", "us-east-1"): Decimal("0.9")}
    for pool, found in quotes.spot.items():
        seen = window(found, START - 100, START)
        mine = [PricePoint(START - age, Decimal(price)) for zone, _, age, price in changes if zone == pool.zone]
        assert seen is not None
        assert Fraction(seen.mean_usd_h) == by_the_second(mine, int(START) - 100, int(START))
    assert {pool.zone for pool in quotes.spot} == {"us-east-1a", "us-east-1b"}


@pytest.mark.slow
def test_a_region_that_does_not_answer_is_a_problem_of_its_own() -> None:
    with fake_ec2([("us-east-1a", "p2.xlarge", 10, "0.3")]) as source:
        genuine = source._client

        def client(service: str, region: str) -> Any:
            if region == "eu-west-1":
                found = genuine(service, region)
                found.meta.events.register("before-send", refuse)
                return found
            return genuine(service, region)

        source._client = client  # type: ignore[method-assign]
        quotes = source.ask(["p2.xlarge", "g5.xlarge"], ["us-east-1", "eu-west-1"], START - 100, START)
        assert list(quotes.problems) == ["eu-west-1"]
        assert len(quotes.spot) == 1
        with pytest.raises(CloudError, match="eu-west-1"):
            source.ask(["p2.xlarge"], ["eu-west-1"], START - 100, START)


def refuse(**_: Any) -> None:
    from botocore.exceptions import EndpointConnectionError

    raise EndpointConnectionError(endpoint_url="https://ec2.eu-west-1.amazonaws.com")


def test_calls_keep_to_their_pace() -> None:
    pace = Pace(50)
    began = datetime.now(tz=timezone.utc)
    for _ in range(6):
        pace.wait()
    assert (datetime.now(tz=timezone.utc) - began).total_seconds() >= 0.1
    assert pace.count == 6
