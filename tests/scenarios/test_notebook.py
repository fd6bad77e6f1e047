"""A launch in a real kernel of Jupyter, on the embedded cloud: one output that changes, and an interrupt that stops it.

Slow, and the kernel's packages are not among those of `make setup`: `make test-exports`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.export.trackers import is_installed
from tests.support.stage import LIMIT_S, Stage, staged

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed("ipykernel"), reason="there is no kernel of Jupyter: make test-exports"),
]
LAUNCH = """\
import orchestrator
run = orchestrator.launch(
    instance="p2.xlarge", cloud="local", name="tiny", workdir={work!r},
    command=["python3", "train.py", {steps!r}, "0.05"],
)
print(run.state)
"""


class Kernel:
    """A kernel, and what it shows below one cell.

    Args:
        stage: its home and environment.
    """

    def __init__(self, stage: Stage) -> None:
        from jupyter_client.manager import start_new_kernel

        self.manager, self.client = start_new_kernel(env=stage.env, cwd=str(stage.work))
        self.displays: dict[str, list[str]] = {}
        self.text = ""

    def run(self, code: str, then: Callable[[], None] = lambda: None) -> None:
        """Run a cell to its end; `then` is called after each thing that it shows."""
        asked = self.client.execute(code)
        give_up_at = time.monotonic() + LIMIT_S
        while time.monotonic() < give_up_at:
            message = self.client.get_iopub_msg(timeout=LIMIT_S)
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind in ("display_data", "update_display_data"):
                self.displays.setdefault(content["transient"]["display_id"], []).append(content["data"]["text/html"])
                assert kind == "update_display_data" or len(self.displays) == 1, "each cell has one output"
            elif kind == "stream":
                self.text += content["text"]
            elif kind == "error":
                raise AssertionError(content)
            elif kind == "status" and content["execution_state"] == "idle":
                return
            then()
        raise AssertionError(f"the cell did not end; it said {self.text}")

    @property
    def shown(self) -> list[str]:
        """What the only output has shown, the newest last."""
        (found,) = self.displays.values()
        return found

    def close(self) -> None:
        """End it."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a home of its own."""
    yield from staged(tmp_path)


@pytest.fixture
def kernel(stage: Stage) -> Iterator[Kernel]:
    """Give a kernel."""
    found = Kernel(stage)
    yield found
    found.close()


def code(stage: Stage, steps: int) -> str:
    """Return a cell that launches the tiny trainer."""
    return LAUNCH.format(work=str(stage.work), steps=str(steps))


def test_a_cell_has_one_output_that_ends_with_the_finished_run(stage: Stage, kernel: Kernel) -> None:
    kernel.run(code(stage, 20))
    assert kernel.text == "SUCCEEDED\n", "nothing is printed beside the output"
    assert len(kernel.shown) > 3
    assert "<strong>tiny</strong>" in kernel.shown[0]
    assert "SUCCEEDED" in kernel.shown[-1]


def test_interrupting_the_kernel_stops_the_run_as_ctrl_c_does(stage: Stage, kernel: Kernel) -> None:
    asked: list[Any] = []

    def interrupt_once() -> None:
        if not asked and re.search(r"step [1-9]", "".join(kernel.displays and kernel.shown[-1:])):
            asked.append(kernel.manager.interrupt_kernel())

    kernel.run(code(stage, 100_000), interrupt_once)
    assert asked
    assert kernel.text == "CANCELLED\n"
    assert "Stopping: checkpoint, pull, terminate." in "".join(kernel.shown)
    assert "CANCELLED" in kernel.shown[-1]
