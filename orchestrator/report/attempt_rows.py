"""The row of one attempt: of one machine, or of all machines of one generation of a group; pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TypedDict

from orchestrator.market.billing import Billed, SpotRule, bill
from orchestrator.report.gpu_use import gpu_problem
from orchestrator.report.metrics import UNMEASURED, Digest
from orchestrator.report.rows import AttemptRow, MemberRow
from orchestrator.runs.generations import Generation
from orchestrator.runs.state import Attempt

NOTHING = Decimal(0)


def attempt_row(
    one: Generation, later: Sequence[Attempt], digest: Digest, now: float, rule: SpotRule, *, is_own: bool
) -> AttemptRow:
    """Return the row of one attempt.

    Args:
        one: the attempt.
        later: the first machines of the attempts after it.
        digest: of the metrics of its first machine.
        now: unix seconds; machines that still run are billed up to it.
        rule: the rule by which a spot second is billed.
        is_own: whether it runs a program of the user's own.
    """
    lead = one.lead
    bills = [bill(member, now, rule) for member in one.members]
    members = tuple(_member(one, member, billed, now) for member, billed in zip(one.members, bills, strict=True))
    ending = one.lost or lead
    began_at = _began_at(lead, is_own=is_own)
    is_measured = not is_own or lead.last_step >= lead.first_step or digest.steps_per_s is not None
    return AttemptRow(
        number=one.number,
        instance_id=lead.instance_id,
        instance_type=lead.instance_type,
        zone=lead.zone,
        region=lead.region,
        market=lead.market,
        price_usd_h=Decimal(str(lead.price_usd_h)),
        started_at=lead.started_at,
        ended_at=lead.ended_at,
        ended_by=ending.ended_by,
        end_reason=ending.end_reason,
        is_interrupted=any(member.is_interrupted for member in one.members),
        noticed=any(member.noticed_ends_at is not None for member in one.members),
        first_step=lead.first_step,
        last_step=lead.last_step,
        steps_lost=_done_again(lead, later),
        images_per_s=digest.images_per_s,
        slow_images_per_s=digest.slow_images_per_s,
        fast_images_per_s=digest.fast_images_per_s,
        steps_per_s=digest.steps_per_s,
        device=lead.device or digest.device,
        to_first_step_s=_until(lead, began_at, now),
        data_s=max(member.data_s for member in one.members),
        **_amounts(one, bills, began_at, now),
        billed_s=float(_sum(billed.seconds for billed in bills)),
        is_free=all(billed.is_free for billed in bills),
        is_estimate=any(billed.is_estimate for billed in bills),
        user_setup_s=max(member.user_setup_s for member in one.members),
        problems=_problems(digest, one, is_own=is_own),
        unit=digest.unit if digest.lines else lead.unit,
        metrics_source=lead.metrics_source,
        is_measured=is_measured,
        ranks=digest.world,
        nodes=one.nodes,
        group_usd_h=_sum(Decimal(str(m.price_usd_h)) for m in one.joined) if one.nodes > 1 else None,
        members=members,
        group_wait_s=sum(member.group_wait_s for member in members),
        is_group=one.is_group,
        prices=_paid_prices(lead),
    )  # fmt: skip


class _Amounts(TypedDict):
    to_first_step_usd: Decimal
    data_usd: Decimal
    user_setup_usd: Decimal
    group_wait_usd: Decimal
    instance_usd: Decimal
    volume_usd: Decimal
    address_usd: Decimal
    data_out_usd: Decimal
    billed_usd: Decimal
    on_demand_usd: Decimal | None


def _amounts(one: Generation, bills: Sequence[Billed], began_at: float | None, now: float) -> _Amounts:
    """Return the sums over the machines. What they waited for the group is no part of what precedes the first step."""
    both = list(zip(one.members, bills, strict=True))
    on_demand = [billed.on_demand_usd for billed in bills]

    def before(member: Attempt, billed: Billed) -> Decimal:
        if began_at is None and not one.is_group:
            return billed.instance_usd
        waited_s = one.waited_s(member, now) if began_at is None else one.waited_to_start_s(member, now)
        return _share(billed, max(0.0, _until(member, began_at, now) - waited_s))

    return {
        "to_first_step_usd": _sum(before(member, billed) for member, billed in both),
        "data_usd": _sum(_share(billed, member.data_s) for member, billed in both),
        "user_setup_usd": _sum(_share(billed, member.user_setup_s) for member, billed in both),
        "group_wait_usd": _sum(_share(billed, one.waited_s(member, now)) for member, billed in both),
        "instance_usd": _sum(billed.instance_usd for billed in bills),
        "volume_usd": _sum(billed.volume_usd for billed in bills),
        "address_usd": _sum(billed.address_usd for billed in bills),
        "data_out_usd": _sum(billed.data_out_usd for billed in bills),
        "billed_usd": _sum(billed.usd for billed in bills),
        "on_demand_usd": None if None in on_demand else _sum(usd for usd in on_demand if usd is not None),
    }


def lasted_s(attempt: Attempt, now: float) -> float:
    """Return how long a machine was there, or is (seconds)."""
    return max(0.0, (attempt.ended_at if attempt.ended_at is not None else now) - attempt.started_at)


def _member(one: Generation, attempt: Attempt, billed: Billed, now: float) -> MemberRow:
    waited_s = one.waited_s(attempt, now)
    state, since = one.state_of(attempt)
    return MemberRow(
        instance_id=attempt.instance_id,
        rank=one.rank_of(attempt),
        instance_type=attempt.instance_type,
        zone=attempt.zone,
        market=attempt.market,
        price_usd_h=Decimal(str(attempt.price_usd_h)),
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        ended_by=attempt.ended_by,
        lost_because=attempt.lost_because,
        billed_usd=billed.usd,
        is_interrupted=attempt.is_interrupted,
        is_free=billed.is_free,
        state=state,
        state_since=since,
        group_wait_s=waited_s,
        group_wait_usd=_share(billed, waited_s),
    )


def _until(attempt: Attempt, began_at: float | None, now: float) -> float:
    """Return how long a machine was there before the training began; all its time if that did not begin."""
    if began_at is None:
        return lasted_s(attempt, now)
    return max(0.0, min(began_at - attempt.started_at, lasted_s(attempt, now)))


def _done_again(attempt: Attempt, later: Sequence[Attempt]) -> int:
    """Return how many steps of an attempt were trained again by later attempts; each step counts once."""
    again, covered = 0, attempt.resumed_from
    for first, last in sorted((other.resumed_from, min(other.last_step, attempt.last_step)) for other in later):
        again += max(0, last - max(first, covered))
        covered = max(covered, last)
    return again


def _paid_prices(attempt: Attempt) -> tuple[tuple[float, float], ...]:
    """Return the prices of the attempt's pool: as they changed, else by the hour, else that of the launch."""
    if attempt.price_changes:
        return tuple(sorted(attempt.price_changes.items()))
    hours = sorted(attempt.prices_usd_h.items()) or [(0, attempt.price_usd_h)]
    return tuple((attempt.launched_at + 3600.0 * hour, usd_h) for hour, usd_h in hours)


def _problems(digest: Digest, one: Generation, *, is_own: bool) -> tuple[str, ...]:
    found = [problem for problem in digest.problems if not (is_own and problem in UNMEASURED)]
    for member in one.members:
        problem = gpu_problem(member.gpu)
        if problem:
            found.append(f"node {member.rank}: {problem}" if one.is_group else problem)
    return tuple(found)


def _began_at(attempt: Attempt, *, is_own: bool) -> float | None:
    """Return where the set-up ends: at the first step; of a program that may tell none, at its start."""
    if not is_own or (attempt.first_step_at is not None and not attempt.metrics_source):  # so in runs of 0.1.0
        return attempt.first_step_at
    return attempt.trainer_started_at


def _share(billed: Billed, seconds: float) -> Decimal:
    """Return the part of an instance's bill that falls on some of its seconds."""
    if not billed.seconds:
        return NOTHING
    return billed.instance_usd * min(Decimal(repr(seconds)) / billed.seconds, Decimal(1))


def _sum(values: object) -> Decimal:
    return sum(values, NOTHING)  # type: ignore[call-overload, no-any-return]  # a generator of Decimals
