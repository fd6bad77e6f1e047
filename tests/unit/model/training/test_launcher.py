"""The launcher of several ranks: what it starts, passes on, says last, and which exit code it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from model.__main__ import main
from model.errors import RANK_LOST, SetupError
from model.training import launcher
from model.training.launcher import Plan, launch, plan_of
from model.training.stop import StopFlag
from model.world import ALONE, World
from tests.support.ranks import free_port

ROOT = Path(__file__).parents[4]


# What it starts


def test_without_variables_and_flags_a_process_trains_alone() -> None:
    assert plan_of({}, None) == Plan()
    assert plan_of({}, None).world_size == 1
    assert World.from_environment({}) is ALONE
    assert World.from_environment({"RANK": "0", "WORLD_SIZE": "1"}) is ALONE


def test_processes_are_those_of_the_flag_else_one_for_each_gpu() -> None:
    gpus = {"PIXEL_ORCH_GPUS_PER_NODE": "8"}
    assert plan_of(gpus, None).processes == 8
    assert plan_of(gpus, 2).processes == 2
    assert plan_of({"PIXEL_ORCH_GPUS_PER_NODE": "0"}, None).processes == 1  # an instance without a GPU


def test_ranks_count_over_the_machines() -> None:
    env = {
        "PIXEL_ORCH_NODES": "3", "PIXEL_ORCH_NODE_RANK": "2", "PIXEL_ORCH_GPUS_PER_NODE": "4",
        "PIXEL_ORCH_MASTER_ADDR": "10.0.0.7", "PIXEL_ORCH_MASTER_PORT": "29400",
    }  # fmt: skip
    plan = plan_of(env, None)
    assert plan.world_size == 12
    ours = plan.environment(1, port=plan.port, threads=5)
    assert World.from_environment(ours) == World(9, 12, 1, 4, "10.0.0.7", 29400, 300.0)
    assert ours["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"PIXEL_ORCH_NODES": "two"}, "PIXEL_ORCH_NODES=two is not a whole number from 1"),
        ({"PIXEL_ORCH_NODES": "2"}, "PIXEL_ORCH_NODE_RANK is not set"),
        ({"PIXEL_ORCH_NODES": "2", "PIXEL_ORCH_NODE_RANK": "2"}, "ranks count from 0"),
        ({"PIXEL_ORCH_NODES": "2", "PIXEL_ORCH_NODE_RANK": "1"}, "PIXEL_ORCH_MASTER_ADDR is not set"),
        (
            {"PIXEL_ORCH_NODES": "2", "PIXEL_ORCH_NODE_RANK": "1", "PIXEL_ORCH_MASTER_ADDR": "10.0.0.1"},
            "PIXEL_ORCH_MASTER_PORT is not set",
        ),
    ],
)
def test_variables_that_cannot_work_are_one_line(env: dict[str, str], says: str) -> None:
    with pytest.raises(SetupError, match=says):
        plan_of(env, None)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"RANK": "1"}, "WORLD_SIZE is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "ranks count from 0"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "MASTER_ADDR is not set"),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "0"}, "MASTER_PORT=0 is not a whole"),
    ],
)
def test_variables_of_an_outer_launcher_are_checked(env: dict[str, str], says: str) -> None:
    with pytest.raises(SetupError, match=says):
        World.from_environment(env)


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept_signals: None
) -> None:
    words = ["train", "--processes", "3", "--set", "batch_size=32", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert capsys.readouterr().err.endswith(
        "error: batch_size = 32 is not divisible by 3 processes; give a multiple of 3, such as 33\n"
    )
    assert main([*words, "--set", "accumulate=2"]) == 2
    assert (
        "not divisible by 3 processes times accumulate = 2; give a multiple of 6, such as 30" in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


@pytest.fixture
def kept_signals() -> object:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_the_launcher_never_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from model.training import launcher; launcher.command_of = lambda _: [sys.executable, '-c', '']\n"
        "from model.__main__ import main\n"
        f"assert main(['train', '--processes', '2', '--out', {str(tmp_path)!r}]) == 0\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# How it ends: small programs instead of trainings

TRAP = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); time.sleep(20)"


def ends(capfd: pytest.CaptureFixture[str], *programs: str, stop: StopFlag | None = None) -> tuple[int, list[str]]:
    """Let each rank run its own program; return the exit code and what was said on stderr."""
    code = f"import os; exec({list(programs)!r}[int(os.environ['RANK'])])"
    flag = StopFlag() if stop is None else stop
    got = launch([sys.executable, "-S", "-c", code], Plan(len(programs)), flag, threads=1, prog="train")
    return got, capfd.readouterr().err.splitlines()


def test_all_done_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    assert ends(capfd, "pass", "pass") == (0, [])


@pytest.mark.slow
def test_the_rank_at_fault_gives_the_code_and_the_last_words(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = "import sys, time; time.sleep({}); print('train: error: rank 1 was lost', file=sys.stderr); sys.exit(75)"
    own = "import sys, time; time.sleep(0.1); print('train: error: the loss became nan', file=sys.stderr); sys.exit(3)"
    code, said = ends(capfd, lost.format(0.3), own, lost.format(0))
    assert code == 3
    assert said[-1] == "[rank 1] train: error: the loss became nan"
    assert said.count("train: error: rank 1 was lost") + said.count("[rank 2] train: error: rank 1 was lost") == 1
    monkeypatch.setattr(launcher, "GRACE_S", 0.1)
    code, said = ends(capfd, "import time; time.sleep(20)", own)
    assert (code, said[-1]) == (3, "[rank 1] train: error: the loss became nan")


def test_a_traceback_is_told_whole_with_its_rank(capfd: pytest.CaptureFixture[str]) -> None:
    code, said = ends(capfd, "pass", "raise ValueError('so')")
    assert code == 1
    assert said[0] == "[rank 1] Traceback (most recent call last):"
    assert said[-1] == "[rank 1] ValueError: so"


def test_a_killed_rank_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    code, said = ends(capfd, "import sys; sys.exit(75)", "import os; os.kill(os.getpid(), 9)")
    assert code == 137
    assert said == ["[rank 1] train: error: rank 1 was ended by SIGKILL (out of memory, or killed by hand)"]


def test_where_no_rank_here_is_at_fault_the_code_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    lost = "import sys; print('train: error: lost', file=sys.stderr); sys.exit(75)"
    code, said = ends(capfd, lost, lost)  # whichever comes first
    assert (code, [line.removeprefix("[rank 1] ") for line in said]) == (RANK_LOST, ["train: error: lost"])


@pytest.mark.slow
def test_an_abort_after_a_loss_is_no_fault_but_one_before_is(capfd: pytest.CaptureFixture[str]) -> None:
    """NCCL aborts a process whose peer is lost, while gloo lets it end by itself."""
    lost, aborts = "import sys, time; time.sleep({}); sys.exit(75)", "import os, time; time.sleep({}); os.abort()"
    assert ends(capfd, lost.format(0), aborts.format(0.3))[0] == RANK_LOST
    assert ends(capfd, lost.format(0.3), aborts.format(0))[0] == 134


def test_a_stop_is_passed_on_and_is_the_result(capfd: pytest.CaptureFixture[str]) -> None:
    stop = StopFlag()
    timer = threading.Timer(0.3, setattr, (stop, "signum", signal.SIGTERM))
    timer.start()
    began_s = time.monotonic()
    assert ends(capfd, TRAP, TRAP, stop=stop) == (143, [])
    assert time.monotonic() - began_s < 5


def test_a_stop_that_only_one_machine_was_told_is_a_stop_here_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert ends(capfd, "import sys; sys.exit(143)", "import sys; sys.exit(143)") == (143, [])


def test_a_failure_after_a_stop_is_still_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    stop = StopFlag()
    timer = threading.Timer(0.3, setattr, (stop, "signum", signal.SIGTERM))
    timer.start()
    full = TRAP.replace("sys.exit(143)", "(_ for _ in ()).throw(OSError('disk full'))")
    code, said = ends(capfd, full, TRAP.replace("143", "75"), stop=stop)
    assert (code, said[-1]) == (1, "OSError: disk full")


def test_ranks_write_to_stdout_too(capfd: pytest.CaptureFixture[str]) -> None:
    launch([sys.executable, "-S", "-c", "print('here')"], Plan(2), StopFlag(), threads=1, prog="train")
    assert sorted(capfd.readouterr().out.splitlines()) == ["[rank 1] here", "here"]


# Whole processes


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Launched:
    """`python -m model train` as a user starts it, on one of several machines; at the end nothing of it is left.

    Args:
        out: output folder.
        env: variables besides those of this process.
    """

    def __init__(self, out: Path, *words: str, **env: str) -> None:
        settings = ("ema=0", "checkpoint_every=1000000", "validate_every=1000000", "samples=0", *words)
        flags = [word for setting in settings for word in ("--set", setting)]
        self.program = subprocess.Popen(
            [sys.executable, "-m", "model", "train", "--steps", "1000000", "--out", str(out), *flags],
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ranks: list[int] = []

    def wait_for(self, beginning: str) -> None:
        """Wait for a line of its progress."""
        assert self.program.stdout is not None
        for line in self.program.stdout:
            if line.startswith(beginning):
                break
        self.ranks = children(self.program.pid)

    def end(self) -> tuple[int, list[str]]:
        """Wait for its end; return its exit code and the lines on stderr."""
        self.ranks = self.ranks or children(self.program.pid)
        _, said = self.program.communicate(timeout=30)
        until = time.monotonic() + 5
        while any(map(alive, self.ranks)) and time.monotonic() < until:
            time.sleep(0.02)
        assert not any(map(alive, self.ranks)), "a rank is left behind"
        return self.program.returncode, said.splitlines()

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in (self.program.pid, *self.ranks):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.program.communicate()


TWO = {"PIXEL_ORCH_GPUS_PER_NODE": "2"}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "a rank killed"])
def test_a_whole_command(how: str, tmp_path: Path) -> None:
    with Launched(tmp_path, **TWO) as launched:
        launched.wait_for("step 20/")
        assert len(launched.ranks) == 2
        if how == "killed":
            launched.program.kill()
        else:
            os.kill(launched.ranks[1], signal.SIGKILL)
        code, said = launched.end()
    assert code == {"killed": -9, "a rank killed": 137}[how]
    assert len(list(tmp_path.glob("checkpoint-*.pt"))) == (0 if how == "killed" else 1)
    if how == "a rank killed":
        assert said[-1].startswith("[rank 1] python -m model train: error: rank 1 was ended by SIGKILL")


@pytest.mark.slow
def test_two_machines_train_together_and_stop_together(tmp_path: Path) -> None:
    """The second one is stopped while it waits alone; then both train, and the notice to the second one stops both."""
    env = {"PIXEL_ORCH_NODES": "2", "PIXEL_ORCH_MASTER_ADDR": "127.0.0.2", "PIXEL_ORCH_MASTER_PORT": str(free_port())}
    with Launched(tmp_path, PIXEL_ORCH_NODE_RANK="1", **env) as waits:
        until = time.monotonic() + 20
        while not waits.ranks and time.monotonic() < until:
            time.sleep(0.05)
            waits.ranks = children(waits.program.pid)
        time.sleep(0.5)
        waits.program.terminate()
        assert waits.end() == (143, [])
    with (
        Launched(tmp_path / "0", PIXEL_ORCH_NODE_RANK="0", **env) as first,
        Launched(tmp_path / "1", PIXEL_ORCH_NODE_RANK="1", **env) as second,
    ):
        first.wait_for("step 20/")
        second.program.terminate()
        assert second.end() == (143, [])
        assert first.end() == (143, [])
    assert len(list((tmp_path / "0").glob("checkpoint-*.pt"))) == 1
    assert not (tmp_path / "1").exists()
