"""Prices from EC2, from the cache, and from the bundled record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from orchestrator.cli import prices as quoting
from orchestrator.cloud.aws.prices import PriceSource
from orchestrator.cloud.price_cache import Entry, PriceCache
from orchestrator.cloud.quotes import Quoted, quote
from orchestrator.errors import AccessError, CloudError
from orchestrator.market.price_series import PricePoint

START = 1_790_000_000.0


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
