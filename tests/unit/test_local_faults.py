"""The faults that the embedded cloud can be told to answer."""

from pathlib import Path

import pytest

from infra.local.faults import STATUS_AND_TEXT, Call, FaultList, load_faults, parse_fault, parse_faults
from infra.local.wire import ApiError

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
        ("x", "a fault is a mapping, not str"),
        ({"operation": "RunInstances"}, "lacks 'error'"),
        ({**ICE, "error": "NoSuchError"}, "unknown error 'NoSuchError'"),
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
