"""`orchestrator.launch(...)`: what needs no machine: names, dry runs, what is printed."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator.cli.flags import parser
from orchestrator.cli.main import main
from orchestrator.errors import PixelOrchError, SpecError
from orchestrator.plan import preview
from orchestrator.plan.settings_file import LAUNCH_SETTINGS
from orchestrator.runs.spec import NAME_GRAMMAR, RunSpec
from orchestrator.runs.store import RunStore
from tests.support.memory import MemoryCloud, VirtualClock


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty home and a cloud in memory instead of the embedded one, which takes seconds to start."""
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(preview, "cloud_of", lambda spec, home: nullcontext(MemoryCloud(VirtualClock())))
    return tmp_path


def planned(**flags: Any) -> orchestrator.RunResult:
    """Return the result of a dry run."""
    return orchestrator.launch(**{"instance": "p2.xlarge", "cloud": "local", "dry_run": True, **flags})


@pytest.mark.parametrize("folder", ["My_Project", "two words", "-x-", "ünïcode", "___", "a" * 80])
def test_any_folder_gives_a_name_that_a_run_may_have(at_home: Path, folder: str, capsys: Any) -> None:
    work = at_home / folder
    work.mkdir()
    (work / "train.py").write_text("print(1)")
    run = planned(workdir=work, command=["python", "train.py"], quiet=True)
    assert NAME_GRAMMAR.fullmatch(run.run)
    words = ["launch", "--cloud", "local", "-t", "p2.xlarge", "--spot", "--dry-run", "-o", "json"]
    assert main([*words, "--workdir", str(work), "--", "python", "train.py"]) == 0
    by_command = json.loads(capsys.readouterr().out)["run"]
    assert by_command[:-4] == run.run[:-4], "one function for both; the last four are random"


def test_a_dry_run_is_a_result_with_the_plan_and_prints_nothing_if_quiet(at_home: Path, capfd: Any) -> None:
    run = planned(quiet=True)
    assert capfd.readouterr() == ("", "")
    assert (run.state, run.ok, run.steps, run.cost_usd, run.checkpoint) == ("PLANNED", False, 0, 0.0, None)
    assert run.details["dry_run"] is True
    assert [call["operation"] for call in run.details["requests"]][-1] == "RunInstances"
    assert not (at_home / "home" / "runs").exists()
    planned()
    out, err = capfd.readouterr()
    assert out == "", "the caller's own"
    assert "nothing is created" in err


def test_a_dry_run_of_what_is_sent_is_a_result_with_the_files(at_home: Path, capfd: Any) -> None:
    Path("a.py").write_text("print(1)")
    run = planned(dry_run=False, sync_dry_run=True, workdir=".", command=["python", "a.py"], quiet=True)
    assert run.state == "PLANNED"
    assert run.details["files"] == ["a.py"]
    assert capfd.readouterr() == ("", "")


def test_a_command_is_a_list_of_words(at_home: Path) -> None:
    with pytest.raises(SpecError, match=r"give its words in a list: \['python', 'a.py'\]"):
        planned(workdir=".", command="python a.py")


@pytest.fixture
def in_memory(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lead runs on clouds in memory, each with a clock of its own; return the home."""
    of_thread = threading.local()
    clouds: dict[str, MemoryCloud] = {}

    def opened(spec: RunSpec, home: Path) -> nullcontext[MemoryCloud]:
        of_thread.clock = VirtualClock()
        clouds[spec.run] = MemoryCloud(of_thread.clock)
        return nullcontext(clouds[spec.run])

    monkeypatch.setattr("orchestrator.api.cloud_of", opened)
    monkeypatch.setattr("orchestrator.engine.lead.SystemClock", lambda: of_thread.clock)
    monkeypatch.setattr("orchestrator.engine.build.connector", lambda store, spec: clouds[spec.run].connect)
    return at_home / "home"


def test_two_launches_in_threads_are_two_runs(in_memory: Path, capfd: Any) -> None:
    def launched(name: str) -> orchestrator.RunResult:
        return orchestrator.launch(instance="p2.xlarge", cloud="local", name=name, settings={"steps": 100}, quiet=True)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(launched, ["one", "two"]))
    assert [(run.run, run.state, run.steps) for run in results] == [
        ("one", "SUCCEEDED", 100),
        ("two", "SUCCEEDED", 100),
    ]
    assert [store.state().state for store in RunStore.all(in_memory)] == ["SUCCEEDED", "SUCCEEDED"]
    assert capfd.readouterr() == ("", "")


def test_progress_goes_to_standard_error(in_memory: Path, capfd: Any) -> None:
    run = orchestrator.launch(instance="p2.xlarge", cloud="local", name="told", settings={"steps": 100})
    out, err = capfd.readouterr()
    assert (run.state, out) == ("SUCCEEDED", "")
    assert "told on the embedded cloud" in err
    assert "training from step 1" in err


@pytest.mark.parametrize("in_thread", [True, False])
def test_a_run_that_cannot_be_led_leaves_nothing(
    in_memory: Path, monkeypatch: pytest.MonkeyPatch, in_thread: bool
) -> None:
    def broken(*_: Any) -> None:
        raise PixelOrchError("no SSH here")

    monkeypatch.setattr("orchestrator.engine.build.connector", broken)
    launch = partial(orchestrator.launch, instance="p2.xlarge", cloud="local", name="x", quiet=True)
    with ThreadPoolExecutor(1) as pool, pytest.raises(PixelOrchError, match="no SSH here"):
        (pool.submit(launch).result if in_thread else launch)()
    assert RunStore.all(in_memory) == []


def test_a_run_whose_background_process_ends_at_once_has_failed(
    in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(
        PixelOrchError, match=r"ended with 1 before it led the run: it printed nothing; see .*engine.log"
    ):
        orchestrator.launch(instance="p2.xlarge", cloud="local", name="x", quiet=True, detach=True)
    (store,) = RunStore.all(in_memory)
    assert store.state().state == "FAILED"


def test_a_run_led_in_a_thread_is_stopped_through_its_folder(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(self: VirtualClock, seconds: float) -> None:
        time.sleep(0.001)
        pass_time(self, min(seconds, 0.5))

    pass_time = VirtualClock.sleep
    monkeypatch.setattr(VirtualClock, "sleep", slow)
    monkeypatch.setattr("orchestrator.engine.lead.READ_REQUESTS_EVERY_S", 0.01)
    store = RunStore(in_memory, "long")
    with ThreadPoolExecutor(1) as pool:
        launch = partial(orchestrator.launch, instance="p2.xlarge", cloud="local", name="long", quiet=True)
        future = pool.submit(launch, settings={"steps": 100_000})
        while not store.state().attempts:
            time.sleep(0.01)
        assert store.has_shared_owner(), "no signal is sent to a process that leads a run in a thread"
        store.request_stop("STOPPED")
        assert future.result(timeout=20).state == "STOPPED"


def test_every_flag_of_launch_is_an_option_of_the_api() -> None:
    assert set(vars(parser().parse_args(["launch"]))) == LAUNCH_SETTINGS


def test_the_api_refuses_as_the_command_does(at_home: Path) -> None:
    with pytest.raises(SpecError, match="unknown instance type"):
        orchestrator.launch(instance="p2.xlrage", cloud="local")
    with pytest.raises(SpecError, match="unknown option bugdet"):
        orchestrator.launch(instance="p2.xlarge", cloud="local", bugdet=3)
    with pytest.raises(SpecError, match="no run is called"):
        orchestrator.result("nobody")
    assert not (at_home / "runs").exists()


@pytest.mark.slow
def test_the_api_launches_and_returns_what_came_of_it(at_home: Path, tmp_path: Path, capfd: Any) -> None:
    tiny = Path(__file__).parents[1] / "support" / "tiny_trainer.py"
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "train.py").write_text(tiny.read_text())
    run = orchestrator.launch(
        instance=["p2.xlarge", "g2.2xlarge"],
        cloud="local",
        workdir=tmp_path / "work",
        command=["python3", "train.py", "20", "0.02"],
        env={"A": "b c"},
        strategy="any",
        quiet=True,
    )
    assert (run.ok, run.steps) == (True, 20)
    assert run.checkpoint is not None
    assert run.checkpoint.name == "checkpoint-20.pt"
    assert orchestrator.result(run.run) == run
    assert capfd.readouterr().out == ""
