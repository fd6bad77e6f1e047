"""The state and settings of the embedded cloud as JSON, for tests and for debugging."""

import dataclasses
from typing import Any

from infra.local.aws import moto_ec2, spot_market
from infra.local.cloud.cloud import Cloud


def dump(cloud: Cloud) -> dict[str, Any]:
    """Return instances, security groups, faults with their counts, capacity, quotas, price moves and request counts."""
    return {
        "cloud_id": cloud.cloud_id,
        "notice_s": cloud.settings.notice_s,
        "instances": cloud.instances.describe(),
        "security_groups": [group for region in spot_market.regions() for group in moto_ec2.security_groups(region)],
        "faults": [fault.described() for fault in cloud.faults.all()],
        "capacity": [{"type": name, "zone": zone, "count": n} for (name, zone), n in cloud.conditions.capacity.items()],
        "quotas": cloud.conditions.account.described(),
        "prices": [dataclasses.asdict(move) for move in cloud.conditions.prices.moves()],
        "without_images": sorted(cloud.conditions.without_images),
        "requests": dict(sorted(cloud.requests.items())),
    }
