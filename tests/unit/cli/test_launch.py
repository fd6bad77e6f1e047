"""What `launch` says of a run that waits, and of one that a limit has ended."""

from __future__ import annotations

import io
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import launch as launch_command
from orchestrator.cli.console import Screen, busy
from orchestrator.cli.lead import lead_in_terminal
from orchestrator.cli.main import main
from orchestrator.cli.run_view import RunView
from orchestrator.errors import CapacityError
from orchestrator.host.sync import Tree
from orchestrator.plan.launch_preparation import PreparedRun, Verb
from orchestrator.runs.events import CapacityAwaited
from orchestrator.runs.spec import Limits, RecoveryPolicy
from tests.support.story import Story


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def told(story: Story, capsys: Any, monkeypatch: pytest.MonkeyPatch, *, verb: Verb = "launch") -> tuple[int, str]:
    """Lead a story as the command does; return its exit code and what is on standard error."""
    engine = story.engine()
    monkeypatch.setattr("orchestrator.engine.lead.engine_for", lambda *_, **__: engine)
    run = PreparedRun(story.store, engine.plan, Tree(story.home, ()), story.cloud, verb)
    code = lead_in_terminal(run, Screen(io.StringIO()), output="table", has_summary=False)
    return code, capsys.readouterr().err.strip()


@pytest.mark.parametrize("verb", ["launch", "resume", "attach"])
def test_a_limit_that_was_asked_for_is_no_error_and_says_how_to_go_on(
    home: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, verb: Verb
) -> None:
    story = Story(home, limits=Limits(max_duration_s=120))
    code, said = told(story, capsys, monkeypatch, verb=verb)
    assert code == 1
    assert said == "stopped: the duration of 120 s is over; go on with: pixel-orch launch --resume story"


def test_a_budget_says_what_to_add_and_why_a_first_minute_is_too_dear(
    home: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = told(Story(home, limits=Limits(budget_usd=Decimal("0.003"))), capsys, monkeypatch)
    assert code == 1
    assert re.fullmatch(
        r"stopped: the budget of \$0.003 does not pay for a first minute at up to \$0\.\d+ an hour "
        r"\(a spot price may rise to on-demand unless --max-price caps it\); "
        r"go on with: pixel-orch launch --resume story --budget MORE",
        said,
    )


def test_an_error_while_a_run_is_resumed_names_a_command_that_there_is(
    home: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(home)
    story.cloud.empty_zones = {"us-east-1a", "us-east-1b", "us-east-1c"}
    _, said = told(story, capsys, monkeypatch, verb="resume")
    assert said.startswith("pixel-orch launch: error: No spot capacity")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_who_waits_for_capacity_is_told_once_a_round(home: Path, is_terminal: bool) -> None:
    story = Story(home, recovery=RecoveryPolicy(poll_s=2.0, first_capacity_wait_s=3600))
    no = CapacityError("empty", code="InsufficientInstanceCapacity")
    story.cloud.refusals = {zone: [no, no] for zone in ("us-east-1a", "us-east-1b", "us-east-1c")}
    shown = Terminal() if is_terminal else io.StringIO()
    engine = story.engine()
    engine.journal.watchers = (*engine.journal.watchers, RunView(Screen(shown, story.clock.now), 100, story.clock))
    assert engine.run().state == "SUCCEEDED"
    waits = [event for event in story.recorder.events if isinstance(event, CapacityAwaited)]
    assert [wait.again_at - wait.at for wait in waits] == [15, 30]
    assert len(re.findall(r"no capacity in 3 pools; next request at \d\d:\d\d:\d\d\n", shown.getvalue())) == 2
    assert ("waiting for capacity" in shown.getvalue()) == is_terminal, "a live line"


def test_a_person_is_told_at_once_what_is_going_on_and_the_line_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TERM", raising=False)
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        with busy("local", Screen(stream)):
            said = stream.getvalue()
    assert terminal.getvalue().startswith("starting the embedded cloud ...")
    assert terminal.getvalue().endswith("\r\x1b[K"), "the line goes with the answer"
    assert said == pipe.getvalue() == ""


def test_ctrl_c_before_anything_is_rented_says_so(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def never(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setattr(launch_command, "cloud_of", never)
    assert main(["launch", "--cloud", "local", "-t", "p2.xlarge", "--spot", "-y"]) == 130
    assert capsys.readouterr() == ("Nothing was created.\n", "")
    assert not (home / "runs").exists()
