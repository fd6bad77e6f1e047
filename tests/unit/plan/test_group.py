"""`--nodes` and `--slots`: what they may be, and what a batch allows."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.plan.group import check_group, check_nodes, sizes
from orchestrator.plan.settings import spec_from


def spec(**flags: Any) -> Any:
    """Return the spec of a launch on the embedded cloud with these flags."""
    return spec_from({"cloud": "local", "instance": "p2.8xlarge", "spot": True, **flags}, ())


@pytest.mark.parametrize(
    ("nodes", "low", "high"), [(None, 1, 1), ("4", 4, 4), (2, 2, 2), ("2:4", 2, 4), (" 1:3 ", 1, 3)]
)
def test_numbers_of_machines(nodes: Any, low: int, high: int) -> None:
    found = check_nodes(nodes, None)
    assert (found.min_nodes, found.max_nodes, found.slots) == (low, high, None)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ("x", "is no number of machines"),
        ("1:", "is no number of machines"),
        ("-1", "is no number of machines"),
        ("1.5", "is no number of machines"),
        ("2:4:6", "is no number of machines"),
        ("4:2", "give 2:4"),
        ("0", "not between 1 and 1000"),
        ("0:2", "not between 1 and 1000"),
        ("5000", "not between 1 and 1000"),
        ("9" * 50, "is no number of machines"),
        ("२", "not between|is no number"),
    ],
)  # fmt: skip
def test_what_is_no_number_of_machines_is_one_line(nodes: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as error:
        check_nodes(nodes, None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("slots", [0, -1, 65, "x", 1.5, True])
def test_what_is_no_number_of_processes_is_one_line(slots: Any) -> None:
    with pytest.raises(SpecError, match="--slots"):
        check_nodes("2", slots)


def test_a_flag_of_zero_is_not_taken_for_none() -> None:
    with pytest.raises(SpecError, match="--slots: '0'"):
        spec(nodes="2", slots=0)


def test_a_batch_that_the_largest_group_cannot_split_is_refused_with_one_that_fits() -> None:
    with pytest.raises(SpecError, match=r"--nodes: 3 x p2.8xlarge: batch_size = 32 is not divisible by 3.*such as 33"):
        check_group(spec(nodes="3"))
    with pytest.raises(SpecError, match=r"4 x p2.8xlarge with 3 processes each"):
        check_group(spec(nodes="4", slots=3))
    with pytest.raises(SpecError, match=r"--slots: 1 x p2.8xlarge with 5 processes: "):
        check_group(spec(slots=5))


def test_a_group_has_the_sizes_that_split_the_batch() -> None:
    """32 images: eight, four, two machines or one."""
    assert sizes(spec(nodes="1:8")) == (8, 4, 2, 1)
    assert sizes(spec(nodes="3:8")) == (8, 4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [({"strategy": "any"}, "--strategy any"), ({"deadline": "12h", "nodes": "2:4", "spot": None}, "one size")],
)
def test_what_does_not_go_with_a_group(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        check_group(spec(**{"nodes": "4", **flags}))
