"""Builds a run on the in-memory cloud: what the engine's stories begin with."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.config import TrainConfig
from orchestrator.cloud.base import Image
from orchestrator.engine.engine import Engine
from orchestrator.engine.side_by_side import AtOnce, Beside, one_by_one
from orchestrator.host.base import Job
from orchestrator.market import offers
from orchestrator.market.pools import Offer
from orchestrator.plan.requests import Plan
from orchestrator.runs.events import Event, RunCreated
from orchestrator.runs.spec import RecoveryPolicy, RunSpec
from orchestrator.runs.store import RunStore
from tests.support.memory import Machine, MemoryCloud, VirtualClock


class Recorder:
    """A watcher that keeps what it is told, and may act on it."""

    def __init__(self, on_tick: Callable[[Any, int], None] | None = None) -> None:
        self.events: list[Event] = []
        self.on_tick = on_tick

    def event(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)

    def tick(self, attempt: Any, step: int, images_per_s: float | None) -> None:
        """Act, if told to."""
        if self.on_tick:
            self.on_tick(attempt, step)


class Story:
    """A run that is ready to be led.

    Args:
        home: an empty folder.
        fate: is given the number of each new machine (from 1) and the machine.
        spec: fields of the RunSpec that differ.
    """

    def __init__(self, home: Path, fate: Callable[[int, Machine], None] | None = None, **spec: Any) -> None:
        self.home = home
        self.clock = VirtualClock()
        self.cloud = MemoryCloud(self.clock, fate, spec.get("regions", ("us-east-1",)))
        self._keys = itertools.count(1)
        wanted: dict[str, Any] = {
            "run": "story",
            "cloud": "aws",
            "instances": ("g4dn.xlarge",),
            "market": "spot",
            "regions": ("us-east-1",),
            "trainer": TrainConfig(steps=100),
            "recovery": RecoveryPolicy(poll_s=2.0),
        }
        self.spec = RunSpec(**{**wanted, **spec})
        self.store = RunStore.create(home, self.spec)
        self.store.key_path.with_suffix(".pub").write_text("ssh-ed25519 AAAA story\n")
        self.store.append(RunCreated(at=self.clock.now(), run=self.spec.run, cloud="AWS"))
        self.recorder = Recorder()
        self.image = Image("ami-1")

    def engine(self, **changes: Any) -> Engine:
        """Return a new engine over the same run: a first one, or the one that takes over after a crash.

        `changes` are arguments of `Engine` that differ, and `bucket` and `config_json`, which are the job's.
        """
        images = dict.fromkeys(self.spec.regions, self.image)
        plan = Plan(
            self.spec,
            self.offers(),
            images,
            self.store.state().created_at,
            "home",
            on_demand=self.on_demand_offers(),
            cluster_types=frozenset(self.cloud.cluster_types(self.spec.instances)),
        )
        job = Job(
            root="pixel-orch/story",
            command=("true",),
            env={},
            config_json=changes.pop("config_json", b"{}"),
            tree=self.home,
            files=(),
            owner_timeout_s=self.spec.recovery.owner_timeout_s,
            stop_timeout_s=self.spec.recovery.stop_timeout_s,
            metadata_poll_s=5,
            bucket=changes.pop("bucket", None),
        )
        parts: dict[str, Any] = {
            "store": self.store,
            "plan": plan,
            "job": job,
            "cloud": self.cloud,
            "connect": self.cloud.connect,
            "make_keys": lambda comment: (f"private {next(self._keys)}", f"ssh-ed25519 AAAA {comment}"),
            "clock": self.clock,
            "watchers": (self.recorder,),
            "beside": Beside(one_by_one, AtOnce),
        }
        return Engine(**{**parts, **changes})

    def offers(self) -> tuple[Offer, ...]:
        """Return the offers at the prices of now."""
        pools = self.cloud.offerings(self.spec.instances)
        if self.spec.market == "on-demand":
            return tuple(offers.on_demand_offers(pools))
        return tuple(offers.spot_offers(pools, self.cloud.spot_prices(pools), self.spec.max_price_usd_h))

    def on_demand_offers(self) -> tuple[Offer, ...]:
        """Return the on-demand offers of a run with a deadline."""
        if self.spec.deadline is None:
            return ()
        return tuple(offers.on_demand_offers(self.cloud.offerings(self.spec.instances)))

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Plan something for so many seconds from now."""
        self.clock.at(self.clock.now() + seconds, action)
