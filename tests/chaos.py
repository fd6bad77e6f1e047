"""Random stories in virtual time: `python -m tests.chaos --seeds 10000`.

Each seed gives a list of faults (what befalls which machine, which zone is empty when, when EC2 does not answer, when
the process is killed and another one attaches, when somebody presses Ctrl-C). The story is told on the in-memory cloud,
which passes the contract suite of the embedded one, and afterwards the invariants must hold:

- no instance tagged as ours outlives its run, and no door stays open;
- no acknowledged checkpoint is lost;
- what is billed is the fold of the events, and the sum over the attempts;
- the engine always ends, in a final state;
- a run that succeeded has trained every step, and no attempt starts beyond what was saved before it.

A seed that fails is shrunk to the few faults that it needs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.billing import bill, total_usd
from orchestrator.engine import Engine
from orchestrator.errors import CloudError, PixelOrchError, ThrottledError
from orchestrator.events import CheckpointPulled, CheckpointRefused, State, fold
from orchestrator.spec import RecoveryPolicy
from tests.memory import ZONES, Machine, VirtualClock
from tests.story import Story

KINDS = (
    "interrupt", "interrupt", "vanish", "freeze", "notice-only", "crash", "empty", "throttle", "offline", "lost-answer",
    "kill", "kill", "kill-in-launch", "ctrl-c", "damage", "refuse", "somebody", "slow-end", "rebalance", "never-boots",
)  # fmt: skip
MOST_LIVES = 12


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong: what, when (seconds from the start), to which machine or zone, for how long."""

    kind: str
    at_s: float
    machine: int
    zone: str
    for_s: float


class Killed(BaseException):
    """Stands for SIGKILL."""


class MortalClock(VirtualClock):
    """A clock at which the process can die, whatever it does just then."""

    def __init__(self) -> None:
        super().__init__()
        self.is_dead = self.was_killed = False

    def sleep(self, seconds: float) -> None:
        """Move on; die if that was planned for on the way."""
        super().sleep(seconds)
        if self.is_dead:
            self.is_dead, self.was_killed = False, True
            raise Killed


def faults_of(seed: int) -> list[Fault]:
    """Return the faults of a seed."""
    dice = random.Random(seed)
    return [
        Fault(
            kind=dice.choice(KINDS),
            at_s=dice.choice([dice.uniform(0, 30), dice.uniform(0, 300), dice.uniform(0, 5000)]),
            machine=dice.randint(1, 4),
            zone=dice.choice(ZONES),
            for_s=dice.choice([5.0, 60.0, 400.0, 4000.0]),
        )
        for _ in range(dice.randint(0, 7))
    ]


class Tale:
    """A story with its faults."""

    def __init__(self, seed: int, faults: list[Fault], home: Path) -> None:
        dice = random.Random(-seed - 1)
        self.faults = faults
        self.story = Story(home, self.configure, recovery=RecoveryPolicy(poll_s=5.0))
        self.story.clock = self.story.cloud.clock = self.clock = MortalClock()
        self.speed = dice.choice([0.02, 0.1, 0.5, 1.0, 2.0, 5.0])
        self.is_offline = False
        self.dies_in_launch = {fault.machine for fault in faults if fault.kind == "kill-in-launch"}
        self.engine = self.story.engine()
        self._wrap_network()
        for fault in faults:
            if fault.kind not in ("crash", "refuse", "slow-end", "never-boots", "kill-in-launch"):
                self.clock.at(self.clock.now() + fault.at_s, self._action(fault))

    def configure(self, number: int, machine: Machine) -> None:
        """Decide the fate of a new machine."""
        machine.steps_per_s = self.speed
        for fault in self.faults:
            if fault.machine != number:
                continue
            if fault.kind == "crash":
                machine.crashes_at_step = 1 + int(fault.at_s) % 100
            elif fault.kind == "refuse" and self.story.store.state().checkpoints:
                machine.refuses = {f"checkpoint-{max(self.story.store.state().checkpoints)}.pt"}
            elif fault.kind == "slow-end":
                machine.shutting_down_s = min(fault.for_s, 600.0)
            elif fault.kind == "never-boots":
                machine.frozen_from = 0.0

    def _wrap_network(self) -> None:
        cloud = self.story.cloud
        for name in ("instances", "terminate", "launch", "price_history", "close_door"):
            setattr(cloud, name, self._unless_offline(getattr(cloud, name)))

    def _unless_offline(self, call: Callable[..., object]) -> Callable[..., object]:
        def asked(*args: object, **kwargs: object) -> object:
            if self.is_offline:
                self.clock.sleep(1.0)
                raise CloudError("could not connect", code="EndpointConnectionError")
            answer = call(*args, **kwargs)
            if call.__name__ == "launch" and len(self.story.cloud.machines) in self.dies_in_launch:
                self.dies_in_launch.discard(len(self.story.cloud.machines))
                self.clock.was_killed = True
                raise Killed  # served, and nobody heard the answer
            return answer

        return asked

    def _machine(self, fault: Fault) -> Machine | None:
        machines = self.story.cloud.machines
        return machines[fault.machine - 1] if len(machines) >= fault.machine else None

    def _action(self, fault: Fault) -> Callable[[], None]:
        return lambda: self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        cloud, machine, now = self.story.cloud, self._machine(fault), self.clock.now()
        match fault.kind:
            case "empty":
                cloud.empty_zones = cloud.empty_zones | {fault.zone}
                self.clock.at(now + fault.for_s, lambda: self._refill(fault.zone))
            case "throttle":
                cloud.refusals.setdefault(fault.zone, []).extend([ThrottledError("slow down", code="Throttling")] * 2)
            case "lost-answer":
                cloud.fail_after_serving += 1
            case "offline":
                self._set_offline(True)
                self.clock.at(now + min(fault.for_s, 600.0), lambda: self._set_offline(False))
            case "kill":
                self.clock.is_dead = True
            case "ctrl-c":
                self.engine.stop_reason = self.engine.stop_reason or "SIGINT"
            case "damage":
                self._damage()
            case _ if machine is not None and machine.gone_at is None:
                self._strike_machine(fault, machine)

    def _strike_machine(self, fault: Fault, machine: Machine) -> None:
        cloud, now = self.story.cloud, self.clock.now()
        if fault.kind == "interrupt" and machine.noticed_at is None:
            cloud.interrupt(machine)
        elif fault.kind == "vanish":
            cloud.interrupt(machine, notice_s=0)
        elif fault.kind == "notice-only":
            machine.noticed_at = machine.noticed_at or now
        elif fault.kind == "freeze":
            machine.frozen_from = now
            self.clock.at(now + fault.for_s, lambda: setattr(machine, "frozen_from", None))
        elif fault.kind == "somebody":
            cloud.end(machine, "Client.UserInitiatedShutdown")
        elif fault.kind == "rebalance":
            machine.rebalance = True

    def _refill(self, zone: str) -> None:
        self.story.cloud.empty_zones = self.story.cloud.empty_zones - {zone}

    def _set_offline(self, value: bool) -> None:
        self.is_offline = value
        for machine in self.story.cloud.machines:  # our network carries SSH as well
            machine.frozen_from = self.clock.now() if value else None

    def _damage(self) -> None:
        found = sorted(self.story.store.checkpoints.glob("checkpoint-*.pt"))
        if found:  # and the machine is gone, so that the next thing is a resume
            max(found, key=lambda path: int(path.stem.split("-")[1])).write_bytes(b"damaged")
            self.story.cloud.interrupt(self.story.cloud.machines[-1], notice_s=0)

    def _new_life(self) -> Engine:
        """Return an engine whose exit paths do not run when the process is killed."""
        engine = self.story.engine()
        self.clock.was_killed = False
        finish = engine._finish

        def unless_killed(state: State, reason: str) -> None:
            if not self.clock.was_killed:
                finish(state, reason)

        engine._finish = unless_killed  # type: ignore[method-assign]
        return engine

    def tell(self) -> None:
        """Lead the run to its end, over as many lives of the process as it takes."""
        for life in range(MOST_LIVES):
            self.engine = self._new_life()
            try:
                self.engine.run("launch" if life == 0 else "attach")
            except Killed:
                continue
            except PixelOrchError:
                pass  # it failed, or was told to stop; what must hold then is checked afterwards
            if self.story.store.state().is_final:
                return
        raise AssertionError("the engine did not end")

    def check(self) -> None:
        """Raise AssertionError for a broken invariant."""
        story, store = self.story, self.story.store
        self._set_offline(False)
        state = store.state()
        assert state.is_final, f"state {state.state}"
        known_left = "pixel-orch sweep" in state.reason
        assert known_left or story.cloud.alive() == [], f"left behind: {story.cloud.alive()}"
        assert known_left or state.open_attempts() == []
        pulled = [e for e in store.events() if isinstance(e, CheckpointPulled)]
        refused = {e.name for e in store.events() if isinstance(e, CheckpointRefused)}
        damaged = {p.name for p in pulled if store.checkpoint_path(p).read_bytes() == b"damaged"}
        for event in pulled:
            if event.name not in refused | damaged:
                assert store.is_whole(event), f"{event.name} is lost"
        now = self.clock.now()
        assert fold(store.events()) == state
        assert total_usd(state.attempts, now) == sum(bill(a, now).usd for a in state.attempts)
        if state.state == "SUCCEEDED":
            assert max(a.last_step for a in state.attempts) == 100
        saved = 0
        for attempt in state.attempts:
            assert attempt.resumed_from <= max(saved, 0), "resumed from what was never saved"
            saved = max([saved] + [p.step for p in pulled if p.attempt <= attempt.number])


def failure_of(seed: int, faults: list[Fault]) -> str:
    """Tell one tale; return what broke, "" for nothing."""
    memory = Path("/dev/shm")  # noqa: S108  (each event is synced: on a disk that is all that a story costs)
    home = Path(tempfile.mkdtemp(prefix="chaos-", dir=memory if memory.is_dir() else None))
    try:
        tale = Tale(seed, faults, home)
        tale.tell()
        tale.check()
    except AssertionError as error:
        return f"AssertionError: {error}"
    except Exception as error:  # noqa: BLE001  (whatever it is, it is a finding)
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


def main() -> int:
    """Tell many tales."""
    parser = argparse.ArgumentParser(description="Random stories in virtual time.")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    broken = 0
    for seed in range(args.first, args.first + args.seeds):
        faults = faults_of(seed)
        problem = failure_of(seed, faults)
        if problem:
            broken += 1
            print(f"seed {seed}: {problem}")
            for fault in shrunk(seed, faults):
                print(f"    {fault}")
            if broken == 5:
                break
    print(f"{args.seeds} seeds from {args.first}: {broken} broken, {time.perf_counter() - began:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
