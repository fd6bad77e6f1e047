"""A group of instances that EC2 has not started whole."""

from __future__ import annotations

import pytest

from orchestrator.cloud.aws.group import where_of, whole
from orchestrator.cloud.base import Call, Instance
from orchestrator.errors import CapacityError, CloudError

CALL = Call(
    "RunInstances",
    "us-east-1",
    {"InstanceType": "g5.xlarge", "MinCount": 3, "MaxCount": 3, "Placement": {"AvailabilityZone": "us-east-1b"}},
)


def instance(number: int) -> Instance:
    name = f"i-{number}"
    return Instance(name, "g5.xlarge", "us-east-1b", "us-east-1", "spot", "pending", 0.0, launch_index=number)


class Ended:
    """What was terminated."""

    def __init__(self, error: CloudError | None = None) -> None:
        self.ids: list[str] = []
        self.error = error

    def __call__(self, region: str, instance_ids: object) -> None:
        assert region == "us-east-1"
        self.ids += list(instance_ids)  # type: ignore[call-overload]
        if self.error is not None:
            raise self.error


def test_a_whole_group_is_in_the_order_of_its_launch_and_nothing_is_ended() -> None:
    ended = Ended()
    assert [one.instance_id for one in whole(CALL, map(instance, (2, 0, 1)), ended)] == ["i-0", "i-1", "i-2"]
    assert ended.ids == []


@pytest.mark.parametrize("started", [(), (1,), (0, 2)])
def test_what_came_of_a_group_is_ended_and_the_pool_has_no_capacity(started: tuple[int, ...]) -> None:
    ended = Ended()
    with pytest.raises(CapacityError, match=rf"{len(started)} of 3.*ended") as caught:
        whole(CALL, map(instance, started), ended)
    assert ended.ids == [f"i-{number}" for number in started]
    assert (caught.value.code, caught.value.scope) == ("InsufficientInstanceCapacity", "pool")
    assert "3 x g5.xlarge in us-east-1b" in str(caught.value)


def test_a_part_of_a_group_that_cannot_be_ended_is_no_lack_of_capacity() -> None:
    broken = CloudError("the network is down", code="ConnectionError")
    with pytest.raises(CloudError) as caught:
        whole(CALL, [instance(0)], Ended(broken))
    assert caught.value is broken


def test_one_instance_has_no_number_before_its_type() -> None:
    one = Call("RunInstances", "us-east-1", {"InstanceType": "g5.xlarge", "MinCount": 1, "MaxCount": 1})
    assert where_of(one) == "g5.xlarge in us-east-1"
