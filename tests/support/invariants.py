"""What must hold after every story. The truth is what the in-memory cloud knows and the engine is not told."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal

from orchestrator.market.billing import LEAST_BILLED_S, bill, total_usd
from orchestrator.market.budget import price_cap_usd_h
from orchestrator.market.pools import Offer, Pool
from orchestrator.runs.events import (
    CheckpointPulled,
    CheckpointRefused,
    CheckpointStored,
    InterruptionNoticed,
    TerminateRequested,
    TrainerStarted,
)
from orchestrator.runs.output_events import OutputsPulled, OutputsRefused, OutputsRestored
from orchestrator.runs.output_states import OutputStates
from orchestrator.runs.state import Attempt, RunState, fold
from tests.support.memory_host import Machine
from tests.support.memory_tree import step_of
from tests.support.tale import Tale

BENIGN = {  # what a run gets over by itself
    "interrupt", "vanish", "freeze", "notice-only", "rebalance", "kill", "kill-at-fact", "kill-in-launch", "damage",
    "refuse", "somebody", "slow-end", "slow-save", "never-boots", "lost-answer", "price-rise", "skew", "mute",
    "stuck", "new-address", "dies-pending", "clock", "asleep", "helper-unwell", "interrupt-two", "vanish-all", "room",
}  # fmt: skip
MAY_FAIL = {
    "crash", "empty", "throttle", "offline", "expired", "quota", "no-image", "disk-full", "s3-refuses", "lie",
    "fails-alone", "no-setup",
}  # fmt: skip
HELPER_HEALS_S = 600.0  # credentials that fail for less in all are lived through, once there is a machine
MONEY = Decimal("1e-9")
LEFT_TO_AWS_MIN = 4  # after a notice, until the instance ends itself: in its first hour AWS may end it for free


def check(tale: Tale) -> None:
    """Raise AssertionError for a broken invariant."""
    tale.cloud.is_offline = tale.is_expired = tale.is_unwell = tale.is_disk_full = False
    state = tale.story.store.state()
    assert state.is_final, f"state {state.state}"
    check_nothing_outlives(tale, state)
    check_checkpoints(tale, state)
    if tale.setting.has_tree:
        check_outputs(tale, state)
    check_bill(tale, state)
    check_limits(tale, state)
    check_free_ends(tale)
    check_end(tale, state)
    check_folder(tale)


def check_folder(tale: Tale) -> None:
    """What a machine says creates no file outside of the run's folder, and none of a strange name in it."""
    home, run = tale.story.home, tale.story.store.folder
    outside = [path for path in home.rglob("*") if path.is_file() and run not in path.parents]
    assert all(path.name == "schema" for path in outside), f"written outside of the run: {outside}"
    known = re.compile(r"(events|spec.*)\.jsonl?|program\.json|key(\.pub)?|known_hosts|lock|asked|host_key\.pub"
                       r"|metrics\.jsonl|trainer\.log|checkpoint-\d+\.pt|\..*\.part")  # fmt: skip
    of_outputs = {"outputs", "states", "set-aside"}
    files = [path for path in run.rglob("*") if path.is_file() and path.relative_to(run).parts[0] not in of_outputs]
    odd = [path for path in files if not known.fullmatch(path.name)]
    assert not odd, f"files that no honest machine has: {odd}"


def check_nothing_outlives(tale: Tale, state: RunState) -> None:
    """No instance outlives its run; one that could not be ended is named, and ends itself in the time that is named."""
    kinds = {fault.kind for fault in tale.faults}
    if "pixel-orch cleanup" in state.reason:
        pressed = sum(fault.kind == "ctrl-c-twice" for fault in tale.faults)  # while it was being ended, and again
        assert is_out_of_reach(tale) or pressed > 1, f"EC2 could be asked to end it: {state.reason}"
        minutes = re.search(r"ends itself within (\d+) min", state.reason)
        assert minutes is not None, f"it does not say when: {state.reason}"
        training_s = 0.0 if tale.setting.carry_s is None else 100 / tale.setting.steps_per_s
        tale.clock.sleep(training_s + 60.0 * int(minutes[1]) + tale.story.spec.recovery.stop_timeout_s + 5)
        assert tale.cloud.alive() == [], f"not ended by itself within {minutes[0]}: {tale.cloud.alive()}"
        return
    assert tale.cloud.alive() == [], f"left behind: {tale.cloud.alive()}"
    assert state.open_attempts() == [], "an attempt whose end was never written down"
    if not {"offline", "expired", "helper-unwell"} & kinds:
        assert tale.cloud.security_groups == {}, "a security group is left"


def is_out_of_reach(tale: Tale) -> bool:
    """Return whether AWS could not be asked for so long that even a run with a machine may end by it."""
    unwell_s = sum(fault.for_s for fault in tale.faults if fault.kind == "helper-unwell")
    return bool({"offline", "expired"} & {fault.kind for fault in tale.faults}) or unwell_s > HELPER_HEALS_S


def check_checkpoints(tale: Tale, state: RunState) -> None:
    """No acknowledged checkpoint is lost, and no attempt starts beyond what was saved before it."""
    store = tale.story.store
    pulled = [e for e in store.events() if isinstance(e, CheckpointPulled)]
    refused = {e.name for e in store.events() if isinstance(e, CheckpointRefused)}
    damaged = {p.name for p in pulled if store.checkpoint_path(p).read_bytes() == b"damaged"}
    for event in pulled:
        if event.name not in refused | damaged:
            assert store.is_whole(event), f"{event.name} is lost"
        source = state.attempt(event.attempt)
        assert source is not None and source.last_step >= event.step, f"nobody is said to have trained {event.step}"
    if state.state == "SUCCEEDED":
        assert max(a.last_step for a in state.attempts) == 100
    saved = 0
    for attempt in state.attempts:
        if attempt.kept_from is not None:  # the machine has what it has saved
            saved = max(saved, attempt.kept_from.last_step)
        in_s3 = tale.setting.carry_s is not None and attempt.resumed_from in tale.cloud.bucket
        assert attempt.resumed_from <= saved or in_s3, "resumed from what was never saved"
        saved = max([saved] + [p.step for p in pulled if p.attempt <= attempt.number])
    if tale.setting.carry_s is not None:
        check_remote_store(tale, state)


def check_outputs(tale: Tale, state: RunState) -> None:
    """The outputs here are of one moment, and none that was acknowledged is lost; each machine begins with them."""
    states = OutputStates(tale.story.store.folder)
    newest = states.newest()
    assert states.damaged(newest) == [], "outputs that are not as they came"
    step = step_of({file.name: path.read_bytes() for file, path in states.contents(newest)}, 10)
    pulled = restored = 0
    for event in tale.story.store.events():
        if isinstance(event, OutputsPulled):
            pulled = event.number
        elif isinstance(event, OutputsRestored):
            restored = event.number
            assert restored >= pulled, "a machine got an older state than the newest acknowledged one"
        elif isinstance(event, OutputsRefused):
            pulled = 0
        elif isinstance(event, TrainerStarted) and pulled and not event.resumed_from:
            assert restored >= pulled, "a machine began without the outputs"
    assert newest.number >= pulled, "an acknowledged state is not here"
    if state.state == "SUCCEEDED":
        assert step == 100, f"the outputs here are of step {step}"


def check_remote_store(tale: Tale, state: RunState) -> None:
    """What is said to be in S3 is there; and an attempt that may read S3 begins with the newest of it, or later."""
    tale.cloud.carry()
    assert set(state.stored) <= set(tale.cloud.bucket), "said to be in S3, and is not"
    is_bad = any(fault.kind in ("s3-refuses", "refuse") for fault in tale.faults)
    starts = [event.resumed_from for event in tale.story.store.events() if isinstance(event, TrainerStarted)]
    for_nothing = max(starts, default=0) >= 100
    if not is_bad and not any(
        fault.kind == "disk-full" for fault in tale.faults
    ):  # then we end it before it has carried
        assert not for_nothing, "rented again, though S3 had the last checkpoint and how it ended"
    known = 0
    for event in tale.story.store.events():
        if isinstance(event, CheckpointStored):
            known = max(known, event.step)
        elif isinstance(event, TrainerStarted) and not is_bad:
            assert event.resumed_from >= known, f"S3 has step {known}, and it began with {event.resumed_from}"


# -- money


def truth_usd(tale: Tale, machine: Machine, told: Attempt | None) -> Decimal:
    """Return what AWS bills for a machine: from its launch until AWS accepted its end, at the market's own prices."""
    instance, plan = machine.instance, tale.story
    ended_at = machine.gone_at if machine.gone_at is not None else tale.clock.now()
    if ended_at < machine.ready_at and instance.reason_code == "Server.InternalError":
        return Decimal(0)  # it never ran
    by_aws = instance.reason_code == "Server.SpotInstanceTermination"
    billed = Attempt(
        number=0,
        instance_id=instance.instance_id,
        instance_type=instance.instance_type,
        zone=instance.zone,
        region=instance.region,
        market=instance.market,
        price_usd_h=told.price_usd_h if told else 0.526,
        started_at=instance.launched_at,
        ended_at=ended_at,
        ended_by="aws" if by_aws else "other",
        end_code=instance.reason_code,
        disk_gib=plan.spec.disk_gib,
        public_addresses=1,
        pulled_bytes=told.pulled_bytes if told else 0,
        prices_usd_h=hourly(tale, machine, ended_at),
    )
    return bill(billed, ended_at).usd


def hourly(tale: Tale, machine: Machine, ended_at: float) -> dict[int, float]:
    """Return the market's price at the start of each instance-hour."""
    began_at, changes = machine.instance.launched_at, tale.cloud.prices[machine.instance.zone]
    hours = range(1 + int(max(ended_at - began_at, float(LEAST_BILLED_S)) // 3600))
    return {hour: [float(c.usd_h) for c in changes if c.at <= began_at + 3600 * hour][-1] for hour in hours}


def check_bill(tale: Tale, state: RunState) -> None:
    """What is billed is the fold of the events, and what AWS bills is never more than what the events say."""
    store, now = tale.story.store, tale.clock.now()
    assert fold(store.events()) == state
    assert total_usd(state.attempts, now) == sum(bill(a, now).usd for a in state.attempts)
    told = wholes(state)
    for machine in tale.cloud.machines:
        attempt = told.get(machine.instance.instance_id)
        is_told = attempt is not None or "pixel-orch cleanup" in state.reason  # EC2 could not be asked for it
        assert is_told, f"{machine.instance.instance_id} is billed, and no event speaks of it"
        if attempt is not None:
            check_attempt(tale, machine, attempt, now)


def wholes(state: RunState) -> dict[str, Attempt]:
    """Return each instance from its launch to its end, over all generations of its group."""
    found = {}
    for attempt in state.attempts:
        shares = [one for one in state.attempts if one.instance_id == attempt.instance_id]
        found[attempt.instance_id] = replace(attempt.whole, pulled_bytes=sum(one.pulled_bytes for one in shares))
    return found


def check_attempt(tale: Tale, machine: Machine, attempt: Attempt, now: float) -> None:
    """Compare one attempt with its machine."""
    assert abs(attempt.started_at - machine.instance.launched_at) < 1e-3
    if tale.setting.carry_s is None:  # else what was downloaded from S3 counts too
        assert attempt.pulled_bytes <= machine.sent_bytes, f"{attempt.pulled_bytes}, not {machine.sent_bytes} bytes"
    if attempt.ended_at is None:
        return
    assert machine.gone_at is not None and attempt.ended_at >= machine.gone_at, "it is said to have ended too early"
    said = bill(attempt, now)
    by_us = machine.instance.instance_id in tale.cloud.terminations
    code = machine.instance.reason_code
    who = {
        "Server.SpotInstanceTermination": "aws",
        "Client.InstanceInitiatedShutdown": "instance",
        "Client.UserInitiatedShutdown": "pixel-orch" if by_us else "other",
        "Server.InternalError": "aws",
    }[code]
    asked_in_vain = who == "other" and attempt.terminate_requested  # written down, then killed before it was sent
    asked_in_vain |= who == "pixel-orch" and any(f.kind == "disk-full" for f in tale.faults)  # or the other way round
    assert attempt.ended_by == who or asked_in_vain, f"it was ended by {who} ({code}), not by {attempt.ended_by}"
    true_usd = truth_usd(tale, machine, attempt)
    if not said.is_estimate:
        assert said.usd >= true_usd - MONEY, f"{attempt.instance_id} costs {true_usd}, not {said.usd}"
        hours = hourly(tale, machine, attempt.ended_at)
        if attempt.market == "spot" and not said.is_free:
            for hour, price in attempt.prices_usd_h.items():
                assert price == hours[hour], f"hour {hour} costs {hours[hour]}, not {price}"


def check_free_ends(tale: Tale) -> None:
    """What AWS is about to end, and bills nothing for, is not ended by us."""
    if any(fault.kind in ("ctrl-c-twice", "skew") for fault in tale.faults):
        return
    noticed: dict[str, InterruptionNoticed] = {}
    spot = [m for m in tale.cloud.machines if m.instance.market == "spot" and m.noticed_at is not None]  # in truth
    began_at = {machine.instance.instance_id: machine.instance.launched_at for machine in spot}
    for event in tale.story.store.events():
        if isinstance(event, InterruptionNoticed):
            noticed[event.instance_id] = event
        elif isinstance(event, TerminateRequested) and event.instance_id in noticed.keys() & began_at.keys():
            ends_at = noticed[event.instance_id].ends_at
            is_free = ends_at - began_at[event.instance_id] < 3600 and event.at < ends_at
            assert not is_free, f"{event.instance_id} would have ended for free"


def check_limits(tale: Tale, state: RunState) -> None:
    """Of the budget, a minute at the price cap may be too much; no machine outlives the duration."""
    limits, spec = tale.setting.limits, tale.story.spec
    told = wholes(state)
    machines = tale.cloud.machines
    if limits.budget_usd is not None and machines:
        spent = sum((truth_usd(tale, m, told.get(m.instance.instance_id)) for m in machines), Decimal(0))
        minute = max(price_cap_usd_h(spec, offer_of(m)) for m in machines) / 60
        noticed = sum(m.noticed_at is not None for m in machines)  # left to AWS, which ends most of them for free
        most = limits.budget_usd + minute * (tale.setting.nodes[1] + LEFT_TO_AWS_MIN * noticed) + MONEY
        assert spent <= most, f"${spent:.4f} of ${limits.budget_usd} are spent"
    if limits.max_duration_s is not None:
        latest = max((m.gone_at or tale.clock.now() for m in machines), default=0.0)
        over_s = latest - state.led_since - limits.max_duration_s
        assert over_s <= 2 * spec.recovery.stop_timeout_s + 60, f"{over_s:.0f} s too long"


def offer_of(machine: Machine) -> Offer:
    """Return what a machine was rented as."""
    i = machine.instance
    return Offer(Pool(i.instance_type, i.zone, i.region), i.market, 0.0 if i.market == "spot" else 0.526, "")


def check_end(tale: Tale, state: RunState) -> None:
    """A run ends as it does for a reason, and what it gets over by itself does not end it."""
    kinds = {fault.kind for fault in tale.faults}
    limits = tale.setting.limits
    is_limited = limits.budget_usd or limits.max_duration_s or limits.idle_s
    assert "IdempotentParameterMismatch" not in {failure.code for failure in state.failures}
    if state.state == "CANCELLED":
        assert kinds & {"ctrl-c", "ctrl-c-twice"}
    if state.state == "STOPPED":
        assert is_limited, state.reason
    if state.state == "FAILED" and "lost without a new step" in state.reason:
        steps = [m.resumed_from + len(m.ends) - 1 if m.ends else 0 for m in tale.cloud.machines]
        assert len(steps) >= 3, state.reason
        is_new = max(steps[-3:]) > max(steps[:-3], default=0)
        assert not is_new or "lie" in kinds, f"one of them made a new step: {state.reason}"
        return
    # Of a launch whose answer we did not hear, and that EC2 does not list for long, the quota is all that is heard.
    unheard = kinds & {"kill-in-launch", "lost-answer"} and tale.setting.listed_after_s > 15
    if state.state == "FAILED" and "MaxSpotInstanceCountExceeded" in state.reason and unheard:
        assert tale.setting.room_for == 1
        return
    if state.state == "FAILED":
        is_stillborn = "helper-unwell" in kinds and not tale.cloud.machines  # nothing is rented, nothing lost
        assert kinds & MAY_FAIL or is_stillborn or is_out_of_reach(tale), state.reason
        if is_stillborn:
            return
    if kinds <= BENIGN and not is_limited and not is_out_of_reach(tale):
        assert state.state == "SUCCEEDED", f"{state.state}: {state.reason}"
