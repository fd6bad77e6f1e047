"""One random story: a setting, the faults in it, and as many lives of the process as it takes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from botocore.exceptions import SSOTokenLoadError

from model.config import TrainConfig
from orchestrator.clock import SteadyTime
from orchestrator.cloud.aws.errors import map_boto_errors
from orchestrator.engine.engine import Engine
from orchestrator.engine.lead import keep_time_order
from orchestrator.errors import CloudError, PixelOrchError, ThrottledError
from orchestrator.market.price_series import PricePoint
from orchestrator.runs.events import Event, State
from orchestrator.runs.spec import GroupSpec, Limits, ProgramSpec, RecoveryPolicy
from tests.support.lies import LIES
from tests.support.memory import VirtualClock, refusal_of
from tests.support.memory_bucket import PLACE, MemoryS3
from tests.support.memory_host import Machine
from tests.support.story import Story

MOST_LIVES = 15
LONGEST_S = 40 * 86400.0  # of virtual time: then the engine does not end
FOR_MACHINES = (  # decided when the machine is there
    "crash", "refuse", "slow-end", "never-boots", "dies-pending", "kill-in-launch", "slow-save", "stuck", "skew",
    "fails-alone", "no-setup",
)  # fmt: skip
API = (
    "instances", "terminate", "launch", "price_history", "open_security_group", "close_security_group",
    "credentials_end_at", "launch_group", "open_placement_group", "close_placement_groups",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong: what, when (seconds from the start), to which machine or zone, for how long."""

    kind: str
    at_s: float
    machine: int
    zone: str
    for_s: float


@dataclass(frozen=True)
class Setting:
    """What is asked for, how the machines are, and how the market moves."""

    strategy: str = "price"
    market: str = "spot"
    regions: tuple[str, ...] = ("us-east-1",)
    instances: tuple[str, ...] = ("g4dn.xlarge",)
    limits: Limits = field(default_factory=Limits)
    steps_per_s: float = 1.0
    boot_s: float = 20.0
    listed_after_s: float = 3.0
    setup_s: float = 0.0
    pull_s: float = 0.0
    save_s: float = 0.0
    carry_s: float | None = None  # upload time to S3, if the run stores checkpoints there
    room_for: int | None = None  # machines, by the quota
    has_tree: bool = False  # the trainer writes other files, which are mirrored
    away_s: float = 0.0  # nobody leads the run for so long after the process was killed
    first_capacity_wait_s: float = 0.0
    nodes: tuple[int, int] = (1, 1)  # the smallest and the largest group
    moves: tuple[tuple[float, str, float], ...] = ()  # (seconds from the start, zone, $/h)

    def differences(self) -> str:
        """Name what is not as usual."""
        usual = Setting()
        pairs = [(f.name, getattr(self, f.name)) for f in dataclasses.fields(self)]
        return ", ".join(f"{name}={value}" for name, value in pairs if value != getattr(usual, name)) or "as usual"


def unwell(now: float) -> CloudError:
    """Return what becomes of a credential helper that is unwell, in one of the ways in which helpers are."""
    ways = (
        json.JSONDecodeError("Expecting value", "Please log in to the VPN first", 0),
        FileNotFoundError(2, "No such file or directory", "helper"),
        EOFError("EOF when reading a line"),
        RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."),
        SSOTokenLoadError(error_msg="Token for my does not exist"),
    )
    try:
        with map_boto_errors("us-east-1"):
            raise ways[int(now) % len(ways)]
    except CloudError as error:
        return error


class Killed(BaseException):
    """Stands for SIGKILL."""


class MortalClock(VirtualClock):
    """A clock at which the process can die, whatever it does just then."""

    def __init__(self) -> None:
        super().__init__()
        self.began_at = self.now()
        self.is_dead = self.was_killed = False

    def sleep(self, seconds: float) -> None:
        """Move on; die if that was planned for on the way."""
        super().sleep(seconds)
        assert self.now() < self.began_at + LONGEST_S, "the engine does not end"
        if self.is_dead:
            self.die()

    def die(self) -> None:
        """Be killed here and now."""
        self.is_dead, self.was_killed = False, True
        raise Killed


class LaptopClock:
    """The engine's clock: this laptop's, which may be wrong, until AWS has answered."""

    def __init__(self, tale: Tale) -> None:
        self.tale = tale
        true = tale.clock.now
        self.time = SteadyTime(wall=lambda: true() + tale.wall_ahead_s, steady=true)

    def now(self) -> float:
        """Return unix seconds."""
        return self.time.now()

    def sleep(self, seconds: float) -> None:
        """Wait; a laptop that is closed meanwhile wakes later."""
        asleep_s, self.tale.asleep_s = self.tale.asleep_s, 0.0
        self.tale.clock.sleep(seconds + asleep_s)


class TaleS3(MemoryS3):
    """S3 as this laptop sees it, whose credentials may have expired."""

    def __init__(self, tale: Tale) -> None:
        super().__init__(tale.cloud)
        self.tale = tale

    def _check(self) -> None:
        super()._check()
        if self.tale.is_expired:
            raise refusal_of("ExpiredToken", "ListObjectsV2")
        if self.tale.is_unwell:
            raise unwell(self.tale.clock.now())
        if self.cloud.is_s3_refusing:
            raise refusal_of("AccessDenied", "ListObjectsV2")


class Tale:
    """A story with its faults."""

    def __init__(self, setting: Setting, faults: list[Fault], home: Path) -> None:
        self.setting = setting
        self.faults = faults
        self.story = Story(
            home,
            self.configure,
            strategy=setting.strategy,
            market=setting.market,
            regions=setting.regions,
            instances=setting.instances,
            limits=setting.limits,
            trainer=TrainConfig(steps=100, batch_size=24),
            program=ProgramSpec(group=GroupSpec(min_nodes=setting.nodes[0], max_nodes=setting.nodes[1])),
            recovery=RecoveryPolicy(poll_s=5.0, first_capacity_wait_s=setting.first_capacity_wait_s),
        )
        self.cloud = self.story.cloud
        self.cloud.room_for = setting.room_for
        self.story.clock = self.cloud.clock = self.clock = MortalClock()
        self.is_expired = self.is_unwell = self.is_disk_full = self.is_led = False
        self.facts_until_death = 0
        self.wall_ahead_s = self.asleep_s = 0.0
        self.laptop = LaptopClock(self)
        self.dies_in_launch = {fault.machine for fault in faults if fault.kind == "kill-in-launch"}
        self.engine: Engine | None = None
        self._move_prices()
        self._wrap_network()
        self._wrap_disk()
        for fault in faults:
            if fault.kind not in FOR_MACHINES:
                self.clock.at(self.clock.now() + fault.at_s, self._action(fault))

    def configure(self, number: int, machine: Machine) -> None:
        """Decide the fate of a new machine."""
        setting = self.setting
        machine.steps_per_s, machine.setup_s, machine.pull_s = setting.steps_per_s, setting.setup_s, setting.pull_s
        machine.carry_s = setting.carry_s or 0.0
        machine.save_s, machine.ready_at = setting.save_s, machine.instance.launched_at + setting.boot_s
        machine.listed_after_s = setting.listed_after_s
        machine.has_tree = setting.has_tree
        for fault in self.faults:
            if fault.machine == number:
                self._make_prone(machine, fault)

    def _make_prone(self, machine: Machine, fault: Fault) -> None:
        match fault.kind:
            case "crash":
                machine.crashes_at_step = 1 + int(fault.at_s) % 100
            case "fails-alone":
                machine.ends_alone = (fault.at_s % 100, 1)
            case "no-setup":
                machine.setup_problem = (1, "no room")
            case "stuck":
                machine.stuck_at_step = int(fault.at_s) % 100
            case "refuse" if self.story.store.state().checkpoints:
                machine.refuses = {f"checkpoint-{max(self.story.store.state().checkpoints)}.pt"}
            case "slow-end":
                machine.shutting_down_s = min(fault.for_s, 600.0)
            case "slow-save":
                machine.save_s = min(fault.for_s, 150.0)
            case "never-boots":
                machine.frozen_from = 0.0
            case "dies-pending":
                self.clock.at(machine.ready_at - 1, lambda: self._fail_launch(machine))
            case "skew":
                machine.skew_s = fault.for_s if int(fault.at_s) % 2 else -fault.for_s

    def _fail_launch(self, machine: Machine) -> None:
        if machine.gone_at is None:
            self.cloud.end(machine, "Server.InternalError")

    # -- what is around the engine

    def _move_prices(self) -> None:
        for at_s, zone, price in sorted(self.setting.moves):
            self.cloud.prices[zone].append(PricePoint(self.clock.now() + at_s, Decimal(str(price))))

    def _wrap_network(self) -> None:
        for name in API:
            setattr(self.cloud, name, self._unless_away(getattr(self.cloud, name)))

    def _unless_away(self, call: Callable[..., object]) -> Callable[..., object]:
        def asked(*args: object, **kwargs: object) -> object:
            if self.cloud.is_offline:
                self.clock.sleep(1.0)
                raise CloudError("could not connect", code="EndpointConnectionError")
            if self.is_expired:
                raise refusal_of("ExpiredToken", call.__name__)
            if self.is_unwell:
                raise unwell(self.clock.now())
            answer = call(*args, **kwargs)
            self.laptop.time.confirm(self.clock.now())  # by the Date of the answer
            if call.__name__ in ("launch", "launch_group") and len(self.cloud.machines) in self.dies_in_launch:
                self.dies_in_launch.discard(len(self.cloud.machines))
                self.clock.die()  # served, and nobody heard the answer
            return answer

        return asked

    def _wrap_disk(self) -> None:
        append = self.story.store.append

        def write_down(event: Event) -> None:
            self._check_disk()
            append(event)
            if self.facts_until_death:
                self.facts_until_death -= 1
                if not self.facts_until_death:
                    self.clock.die()

        def write(path: Path, content: bytes) -> None:
            self._check_disk()
            path.write_bytes(content)

        self.story.store.append = write_down  # type: ignore[method-assign]
        self.cloud.write = write

    def _check_disk(self) -> None:
        if self.is_disk_full:
            raise OSError(28, "No space left on device")

    # -- faults

    def _action(self, fault: Fault) -> Callable[[], None]:
        return lambda: self._strike(fault)

    def _for_a_while(self, fault: Fault, begin: Callable[[], object], end: Callable[[], object]) -> None:
        begin()
        self.clock.at(self.clock.now() + fault.for_s, lambda: [end(), None][1])

    def _switch(self, fault: Fault, whose: object, name: str) -> None:
        self._for_a_while(fault, lambda: setattr(whose, name, True), lambda: setattr(whose, name, False))

    def _member(self, fault: Fault, members: set[str], item: str) -> None:
        self._for_a_while(fault, lambda: members.add(item), lambda: members.discard(item))

    def _strike(self, fault: Fault) -> None:  # noqa: PLR0912  (one line for each kind of fault)
        cloud = self.cloud
        match fault.kind:
            case "empty" | "quota" | "no-image" | "throttle" | "lost-answer" | "price-rise" | "room":
                self._strike_market(fault)
            case "offline":
                self._switch(fault, cloud, "is_offline")
            case "clock":
                self.wall_ahead_s = fault.for_s * 10 * (1 if int(fault.at_s) % 2 else -1)
            case "asleep":
                self.asleep_s = fault.for_s
            case "expired":
                self._switch(fault, self, "is_expired")
            case "helper-unwell":
                self._switch(fault, self, "is_unwell")
            case "disk-full":
                self._switch(fault, self, "is_disk_full")
            case "new-address":
                cloud.move(f"198.51.100.{int(fault.at_s) % 250}/32")
            case "s3-refuses":
                cloud.carry()  # what is there by now stays there
                cloud.s3_refusals.append((self.clock.now(), self.clock.now() + fault.for_s))
            case "damage":
                self._damage()
            case "interrupt-two" | "vanish-all":
                self._strike_several(fault)
            case "kill" | "kill-at-fact" | "ctrl-c" | "ctrl-c-twice" if self.is_led:
                self._strike_process(fault)
            case _ if len(cloud.machines) >= fault.machine and cloud.machines[fault.machine - 1].gone_at is None:
                self._strike_machine(fault, cloud.machines[fault.machine - 1])

    def _strike_several(self, fault: Fault) -> None:
        kind = "interrupt" if fault.kind == "interrupt-two" else "vanish"
        alive = [machine for machine in self.cloud.machines if machine.gone_at is None]
        for machine in alive[-2:] if kind == "interrupt" else alive:
            self._strike_machine(dataclasses.replace(fault, kind=kind), machine)

    def _strike_market(self, fault: Fault) -> None:
        cloud = self.cloud
        match fault.kind:
            case "empty":
                self._member(fault, cloud.empty_zones, fault.zone)
            case "quota":
                self._member(fault, cloud.families_without_quota, "GP"[fault.machine % 2])
            case "no-image":
                self._member(fault, cloud.regions_without_image, fault.zone[:-1])
            case "room":
                room = {fault.zone: fault.machine}
                self._for_a_while(
                    fault, lambda: cloud.room_in.update(room), lambda: cloud.room_in.pop(fault.zone, None)
                )
            case "throttle":
                cloud.refusals.setdefault(fault.zone, []).extend([ThrottledError("slow down", code="Throttling")] * 2)
            case "lost-answer":
                cloud.fail_after_serving += 1
            case "price-rise":
                self._raise_price(fault)

    def _strike_process(self, fault: Fault) -> None:
        assert self.engine is not None
        if fault.kind == "kill":
            self.clock.is_dead = True
        elif fault.kind == "kill-at-fact":
            self.facts_until_death = fault.machine
        elif fault.kind == "ctrl-c-twice" and self.engine.stop.reason:
            raise KeyboardInterrupt
        else:
            if fault.kind == "ctrl-c-twice":
                self.clock.at(self.clock.now() + fault.for_s / 10, self._action(fault))
            self.engine.request_stop("SIGINT")

    def _strike_machine(self, fault: Fault, machine: Machine) -> None:
        cloud, now = self.cloud, self.clock.now()
        is_spot = machine.instance.market == "spot"
        if fault.kind == "interrupt" and is_spot and machine.noticed_at is None:
            cloud.interrupt(machine)
        elif fault.kind == "vanish" and is_spot:
            cloud.interrupt(machine, notice_s=0)
        elif fault.kind == "notice-only" and is_spot:
            machine.noticed_at = machine.noticed_at or now
        elif fault.kind == "freeze":
            machine.froze_at.append(now)
            self._for_a_while(
                fault, lambda: setattr(machine, "frozen_from", now), lambda: setattr(machine, "frozen_from", None)
            )
        elif fault.kind == "mute":
            self._for_a_while(
                fault, lambda: setattr(machine, "mute_from", now), lambda: setattr(machine, "mute_from", None)
            )
        elif fault.kind == "lie":
            names = sorted(LIES)
            lie = names[int(1e6 * fault.at_s) % len(names)]
            self._for_a_while(fault, lambda: setattr(machine, "lie", lie), lambda: setattr(machine, "lie", ""))
        elif fault.kind == "somebody":
            cloud.end(machine, "Client.UserInitiatedShutdown")
        elif fault.kind == "rebalance":
            machine.rebalance = True

    def _raise_price(self, fault: Fault) -> None:
        """Let the pools of a zone cost as much as on-demand, until the next move."""
        changes = self.cloud.prices[fault.zone]
        cap = 0.526 if self.setting.instances == ("g4dn.xlarge",) else 0.9
        changes.append(PricePoint(self.clock.now(), Decimal(str(cap))))
        changes.sort(key=lambda change: change.at)

    def _damage(self) -> None:
        found = sorted(self.story.store.checkpoints.glob("checkpoint-*.pt"))
        if found and self.setting.market == "spot":  # and the machine is gone, so that the next thing is a resume
            max(found, key=lambda path: int(path.stem.split("-")[1])).write_bytes(b"damaged")
            self.cloud.interrupt(self.cloud.machines[-1], notice_s=0)

    # -- the telling

    def _new_life(self) -> Engine:
        """Return an engine whose exit paths do not run when the process is killed."""
        has_s3 = self.setting.carry_s is not None
        self.laptop = LaptopClock(self)
        keep_time_order(self.story.store, self.laptop.time)
        engine = self.story.engine(
            clock=self.laptop,
            bucket=PLACE if has_s3 else None,
            remote_store=TaleS3(self) if has_s3 else None,
            refresh=self._unless_away(self.story.offers),
        )
        self.clock.is_dead = self.clock.was_killed = False
        self.facts_until_death = 0
        finish = engine.finish

        def unless_killed(state: State, reason: str) -> None:
            if not self.clock.was_killed:
                finish(state, reason)

        engine.finish = unless_killed  # type: ignore[method-assign]
        return engine

    def tell(self) -> None:
        """Lead the run to its end, over as many lives of the process as it takes."""
        for life in range(MOST_LIVES):
            self.engine, self.is_led = self._new_life(), True
            was_disk_full = False
            try:
                self.engine.run("launch" if life == 0 else "attach")
            except Killed:
                was_disk_full = True  # or whatever else it could not write down
            except PixelOrchError:
                pass  # it failed, or was told to stop; what must hold then is checked afterwards
            except OSError:
                assert any(fault.kind == "disk-full" for fault in self.faults)
            finally:
                self.is_led = False
            if self.story.store.state().is_final:
                return
            assert was_disk_full or self.is_disk_full, "it ended without a final state"
            VirtualClock.sleep(self.clock, max(self.setting.away_s, 1500.0 if self.is_disk_full else 0.0))
        raise AssertionError("the engine did not end")
