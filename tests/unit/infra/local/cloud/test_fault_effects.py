"""What a fault does to its target: which action, after how many seconds, and when it is undone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from infra.local.aws.price_moves import Move
from infra.local.cloud import fault_effects
from infra.local.cloud.conditions import Conditions
from infra.local.cloud.faults import Fault, parse_fault
from infra.local.machine.host import Quirks


class Recorder:
    """A target that writes down what is done to it."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.moves: list[Move] = []

    def interrupt(self, instance_id: str, *, notice: bool, notice_s: float | None, terminate: bool) -> None:
        self.done.append(("interrupt", instance_id, notice, notice_s, terminate))

    def rebalance(self, instance_id: str) -> None:
        self.done.append(("rebalance", instance_id))

    def freeze(self, instance_id: str, *, thaw: bool = False) -> None:
        self.done.append(("thaw" if thaw else "freeze", instance_id))

    def cut(self, instance_id: str, after_bytes: int | None) -> None:
        self.done.append(("cut", instance_id, after_bytes))

    def set_link(self, instance_id: str, *, down: bool) -> None:
        self.done.append(("set_link", instance_id, down))

    def fill_disk(self, instance_id: str, *, full: bool) -> None:
        self.done.append(("fill_disk", instance_id, full))

    def move_prices(self, move: Move) -> None:
        self.moves.append(move)


def effects(*faults: Fault) -> list[tuple[float, tuple[Any, ...]]]:
    """Return (seconds, action) of all that the faults plan for the instance i-1."""
    target, planned = Recorder(), list[tuple[float, Callable[[], object]]]()
    fault_effects.plan(target, "i-1", list(faults), lambda delay_s, action: planned.append((delay_s, action)))
    for _, action in planned:
        action()
    return list(zip((delay_s for delay_s, _ in planned), target.done, strict=True))


@pytest.mark.parametrize(
    ("entry", "planned"),
    [
        (
            {"event": "interruption", "after_s": 20, "notice_s": 5},
            [(20, ("interrupt", "i-1", True, 5.0, True))],
        ),
        ({"event": "interruption-without-notice"}, [(0, ("interrupt", "i-1", False, None, True))]),
        ({"event": "notice-without-interruption"}, [(0, ("interrupt", "i-1", True, None, False))]),
        ({"event": "rebalance", "after_s": 3}, [(3, ("rebalance", "i-1"))]),
        ({"event": "frozen-host"}, [(0, ("freeze", "i-1"))]),
        ({"event": "frozen-host", "after_s": 1, "for_s": 2}, [(1, ("freeze", "i-1")), (3, ("thaw", "i-1"))]),
        ({"event": "cut-link"}, [(0, ("cut", "i-1", None))]),
        ({"event": "cut-link", "after_bytes": 100}, [(0, ("cut", "i-1", 100))]),
        (
            {"event": "cut-link", "for_s": 4},
            [(0, ("set_link", "i-1", True)), (4, ("set_link", "i-1", False))],
        ),
        ({"event": "full-disk"}, [(0, ("fill_disk", "i-1", True))]),
        ({"event": "slow-boot", "boot_s": 9}, []),
        ({"event": "wrong-host-key"}, []),
    ],
)
def test_an_event_becomes_actions_at_their_times(entry: dict[str, Any], planned: list[Any]) -> None:
    assert effects(parse_fault(entry)) == planned


def test_some_events_are_there_from_the_launch_on() -> None:
    faults = [
        parse_fault({"event": "clock-skew", "skew_s": 300}),
        parse_fault({"event": "wrong-host-key"}),
        parse_fault({"event": "slow-boot", "boot_s": 9}),
        parse_fault({"event": "not-found", "for_s": 2}),
    ]
    assert fault_effects.quirks(faults) == Quirks(wrong_host_key=True, skew_s=300)
    assert fault_effects.boot_s(faults, 0.3) == 9
    assert fault_effects.boot_s([], 0.3) == 0.3
    assert fault_effects.boot_s([parse_fault({"event": "failed-boot"})], 0.3) is None
    assert fault_effects.hidden_s(faults) == 2


def test_a_state_holds_at_once_until_it_is_cleared() -> None:
    target, conditions = Recorder(), Conditions()
    for entry in (
        {"state": "capacity", "type": "p2.xlarge", "zone": "us-east-1a", "count": 1},
        {"state": "quota", "code": "L-7212CCBC", "vcpus": 0},
        {"state": "no-image", "region": "us-east-1"},
    ):
        fault_effects.apply_state(target, conditions, parse_fault(entry))
    assert conditions.capacity == {("p2.xlarge", "us-east-1a"): 1}
    assert conditions.account.value("L-7212CCBC", "us-west-2") == 0
    assert conditions.without_images == {"us-east-1"}
    assert target.moves == []
    conditions.clear()
    assert (conditions.capacity, conditions.account.described(), conditions.without_images) == ({}, [], set())


def test_a_price_moves_after_its_seconds() -> None:
    target = Recorder()
    fault_effects.apply_state(target, Conditions(), parse_fault({"state": "spot-price", "factor": 2, "after_s": 60}))
    (move,) = target.moves
    assert move.time == pytest.approx(time.time() + 60, abs=5)
    assert (move.usd_h, move.factor, move.zone) == (None, 2.0, None)
