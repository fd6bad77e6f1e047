"""The conditions of account and market that faults and tests change: capacity, vCPU quotas, spot prices, images."""

from collections.abc import Iterable

from infra.local.aws import moto_ec2, spot_market
from infra.local.aws.price_moves import MovedMarket
from infra.local.aws.quotas import Account


class Conditions:
    """The present conditions of account and market; a new one has no limits."""

    def __init__(self) -> None:
        self.capacity: dict[tuple[str, str], int] = {}
        """(type, zone) -> the largest number of instances in the pool; a pool without an entry has no limit."""
        self.account = Account()
        self.prices = MovedMarket()
        self.without_images: set[str] = set()
        """The regions without the Deep Learning AMI."""
        self.without_cluster: set[str] = set()
        """The types that cannot be in a cluster placement group."""

    def set_capacity(self, instance_type: str, zone: str, count: int | None) -> None:
        """Limit a pool to `count` instances; None removes the limit."""
        if count is None:
            self.capacity.pop((instance_type, zone), None)
        else:
            self.capacity[(instance_type, zone)] = count

    def remove_images(self, regions: Iterable[str] = ()) -> None:
        """Remove the Deep Learning AMIs from these regions, or from all if none is given."""
        self.without_images.update(list(regions) or spot_market.regions())
        moto_ec2.hide_images(self.without_images)

    def forbid_cluster(self, instance_type: str) -> None:
        """Let a type be in no cluster placement group, as burstable types are."""
        self.without_cluster.add(instance_type)
        moto_ec2.hide_cluster(self.without_cluster)

    def clear(self) -> None:
        """Remove all limits and price moves, and restore the images and the placement of types."""
        self.prices.clear()
        self.capacity.clear()
        self.account.clear()
        self.without_images.clear()
        if self.without_cluster:
            self.without_cluster.clear()
            moto_ec2.hide_cluster(self.without_cluster)
        moto_ec2.hide_images(self.without_images)
