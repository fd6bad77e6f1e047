"""Changes of the recorded spot prices by a test or a faults file. Pure: no clock, no I/O."""

from collections.abc import Iterator
from dataclasses import dataclass

from infra.local.aws import spot_market
from infra.local.aws.spot_market import PriceChange


@dataclass(frozen=True)
class Move:
    """From `time` (unix seconds) on, the matching pools cost `usd_h`, or `factor` times their price before the move."""

    time: float
    usd_h: float | None = None
    factor: float = 1.0
    instance_type: str | None = None
    zone: str | None = None
    region: str | None = None

    def is_meant(self, instance_type: str, zone: str) -> bool:
        """Whether the move applies to that pool."""
        given = {"instance_type": instance_type, "zone": zone, "region": spot_market.region_of(zone)}
        return all(getattr(self, name) in (None, value) for name, value in given.items())


class MovedMarket:
    """The recorded market with moves applied. No price exceeds the on-demand price, EC2's default cap."""

    def __init__(self) -> None:
        self._moves: list[Move] = []

    def add(self, move: Move) -> None:
        """Add a move; it applies to the result of the earlier ones."""
        self._moves.append(move)

    def clear(self) -> None:
        """Remove all moves."""
        self._moves.clear()

    def moves(self) -> list[Move]:
        """Return the moves in the order in which they were added."""
        return list(self._moves)

    def spot_usd_h(self, instance_type: str, zone: str, time: float) -> float:
        """Return the price at `time` in dollars an hour. Raises KeyError if the zone does not offer the type."""
        usd_h = spot_market.spot_usd_h(instance_type, zone, time)
        for move in self._moves:
            if move.time <= time and move.is_meant(instance_type, zone):
                usd_h = move.usd_h if move.usd_h is not None else usd_h * move.factor
        return round(min(usd_h, spot_market.on_demand_usd_h(instance_type, spot_market.region_of(zone))), 4)

    def history(self, instance_type: str, zone: str, start: float, end: float) -> Iterator[PriceChange]:
        """Yield the changes in the window and the last one before it, newest first, as `spot_market.history` does."""
        recorded = list(spot_market.history(instance_type, zone, start, end))
        if not recorded:
            return
        moved = [move.time for move in self._moves if move.time <= end and move.is_meant(instance_type, zone)]
        times = sorted({change.time for change in recorded} | set(moved), reverse=True)
        for time in times:
            yield PriceChange(instance_type, zone, time, self.spot_usd_h(instance_type, zone, time))
            if time <= start:
                return
