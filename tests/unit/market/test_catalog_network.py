"""Networks and GPU links of the catalog: as EC2's own description has them, and marked where nothing is known."""

from __future__ import annotations

import gzip
import json
from importlib import resources
from typing import Any

import pytest

from orchestrator.market import catalog

pytest.importorskip("moto", reason="EC2's descriptions of its types come with moto")


def described() -> dict[str, Any]:
    """Return EC2's description of each type, as moto ships it."""
    packed = resources.files("moto.ec2").joinpath("resources/instance_types.json.gz").read_bytes()
    found: dict[str, Any] = json.loads(gzip.decompress(packed))
    return found


def test_the_network_is_that_of_ec2s_description() -> None:
    told = described()
    compared = 0
    for known in catalog.all_types():
        if known.name not in told:
            continue
        compared += 1
        network = told[known.name]["NetworkInfo"]
        card = network["NetworkCards"][0]
        assert known.network.gbit_s == card["BaselineBandwidthInGbps"], known.name
        assert known.network.peak_gbit_s == card["PeakBandwidthInGbps"], known.name
        assert known.network.cards == network["MaximumNetworkCards"], known.name
        assert known.network.efa_interfaces == network.get("EfaInfo", {}).get("MaximumEfaInterfaces", 0), known.name
        strategies = told[known.name]["PlacementGroupInfo"]["SupportedStrategies"]
        assert known.network.cluster_placement == ("cluster" in strategies), known.name
        assert known.gpus == told[known.name]["GpuInfo"]["Gpus"][0]["Count"], known.name
    assert compared > 40


def test_the_baseline_is_not_the_peak_of_a_small_machine() -> None:
    one, four = catalog.find("g5.xlarge").network, catalog.find("g5.12xlarge").network
    assert (one.gbit_s, one.peak_gbit_s, one.efa_interfaces) == (2.5, 10, 0)
    assert (four.gbit_s, four.peak_gbit_s, four.efa_interfaces) == (40, 40, 1)
    assert catalog.find("p4d.24xlarge").network.total_gbit_s == 400


def test_what_is_not_known_is_none_and_not_a_guess() -> None:
    unknown = {known.name for known in catalog.all_types() if known.network.gbit_s is None}
    assert unknown == {"g2.2xlarge", "p2.xlarge", "p3.2xlarge"}, "EC2 described them with words only"


def test_every_machine_of_several_gpus_has_a_link_with_a_source() -> None:
    for known in catalog.all_types():
        assert (known.gpu_link is not None) == (known.gpus > 1), known.name
        assert known.sources["network"] in catalog.sources()
        if known.gpu_link is not None:
            assert known.gpu_link.source in catalog.sources()
            assert known.gpu_link.gb_s > 0
