"""Spot prices: the mean by an independent way, what is no market, pages out of order, the cache and its age."""

from __future__ import annotations

import argparse
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from decimal import Decimal
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest

from orchestrator.cli import prices as quoting
from orchestrator.cloud.aws.prices import Pace, PriceSource
from orchestrator.cloud.price_cache import Entry, PriceCache
from orchestrator.cloud.quotes import Quoted, quote
from orchestrator.errors import AccessError, CloudError, SpecError
from orchestrator.market.pools import Pool
from orchestrator.market.price_series import PricePoint, window
from orchestrator.market.spot_prices import (
    MarketRow,
    cheapest_zones,
    doubt,
    lowest,
    pool_row,
    ranked,
    recorded_rows,
    saves,
)

START = 1_790_000_000.0


def by_the_second(changes: list[PricePoint], start: int, end: int) -> Fraction | None:
    """Return the mean the long way: look up the price of every second."""
    found = []
    for second in range(start, end):
        before = [(c.at, place, c.usd_h) for place, c in enumerate(changes) if c.at <= second]
        if before:
            found.append(Fraction(max(before)[2]))
    return sum(found, Fraction(0)) / len(found) if found else None


@pytest.mark.parametrize("seed", range(60))
def test_the_mean_weighs_each_price_by_the_time_it_stood(seed: int) -> None:
    dice = random.Random(seed)
    start, end = 1000, 1000 + dice.randint(1, 300)
    moments = [float(dice.randint(700, 1400)) for _ in range(dice.randint(0, 9))]
    changes = [PricePoint(at, Decimal(dice.randint(1, 9999)) / 10000) for at in moments]
    wanted = by_the_second(changes, start, end)
    seen = window(changes, start, end)
    assert (seen is None) == (wanted is None)
    if seen is not None and wanted is not None:
        assert abs(Fraction(seen.mean_usd_h) - wanted) < Fraction(1, 10**20)
        assert seen.low_usd_h <= seen.mean_usd_h <= seen.high_usd_h


def test_the_price_before_the_window_stands_until_the_first_change() -> None:
    seen = window([PricePoint(0, Decimal("0.1")), PricePoint(75, Decimal("0.5"))], 50, 100)
    assert seen is not None
    assert seen.mean_usd_h == Decimal("0.3")
    assert (seen.changes, seen.known_from) == (1, 50)


def test_volatility_is_the_deviation_over_the_mean() -> None:
    still = window([PricePoint(0, Decimal("0.2"))], 0, 100)
    moved = window([PricePoint(0, Decimal("0.1")), PricePoint(50, Decimal("0.3"))], 0, 100)
    assert still is not None
    assert still.volatility == 0
    assert moved is not None
    assert moved.volatility == pytest.approx(0.5)


def test_what_equals_on_demand_a_tenth_of_it_or_is_missing_is_no_market() -> None:
    assert "equals on-demand" in doubt(Decimal("14.4"), Decimal("14.40"))
    assert "tenth" in doubt(Decimal("0.09"), Decimal("0.9"))
    assert doubt(None, Decimal("0.9")) == "no spot price"
    assert doubt(Decimal(0), Decimal("0.9")) == "not above zero"
    assert doubt(Decimal("0.27"), Decimal("0.9")) == ""
    assert doubt(Decimal("0.27"), None) == ""


def row(zone: str, price: str | None, on_demand: str = "0.9", name: str = "p2.xlarge") -> MarketRow:
    """Return the row of a pool whose price has stood for ever."""
    return pool_row(
        Pool(name, zone, zone[:-1]),
        [] if price is None else [PricePoint(0, Decimal(price))],
        start=START,
        end=START + 100,
        on_demand_usd_h=Decimal(on_demand),
        source="live",
        as_of=START,
    )


def test_a_price_without_a_market_is_never_ranked_cheapest() -> None:
    rows = [row("us-east-1a", "0.09"), row("us-east-1b", "0.5"), row("us-west-2a", "0.3"), row("us-west-2b", None)]
    assert [r.zone for r in ranked(rows)] == ["us-west-2a", "us-east-1b", "us-east-1a", "us-west-2b"]
    assert lowest(rows)["p2.xlarge"].zone == "us-west-2a"
    assert [r.zone for r in cheapest_zones(rows)] == ["us-west-2a", "us-east-1b"]
    assert "p2.xlarge" not in lowest([row("us-east-1a", "0.09"), row("us-east-1b", "0.9")])
    assert saves(rows[0]) is None
    assert saves(rows[2]) == pytest.approx(2 / 3)


def test_what_is_recorded_says_so_and_where_nothing_is() -> None:
    here, there = recorded_rows(["p2.xlarge"], ["us-east-1", "eu-west-1"], START)
    assert (here.source, here.low_usd_h, here.now_usd_h) == ("recorded", Decimal("0.271"), None)
    assert there.note == "not recorded in this region"
    assert recorded_rows(["p5.4xlarge"], ["us-east-1"], START)[0].note == "no spot price recorded"


# -- asking EC2, over a real socket


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


# -- the cache and what stands in for an answer


def entry(asked_at: float, price: str = "0.30") -> Entry:
    zones = {"us-east-1a": (PricePoint(asked_at - 5 * 86400, Decimal(price)),)}
    return Entry(asked_at, asked_at - 7 * 86400, asked_at, Decimal("0.9"), zones)


def test_the_cache_gives_money_back_as_it_was_given(home: Path) -> None:
    cache = PriceCache(home, "aws")
    cache.put("p2.xlarge", "us-east-1", entry(START, "0.2713"))
    cache.save()
    assert PriceCache(home, "aws").get("p2.xlarge", "us-east-1") == entry(START, "0.2713")
    assert PriceCache(home, "local").get("p2.xlarge", "us-east-1") is None
    for damage in (b"", b"{", b'{"format": 1, "entries": [{"instance_type": "x"}]}', b'{"format": 99}', b"[]"):
        cache.path.write_bytes(damage)
        assert PriceCache(home, "aws").entries == {}


def quoted(home: Path, now: float, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> Quoted:
    """Ask for two regions where nobody is to be reached (or, without an error, must not be asked)."""

    @contextmanager
    def nobody(*_: object) -> Iterator[PriceSource]:
        assert error is not None, "asked although the answer is fresh"
        raise error
        yield

    monkeypatch.setattr("orchestrator.cloud.quotes.open_source", nobody)
    return quote(home, "aws", ["p2.xlarge"], ["us-east-1"], now)


def test_a_fresh_answer_is_not_asked_for_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PriceCache(home, "aws")
    cache.put("p2.xlarge", "us-east-1", entry(START))
    cache.save()
    (found,) = quoted(home, START + 1800, monkeypatch).rows
    assert (found.source, found.mean_usd_h) == ("cached", Decimal("0.30"))
    assert "asked 30m00s ago" in quoting.age_words([found], START + 1800)[0]


def test_an_expired_cache_without_network_is_shown_with_its_age(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PriceCache(home, "aws")
    cache.put("p2.xlarge", "us-east-1", entry(START))
    cache.save()
    now = START + 3 * 86400
    answer = quoted(home, now, monkeypatch, CloudError("us-east-1: cannot connect"))
    assert answer.rows[0].source == "cached"
    assert answer.notes == ("No answer: us-east-1: cannot connect",)
    assert "72h00m ago (expired: no newer answer)" in quoting.age_words(answer.rows, now)[0]


def test_without_account_and_cache_the_record_is_given_with_its_date(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = quoted(home, START, monkeypatch, AccessError("no AWS credentials found"))
    assert {found.source for found in answer.rows} == {"recorded"}
    assert "no AWS credentials" in answer.notes[0]
    assert "recorded" in quoting.age_words(answer.rows, START)[0]
    assert "2026-11-23" in quoting.age_words(answer.rows, START)[0]


def test_a_region_without_the_type_is_a_row_that_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PriceCache(home, "aws")
    cache.put("p2.xlarge", "us-east-1", Entry(START, START - 7 * 86400, START, None, {}))
    cache.save()
    (found,) = quoted(home, START + 10, monkeypatch).rows
    assert found.note == "no spot market in this region"
    assert found.rank_usd_h is None


def prices_args(**changes: object) -> argparse.Namespace:
    given: dict[str, object] = {
        "cloud": None, "instance": "p2.xlarge", "region": None, "days": 7, "all_zones": False, "refresh": False,
        "offline": True, "profile": None, "output": "table",
    }  # fmt: skip
    return argparse.Namespace(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"days": 0}, "--days"),
        ({"days": 91}, "--days"),
        ({"cloud": "mars"}, "unknown cloud 'mars'"),
        ({"instance": "p2.xlrage"}, "did you mean p2.xlarge"),
        ({"instance": ","}, "names no instance type"),
        ({"region": ["us-eats-1"]}, "did you mean us-east-1"),
    ],
)
def test_bad_input_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], says: str
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    with pytest.raises(SpecError, match=says) as problem:
        quoting.prices(prices_args(**changes))
    assert "\n" not in str(problem.value)


def test_the_table_fits_80_columns_and_names_its_source(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    assert quoting.prices(prices_args(instance=None, region=["all"])) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "recorded" in shown
    assert quoting.prices(prices_args(output="json")) == 0
    raw = json.loads(capsys.readouterr().out)
    assert raw["lowest"]["p2.xlarge"]["low_usd_h"] == 0.271
    assert {one["source"] for one in raw["prices"]} == {"recorded"}
