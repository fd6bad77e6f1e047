"""Builds the engine of a run from its plan, its store and the real cloud and hosts."""

from __future__ import annotations

from orchestrator.clock import Clock
from orchestrator.engine.engine import Engine
from orchestrator.engine.exports import Exporter
from orchestrator.engine.journal import Watcher
from orchestrator.engine.notifications import Notifier
from orchestrator.host.connect import connector
from orchestrator.plan.job import job_for
from orchestrator.plan.launch_preparation import PreparedRun
from orchestrator.plan.planner import make_plan
from orchestrator.plan.storage import remote_store_of


def engine_for(run: PreparedRun, *, clock: Clock, watchers: tuple[Watcher, ...]) -> Engine:
    """Return the engine that leads a run by its plan; the caller holds the run's lock."""
    from orchestrator.host.shell import make_key_pair

    store, plan, cloud = run.store, run.plan, run.cloud
    engine = Engine(
        store=store,
        plan=plan,
        job=job_for(plan.spec, run.tree),
        cloud=cloud,
        connect=connector(store, plan.spec),
        make_keys=make_key_pair,
        clock=clock,
        watchers=watchers,
        refresh=lambda: make_plan(plan.spec, cloud, plan.home_id, plan.born_at, images_per_s=plan.images_per_s).offers,
        remote_store=remote_store_of(plan.spec, store.home),
    )
    if plan.spec.program.notify:
        engine.journal.watchers = (*engine.journal.watchers, Notifier(engine.journal, plan.spec))
    if plan.spec.program.export:
        exporter = Exporter(engine.journal, plan.spec.program.export)
        engine.journal.watchers = (*engine.journal.watchers, exporter)
    return engine
