"""`--gpu`: a name and a count mean every type that has them."""

from __future__ import annotations

import pytest

from orchestrator.errors import SpecError
from orchestrator.market import catalog
from orchestrator.market.gpus import any_types_with, name_of, rentable_with, types_with
from orchestrator.market.spot_prices import chosen_types


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("T4", ["g4dn.xlarge", "g4dn.2xlarge", "g4dn.4xlarge", "g4dn.8xlarge", "g4dn.16xlarge"]),
        ("t4:4", ["g4dn.12xlarge"]),
        ("NVIDIA Tesla T4:4", ["g4dn.12xlarge"]),
        ("A10G:8", ["g5.48xlarge"]),
        ("A100:8", ["p4d.24xlarge", "p4de.24xlarge"]),
        ("A100-80GB:8", ["p4de.24xlarge"]),
        ("a100-80g:8", ["p4de.24xlarge"]),
        ("H100", ["p5.4xlarge"]),
        ("H200:8", ["p5e.48xlarge", "p5en.48xlarge"]),
        ("B300:8", ["p6-b300.48xlarge"]),
        ("RTX-PRO-6000:2", ["g7e.12xlarge"]),
        ("T4:4,L4:4", ["g4dn.12xlarge", "g6.12xlarge", "g6.24xlarge"]),
    ],
)
def test_a_gpu_means_every_type_that_has_that_many(asked: str, names: list[str]) -> None:
    found = types_with(asked)
    assert list(found.names) == names
    assert rentable_with(asked) == any_types_with(asked) == chosen_types(None, asked) == found.names


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("T44", r"unknown GPU 'T44'; did you mean T4\? known: K520, K80, V100, V100-32GB, T4, A10G, L4, L40S"),
        ("L4S", "did you mean L40S"),
        ("H300", "did you mean (H100|H200|B300)"),
        ("A101", r"did you mean A100\?"),
        ("banana", "unknown GPU 'banana'; known: K520"),
        ("", "names no GPU; give one, for example --gpu T4"),
        ("T4,", "names no GPU"),
        (":4", "names no GPU"),
        ("T4:3", "no type has 3 of T4; there are T4:1, T4:4"),
        ("A100", "no type has 1 of A100; there are A100:8"),
        ("T4:", "'' is no number of GPUs; give for example --gpu T4:1"),
        ("T4:0", "no number of GPUs"),
        ("T4:-1", "no number of GPUs"),
        ("T4:1:2", "no number of GPUs"),
        ("T4:²", "no number of GPUs"),
    ],
)
def test_what_is_no_gpu_is_one_line_with_what_there_is(asked: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as error:
        types_with(asked)
    assert "\n" not in str(error.value) and str(error.value).startswith("--gpu: ")


def test_retired_types_are_left_out_and_named_where_there_is_nothing_else() -> None:
    assert types_with("K80").retired == ("p2.xlarge",) and not types_with("K80").names
    assert any_types_with("k80") == ("p2.xlarge",), "a table, and the embedded cloud, have them"
    with pytest.raises(SpecError, match=r"K80 is in p2.xlarge only, retired by AWS .* Use --instance g"):
        rentable_with("K80")


def test_every_gpu_of_the_catalog_can_be_asked_for_by_its_name() -> None:
    for known in catalog.all_types():
        found = types_with(f"{name_of(known)}:{known.gpus}")
        assert known.name in (found.retired if known.is_retired else found.names)


def test_instance_and_gpu_exclude_each_other() -> None:
    with pytest.raises(SpecError, match="--instance and --gpu"):
        chosen_types("g5.xlarge", "T4")
