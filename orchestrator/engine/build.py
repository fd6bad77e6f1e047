"""Builds the engine of a run from its plan, its store and the real cloud and hosts."""

from __future__ import annotations

from pathlib import Path

from orchestrator.clock import Clock
from orchestrator.cloud.base import Cloud
from orchestrator.engine.engine import Engine
from orchestrator.engine.journal import Watcher
from orchestrator.host import sync
from orchestrator.host.connect import connector
from orchestrator.plan.job import job_for, tree_for
from orchestrator.plan.planner import make_plan, measured_speeds
from orchestrator.plan.requests import Plan
from orchestrator.plan.storage import second_home
from orchestrator.runs.home import home_id
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore


def engine_from(
    store: RunStore, plan: Plan, tree: sync.Tree, cloud: Cloud, *, clock: Clock, watchers: tuple[Watcher, ...]
) -> Engine:
    """Return the engine that leads a run by this plan; the caller holds the run's lock."""
    from orchestrator.host.shell import make_key_pair

    return Engine(
        store=store,
        plan=plan,
        job=job_for(plan.spec, tree),
        cloud=cloud,
        connect=connector(store, plan.spec),
        make_keys=make_key_pair,
        clock=clock,
        watchers=watchers,
        refresh=lambda: make_plan(plan.spec, cloud, plan.home_id, plan.born_at, images_per_s=plan.images_per_s).offers,
        remote_store=second_home(plan.spec, store.home),
    )


def engine_for(
    store: RunStore, spec: RunSpec, cloud: Cloud, home: Path, *, clock: Clock, watchers: tuple[Watcher, ...]
) -> Engine:
    """Return the engine for a run that exists, with a plan at the prices of now."""
    speeds = measured_speeds(home, spec)
    plan = make_plan(spec, cloud, home_id(home), born_at=store.state().created_at, images_per_s=speeds)
    return engine_from(store, plan, tree_for(spec), cloud, clock=clock, watchers=watchers)
