"""A machine whose agent was replaced by a liar, with real processes on the embedded cloud. Slow: `make test-all`."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.runs.events import CheckpointPulled
from tests.support import lies, lying_program
from tests.support.stage import Stage, staged

pytestmark = pytest.mark.slow
OUTSIDE = Path(tempfile.gettempdir(), "owned-by-a-machine")  # what the liar tries to write
STEPS = 1300
LIMIT_S = 240.0  # it trains for 65 s, and each lie costs a poll


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage with the lying program."""
    for stage in staged(tmp_path):
        for module in (lies, lying_program):
            shutil.copy(str(module.__file__), stage.work)
        (stage.work / "train.py").unlink()
        yield stage


def launch(stage: Stage, which: str, steps: int) -> tuple[int, str]:
    """Launch the program; return (exit code, output)."""
    words = ["launch", "--cloud", "local", "--instance", "p2.xlarge", "--spot", "-y", "-n", "tiny", "--download", "all"]
    program = ["--workdir", str(stage.work), "--", "python3", "lying_program.py", which, str(steps)]
    return stage.run(*words, *program, limit_s=LIMIT_S)


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check_home(stage: Stage, before: dict[str, str]) -> None:
    """Nothing outside of the run's folder has changed, nothing is left, and the home can be read."""
    run = str(stage.store.folder)
    now = {path: digest for path, digest in digests(stage.home.parent).items() if "/log-" not in path}
    own = (run, *(str(stage.home / name) for name in ("local", "schema", "id", "objects", "ssh_config.d")))
    changed = {path for path in now if now[path] != before.get(path) and not path.startswith(own)}
    assert changed == set()
    assert not OUTSIDE.exists()
    assert stage.leftovers() == []
    for words in (("status", "-o", "json"), ("report", "-o", "json"), ("status", "tiny")):
        code, said = stage.run(*words)
        assert code == 0, said
        assert "Traceback" not in said


def test_an_agent_that_tells_every_lie_once_changes_nothing_outside_and_the_training_goes_on(stage: Stage) -> None:
    before = digests(stage.home.parent)
    code, said = launch(stage, "all", STEPS)
    assert "Traceback" not in said
    assert "\x1b" not in said
    state = stage.state()
    assert (code, state.state) == (0, "SUCCEEDED"), said
    assert len(state.attempts) == 1, said
    pulled = [event for event in stage.store.events() if isinstance(event, CheckpointPulled)]
    assert len(pulled) == STEPS // 10
    assert all(stage.store.is_whole(event) for event in pulled)
    assert state.attempts[0].pulled_bytes >= sum(event.size_bytes for event in pulled)
    assert not list(stage.store.folder.rglob("owned*"))
    assert not (stage.store.outputs / "notes.txt").exists()
    check_home(stage, before)


def test_an_agent_that_makes_no_sense_for_ever_is_ended_after_three_machines(stage: Stage) -> None:
    before = digests(stage.home.parent)
    code, said = launch(stage, "a name that leads out", 100_000)
    assert (code, stage.state().state) == (1, "FAILED"), said
    assert "3 machines in a row were lost" in said
    assert "makes no sense" in said
    assert len(stage.state().attempts) <= 8, "on a slow machine one more may train a new step before it lies"
    check_home(stage, before)
    assert json.loads(stage.run("status", "-o", "json")[1])
