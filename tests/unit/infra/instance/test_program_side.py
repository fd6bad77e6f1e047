"""What a program gets on a machine: the notice as a file and as a signal of its choice, `import orchestrator`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.instance.layout import files_to_send
from infra.instance.program_side import catches_stop
from infra.instance.watch import Watch
from orchestrator import log as log_at_home


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a run's folder with all that is sent to a machine in it."""
    for name in ("agent", "out", "code"):
        (tmp_path / name).mkdir()
    for name, content in files_to_send(has_bucket=False, has_dataset=False).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return tmp_path


def started(root: Path, source: str, **job: Any) -> Watch:
    """Start a program, and wait until it has written `ready`."""
    (root / "code" / "t.py").write_text(textwrap.dedent(source))
    order = {
        "command": [sys.executable, "t.py"],
        "env": {},
        "path_first": "/usr/bin",
        "stop_timeout_s": 60.0,
        "metrics": {"patterns": {}},
        **job,
    }
    watch = Watch(str(root), order)
    watch.start_trainer()
    return watch


def until(condition: Callable[[], Any]) -> None:
    """Wait for another process."""
    give_up_at = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def ended(watch: Watch) -> int:
    """Return the exit code of the program, once all that it measured is written down."""

    def is_over() -> bool:
        watch.poll_trainer()
        return bool(watch.state["trainer"]["state"] == "exited")

    until(is_over)
    return int(watch.state["trainer"]["exit_code"])


WAITS = """
    import os, signal, time
    def handler(number, frame):
        notice = os.environ["PIXEL_ORCH_NOTICE_FILE"]
        print("got", signal.Signals(number).name, open(notice).read(), flush=True)
        raise SystemExit(7)
    signal.signal(getattr(signal, os.environ["PIXEL_ORCH_STOP_SIGNAL"]), handler)
    assert not os.path.exists(os.environ["PIXEL_ORCH_NOTICE_FILE"])
    open("ready", "w").close()
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_the_signal_of_the_users_choice_comes_after_the_file_of_the_notice(root: Path, name: str) -> None:
    watch = started(root, WAITS, stop_signal=name)
    until((root / "code" / "ready").exists)
    watch.state["notice"] = {"action": "terminate", "time": "2026-11-29T12:00:00Z"}
    watch.request_stop("interruption notice")
    assert ended(watch) == 7
    said = (root / "out" / "trainer.log").read_text()
    assert f"got {name}" in said
    told = json.loads(said[said.index("{") :])
    assert told == {"action": "terminate", "time": "2026-11-29T12:00:00Z", "reason": "interruption notice"}


def test_a_stop_without_a_notice_has_a_file_too_with_the_time_that_there_is_to_save(root: Path) -> None:
    watch = started(root, WAITS)
    until((root / "code" / "ready").exists)
    watch.request_stop("the time limit is reached")
    assert ended(watch) == 7
    told = json.loads((root / "notice.json").read_text())
    assert (told["action"], told["reason"]) == ("stop", "the time limit is reached")
    assert told["time"].endswith("Z")


@pytest.mark.parametrize(
    ("command", "catches"),
    [
        (
            [
                sys.executable,
                "-c",
                "import signal, time; signal.signal(15, lambda *a: 0); print(flush=True); time.sleep(60)",
            ],
            True,
        ),
        ([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], False),
        (["sh", "-c", f"{sys.executable} -c 'import time; print(flush=True); time.sleep(60)'; true"], False),
        (["sh", "-c", "trap 'exit 1' TERM; echo; sleep 60; true"], True),
    ],
)
def test_whether_a_program_handles_the_signal_is_seen(command: list[str], catches: bool) -> None:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        until(lambda: catches_stop(process.pid, signal.SIGTERM) is not None)
        assert catches_stop(process.pid, signal.SIGTERM) is catches
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert catches_stop(process.pid, signal.SIGTERM) is None


def test_a_program_logs_by_import_orchestrator_although_it_is_not_installed(root: Path) -> None:
    source = """
        import sys
        import orchestrator
        assert "boto3" not in sys.modules
        for step in range(1, 4):
            orchestrator.log(step, loss=1 / step, note="text", ok=object())
    """
    assert ended(started(root, source, command=[sys.executable, "-S", "t.py"])) == 0
    lines = [json.loads(line) for line in (root / "agent" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert json.loads((root / "agent" / "metrics.json").read_text())["source"] == "metrics.jsonl"


@pytest.mark.parametrize("place", ["orchestrator.py", "orchestrator/__init__.py", "src/orchestrator/__init__.py"])
def test_a_package_of_that_name_of_the_users_is_never_hidden(root: Path, place: str) -> None:
    (root / "code" / place).parent.mkdir(parents=True, exist_ok=True)
    (root / "code" / place).write_text("mine = True\n")
    source = "import os; print(os.environ.get('PYTHONPATH', ''), flush=True)"
    env = {"PYTHONPATH": "src"}
    assert ended(started(root, source, env=env)) == 0
    assert (root / "out" / "trainer.log").read_text().strip() == "src"


def test_the_users_own_python_path_comes_first(root: Path) -> None:
    source = "import os; print(os.environ['PYTHONPATH'], flush=True)"
    assert ended(started(root, source, env={"PYTHONPATH": "lib"})) == 0
    assert (root / "out" / "trainer.log").read_text().strip() == f"lib:{root}/bin/program"


# -- orchestrator.log


def test_outside_of_a_run_log_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIXEL_ORCH_OUT", raising=False)
    monkeypatch.chdir(tmp_path)
    log_at_home(1, loss=0.5)
    assert list(tmp_path.iterdir()) == []


def test_log_loads_nothing_that_rents_machines() -> None:
    code = "import sys; from orchestrator import log; log(1, a=1); print({'boto3', 'fabric'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("value", [float("nan"), "text", None, [1], {}, object(), b"1"])
def test_log_never_ends_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object) -> None:
    monkeypatch.setenv("PIXEL_ORCH_OUT", str(tmp_path))
    log_at_home(1, loss=0.5, odd=value)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 0.5
    monkeypatch.setenv("PIXEL_ORCH_OUT", str(tmp_path / "is" / "not" / "there"))
    log_at_home(2, loss=0.5)


def test_of_several_processes_the_first_one_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXEL_ORCH_OUT", str(tmp_path))
    for rank in ("0", "1", "7"):
        monkeypatch.setenv("RANK", rank)
        log_at_home(1, rank=int(rank))
    assert [json.loads(line)["rank"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [0]


# -- the callbacks, with a stand-in for the libraries


TRANSFORMERS = """
class TrainerCallback:
    pass
"""
LIGHTNING = """
class Callback:
    pass
"""
TRAINS_WITH_TRANSFORMERS = """
    import os, signal, types
    from orchestrator.callbacks import hugging_face
    callback, control = hugging_face(), types.SimpleNamespace(should_save=False, should_training_stop=False)
    for step in range(5):
        control = callback.on_step_end(None, None, control, model=None)
        print(step, control.should_save, control.should_training_stop, flush=True)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
"""
TRAINS_WITH_LIGHTNING = """
    import os, signal, types
    from orchestrator.callbacks import lightning
    callback, saved = lightning(), []
    trainer = types.SimpleNamespace(
        should_stop=False, default_root_dir="root", save_checkpoint=saved.append,
        checkpoint_callback=types.SimpleNamespace(dirpath="checkpoints"),
    )
    for batch in range(5):
        callback.on_train_batch_end(trainer, None, None, None, batch)
        print(batch, saved, trainer.should_stop, flush=True)
        if batch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
    callback.on_exception(trainer, None, None)
    print(saved)
"""


def test_the_callback_for_hugging_face_saves_and_ends_the_training(root: Path) -> None:
    (root / "code" / "transformers.py").write_text(TRANSFORMERS)
    assert ended(started(root, TRAINS_WITH_TRANSFORMERS, command=[sys.executable, "-S", "t.py"])) == 0
    said = (root / "out" / "trainer.log").read_text().splitlines()
    assert said[2:4] == ["2 False False", "3 True True"]


@pytest.mark.parametrize("module", ["lightning/pytorch/callbacks.py", "pytorch_lightning/callbacks.py"])
def test_the_callback_for_lightning_saves_once_where_the_last_checkpoint_is_looked_for(root: Path, module: str) -> None:
    path = root / "code" / module
    path.parent.mkdir(parents=True)
    path.write_text(LIGHTNING)
    assert ended(started(root, TRAINS_WITH_LIGHTNING, command=[sys.executable, "-S", "t.py"])) == 0
    said = (root / "out" / "trainer.log").read_text().splitlines()
    assert said[2:4] == ["2 [] False", "3 ['checkpoints/last.ckpt'] True"]
    assert said[-1] == "['checkpoints/last.ckpt']"


def test_the_file_of_the_notice_alone_is_enough(root: Path) -> None:
    (root / "code" / "transformers.py").write_text(TRANSFORMERS)
    source = TRAINS_WITH_TRANSFORMERS.replace(
        "os.kill(os.getpid(), signal.SIGTERM)", 'open(os.environ["PIXEL_ORCH_NOTICE_FILE"], "w").close()'
    )
    assert ended(started(root, source, command=[sys.executable, "-S", "t.py"])) == 0
    assert "3 True True" in (root / "out" / "trainer.log").read_text()


# -- the callbacks of several processes that train together

TOGETHER = """
    import os, signal, sys
    import torch.distributed
    from orchestrator.callbacks import Stop
    class Handler:
        def __call__(self, number, frame):
            print("the library's handler", flush=True)
    Handler.__module__ = "lightning.pytorch"
    rank = int(sys.argv[1])
    torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
    stop = Stop()
    signal.signal(signal.SIGTERM, Handler())
    stop.take_from("lightning.")
    step = 0
    while not stop.is_agreed:
        step += 1
        if (rank, step) == (1, 3):
            os.kill(os.getpid(), signal.SIGTERM)
    print("stops after", step)
"""


@pytest.mark.slow
def test_processes_that_train_together_stop_after_the_same_step_wherever_the_signal_came(root: Path) -> None:
    (root / "code" / "together.py").write_text(textwrap.dedent(TOGETHER))
    env = {
        **os.environ,
        "PYTHONPATH": str(root / "bin" / "program"),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    words = [[sys.executable, "together.py", str(rank), str(root / "meeting")] for rank in range(2)]
    both = [subprocess.Popen(one, cwd=root / "code", env=env, stdout=subprocess.PIPE, text=True) for one in words]
    assert [process.communicate(timeout=60)[0] for process in both] == ["stops after 3\n", "stops after 3\n"]
