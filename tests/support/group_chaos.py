"""Random simulations of groups in virtual time: `python -m tests.support.group_chaos --seeds 5000`.

As `tests.support.chaos`, on two to four machines at once: machines are interrupted one by one or together, vanish,
freeze, and cannot be replaced for a while; pools have room for a part of the group only; the leading process is killed
at any moment, also between the answer to a launch and its events. The same invariants hold.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.support.chaos import failure_in, limits_of
from tests.support.memory import ZONES
from tests.support.tale import Fault, Setting

KINDS = (
    "interrupt", "interrupt", "interrupt", "interrupt-two", "vanish", "vanish", "vanish-all", "freeze", "freeze",
    "notice-only", "crash", "room", "room", "empty", "throttle", "offline", "lost-answer", "kill", "kill", "kill",
    "kill-in-launch", "kill-at-fact", "kill-at-fact", "ctrl-c", "ctrl-c-twice", "somebody", "slow-end", "slow-save",
    "rebalance", "never-boots", "price-rise", "mute", "new-address", "dies-pending", "clock", "asleep",
    "helper-unwell", "expired", "disk-full", "fails-alone", "no-setup", "lie", "s3-refuses", "skew", "damage",
)  # fmt: skip


def faults_of(seed: int) -> list[Fault]:
    """Return the faults of a seed."""
    dice = random.Random(seed)
    return [
        Fault(
            kind=dice.choice(KINDS),
            at_s=dice.choice([dice.uniform(0, 60), dice.uniform(0, 300), dice.uniform(0, 5000)]),
            machine=dice.choice([1, 1, 2, 2, 3, 3, 4, 5, 6]),
            zone=dice.choice(ZONES),
            for_s=dice.choice([5.0, 60.0, 400.0, 4000.0]),
        )
        for _ in range(dice.randint(0, 7))
    ]


def setting_of(seed: int) -> Setting:
    """Return what a seed asks for."""
    dice = random.Random(-seed - 1)
    return Setting(
        nodes=dice.choice([(2, 2), (3, 3), (2, 3), (1, 3), (1, 4), (4, 4)]),
        market=dice.choice(["spot", "spot", "spot", "on-demand"]),
        limits=limits_of(dice),
        steps_per_s=dice.choice([0.02, 0.1, 0.5, 1.0, 2.0]),
        boot_s=dice.choice([5.0, 20.0, 60.0]),
        listed_after_s=dice.choice([3.0, 3.0, 25.0]),
        setup_s=dice.choice([0.0, 30.0, 300.0]),
        pull_s=dice.choice([0.0, 0.0, 2.0, 30.0]),
        save_s=dice.choice([0.0, 1.0, 10.0]),
        away_s=dice.choice([0.0, 30.0, 600.0, 4000.0]),
        first_capacity_wait_s=dice.choice([0.0, 7200.0]),
        carry_s=dice.choice([None, None, None, 5.0]),
    )


def shrunk(seed: int, faults: list[Fault]) -> list[Fault]:
    """Return the fewest of the faults that still break it, by leaving out one after the other."""
    index = 0
    while index < len(faults):
        fewer = faults[:index] + faults[index + 1 :]
        if failure_in(setting_of(seed), fewer):
            faults = fewer
        else:
            index += 1
    return faults


def main() -> int:
    """Tell many tales."""
    parser = argparse.ArgumentParser(description="Random stories of groups in virtual time.")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--most", type=int, default=5, help="stop after so many broken seeds")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the events of each story")
    args = parser.parse_args()
    began, broken, done = time.perf_counter(), 0, 0
    for seed in range(args.first, args.first + args.seeds):
        faults, told = faults_of(seed), []
        problem = failure_in(setting_of(seed), faults, told=told, trace=args.verbose)
        done += 1
        if problem:
            broken += 1
            print(f"seed {seed}: {problem}\n    setting: {setting_of(seed).differences()}")
            for fault in shrunk(seed, faults):
                print(f"    {fault}")
            print(f"    again: python -m tests.support.group_chaos --first {seed} --seeds 1 -v", flush=True)
        for event in told if args.verbose else []:
            fields = {k: v for k, v in event.to_json().items() if k not in ("kind", "at", "client_token", "sha256")}
            print(f"{event.at - told[0].at:10.1f}  {event.kind:22}", *(f"{k}={v}" for k, v in fields.items()))
        if broken == args.most:
            break
    print(f"{done} seeds from {args.first}: {broken} broken, {time.perf_counter() - began:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
