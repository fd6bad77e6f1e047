"""`examples/` as a user runs them, each interrupted once on the embedded cloud. Slow.

Their packages (transformers, lightning, papermill) are in an environment of their own. The series of moments is
`benchmarks/example_series.py`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.example_runs import EXAMPLES, Example, ExampleRun, alone, examples, python_with_packages
from tests.support.stage import Stage, staged

SHORT = examples(epochs=16)
MOST_LINES = 80


def python_of(example: Example) -> Path:
    """Return the Python that has the packages of an example; the plain one needs no other than ours."""
    if not os.environ.get("PIXEL_ORCH_TEST_EXAMPLES"):
        if example.name == "plain":
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
@pytest.mark.parametrize("example", SHORT, ids=lambda example: example.name)
def test_an_example_that_is_interrupted_ends_as_one_that_is_not(stage: Stage, tmp_path: Path, example: Example) -> None:
    python = python_of(example)
    run = ExampleRun(stage, python, example)
    run.until_outputs()
    run.interrupt(notice=False)
    expected = None
    if example.is_deterministic:
        alone(python, example, tmp_path / "alone")
        _, expected = example.result(tmp_path / "alone")
    outcome = run.outcome(expected)
    assert outcome.problems == ()
    assert (outcome.machines, outcome.restored) == (2, True)


def source_of(example: str) -> str:
    """Return the program of an example; of a notebook its cells."""
    folder = EXAMPLES / example
    if example != "notebook":
        return (folder / "train.py").read_text()
    cells = json.loads((folder / "train.ipynb").read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def test_they_are_short_and_three_of_four_know_nothing_of_pixel_orch() -> None:
    sources = [source_of(example.name) for example in SHORT]
    assert all(len(source.splitlines()) < MOST_LINES for source in sources)
    knowing = [source for source in sources if "orchestrator" in source or "pixel" in source.lower()]
    assert len(knowing) <= 1
    assert all("PIXEL_ORCH" not in source for source in sources)


def test_the_readme_launches_each_of_them() -> None:
    readme = (EXAMPLES.parent / "README.md").read_text()
    for example in SHORT:
        assert f"--workdir examples/{example.name} -- {example.words[0]}" in readme, example.name
