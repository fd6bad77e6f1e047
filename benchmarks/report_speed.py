"""How long `pixel-orch report` takes: `python benchmarks/report_speed.py [--runs N] [--lines N]`.

Makes a store of runs with metrics, then reports over it: to JSON with nothing digested yet, to JSON again (each metrics
file is digested once), and to HTML. The command is run as a process, as a user does. Limits: 3 s to JSON, 3 MB of HTML.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from model.config import TrainConfig
from tests.support.report_runs import BORN, Had, metrics, write_run

ROOT = Path(__file__).parents[1]
TYPES = ("g4dn.xlarge", "g5.xlarge", "g6.xlarge", "p2.xlarge")


def make(home: Path, runs: int, lines: int) -> float:
    """Write the store; return the megabytes of its metrics."""
    for number in range(runs):
        kind = TYPES[number % len(TYPES)]
        had = Had(kind, last_step=1, lines=[])
        if number % 10 == 0:  # one in ten was interrupted once
            steps = lines // 2
            both = [Had(kind, last_step=steps, ended_by="aws"), Had(kind, first_step=steps + 1, last_step=lines)]
        else:
            both = [Had(kind, last_step=lines)]
        for had in both:
            had.images_per_s = 800 + 50 * (number % len(TYPES)) + number % 7
            count = had.last_step - had.first_step + 1
            had.lines = metrics(had, BORN)[:count]
        config = TrainConfig(steps=lines, hidden=16 if number % 2 else 32)
        write_run(home, f"run-{number:04}", both, trainer=config, born=BORN + 600.0 * number)
    return sum(path.stat().st_size for path in home.rglob("metrics.jsonl")) / 1e6


def timed(home: Path, *words: str) -> tuple[float, float]:
    """Return (seconds, seconds of CPU in all its processes) that one command takes."""
    environment = {**os.environ, "PIXEL_ORCH_HOME": str(home), "PYTHONPATH": str(ROOT)}
    began, used = time.perf_counter(), cpu_s()
    subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "report", *words], env=environment, check=True, capture_output=True
    )
    return time.perf_counter() - began, cpu_s() - used


def cpu_s() -> float:
    """Return the seconds of CPU that ended child processes have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def say(name: str, figures: list[tuple[float, float]], limit: str = "") -> None:
    """Print one row: the quickest, all of them, and the CPU of the quickest."""
    quickest = min(figures)
    print(f"{name:31} {quickest[0]:6.2f} s ({', '.join(f'{s:.2f}' for s, _ in figures)})"
          f", {quickest[1]:.2f} s of CPU{limit}", flush=True)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.exists() else []
    cpu = next((x.split(":")[1].strip() for x in names if x.startswith("model name")), platform.processor())
    print(json.dumps({"python": platform.python_version(), "cpu": cpu, "cores": os.cpu_count()}))
    memory = Path("/dev/shm")  # noqa: S108  (what is measured is not the disk)
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        home = Path(folder) / "home"
        home.mkdir()
        size = make(home, args.runs, args.lines)
        print(f"{args.runs} runs, {args.lines} lines of metrics each, {size:.0f} MB")
        cold = []
        for _ in range(args.rounds):
            for kept in home.rglob("digest.json"):
                kept.unlink()
            cold.append(timed(home, "-o", "json"))
        say("to JSON, nothing digested yet", cold, ", limit 3 s")
        say("to JSON, again", [timed(home, "-o", "json") for _ in range(args.rounds)])
        page = Path(folder) / "report.html"
        say("to HTML, again", [timed(home, "--html", str(page)) for _ in range(args.rounds)])
        print(f"size of the HTML                {page.stat().st_size / 1e6:6.2f} MB, limit 3")


if __name__ == "__main__":
    main()
