"""`--deadline`: from what a person writes to a moment, and an estimate of the work until something is measured."""

from __future__ import annotations

import re
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.clock import SystemClock
from orchestrator.errors import SpecError
from orchestrator.formatting import money, nearest, one_line, span
from orchestrator.market.spot_advisor import FACTORS, RANGES, read_range
from orchestrator.plan.requests import Plan
from orchestrator.plan.validators import duration_s
from orchestrator.policy.names import NAMES
from orchestrator.report import change_overs, market_history
from orchestrator.report.records import records_of, workload_of
from orchestrator.runs.spec import EMBEDDED_TITLE, Deadline, RunSpec
from orchestrator.runs.store import RunStore

if TYPE_CHECKING:
    from orchestrator.policy.forecast import Prior

CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T]([01]?\d|2[0-3]):([0-5]\d)")
EXAMPLE = "18:00, 12h or '2026-12-01 18:00'"
DAY_S = 86400.0


def check_deadline(deadline: Any, policy: Any, work: Any) -> Deadline | None:
    """Return the deadline that settings ask for, None without one.

    Args:
        deadline: `18:00` (a time of day that is past means tomorrow), `12h` from now, or a date and a time; local time.
        policy: the name of one.
        work: how long the training takes, as the user says.

    Raises:
        SpecError: it is none, or lies behind.
    """
    if deadline is None:
        for value, flag in ((policy, "--policy"), (work, "--work")):
            if value is not None:
                raise SpecError(f"{flag} goes with --deadline; give for example --deadline 12h")
        return None
    if find_spec("numpy") is None:
        raise SpecError("--deadline: the package numpy is missing; pip install 'pixel-orch[deadline]'")
    name = "planned" if policy is None else str(policy)
    if name not in NAMES:
        near = nearest(name, NAMES)
        raise SpecError(
            f"--policy: there is no policy {one_line(name)[:40]!r}; {f'did you mean {near}? ' if near else ''}"
            f"there are {', '.join(NAMES)}"
        )
    work_s = None if work is None else duration_s(str(work), flag="--work", example="10h")
    return Deadline(at=moment(str(deadline), SystemClock().now()), policy=name, work_s=work_s)


def moment(text: str, now: float) -> float:
    """Return the unix seconds of a deadline.

    Raises:
        SpecError: it is no time, or a date that is past.
    """
    text = text.strip()
    clock, date = CLOCK.fullmatch(text), DATE.fullmatch(text)
    if clock:
        today = time.localtime(now)
        for days in (0, 1):
            day = (today.tm_year, today.tm_mon, today.tm_mday + days)
            at = time.mktime((*day, int(clock[1]), int(clock[2]), 0, 0, 0, -1))
            if at > now:
                return at
    if date:
        try:
            at = time.mktime((*(int(date[n]) for n in range(1, 6)), 0, 0, 0, -1))  # type: ignore[arg-type]  # nine numbers
        except (OverflowError, ValueError):
            raise SpecError(f"--deadline: {text!r} is no date; give {EXAMPLE}") from None
        if time.localtime(at)[:3] != tuple(int(date[n]) for n in range(1, 4)):
            raise SpecError(f"--deadline: {text!r} is no date; give {EXAMPLE}")
        if at <= now:
            raise SpecError(f"--deadline: {text!r} was {span(now - at)} ago; give {EXAMPLE}")
        return at
    if ":" in text or "-" in text.strip("-"):
        raise SpecError(f"--deadline: {one_line(text)[:40]!r} is no time; give {EXAMPLE}")
    return now + duration_s(text, flag="--deadline", example="12h")


def shown(at: float) -> str:
    """Return a moment for people, with its day and time zone: `Mon 2026-11-30 18:00 CET`."""
    return time.strftime("%a %Y-%m-%d %H:%M %Z", time.localtime(at)).strip()


def with_estimate(spec: RunSpec, home: Path, *, is_resumed: bool) -> RunSpec:
    """Return the spec with an estimate of its work: as given, else by the newest run of the same work.

    Raises:
        SpecError: neither is there, or the deadline is nearer than the work.
    """
    deadline = spec.deadline
    if deadline is None:
        return spec
    work_s = deadline.work_s if deadline.work_s is not None else _measured_s(spec, home)
    if work_s is None:
        raise SpecError(
            "--deadline: how long the training takes is not known: no run of it was measured here. Give --work TIME, "
            "which counts until it is measured"
        )
    left_s = deadline.at - SystemClock().now()
    if work_s >= left_s and not is_resumed:
        raise SpecError(
            f"--deadline: {span(work_s)} of work do not fit into {span(left_s)}; give a later one (after "
            f"{shown(SystemClock().now() + work_s)}), or less --work on a faster --instance"
        )
    program = spec.program.model_copy(update={"deadline": deadline.model_copy(update={"work_s": work_s})})
    return spec.model_copy(update={"program": program})


def check_budget(plan: Plan) -> None:
    """Raise SpecError if the budget does not pay for the work on the cheapest pool, even without an interruption."""
    deadline, budget = plan.spec.deadline, plan.spec.limits.budget_usd
    if deadline is None or budget is None or deadline.work_s is None:
        return
    least = min(offer.price_usd_h for offer in (*plan.offers, *plan.on_demand)) * deadline.work_s / 3600
    if float(budget) < least:
        raise SpecError(
            f"--budget: ${budget} do not pay for {span(deadline.work_s)} of work: the cheapest pool takes "
            f"${money(least)} without an interruption; give more"
        )


def with_spot_range(spec: RunSpec, path: str | None) -> RunSpec:
    """Return the spec with what AWS's Spot Advisor says of its types in its regions, where a file of it is given.

    Raises:
        SpecError: there is no deadline that it could serve, or the file does not have them.
    """
    if path is None:
        return spec
    if spec.deadline is None:
        raise SpecError("--spot-advisor goes with --deadline; give for example --deadline 12h")
    found = read_range(Path(path).expanduser(), spec.instances, spec.regions, flag="--spot-advisor")
    program = spec.program.model_copy(update={"deadline": spec.deadline.model_copy(update={"spot_range": found})})
    return spec.model_copy(update={"program": program})


def prior_of(deadline: Deadline) -> Prior:
    """Return what is known of spot markets beforehand, with what the Spot Advisor says of this one."""
    from orchestrator.policy.forecast import Prior

    prior, place = Prior.shipped(), deadline.spot_range
    if place is None:
        return prior
    factor = FACTORS[place]
    return prior.with_losses(
        factor, f"AWS's Spot Advisor ({RANGES[place]} a month), taken as {factor:g} times the losses"
    )


def outlook_lines(plan: Plan, home: Path) -> list[str]:
    """Return what a launch with a deadline may cost and why it is in time, in sentences; [] without a deadline."""
    spec, deadline = plan.spec, plan.spec.deadline
    if deadline is None:
        return []
    from orchestrator.policy.base import Job
    from orchestrator.policy.outlook import outlook

    samples = change_overs.of_earlier_runs(home, spec)
    typical_s = change_overs.typical_s(samples, is_embedded=spec.is_embedded)
    margin_s = change_overs.margin_s(samples, is_embedded=spec.is_embedded)
    left_s, work_s = deadline.at - SystemClock().now(), deadline.work_s or 0.0
    job = Job(work_s=work_s, deadline_s=left_s, changeover_s=typical_s, margin_s=max(typical_s, margin_s))
    prior, seen = prior_of(deadline), market_history.of_earlier_runs(home, spec, SystemClock().now())
    found = outlook(
        deadline.policy, job, prior, pools=len(plan.offers),
        spot_usd_h=min(offer.price_usd_h for offer in plan.offers),
        on_demand_usd_h=min(offer.price_usd_h for offer in plan.on_demand),
        seen=seen,
    )  # fmt: skip
    past = "with what earlier runs saw here" if seen else "there is no history of these pools"
    source = "measured" if samples else "assumed: none was measured here"
    late = f"; {100 * found.late_share:.0f} % of the futures are late" if found.late_share else ""
    return [
        f"Done by {shown(deadline.at)} ({span(left_s)} from now), {span(work_s)} of work, policy {deadline.policy}: "
        f"expected ${money(found.mean_usd)}, 90 % under ${money(found.high_usd)}, "
        f"at most ${money(found.most_usd)}{late}.",
        f"These are estimates, of instances alone, on futures drawn from {prior.source}; {past}.",
        f"In time as long as on-demand has capacity and a change-over takes no longer than {span(job.margin_s)} "
        f"({source}).",
        *(["Embedded cloud: the prices are recorded ones; nothing is billed."] if spec.is_embedded else []),
    ]


def _measured_s(spec: RunSpec, home: Path) -> float | None:
    """Return the time of all steps at the speed of the newest run of the same workload, on the same kind of cloud."""
    if spec.steps is None:
        return None
    wanted, found = workload_of(spec).name, None
    for record in records_of(RunStore.folders(home), SystemClock().now()):
        is_same_cloud = (record.row.cloud == EMBEDDED_TITLE) == spec.is_embedded
        if record.row.workload == wanted and is_same_cloud and record.row.seconds_per_step:
            found = spec.steps * record.row.seconds_per_step
    return found
