"""Random simulations in virtual time: `python -m tests.support.chaos --seeds 10000`.

Each seed gives a setting (strategy, market, budget, price changes, speed of the machines) and a list of faults: faults
of single machines, zones without capacity, times without an answer from EC2 or with credentials that have expired
or whose helper fails for a while, kills of the
process followed by an attach, and Ctrl-C. The simulation runs on the in-memory cloud, which passes the contract suite
of the embedded cloud. Afterwards these invariants must hold:

- no instance with the tags of pixel-orch outlives its run; an instance that could not be terminated is reported, and
  terminates itself within the reported time;
- no acknowledged checkpoint is lost on the local disk or in S3, and no step is trained again that S3 has;
- the bill is the fold of the events, and AWS bills no more than this;
- the budget is exceeded by at most one minute at the price cap, until AWS accepts the termination;
- the engine always ends, in a final state with a reason;
- a run that succeeded has trained every step, and no attempt starts after the last saved step.

A seed that fails is reduced to the fewest faults that make it fail; `--first N --seeds 1 -v` repeats it and prints the
events.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from decimal import Decimal
from pathlib import Path

from orchestrator.runs.events import Event
from orchestrator.runs.spec import Limits
from tests.support import invariants
from tests.support.memory import WEST, ZONES
from tests.support.tale import Fault, Setting, Tale

KINDS = (
    "interrupt", "interrupt", "vanish", "freeze", "notice-only", "crash", "empty", "throttle", "offline", "lost-answer",
    "kill", "kill", "kill-in-launch", "kill-at-fact", "ctrl-c", "ctrl-c-twice", "damage", "refuse", "somebody",
    "slow-end", "slow-save", "rebalance", "never-boots", "quota", "expired", "no-image", "price-rise", "disk-full",
    "skew", "mute", "s3-refuses", "new-address", "lie", "lie", "dies-pending", "clock", "clock", "asleep",
    "helper-unwell", "helper-unwell",
)  # fmt: skip


def faults_of(seed: int) -> list[Fault]:
    """Return the faults of a seed."""
    dice = random.Random(seed)
    kinds = (*KINDS, "stuck") if setting_of(seed).limits.idle_s else KINDS  # without a limit it would wait for ever
    return [
        Fault(
            kind=dice.choice(kinds),
            at_s=dice.choice([dice.uniform(0, 30), dice.uniform(0, 300), dice.uniform(0, 5000)]),
            machine=dice.choice([1, 1, 1, 2, 2, 3, 4]),
            zone=dice.choice(ZONES),
            for_s=dice.choice([5.0, 60.0, 400.0, 4000.0]),
        )
        for _ in range(dice.randint(0, 7))
    ]


def setting_of(seed: int) -> Setting:
    """Return what a seed asks for."""
    dice = random.Random(-seed - 1)
    regions = dice.choice([("us-east-1",), ("us-east-1",), ("us-east-1", "us-west-2")])
    zones = [zone for zone in (*ZONES, *WEST) if zone[:-1] in regions]
    instances = dice.choice([("g4dn.xlarge",), ("g4dn.xlarge",), ("g4dn.xlarge", "p2.xlarge")])
    cap = 0.526 if len(instances) == 1 else 0.9
    return Setting(
        strategy=dice.choice(["price", "price", "any"]),
        market=dice.choice(["spot", "spot", "spot", "on-demand"]),
        regions=regions,
        instances=instances,
        limits=limits_of(dice),
        steps_per_s=dice.choice([0.02, 0.1, 0.5, 1.0, 2.0, 5.0]),
        boot_s=dice.choice([5.0, 20.0, 60.0]),
        listed_after_s=dice.choice([3.0, 3.0, 25.0]),
        setup_s=dice.choice([0.0, 30.0, 600.0]),
        pull_s=dice.choice([0.0, 0.0, 2.0, 30.0]),
        save_s=dice.choice([0.0, 1.0, 10.0]),
        away_s=dice.choice([0.0, 30.0, 600.0, 4000.0, 20000.0]),
        first_capacity_wait_s=dice.choice([0.0, 0.0, 7200.0]),
        moves=tuple(
            (dice.uniform(0, 12000), dice.choice(zones), round(dice.uniform(0.2, cap), 4))
            for _ in range(dice.choice([0, 0, 5, 20]))
        ),
        carry_s=dice.choice([None, None, 0.0, 5.0, 60.0]),
        room_for=dice.choice([None, None, None, 1]),
        has_tree=seed % 2 == 1,
    )


def limits_of(dice: random.Random) -> Limits:
    """Return no limits for the half of the seeds, and one or more for the others."""
    if dice.random() < 0.5:
        return Limits()
    return Limits(
        budget_usd=dice.choice([None, *map(Decimal, ("0.01", "0.02", "0.05", "0.15", "0.3", "1"))]),
        max_duration_s=dice.choice([None, None, None, 300.0, 2000.0]),
        idle_s=dice.choice([None, None, None, 900.0]),
    )


def failure_of(seed: int, faults: list[Fault]) -> str:
    """Tell the tale of a seed with these faults; return what broke, "" for nothing."""
    return failure_in(setting_of(seed), faults)


def failure_in(setting: Setting, faults: list[Fault], *, told: list[Event] | None = None, trace: bool = False) -> str:
    """Tell one tale; return what broke, "" for nothing. `told` is given its events."""
    memory = Path("/dev/shm")  # noqa: S108  (each event is synced: on a disk that is all that a story costs)
    home = Path(tempfile.mkdtemp(prefix="chaos-", dir=memory if memory.is_dir() else None))
    try:
        tale = Tale(setting, faults, home)
        try:
            tale.tell()
            invariants.check(tale)
        finally:
            if told is not None:
                told.extend(tale.story.store.events())
    except AssertionError as error:
        return f"AssertionError: {error}"
    except Exception as error:  # noqa: BLE001  (whatever it is, it is a finding)
        if trace:
            traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(home)
    return ""


def shrunk(seed: int, faults: list[Fault]) -> list[Fault]:
    """Return the fewest of the faults that still break it, by leaving out one after the other."""
    index = 0
    while index < len(faults):
        fewer = faults[:index] + faults[index + 1 :]
        if failure_of(seed, fewer):
            faults = fewer
        else:
            index += 1
    return faults


def show(seed: int, faults: list[Fault]) -> None:
    """Print a story: its setting, its faults, its events by the seconds since it began."""
    told: list[Event] = []
    failure_in(setting_of(seed), faults, told=told, trace=True)
    began_at = told[0].at if told else 0.0
    for event in told:
        fields = {k: v for k, v in event.to_json().items() if k not in ("kind", "at", "client_token", "sha256")}
        print(f"{event.at - began_at:10.1f}  {event.kind:22}", *(f"{k}={v}" for k, v in fields.items()))


def tell_of(seed: int, problem: str, faults: list[Fault]) -> None:
    """Print what broke, in which setting, by which faults, and how to see it again."""
    print(f"seed {seed}: {problem}\n    setting: {setting_of(seed).differences()}")
    for fault in shrunk(seed, faults):
        print(f"    {fault}")
    print(f"    again: python -m tests.support.chaos --first {seed} --seeds 1 -v", flush=True)


def main() -> int:
    """Tell many tales."""
    parser = argparse.ArgumentParser(description="Random stories in virtual time.")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--most", type=int, default=5, help="stop after so many broken seeds")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the events of each story")
    args = parser.parse_args()
    began = time.perf_counter()
    broken = done = 0
    for seed in range(args.first, args.first + args.seeds):
        faults = faults_of(seed)
        problem = failure_of(seed, faults)
        done += 1
        if problem:
            broken += 1
            tell_of(seed, problem, faults)
        if args.verbose:
            show(seed, shrunk(seed, faults) if problem else faults)
        if broken == args.most:
            break
    print(f"{done} seeds from {args.first}: {broken} broken, {time.perf_counter() - began:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
