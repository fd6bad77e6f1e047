"""What befalls instances and the market by a fault's word: events when an instance is launched, states at once."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from infra.local import ec2, market
from infra.local.faults import Fault
from infra.local.host import Quirks
from infra.local.moves import Move

if TYPE_CHECKING:
    from infra.local.cloud import Cloud


def quirks(faults: list[Fault]) -> Quirks:
    """How a machine differs from the day of its launch on."""
    by_name = {fault.event: fault for fault in faults}
    skew = by_name.get("clock-skew")
    return Quirks(wrong_host_key="wrong-host-key" in by_name, skew_s=skew.get("skew_s") if skew else 0.0)


def boot_s(faults: list[Fault], otherwise: float) -> float | None:
    """How long it boots; None: it never comes up."""
    by_name = {fault.event: fault for fault in faults}
    if "failed-boot" in by_name:
        return None
    return by_name["slow-boot"].get("boot_s") if "slow-boot" in by_name else otherwise


def hidden_s(faults: list[Fault]) -> float:
    """How long no describe knows it."""
    return max((fault.get("for_s") for fault in faults if fault.event == "not-found"), default=0.0)


Later = Callable[[float, Callable[[], object]], None]


def plan(cloud: "Cloud", instance_id: str, faults: list[Fault], later: Later) -> None:
    """Plan what happens to an instance that runs now; `later(seconds, action)` does it, unless it is gone by then."""
    for fault in faults:
        actions = _actions(cloud, instance_id, fault)
        for delay_s, action in actions:
            later(fault.get("after_s") + delay_s, action)


def _actions(cloud: "Cloud", instance_id: str, fault: Fault) -> list[tuple[float, Callable[[], object]]]:
    """(seconds after `after_s`, action) of one event; none for what was done at the launch."""
    for_s = fault.numbers.get("for_s")
    undone = for_s if for_s is not None else 0.0

    def interrupt(notice: bool, terminate: bool) -> Callable[[], object]:
        notice_s = fault.numbers.get("notice_s")
        return lambda: cloud.interrupt(instance_id, notice=notice, notice_s=notice_s, terminate=terminate)

    def switched(switch: Callable[[bool], object]) -> list[tuple[float, Callable[[], object]]]:
        return [(0.0, lambda: switch(True)), *([(undone, lambda: switch(False))] if for_s is not None else [])]

    if fault.event == "cut-link" and (for_s is None or "after_bytes" in fault.numbers):
        after_bytes = fault.numbers.get("after_bytes")
        return [(0.0, lambda: cloud.cut(instance_id, None if after_bytes is None else int(after_bytes)))]
    by_event: dict[str, Callable[[], list[tuple[float, Callable[[], object]]]]] = {
        "interruption": lambda: [(0.0, interrupt(True, True))],
        "interruption-without-notice": lambda: [(0.0, interrupt(False, True))],
        "notice-without-interruption": lambda: [(0.0, interrupt(True, False))],
        "rebalance": lambda: [(0.0, lambda: cloud.rebalance(instance_id))],
        "frozen-host": lambda: switched(lambda on: cloud.freeze(instance_id, thaw=not on)),
        "cut-link": lambda: switched(lambda on: cloud.set_link(instance_id, down=on)),
        "full-disk": lambda: switched(lambda on: cloud.fill_disk(instance_id, full=on)),
    }
    return by_event[fault.event]() if fault.event in by_event else []


def apply_state(cloud: "Cloud", fault: Fault) -> None:
    """Make it so: a pool's room, a quota, a price, no image."""
    if fault.state == "capacity":
        cloud.capacity[(fault.type or "", fault.zone or "")] = int(fault.get("count"))
    elif fault.state == "quota":
        cloud.account.set(fault.code, fault.get("vcpus"), fault.region)
    elif fault.state == "no-image":
        cloud.without_images.update([fault.region] if fault.region else market.regions())
        ec2.hide_images(cloud.without_images)
    else:
        usd_h = fault.numbers.get("usd_h")
        move = Move(
            time.time() + fault.get("after_s"), usd_h, fault.get("factor", 1.0), fault.type, fault.zone, fault.region
        )
        cloud.move_prices(move)
