"""The effects of faults: events apply to a launched instance, states to the account and the market at once."""

import time
from collections.abc import Callable
from typing import Protocol

from infra.local.aws.price_moves import Move
from infra.local.cloud.conditions import Conditions
from infra.local.cloud.faults import Fault
from infra.local.machine.host import Quirks

Later = Callable[[float, Callable[[], object]], None]


class FaultTarget(Protocol):
    """The actions of the cloud that faults use. An action on an instance that is not running raises."""

    def interrupt(self, instance_id: str, *, notice: bool, notice_s: float | None, terminate: bool) -> None:
        """Interrupt a spot instance; `notice_s` None is the cloud's default."""

    def rebalance(self, instance_id: str) -> None:
        """Recommend a rebalance."""

    def freeze(self, instance_id: str, *, thaw: bool = False) -> None:
        """Make the host hang, or continue."""

    def cut(self, instance_id: str, after_bytes: int | None) -> None:
        """Reset the SSH connections now, or the next one after `after_bytes` bytes."""

    def set_link(self, instance_id: str, *, down: bool) -> None:
        """Refuse SSH connections, or accept them again."""

    def fill_disk(self, instance_id: str, *, full: bool) -> None:
        """Prevent files of the instance from growing, or allow it again."""

    def move_prices(self, move: Move) -> None:
        """Move spot prices, and interrupt instances with a lower max price."""


def quirks(faults: list[Fault]) -> Quirks:
    """Return the defects that a machine has from its launch on."""
    by_name = {fault.event: fault for fault in faults}
    skew = by_name.get("clock-skew")
    return Quirks(wrong_host_key="wrong-host-key" in by_name, skew_s=skew.get("skew_s") if skew else 0.0)


def boot_s(faults: list[Fault], otherwise: float) -> float | None:
    """Return the boot time in seconds; None if the boot fails."""
    by_name = {fault.event: fault for fault in faults}
    if "failed-boot" in by_name:
        return None
    return by_name["slow-boot"].get("boot_s") if "slow-boot" in by_name else otherwise


def hidden_s(faults: list[Fault]) -> float:
    """Return for how many seconds no describe call returns the instance."""
    return max((fault.get("for_s") for fault in faults if fault.event == "not-found"), default=0.0)


def plan(target: FaultTarget, instance_id: str, faults: list[Fault], later: Later) -> None:
    """Schedule the events of an instance that is running; `later(seconds, action)` skips one that has ended."""
    for fault in faults:
        actions = _actions(target, instance_id, fault)
        for delay_s, action in actions:
            later(fault.get("after_s") + delay_s, action)


def _actions(target: FaultTarget, instance_id: str, fault: Fault) -> list[tuple[float, Callable[[], object]]]:
    """Return (seconds after `after_s`, action) pairs of one event; none for an event that applies at the launch."""
    for_s = fault.numbers.get("for_s")
    undone = for_s if for_s is not None else 0.0

    def interrupt(notice: bool, terminate: bool) -> Callable[[], object]:
        notice_s = fault.numbers.get("notice_s")
        return lambda: target.interrupt(instance_id, notice=notice, notice_s=notice_s, terminate=terminate)

    def switched(switch: Callable[[bool], object]) -> list[tuple[float, Callable[[], object]]]:
        return [(0.0, lambda: switch(True)), *([(undone, lambda: switch(False))] if for_s is not None else [])]

    if fault.event == "cut-link" and (for_s is None or "after_bytes" in fault.numbers):
        after_bytes = fault.numbers.get("after_bytes")
        return [(0.0, lambda: target.cut(instance_id, None if after_bytes is None else int(after_bytes)))]
    by_event: dict[str, Callable[[], list[tuple[float, Callable[[], object]]]]] = {
        "interruption": lambda: [(0.0, interrupt(True, True))],
        "interruption-without-notice": lambda: [(0.0, interrupt(False, True))],
        "notice-without-interruption": lambda: [(0.0, interrupt(True, False))],
        "rebalance": lambda: [(0.0, lambda: target.rebalance(instance_id))],
        "frozen-host": lambda: switched(lambda on: target.freeze(instance_id, thaw=not on)),
        "cut-link": lambda: switched(lambda on: target.set_link(instance_id, down=on)),
        "full-disk": lambda: switched(lambda on: target.fill_disk(instance_id, full=on)),
    }
    return by_event[fault.event]() if fault.event in by_event else []


def apply_state(target: FaultTarget, conditions: Conditions, fault: Fault) -> None:
    """Apply a state: a pool's capacity, a quota, a price, missing images, or a type without cluster placement."""
    if fault.state == "capacity":
        conditions.set_capacity(fault.type or "", fault.zone or "", int(fault.get("count")))
    elif fault.state == "quota":
        conditions.account.set(fault.code, fault.get("vcpus"), fault.region)
    elif fault.state == "no-cluster":
        conditions.forbid_cluster(fault.type or "")
    elif fault.state == "no-image":
        conditions.remove_images([fault.region] if fault.region else ())
    else:
        usd_h = fault.numbers.get("usd_h")
        move = Move(
            time.time() + fault.get("after_s"), usd_h, fault.get("factor", 1.0), fault.type, fault.zone, fault.region
        )
        target.move_prices(move)
