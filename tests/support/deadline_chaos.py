"""Random runs with a deadline, in virtual time: `python -m tests.support.deadline_chaos --seeds 300`.

Each seed gives work, slack, a policy, a market that comes and goes, machines that boot slowly, programs that save
slowly, times in which EC2 does not answer or in which on-demand has no capacity, credentials that expire, and kills
of the process, each followed by an attach. Afterwards these invariants must hold:

- the run succeeds, and is late only where it said so by the deadline, or where on-demand or EC2 was away;
- at most two machines live at once, and no two of one market;
- nothing is left alive, and each machine is in the events;
- the bill is the fold of the events.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from model.config import TrainConfig
from orchestrator.errors import CloudError, PixelOrchError
from orchestrator.market.billing import bill, total_usd
from orchestrator.policy.names import NAMES
from orchestrator.runs.deadline_events import DeadlineEndangered
from orchestrator.runs.spec import Deadline, ProgramSpec, RecoveryPolicy
from orchestrator.runs.state import fold
from tests.support.memory import EPOCH, ZONES, Machine, refusal_of
from tests.support.story import Story

MOST_LIVES = 12
AWAY = ("offline", "expired", "no-on-demand")  # what may make any run late, and is told by none


@dataclass(frozen=True)
class Trouble:
    """What goes wrong: when and for how long, in seconds from the start."""

    kind: str
    at_s: float
    for_s: float = 0.0


@dataclass
class Wish:
    """What a seed asks for."""

    work_s: float
    deadline_s: float
    policy: str
    boot_s: float
    save_s: float
    slow_boots: frozenset[int]  # machines that take twenty minutes
    changes: list[tuple[float, bool]]  # of the spot market
    troubles: list[Trouble] = field(default_factory=list)
    away_s: float = 0.0


class Killed(BaseException):
    """Stands for SIGKILL."""


def wish_of(seed: int) -> Wish:
    """Return what a seed asks for."""
    dice = random.Random(seed)
    work_s = dice.choice([1800.0, 5400.0, 4 * 3600.0])
    deadline_s = work_s * (1 + dice.choice([0.3, 0.6, 1.0, 2.0])) + 2000.0
    changes, at_s, is_there = [], 0.0, dice.random() < 0.6
    while at_s < deadline_s:
        changes.append((at_s, is_there))
        at_s += dice.expovariate(1 / dice.choice([300.0, 1800.0, 7200.0])) + 1.0
        is_there = not is_there
    kinds = ("kill", "kill", "kill", "throttle", "offline", "expired", "no-on-demand", "vanish")
    troubles = [
        Trouble(dice.choice(kinds), dice.uniform(0, deadline_s), dice.choice([30.0, 400.0, 800.0]))
        for _ in range(dice.choice([0, 0, 1, 2, 4]))
    ]
    return Wish(
        work_s=work_s,
        deadline_s=deadline_s,
        policy=dice.choice([name for name in NAMES if name != "spot"]),
        boot_s=dice.choice([20.0, 60.0, 150.0]),
        save_s=dice.choice([0.0, 5.0, 60.0]),
        slow_boots=frozenset(dice.sample(range(1, 8), dice.choice([0, 0, 1, 2]))),
        changes=changes,
        troubles=troubles,
        away_s=dice.choice([0.0, 5.0, 300.0]),
    )


class Series:
    """One run with what a seed asks for."""

    def __init__(self, wish: Wish, home: Path) -> None:
        self.wish = wish
        deadline = Deadline(at=EPOCH + wish.deadline_s, policy=wish.policy, work_s=wish.work_s)
        self.story = Story(
            home,
            self._configure,
            trainer=TrainConfig(steps=round(wish.work_s)),
            program=ProgramSpec(deadline=deadline),
            recovery=RecoveryPolicy(poll_s=30.0, boot_timeout_s=1500.0),
        )
        self.cloud, self.clock = self.story.cloud, self.story.clock
        self.is_expired = self.is_throttled = self.is_led = self.is_killed = False
        self.has_on_demand = True
        launch = self.cloud.launch
        self.cloud.launch = lambda *rest: self._launch(launch, *rest)  # type: ignore[method-assign]
        for name in ("instances", "terminate", "open_security_group", "price_history"):
            setattr(self.cloud, name, self._unless_away(getattr(self.cloud, name)))
        for at_s, is_there in wish.changes:
            self.clock.at(EPOCH + at_s, lambda is_there=is_there: self._turn(is_there=is_there))  # type: ignore[misc]
        for trouble in wish.troubles:
            self.clock.at(EPOCH + trouble.at_s, lambda trouble=trouble: self._strike(trouble))  # type: ignore[misc]

    def _configure(self, number: int, machine: Machine) -> None:
        wish = self.wish
        machine.steps, machine.checkpoint_every, machine.save_s = round(wish.work_s), 300, wish.save_s
        machine.ready_at = machine.instance.launched_at + (1200.0 if number in wish.slow_boots else wish.boot_s)
        there = [one for one in self.cloud.machines if one.gone_at is None and one.noticed_at is None]
        alive = sorted(one.instance.market for one in there)  # what is under notice is left to AWS, which bills nothing
        assert len(alive) <= 2, f"{len(alive)} machines at once: {alive}"
        assert len(set(alive)) == len(alive), f"two machines of one market at once: {alive}"

    def _unless_away(self, call: Callable[..., object]) -> Callable[..., object]:
        def asked(*rest: object, **named: object) -> object:
            if self.cloud.is_offline:
                self.clock.sleep(1.0)
                raise CloudError("could not connect", code="EndpointConnectionError")
            if self.is_expired:
                raise refusal_of("ExpiredToken", "us-east-1")
            return call(*rest, **named)

        return asked

    def _launch(self, launch: Callable[..., object], *rest: object) -> object:
        if self.is_throttled:
            raise refusal_of("RequestLimitExceeded", "us-east-1")
        is_spot = "InstanceMarketOptions" in rest[0].parameters  # type: ignore[attr-defined]
        if not is_spot and not self.has_on_demand:
            raise refusal_of("InsufficientInstanceCapacity", "us-east-1")
        return self._unless_away(launch)(*rest)

    def _turn(self, *, is_there: bool) -> None:
        self.cloud.zones_without_spot = set() if is_there else set(ZONES)
        if not is_there:
            for machine in self.cloud.machines:
                if machine.gone_at is None and machine.instance.market == "spot" and machine.noticed_at is None:
                    self.cloud.interrupt(machine)

    def _strike(self, trouble: Trouble) -> None:
        def for_a_while(name: str, whose: object, value: bool) -> None:
            setattr(whose, name, value)
            self.clock.at(self.clock.now() + trouble.for_s, lambda: setattr(whose, name, not value))

        match trouble.kind:
            case "kill" if self.is_led:
                self.is_killed = True
                raise Killed
            case "throttle":
                for_a_while("is_throttled", self, True)
            case "offline":
                for_a_while("is_offline", self.cloud, True)
            case "expired":
                for_a_while("is_expired", self, True)
            case "no-on-demand":
                for_a_while("has_on_demand", self, False)
            case "vanish":
                for machine in self.cloud.machines:
                    if machine.gone_at is None and machine.instance.market == "spot":
                        self.cloud.interrupt(machine, notice_s=0)

    def tell(self) -> None:
        """Lead the run to its end, by one process after the other."""
        for life in range(MOST_LIVES):
            self.is_led, self.is_killed = True, False
            engine = self.story.engine()
            finish = engine.finish
            engine.finish = lambda state, reason, finish=finish: (  # type: ignore[method-assign,misc]
                None if self.is_killed else finish(state, reason)
            )
            try:
                engine.run("launch" if life == 0 else "attach")
            except Killed:
                self.is_led = False
                self.clock.sleep(self.wish.away_s)
                continue
            except PixelOrchError as error:
                raise AssertionError(f"it ended by {type(error).__name__}: {error}") from error
            return
        raise AssertionError("the engine did not end")

    def check(self) -> None:
        """Raise AssertionError for a broken invariant."""
        wish, state = self.wish, self.story.store.state()
        assert state.state == "SUCCEEDED", f"{state.state}: {state.reason}"
        assert max(a.last_step for a in state.attempts) == round(wish.work_s)
        assert self.cloud.alive() == [], f"left behind: {self.cloud.alive()}"
        assert state.open_attempts() == []
        assert not self.cloud.security_groups
        told = {a.instance_id for a in state.attempts}
        assert {m.instance.instance_id for m in self.cloud.machines} == told, "a machine that no event names"
        events, now = self.story.store.events(), self.clock.now()
        assert fold(events) == state
        assert total_usd(state.attempts, now) == sum(bill(a, now).usd for a in state.attempts)
        late_s = now - EPOCH - wish.deadline_s
        warned = [e.at - EPOCH for e in events if isinstance(e, DeadlineEndangered)]
        is_told = any(at_s <= wish.deadline_s + 60 for at_s in warned)
        is_excused = any(trouble.kind in AWAY or trouble.kind == "throttle" for trouble in wish.troubles)
        assert late_s <= 0 or is_told or is_excused, f"late by {late_s:.0f} s, and nobody said so"
        is_well = not wish.slow_boots and not any(t.kind != "kill" for t in wish.troubles)
        assert late_s <= 0 or not is_well or wish.away_s > 5, f"late by {late_s:.0f} s for nothing"


def failure_of(wish: Wish, *, trace: bool = False) -> str:
    """Lead the run of a wish; return what broke, "" for nothing."""
    memory = Path("/dev/shm")  # noqa: S108  (each event is synced: on a disk that is all that a run costs)
    home = Path(tempfile.mkdtemp(prefix="deadline-", dir=memory if memory.is_dir() else None))
    series = None
    try:
        series = Series(wish, home)
        series.tell()
        series.check()
    except AssertionError as error:
        return f"AssertionError: {error}"
    except Exception as error:  # noqa: BLE001  (whatever it is, it is a finding)
        if trace:
            traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    finally:
        if trace and series is not None:
            show(series)
        shutil.rmtree(home)
    return ""


def show(series: Series) -> None:
    """Print the events of a run by the seconds since it began."""
    for event in series.story.store.events():
        fields = {k: v for k, v in event.to_json().items() if k not in ("kind", "at", "client_token", "sha256")}
        if event.kind not in ("progress", "checkpoint_pulled"):
            print(f"{event.at - EPOCH:10.1f}  {event.kind:22}", *(f"{k}={v}" for k, v in fields.items()))


def shrunk(wish: Wish) -> Wish:
    """Return the wish with the fewest troubles that still break it."""
    index = 0
    while index < len(wish.troubles):
        left = Wish(**{**vars(wish), "troubles": wish.troubles[:index] + wish.troubles[index + 1 :]})
        if failure_of(left):
            wish = left
        else:
            index += 1
    return wish


def main() -> int:
    """Lead many runs."""
    parser = argparse.ArgumentParser(description="Random runs with a deadline in virtual time.")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--most", type=int, default=5, help="stop after so many broken seeds")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the events of each run")
    args = parser.parse_args()
    began, broken, done = time.perf_counter(), 0, 0
    for seed in range(args.first, args.first + args.seeds):
        problem = failure_of(wish_of(seed), trace=args.verbose)
        done += 1
        if problem:
            broken += 1
            print(f"seed {seed}: {problem}\n    {shrunk(wish_of(seed))}", flush=True)
        if broken == args.most:
            break
    print(f"{done} seeds from {args.first}: {broken} broken, {time.perf_counter() - began:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
