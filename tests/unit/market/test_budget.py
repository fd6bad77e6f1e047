"""What the rest of a budget pays for."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from orchestrator.market.billing import other_usd_h
from orchestrator.market.budget import guaranteed_s, price_cap_usd_h, too_little_to_begin
from orchestrator.market.pools import Offer, Pool
from orchestrator.runs.spec import Limits
from tests.support.story import Story
from tests.unit.market.test_billing import START, attempt


def test_what_the_rest_of_a_budget_buys_is_counted_at_the_price_cap(home: Path) -> None:
    spec = Story(home).spec
    offer = Offer(Pool("g4dn.xlarge", "us-east-1a", "us-east-1"), "spot", 0.2, "spot history")
    beside = other_usd_h("us-east-1", 100, 1)
    assert Decimal("0.016") < beside < Decimal("0.018"), "100 GiB of gp3 and a public address"
    assert price_cap_usd_h(spec, offer) == Decimal("0.526") + beside, "on-demand, which EC2 caps a spot price at"
    capped = spec.model_copy(update={"max_price_usd_h": Decimal("0.25")})
    assert price_cap_usd_h(capped, offer) == Decimal("0.25") + beside
    private = spec.model_copy(update={"is_private": True})
    assert price_cap_usd_h(private, offer) == Decimal("0.526") + beside - Decimal("0.005")
    spent = attempt(3600, prices_usd_h={0: 0.5})
    assert guaranteed_s(Limits(budget_usd=Decimal(1)), [spent], Decimal("0.5"), START) == 3600
    assert guaranteed_s(Limits(), [spent], Decimal("0.5"), START) is None


def test_nothing_is_rented_for_less_than_the_minute_that_ec2_bills() -> None:
    limits = Limits(budget_usd=Decimal("0.001"))
    assert "does not pay for a first minute" in too_little_to_begin(limits, [], Decimal("0.526"), START)
    assert too_little_to_begin(Limits(budget_usd=Decimal("0.01")), [], Decimal("0.526"), START) == ""
