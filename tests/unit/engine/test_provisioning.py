"""Which pool is asked next after a refusal, and when a launch gives up."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import (
    AccessError,
    CapacityError,
    CloudError,
    QuotaError,
    ThrottledError,
)
from orchestrator.runs.spec import RecoveryPolicy
from tests.support.memory import Machine, refusal_of
from tests.support.run_checks import check_invariants
from tests.support.story import Story


def test_empty_pools_are_events_not_attempts(home: Path) -> None:
    story = Story(home)
    story.cloud.empty_zones = {"us-east-1b", "us-east-1c"}
    state = story.engine().run()
    assert [a.zone for a in state.attempts] == ["us-east-1a"]
    assert [f.zone for f in state.failures] == ["us-east-1b", "us-east-1c"]
    check_invariants(story)


def test_no_capacity_anywhere_ends_a_first_attempt_with_what_to_do(home: Path) -> None:
    story = Story(home)
    story.cloud.empty_zones = {"us-east-1a", "us-east-1b", "us-east-1c"}
    with pytest.raises(CapacityError, match=r"3 pools tried.*Add types with --instance"):
        story.engine().run()
    assert story.store.state().attempts == []
    check_invariants(story)


def test_while_recovering_empty_pools_are_tried_again_later(home: Path) -> None:
    story = Story(home)

    def storm() -> None:
        story.cloud.interrupt(story.cloud.machines[0], notice_s=0)
        story.cloud.empty_zones = {"us-east-1a", "us-east-1b", "us-east-1c"}

    story.later(60, storm)
    story.later(400, story.cloud.empty_zones.clear)
    story.later(401, lambda: setattr(story.cloud, "empty_zones", set()))
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    assert len(state.attempts) == 2
    check_invariants(story)


@pytest.mark.parametrize(
    "error", [QuotaError("limit of 0", code="VcpuLimitExceeded"), AccessError("no", code="UnauthorizedOperation")]
)
def test_quota_and_access_stop_at_once_since_another_zone_does_not_help(home: Path, error: CloudError) -> None:
    story = Story(home)
    story.cloud.refusals = {"us-east-1b": [error]}
    with pytest.raises(type(error)):
        story.engine().run()
    assert len(story.cloud.calls) == 1
    check_invariants(story)


def test_throttling_repeats_the_same_request_with_the_same_token(home: Path) -> None:
    story = Story(home)
    story.cloud.refusals = {"us-east-1b": [ThrottledError("slow down", code="RequestLimitExceeded")] * 2}
    assert story.engine().run().state == "SUCCEEDED"
    assert len({call.parameters["ClientToken"] for call in story.cloud.calls}) == 1
    check_invariants(story)


def test_a_lost_answer_does_not_make_a_second_instance(home: Path) -> None:
    story = Story(home)
    story.cloud.fail_after_serving = 1
    assert story.engine().run().state == "SUCCEEDED"
    assert len(story.cloud.machines) == 1
    check_invariants(story)


def test_prices_are_asked_again_before_a_recovery(home: Path) -> None:
    story = Story(home)
    engine = story.engine(refresh=lambda: tuple(o for o in story.offers() if o.pool.zone == "us-east-1a"))
    story.later(60, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    assert [a.zone for a in engine.run().attempts] == ["us-east-1b", "us-east-1a"]
    check_invariants(story)


def test_a_quota_of_one_family_leaves_the_other_families_to_try(home: Path) -> None:
    story = Story(home, instances=("g4dn.xlarge", "p3.2xlarge"))
    quota = [QuotaError("limit of 0", code="MaxSpotInstanceCountExceeded") for _ in range(3)]
    story.cloud.refusals = {"us-east-1b": quota[:1]}
    engine = story.engine()
    asked = [o.pool for o in engine.plan.offers]
    state = engine.run()
    assert state.state == "SUCCEEDED"
    first, second = story.cloud.calls[:2]
    assert first.parameters["InstanceType"] != second.parameters["InstanceType"], "the family was not asked again"
    assert len(asked) == 6
    check_invariants(story)


def test_an_empty_pool_and_a_quota_wait_for_the_pool(home: Path) -> None:
    """The quota alone would end it; the empty pool may fill."""
    story = Story(
        home,
        instances=("g4dn.xlarge", "p3.2xlarge"),
        recovery=RecoveryPolicy(poll_s=2.0, first_capacity_wait_s=3600),
    )
    no = CapacityError("empty", code="InsufficientInstanceCapacity")
    story.cloud.refusals = {
        "us-east-1b": [QuotaError("0", code="VcpuLimitExceeded"), no],
        "us-east-1c": [no],
        "us-east-1a": [no],
    }
    assert story.engine().run().state == "SUCCEEDED"
    check_invariants(story)


def test_strategy_any_sends_one_fleet_over_all_pools(home: Path) -> None:
    story = Story(home, strategy="any")
    story.cloud.empty_zones = {"us-east-1b"}
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    (fleet,) = story.cloud.calls
    assert fleet.operation == "CreateFleet"
    overrides = fleet.parameters["LaunchTemplateConfigs"][0]["Overrides"]
    assert [o["AvailabilityZone"] for o in overrides] == ["us-east-1b", "us-east-1c", "us-east-1a"]
    assert state.attempts[0].zone == "us-east-1c"
    assert state.attempts[0].price_usd_h == 0.35, "the price of the pool that served"
    check_invariants(story)


def test_strategy_any_survives_an_interruption_and_an_empty_region(home: Path) -> None:
    def fate(number: int, machine: Machine) -> None:
        if number == 1:
            story.later(60, lambda: story.cloud.interrupt(machine))
            story.later(59, lambda: story.cloud.empty_zones.update(("us-east-1a", "us-east-1b", "us-east-1c")))
            story.later(400, story.cloud.empty_zones.clear)

    story = Story(home, fate, strategy="any")
    state = story.engine().run()
    assert state.state == "SUCCEEDED"
    assert len(state.attempts) == 2
    assert len({call.parameters["ClientToken"] for call in story.cloud.calls}) == len(story.cloud.calls) > 3
    check_invariants(story)


@pytest.mark.parametrize("notice_s", [0.0, 120.0])
def test_with_room_for_one_machine_the_next_waits_until_the_last_no_longer_counts(home: Path, notice_s: float) -> None:
    def slow_end(number: int, machine: Machine) -> None:
        machine.shutting_down_s = 100.0

    story = Story(home, slow_end)
    story.cloud.room_for = 1
    story.later(60, lambda: story.cloud.interrupt(story.cloud.machines[0], notice_s=notice_s))
    state = story.engine().run()
    assert (state.state, len(state.attempts)) == ("SUCCEEDED", 2)
    assert {failure.code for failure in state.failures} == {"MaxSpotInstanceCountExceeded"}
    check_invariants(story)


def test_a_quota_that_stays_too_small_ends_the_run(home: Path) -> None:
    story = Story(home)
    story.later(60, lambda: story.cloud.interrupt(story.cloud.machines[0]))
    story.later(59, lambda: setattr(story.cloud, "room_for", 0))
    with pytest.raises(QuotaError):
        story.engine().run()
    assert story.clock.now() - story.store.state().attempts[0].ended_at < 700  # type: ignore[operator]
    check_invariants(story)


@pytest.mark.parametrize("code", ["InvalidGroup.NotFound", "InvalidLaunchTemplateName.NotFoundException"])
def test_what_ec2_does_not_know_of_yet_is_asked_again(home: Path, code: str) -> None:
    story = Story(home)
    story.cloud.refusals["us-east-1b"] = [refusal_of(code, "us-east-1b")]
    state = story.engine().run()
    assert (state.state, state.attempts[0].zone) == ("SUCCEEDED", "us-east-1b")
    check_invariants(story)


@pytest.mark.parametrize("code", ["ConnectionClosedError", "HTTPClientError", "ResponseStreamingError"])
def test_a_connection_to_ec2_that_breaks_is_tried_again_with_the_same_token(home: Path, code: str) -> None:
    story = Story(home)
    story.cloud.refusals["us-east-1b"] = [CloudError("it broke", code=code)]
    assert story.engine().run().state == "SUCCEEDED"
    first, second = story.cloud.calls[:2]
    assert first.parameters["ClientToken"] == second.parameters["ClientToken"]
