"""The faults that the embedded cloud can be told to answer."""

from pathlib import Path

import pytest

from infra.local.aws.errors import STATUS_AND_TEXT
from infra.local.aws.wire import ApiError
from infra.local.cloud.faults import Call, FaultList, load_faults, parse_fault, parse_faults, table

ICE = {"operation": "RunInstances", "error": "InsufficientInstanceCapacity"}
CALL = Call("RunInstances", "us-east-1a", "p2.xlarge", "spot")


def struck(faults: FaultList, call: Call = CALL) -> str | None:
    try:
        faults.strike(call)
    except ApiError as error:
        return error.code
    return None


def make(*raw: dict[str, object]) -> FaultList:
    faults = FaultList()
    for fault in parse_faults(list(raw)):
        faults.add(fault)
    return faults


def test_a_fault_strikes_as_often_as_it_says() -> None:
    faults = make({**ICE, "times": 2})
    assert [struck(faults) for _ in range(3)] == ["InsufficientInstanceCapacity"] * 2 + [None]


def test_a_fault_without_times_strikes_for_ever_until_cleared() -> None:
    faults = make(ICE)
    assert {struck(faults) for _ in range(5)} == {"InsufficientInstanceCapacity"}
    faults.clear()
    assert struck(faults) is None


@pytest.mark.parametrize(
    ("narrowed", "strikes"),
    [
        ({"zone": "us-east-1a"}, True),
        ({"zone": "us-east-1b"}, False),
        ({"type": "p2.xlarge", "market": "spot"}, True),
        ({"type": "g5.xlarge"}, False),
        ({"market": "on-demand"}, False),
        ({"operation": "DescribeInstances"}, False),
    ],
)
def test_a_fault_strikes_only_what_it_names(narrowed: dict[str, object], strikes: bool) -> None:
    assert (struck(make({**ICE, **narrowed})) is not None) == strikes


def test_the_first_fault_that_matches_strikes() -> None:
    faults = make({"operation": "RunInstances", "error": "RequestLimitExceeded", "times": 1}, ICE)
    assert [struck(faults), struck(faults)] == ["RequestLimitExceeded", "InsufficientInstanceCapacity"]


def test_a_dry_run_meets_no_lack_of_capacity() -> None:
    dry = Call("RunInstances", "us-east-1a", "p2.xlarge", "spot", dry_run=True)
    assert struck(make(ICE), dry) is None
    assert struck(make({"operation": "RunInstances", "error": "UnauthorizedOperation"}), dry) == "UnauthorizedOperation"


@pytest.mark.parametrize("code", STATUS_AND_TEXT)
def test_every_text_is_filled_in(code: str) -> None:
    with pytest.raises(ApiError) as caught:
        make({"operation": "RunInstances", "error": code}).strike(CALL)
    assert "{" not in caught.value.message
    assert caught.value.status == STATUS_AND_TEXT[code][0]


def test_the_capacity_text_is_ec2s() -> None:
    with pytest.raises(ApiError) as caught:
        make(ICE).strike(CALL)
    assert caught.value.message == (
        "We currently do not have sufficient p2.xlarge capacity in the Availability Zone you requested (us-east-1a)."
        " Our system will be working on provisioning additional capacity. You can currently get p2.xlarge capacity"
        " by not specifying an Availability Zone in your request or choosing us-east-1b, us-east-1c, us-east-1d,"
        " us-east-1e."
    )


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ("x", "a fault must be a mapping, not str"),
        ({"operation": "RunInstances"}, "lacks 'error'"),
        ({"error": "Unsupported"}, "exactly one of 'operation', 'event' and 'state'"),
        ({"operation": "RunInstances", "event": "rebalance"}, "exactly one of"),
        ({"event": "earthquake"}, "unknown event 'earthquake'"),
        ({"event": ["rebalance"]}, "unknown event"),
        ({"state": "war"}, "unknown state 'war'"),
        ({"event": "slow-boot"}, "lacks 'boot_s'"),
        ({"event": "rebalance", "notice_s": 3}, "unknown key 'notice_s'"),
        ({"event": "interruption", "after_s": -1}, "after_s -1 in a fault must be a number of at least 0"),
        ({"event": "interruption", "after_s": "soon"}, "after_s 'soon'"),
        ({"event": "clock-skew", "skew_s": True}, "skew_s True"),
        ({**ICE, "probability": 1.5}, "probability 1.5"),
        ({**ICE, "skip": -1}, "skip -1"),
        ({**ICE, "served": 1}, "'served' in fault"),
        ({**ICE, "zone": "us-east-1z"}, "unknown zone 'us-east-1z' in a fault"),
        ({**ICE, "type": "p2.tiny"}, "unknown type 'p2.tiny' in a fault"),
        ({**ICE, "region": "eu-mars-1"}, "region 'eu-mars-1'"),
        ({"state": "quota", "code": "L-0", "vcpus": 1}, "unknown quota 'L-0'"),
        ({"state": "spot-price"}, "exactly one of 'usd_h' and 'factor'"),
        ({"state": "spot-price", "usd_h": 1, "factor": 2}, "exactly one of 'usd_h' and 'factor'"),
        ({**ICE, "error": "NoSuchError"}, "unknown error 'NoSuchError'"),
        (
            {**ICE, "operation": "RunInstance"},
            r"operation 'RunInstance' in a fault; did you mean RunInstances\?",
        ),
        ({**ICE, "operation": "runinstances"}, r"did you mean RunInstances\?"),
        ({**ICE, "operation": "CopyObject"}, "unknown operation 'CopyObject'"),
        ({**ICE, "operation": 3}, "'operation' in fault"),
        ({**ICE, "zones": "a"}, "unknown key 'zones'"),
        ({**ICE, "zone": 3}, "'zone' in fault"),
        ({**ICE, "times": 0}, "times 0"),
        ({**ICE, "times": True}, "times True"),
        ({**ICE, "market": "black"}, "market 'black'"),
    ],
)
def test_a_bad_fault_is_named_in_one_line(raw: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_fault(raw)
    assert "\n" not in str(caught.value)


def test_faults_are_read_from_json_and_yaml(tmp_path: Path) -> None:
    as_json, as_yaml = tmp_path / "faults.json", tmp_path / "faults.yaml"
    as_json.write_text('[{"operation": "RunInstances", "error": "Unsupported"}]')
    as_yaml.write_text("faults:\n- operation: RunInstances\n  error: Unsupported\n")
    assert load_faults(as_json) == load_faults(as_yaml) == [{"operation": "RunInstances", "error": "Unsupported"}]


@pytest.mark.parametrize("text", ["{", "faults: 3", "- operation: RunInstances", "\tx: [", ""])
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"faults\.yaml") as caught:
        load_faults(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json: cannot be read"):
        load_faults(tmp_path / "none.json")


def test_a_fault_lets_some_pass_first() -> None:
    faults = make({**ICE, "skip": 2, "times": 1})
    assert [struck(faults) is not None for _ in range(4)] == [False, False, True, False]


def test_a_probability_with_a_seed_tells_the_same_story_each_time() -> None:
    def story(seed: int) -> list[bool]:
        faults = make({**ICE, "probability": 0.3, "seed": seed})
        return [struck(faults) is not None for _ in range(400)]

    assert story(7) == story(7) != story(8)
    assert 80 < sum(story(7)) < 160
    never, always = make({**ICE, "probability": 0}), make({**ICE, "probability": 1})
    assert not any(struck(never) for _ in range(50))
    assert all(struck(always) for _ in range(50))


def test_the_seed_of_a_file_is_for_all_of_it_and_differs_from_entry_to_entry(tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(
        "seed: 7\nfaults:\n"
        "- {operation: RunInstances, error: Unsupported, probability: 0.5}\n"
        "- {event: rebalance, probability: 0.5, seed: 3}\n"
    )
    assert [fault["seed"] for fault in load_faults(path)] == ["7/0", 3]
    path.write_text("seeds: 7\nfaults: []\n")
    with pytest.raises(ValueError, match="unknown key 'seeds'"):
        load_faults(path)


def test_an_event_strikes_the_instances_that_it_names() -> None:
    faults = make({"event": "rebalance", "zone": "us-east-1a", "times": 1}, {"event": "wrong-host-key"}, ICE)
    here, there = Call("", "us-east-1a", "p2.xlarge", "spot"), Call("", "us-east-1b", "p2.xlarge", "spot")
    assert [fault.event for fault in faults.strike_instance(there)] == ["wrong-host-key"]
    assert [fault.event for fault in faults.strike_instance(here)] == ["rebalance", "wrong-host-key"]
    assert [fault.event for fault in faults.strike_instance(here)] == ["wrong-host-key"]


def test_an_answer_that_is_lost_strikes_after_the_work() -> None:
    faults = make({"operation": "RunInstances", "error": "InternalError", "served": True, "times": 1})
    assert struck(faults) is None
    with pytest.raises(ApiError, match="InternalError"):
        faults.strike(CALL, served=True)


def test_every_code_that_a_launch_has_been_seen_to_end_with_can_be_given() -> None:
    seen_of_ec2 = {
        *("InsufficientInstanceCapacity", "UnfulfillableCapacity", "MaxSpotInstanceCountExceeded"),
        *("VcpuLimitExceeded", "InstanceLimitExceeded", "SpotMaxPriceTooLow", "Unsupported"),
        *("InsufficientFreeAddressesInSubnet", "MaxFleetCountExceeded", "ReservationCapacityExceeded"),
        *("RequestLimitExceeded", "EC2ThrottledException", "InvalidParameterValue", "InvalidAMIID.NotFound"),
        *("InvalidKeyPair.NotFound", "InvalidGroup.NotFound", "InvalidSubnetID.NotFound", "UnauthorizedOperation"),
        *("AuthFailure.ServiceLinkedRoleCreationNotPermitted", "OptInRequired", "PendingVerification"),
        "IdempotentParameterMismatch",
    }
    assert seen_of_ec2 <= set(STATUS_AND_TEXT)


def test_the_table_in_the_readme_is_the_grammars() -> None:
    assert table() in (Path(__file__).parents[5] / "infra" / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [x]\nfaults: [*a, *a]\n", "has an alias"),
        ("[" * 100_000, "too deep to read|inside of lists"),
        ("- " * 100 + "x", "inside of lists"),
        ("- {times: !!bool x}\n", "cannot read"),
        ("- {times: !!timestamp x}\n", "cannot read"),
        ("x" * 300_000, "is larger than 256 KiB"),
    ],
)
def test_a_file_of_faults_is_read_within_bounds(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        load_faults(path)
    assert "\n" not in str(caught.value)
