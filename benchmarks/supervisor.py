"""One process that leads many runs: `python benchmarks/supervisor.py [--runs 200] [--watch-s 120]`.

Times `status` over 1,000 runs that are over. Then makes so many runs of `-- sleep` on the embedded cloud, gives all of
them to one `pixel-orch attach --all`, waits until all are RUNNING, and watches that process for a while: its CPU (of
one core), its memory, and its calls to EC2, which are never above EC2's documented rates
(`orchestrator/cloud/shared.py`). The hosts are processes on this machine too, so that the machine's own load is large;
only the leading process counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from orchestrator.host.connect import make_run_key
from orchestrator.runs.events import InstanceEnded, InstanceStarted, Progress, RunCreated, StateChanged
from orchestrator.runs.spec import EMBEDDED_TITLE, RecoveryPolicy, RunSpec
from orchestrator.runs.store import RunStore

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def make_runs(home: Path, work: Path, count: int) -> list[RunStore]:
    """Return runs that are created and that no process leads; they poll every 5 s, as on AWS."""
    (work / "readme.txt").write_text("nothing to see\n")
    policy = RecoveryPolicy(boot_timeout_s=900, setup_timeout_s=900, answer_timeout_s=120, unreachable_after_s=600)
    stores = []
    for number in range(count):
        spec = RunSpec(
            run=f"sleeper-{number:03d}",
            cloud="local",
            instances=("g4dn.xlarge",),
            market="on-demand",
            regions=("us-east-1",),
            command=("sleep", "100000"),
            workdir=str(work),
            recovery=policy,
        )
        store = RunStore.create(home, spec)
        make_run_key(store)
        store.append(RunCreated(at=time.time(), run=spec.run, cloud=EMBEDDED_TITLE))
        stores.append(store)
    return stores


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process, at its highest."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def states(stores: list[RunStore]) -> Counter[str]:
    """Return how many runs are in each state."""
    return Counter(store.state().state for store in stores)


def measure_supervisor(count: int, watch_s: float) -> None:
    """Let one process lead the runs; print what it takes."""
    with tempfile.TemporaryDirectory() as folder:
        home, work = Path(folder) / "home", Path(folder) / "work"
        work.mkdir()
        home.mkdir()
        stores = make_runs(home, work, count)
        env = {**os.environ, "PIXEL_ORCH_HOME": str(home)}
        log = (Path(folder) / "log").open("w")
        began = time.time()
        words = [sys.executable, "-m", "orchestrator.cli", "attach", "--all"]
        leader = subprocess.Popen(words, env=env, stdout=log, stderr=log)
        try:
            while states(stores)["RUNNING"] < count and leader.poll() is None and time.time() - began < 1500:
                time.sleep(5)
                print(f"\r{time.time() - began:5.0f} s: {dict(states(stores))}", end="", file=sys.stderr, flush=True)
            print(f"\n{count} runs RUNNING after {time.time() - began:.0f} s; at 2 launches a second EC2 takes "
                  f"{max(0, count - 5) / 2:.0f} s of it")  # fmt: skip
            used, at = cpu_s(leader.pid), time.time()
            time.sleep(watch_s)
            share = (cpu_s(leader.pid) - used) / (time.time() - at)
            print(f"CPU of the leading process      {100 * share:6.1f} % of one core   (limit 100 %)")
            print(f"memory of it, at its highest    {memory_mb(leader.pid):6.0f} MB              (limit 400 MB)")
            print(
                "its calls to EC2, from its log: ",
                *re.findall(r"calls to EC2 so far: (.*)", Path(log.name).read_text())[-1:],
            )
            print(f"still RUNNING                   {states(stores)['RUNNING']:6d}")
        finally:
            asked_at = time.time()
            leader.terminate()
            leader.wait(1800)
            print(f"from SIGTERM to the last machine's end {time.time() - asked_at:5.0f} s")
            subprocess.run([*words[:3], "down", "-a", "-y"], env=env, check=False, stdout=log, stderr=log)
            log.close()
        print(f"after Ctrl-C all of them are    {dict(states(stores))}")


def measure_status(count: int) -> None:
    """Time `status` over runs that are over."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        now = time.time()
        for number in range(count):
            spec = RunSpec(
                run=f"done-{number}", cloud="aws", instances=("g4dn.xlarge",), market="spot", regions=("us-east-1",)
            )
            store = RunStore.create(home, spec)
            store.append(RunCreated(at=now, run=spec.run, cloud="AWS"))
            machine = {"attempt": 1, "instance_id": f"i-{number:017x}"}
            where = {"instance_type": "g4dn.xlarge", "zone": "us-east-1a", "region": "us-east-1", "market": "spot"}
            store.append(InstanceStarted(at=now, price_usd_h=0.2, **machine, **where))
            for step in range(1, 9):
                store.append(Progress(at=now + step, attempt=1, step=step * 100, images_per_s=1000.0))
            end = {"ended_at": now + 600, "ended_by": "pixel-orch", "reason": "done"}
            store.append(InstanceEnded(at=now + 600, **machine, **end))
            store.append(StateChanged(at=now + 600, state="SUCCEEDED"))
        took = []
        for _ in range(3):
            began = time.perf_counter()
            env = {**os.environ, "PIXEL_ORCH_HOME": str(home)}
            words = [sys.executable, "-m", "orchestrator.cli", "status"]
            subprocess.run(words, env=env, check=True, capture_output=True)
            took.append(time.perf_counter() - began)
        print(f"status of {count} runs that are over  {sorted(took)[1]:6.2f} s               (limit 1 s)")


def main() -> None:
    """Run both."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=200)
    options.add_argument("--watch-s", type=float, default=120.0)
    options.add_argument("--finished", type=int, default=1000)
    args = options.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    print(f"$ python benchmarks/supervisor.py --runs {args.runs} --watch-s {args.watch_s:.0f}\n")
    measure_status(args.finished)
    if args.runs:
        measure_supervisor(args.runs, args.watch_s)


if __name__ == "__main__":
    main()
