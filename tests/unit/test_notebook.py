"""A launch in a notebook shows one output that changes in place; elsewhere it prints lines as before."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator.notebook import SHOWN_LINES, NotebookView, notebook
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore
from tests.support import memory_notebook
from tests.support.memory import MemoryCloud, VirtualClock
from tests.support.report_runs import Had, write_run


@pytest.fixture
def in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lead runs on a cloud in memory, in virtual time; return the home."""
    clock = VirtualClock()
    cloud = MemoryCloud(clock)

    def opened(spec: RunSpec, home: Path) -> nullcontext[MemoryCloud]:
        return nullcontext(cloud)

    monkeypatch.setenv("PIXEL_ORCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.api.cloud_of", opened)
    for place in ("orchestrator.api", "orchestrator.engine.lead"):
        monkeypatch.setattr(f"{place}.SystemClock", lambda: clock)
    monkeypatch.setattr("orchestrator.engine.build.connector", lambda store, spec: cloud.connect)
    return tmp_path / "home"


def launched(**flags: Any) -> orchestrator.RunResult:
    """Launch a run of 100 steps and wait for it."""
    return orchestrator.launch(instance="p2.xlarge", cloud="local", settings={"steps": 100}, **flags)


@pytest.mark.slow
@pytest.mark.usefixtures("in_memory")
def test_a_launch_has_one_output_that_ends_with_the_finished_run(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    shown = memory_notebook.install(monkeypatch)
    run = launched(name="digits")
    (output,) = shown.outputs
    assert run.state == "SUCCEEDED"
    assert len(output) > 5
    assert any("RUNNING" in html for html in output)
    assert "SUCCEEDED" in output[-1]
    assert "<progress max='100' value='100'" in output[-1]
    assert "100 of 100" in output[-1]
    assert len(output[-1].rpartition("<pre")[2].splitlines()) <= SHOWN_LINES
    assert "training from step 1" not in capfd.readouterr().err, "what is shown is not printed too"


@pytest.mark.usefixtures("in_memory")
def test_quiet_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = memory_notebook.install(monkeypatch)
    assert launched(name="digits", quiet=True).ok
    assert shown.outputs == []


@pytest.mark.usefixtures("in_memory")
def test_ipythons_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    shown = memory_notebook.install(monkeypatch, has_kernel=False)
    assert launched(name="digits").ok
    assert shown.outputs == []
    assert "training from step 1" in capfd.readouterr().err


def test_nothing_is_a_notebook_without_ipython() -> None:
    assert notebook({}) is None
    assert notebook({"IPython": None}) is None


@pytest.mark.usefixtures("in_memory")
def test_a_notebook_that_is_closed_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = memory_notebook.install(monkeypatch)
    shown.is_closed = True
    assert launched(name="digits").ok
    assert len(shown.outputs[0]) == 1


def a_view(card: Callable[[], str], clock: VirtualClock) -> tuple[NotebookView, list[str]]:
    """Return a view, and what it shows."""
    shown: list[str] = []

    def show(html: str) -> Callable[[str], None]:
        shown.append(html)
        return shown.append

    return NotebookView(show, card, clock), shown


def test_a_card_that_takes_long_is_shown_less_often() -> None:
    clock = VirtualClock()

    def slow_card() -> str:
        clock.sleep(2)
        return "card"

    view, shown = a_view(slow_card, clock)
    for _ in range(30):
        view.refresh()
        clock.sleep(1)
    assert len(shown) == 2, "one each 22 s"
    view.refresh(at_once=True)
    assert len(shown) == 3


def test_a_line_of_a_machine_is_text() -> None:
    view, shown = a_view(lambda: "card", VirtualClock())
    view.say("<script>alert(1)</script>\x1b[2J")
    assert "&lt;script&gt;" in shown[-1]
    assert "\x1b" not in shown[-1]


def test_earlier_lines_can_be_opened() -> None:
    view, shown = a_view(lambda: "card", VirtualClock())
    for number in range(SHOWN_LINES + 3):
        view.say(f"line {number}.")
    view.refresh(at_once=True)
    earlier, newest = shown[-1].split("</details>")
    assert "line 2." in earlier
    assert "line 3." in newest
    assert "line 2." not in newest


def test_wait_shows_the_run_until_it_is_over(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = memory_notebook.install(monkeypatch)
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setattr("orchestrator.api.LOOK_EVERY_S", 0.01)
    store = write_run(home, "digits", [Had(ended_by=None)])
    with store.owned():
        run = orchestrator.result("digits")
        with pytest.raises(TimeoutError):
            run.wait(timeout_s=0.05)
        with pytest.raises(TimeoutError):
            run.wait(timeout_s=0.05, quiet=True)
    (output,) = shown.outputs
    assert all("<strong>digits</strong>" in html for html in output)
    assert orchestrator.result("digits").wait().state == "PENDING", "no process leads it: there is nothing to wait for"


@pytest.mark.slow
@pytest.mark.usefixtures("in_memory")
def test_a_stop_from_elsewhere_is_shown(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = memory_notebook.install(monkeypatch)
    monkeypatch.setattr("orchestrator.engine.lead.READ_REQUESTS_EVERY_S", 0.01)
    store, pass_time = RunStore(in_memory, "long"), VirtualClock.sleep

    def ask_once(self: VirtualClock, seconds: float) -> None:
        if store.folder.exists() and store.state().step > 20 and store.requested_stop() is None:
            store.request_stop("STOPPED")
        threading.Event().wait(0.002)
        pass_time(self, min(seconds, 2.0))

    monkeypatch.setattr(VirtualClock, "sleep", ask_once)
    found: list[orchestrator.RunResult] = []
    thread = threading.Thread(target=lambda: found.append(launched(name="long", strategy="price")))
    thread.start()
    thread.join(20)
    assert [run.state for run in found] == ["STOPPED"]
    assert "STOPPED" in shown.outputs[0][-1]
