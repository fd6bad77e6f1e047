"""The event that EC2 gave an instance; one definition for a launch and for an instance that is found later."""

from __future__ import annotations

from orchestrator.cloud.base import Image, Instance
from orchestrator.plan.requests import login_user, root_disk_gib
from orchestrator.runs.events import InstanceStarted
from orchestrator.runs.spec import RunSpec


def instance_started(
    instance: Instance, number: int, *, now: float, asked_at: float, price_usd_h: float, spec: RunSpec, image: Image
) -> InstanceStarted:
    """Return the event; the instance is billed from its launch on, not from when we hear of it.

    Args:
        instance: as EC2 describes it.
        number: of the attempt.
        now: unix seconds.
        asked_at: when it was requested: it is not older, whatever clock EC2's LaunchTime was read from.
        price_usd_h: of its pool at the launch.
        spec: of the run.
        image: that it was started from: it may need a larger disk than was asked for, and names the login user.
    """
    return InstanceStarted(
        at=min(now, max(instance.launched_at, asked_at)) if instance.launched_at else now,
        attempt=number,
        instance_id=instance.instance_id,
        instance_type=instance.instance_type,
        zone=instance.zone,
        region=instance.region,
        market=instance.market,
        price_usd_h=price_usd_h,
        login_user=login_user(spec, image),
        disk_gib=root_disk_gib(spec, image),
        public_addresses=0 if spec.is_private else 1,
    )
