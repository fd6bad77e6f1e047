"""The examples for several machines, each interrupted on one of two machines of the embedded cloud. Slow."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.doc_blocks import ROOT, blocks
from tests.support.example_runs import EXAMPLES, python_with_packages
from tests.support.group_examples import GROUP_EXAMPLES, GroupExample, GroupExampleRun
from tests.support.stage import Stage, staged

MOST_LINES = 110


def python_of(example: GroupExample) -> Path:
    """Return the Python that has the packages of an example; DistributedDataParallel is torch's own."""
    if not os.environ.get("PIXEL_ORCH_TEST_EXAMPLES"):
        if example.name == "ddp":
            return Path(sys.executable)
        pytest.skip("their packages take gigabytes and minutes to install: make test-examples")
    found, why = python_with_packages()
    if found is None:
        pytest.skip(why)
    return found


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a home of its own."""
    yield from staged(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("example", GROUP_EXAMPLES, ids=lambda example: example.name)
def test_a_notice_on_one_machine_stops_both_after_one_step_and_no_step_is_done_twice(
    stage: Stage, example: GroupExample
) -> None:
    run = GroupExampleRun(stage, python_of(example), example)
    run.interrupt(rank=1, after_step=50)
    state = run.end()
    assert (state.state, state.generation) == ("SUCCEEDED", 2)
    assert len({attempt.instance_id for attempt in state.attempts}) == 3, "the machine that is well stays"
    before, after = run.steps_of(1), run.steps_of(2)
    assert before + after == list(range(1, example.steps + 1))
    assert len(before) >= 50 and len(after) > 0
    assert run.saved_step() == example.steps
    stage.check_nothing_is_left()


def test_all_start_by_the_same_script_and_are_short() -> None:
    scripts = {(EXAMPLES / example.name / "run.sh").read_text() for example in GROUP_EXAMPLES}
    assert len(scripts) == 1
    assert scripts == {block.text for block in blocks(ROOT / "docs" / "scaling.md") if "exec torchrun" in block.text}
    for example in GROUP_EXAMPLES:
        assert len((EXAMPLES / example.name / "train.py").read_text().splitlines()) < MOST_LINES
