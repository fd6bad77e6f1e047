"""`prices` against the embedded cloud: every page of every pool, the price list, within the time allowed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from infra.local import EmbeddedCloud
from infra.local.aws import spot_market
from orchestrator.cloud.price_cache import PriceCache
from orchestrator.market.price_series import PricePoint
from tests.support.stage import Stage, last_json, staged

pytestmark = pytest.mark.slow

TYPES = (
    "g2.2xlarge,p2.xlarge,p2.16xlarge,p3.2xlarge,g4dn.xlarge,g5.xlarge,g6.xlarge,g6e.xlarge,p4d.24xlarge,p5.48xlarge"
)
REGIONS = ["us-east-1", "us-west-2", "ap-northeast-1", "eu-west-1"]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage."""
    yield from staged(tmp_path)


def by_the_second(changes: list[PricePoint], start: int, end: int) -> float:
    """Return the mean the long way: the price of each second, one after the other."""
    later = sorted(changes)
    total = 0.0
    for second in range(start, end):
        while len(later) > 1 and later[1].at <= second:
            later.pop(0)
        total += float(later[0].usd_h)
    return total / (end - start)


def test_ten_types_in_four_regions(stage: Stage) -> None:
    words = ["prices", "--cloud", "local", "--instance", TYPES, "--all-zones", "-o", "json"]
    for region in REGIONS:
        words += ["--region", region]
    began = time.monotonic()
    code, said = stage.run(*words)
    took_s = time.monotonic() - began
    assert code == 0, said
    answer = last_json(said)
    rows = {(row["instance_type"], row["zone"]): row for row in answer["prices"] if row["zone"]}
    offered = {
        (name, zone) for name in TYPES.split(",") for region in spot_market.regions()
        for zone in spot_market.offering_zones(name, region)
    }  # fmt: skip
    assert set(rows) == offered, "every pool, whatever the page it was on"
    assert {row["source"] for row in rows.values()} == {"embedded"}
    flat = rows["p2.16xlarge", "us-east-1c"]
    assert flat["now_usd_h"] == flat["on_demand_usd_h"] == 14.4
    assert flat["note"] == "equals on-demand: no market"
    assert answer["lowest"]["p2.16xlarge"]["zone"] != "us-east-1c"
    assert any("eu-west-1" in note for note in answer["notes"]), "a region that does not answer is said"
    assert took_s < 15, f"{took_s:.1f} s; on a quiet machine it takes 2 s, and the limit is 5"

    entry = PriceCache(stage.home, "local").get("g5.xlarge", "us-east-1")
    assert entry is not None
    mean = by_the_second(list(entry.zones["us-east-1a"]), int(entry.start), int(entry.end))
    assert rows["g5.xlarge", "us-east-1a"]["mean_usd_h"] == pytest.approx(mean, rel=1e-5)
    assert entry.on_demand_usd_h == Decimal("1.006")

    code, said = stage.run(*words[:4], "g5.xlarge", "--region", "us-east-1")
    assert "embedded" in said
    assert EmbeddedCloud.find(stage.home) is None
    assert json.loads((stage.home / "cache" / "prices-local.json").read_text())["format"] == 1
