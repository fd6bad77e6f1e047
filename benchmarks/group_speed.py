"""How long a group takes beside the work itself: `python benchmarks/group_speed.py [--losses 20]`.

On the embedded cloud, so on this machine: all members share its cores, and a GPU instance would boot for minutes.

- a launch of 8 machines with a program that only sleeps: from the command to the moment at which all eight run it;
- losses: runs of the bundled trainer on three machines, of which one is killed with all its processes, without a
  notice, at a random moment; from the loss to the next step of all. The cloud's own part, from the request for the
  new machine until it answers over SSH, is given beside it.

Each run must succeed with every step done, every machine gone, and a bill that is the sum over the machines; else the
command ends with an error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from infra.local import EmbeddedCloud
from orchestrator.market.billing import bill, total_usd
from orchestrator.runs.events import HostReady, LaunchRequested, Progress, TrainerStarted
from orchestrator.runs.files import read_jsonl
from orchestrator.runs.state import RunState
from orchestrator.runs.store import RunStore

SLEEPER = """\
import time
for step in range(1, 40):
    print(f"step {step} loss 1.0", flush=True)
    time.sleep(0.1)
"""
SETTINGS = ("batch_size=24", "hidden=16", "layers=3", "samples=0", "validate_every=100000", "checkpoint_every=20")
STEPS = 300
FIRST_S, LAST_S = 0.2, 8.0  # after the trainers' start a machine is killed


class FailedError(Exception):
    """A run did not end as it must."""


def launched(home: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start a launch on the embedded cloud of a home."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env["PIXEL_ORCH_HOME"] = str(home)
    command = [sys.executable, "-m", "orchestrator.cli", "launch", "--cloud", "local", "--spot", "-y", *words]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def launch_of_eight() -> float:
    """Return the seconds from the command until all eight machines run their program."""
    with tempfile.TemporaryDirectory() as folder:
        work, home = Path(folder) / "work", Path(folder) / "home"
        work.mkdir()
        (work / "sleep.py").write_text(SLEEPER)
        began_at = time.time()
        words = ["-t", "p2.xlarge", "--nodes", "8", "-n", "eight", "--workdir", str(work), "--", "python3", "sleep.py"]
        code = launched(home, *words).wait(timeout=300)
        store = RunStore(home, "eight")
        checked(store.state(), code, nodes=8)
        return max(event.at for event in store.events() if isinstance(event, TrainerStarted)) - began_at


def checked(state: RunState, code: int, *, nodes: int) -> None:
    """Raise FailedError unless the run has succeeded, nothing is left, and its bill is that of its machines."""
    if code or state.state != "SUCCEEDED" or state.open_attempts():
        raise FailedError(f"exit code {code}, {state.state}: {state.reason}")
    if len(state.members(state.generation)) != nodes:
        raise FailedError(f"{len(state.members(state.generation))} machines at the end")
    now = state.updated_at
    shares = sum((bill(one, now).usd for one in state.attempts), Decimal(0))
    wholes = {one.instance_id: one.whole for one in state.attempts}
    instances = sum((bill(one, now).usd - bill(one, now).data_out_usd for one in wholes.values()), Decimal(0))
    data_out = sum((bill(one, now).data_out_usd for one in state.attempts), Decimal(0))
    if abs(shares - total_usd(state.attempts, now)) > Decimal("1e-9") or abs(shares - instances - data_out) > Decimal(
        "1e-9"
    ):
        raise FailedError(f"the bill of {shares} is not that of the machines: {instances} and {data_out}")


def loss(seed: int) -> tuple[int, float, float]:
    """Kill one of three machines at a random moment.

    Returns:
        (its node, the seconds from the loss to the next step, those of them in which the cloud brought a machine).
    """
    dice = random.Random(seed)  # noqa: S311  (it repeats a run, and keeps no secret)
    victim = dice.randrange(3)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        words = ["-t", "p2.xlarge", "--nodes", "3", "-n", "three", "--steps", str(STEPS)]
        for one in SETTINGS:
            words += ["--set", one]
        process = launched(home, *words)
        store = RunStore(home, "three")
        until_trains(store, process)
        time.sleep(dice.uniform(FIRST_S, LAST_S))
        state = store.state()
        cloud = EmbeddedCloud.find(home)
        if cloud is None or state.is_final:
            raise FailedError("the run was over before a machine was killed")
        lost_at = time.time()
        cloud.interrupt(state.members(state.generation)[victim].instance_id, notice=False)
        code = process.wait(timeout=300)
        state = store.state()
        checked(state, code, nodes=3)
        lead = state.members(state.generation)[0]
        lines = read_jsonl(store.metrics_path(lead.number))
        steps = [line["time"] for line in lines if line.get("step") and "event" not in line]
        next_at = min(steps or [line["time"] for line in lines if line.get("event") == "end"])  # none was left to do
        return victim, next_at - lost_at, cloud_s(store, lost_at)


def until_trains(store: RunStore, process: subprocess.Popen[bytes]) -> None:
    """Wait for the first step."""
    give_up_at = time.monotonic() + 120
    while time.monotonic() < give_up_at and process.poll() is None:
        if (store.folder / "events.jsonl").exists() and any(isinstance(e, Progress) for e in store.events()):
            return
        time.sleep(0.05)
    raise FailedError("it has not trained within 120 s")


def cloud_s(store: RunStore, since: float) -> float:
    """Return how long the cloud took for a new machine: from the request until its set-up began."""
    events = [event for event in store.events() if event.at >= since]
    asked = [event.at for event in events if isinstance(event, LaunchRequested)]
    ready = [event.at - event.setup_s for event in events if isinstance(event, HostReady)]
    return ready[0] - asked[0] if asked and ready else 0.0


def say(name: str, figures: list[float], limit: str) -> None:
    """Print one row."""
    middle = statistics.median(figures)
    print(f"{name:48} {middle:7.2f} s   ({min(figures):.2f} to {max(figures):.2f}; {len(figures)} runs)   {limit}")


def main() -> int:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description="What a group takes beside the work itself.")
    parser.add_argument("--launches", type=int, default=3)
    parser.add_argument("--losses", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed of the losses")
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("embedded cloud: every machine is a folder and some processes on this computer\n", flush=True)
    try:
        if args.launches:
            say("launch of 8 machines", [launch_of_eight() for _ in range(args.launches)], "limit 15 s")
        seen = []
        for seed in range(args.first, args.first + args.losses):
            victim, seconds, of_cloud = loss(seed)
            seen.append((seconds, of_cloud))
            print(json.dumps({"seed": seed, "node": victim, "s": round(seconds, 2), "cloud_s": round(of_cloud, 2)}))
        if seen:
            say("from a loss without notice to the next step", [seconds for seconds, _ in seen], "")
            say("  without the cloud's own time", [seconds - of_cloud for seconds, of_cloud in seen], "limit 15 s")
    except FailedError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
