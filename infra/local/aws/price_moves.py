"""What a test, or a faults file, does to the recorded spot prices. Pure: no clock, no I/O."""

from collections.abc import Iterator
from dataclasses import dataclass

from infra.local.aws import spot_market
from infra.local.aws.spot_market import PriceChange


@dataclass(frozen=True)
class Move:
    """From `time` (unix seconds) on, the matching pools cost `usd_h`, or `factor` times as much as they would."""

    time: float
    usd_h: float | None = None
    factor: float = 1.0
    instance_type: str | None = None
    zone: str | None = None
    region: str | None = None

    def is_meant(self, instance_type: str, zone: str) -> bool:
        """Whether it moves that pool's price."""
        given = {"instance_type": instance_type, "zone": zone, "region": spot_market.region_of(zone)}
        return all(getattr(self, name) in (None, value) for name, value in given.items())


class MovedMarket:
    """The recorded market with moves on top. A price never goes above on-demand, which is EC2's default cap."""

    def __init__(self) -> None:
        self._moves: list[Move] = []

    def add(self, move: Move) -> None:
        """One more; a later one moves what those before it have made."""
        self._moves.append(move)

    def clear(self) -> None:
        """The recorded market again."""
        self._moves.clear()

    def moves(self) -> list[Move]:
        """Those that were added."""
        return list(self._moves)

    def spot_usd_h(self, instance_type: str, zone: str, time: float) -> float:
        """The price in force at `time`. Raises KeyError where the zone does not offer the type."""
        usd_h = spot_market.spot_usd_h(instance_type, zone, time)
        for move in self._moves:
            if move.time <= time and move.is_meant(instance_type, zone):
                usd_h = move.usd_h if move.usd_h is not None else usd_h * move.factor
        return round(min(usd_h, spot_market.on_demand_usd_h(instance_type, spot_market.region_of(zone))), 4)

    def history(self, instance_type: str, zone: str, start: float, end: float) -> Iterator[PriceChange]:
        """As `spot_market.history`: the changes in the window and the last one before it, newest first."""
        recorded = list(spot_market.history(instance_type, zone, start, end))
        if not recorded:
            return
        moved = [move.time for move in self._moves if move.time <= end and move.is_meant(instance_type, zone)]
        times = sorted({change.time for change in recorded} | set(moved), reverse=True)
        for time in times:
            yield PriceChange(instance_type, zone, time, self.spot_usd_h(instance_type, zone, time))
            if time <= start:
                return
