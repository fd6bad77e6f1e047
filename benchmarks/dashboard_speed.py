"""How fast the dashboard answers: `python benchmarks/dashboard_speed.py [--runs N] [--lines N] [--events N]`.

Makes a store of runs with metrics and events, starts `pixel-orch dashboard` on it as a user does, and asks over HTTP as
soon as it answers: the list of all runs, its first rows and the last; the same again; a run that nobody has looked at,
as its page, the first messages of its stream and all its curves; the same again. At last a look at all runs, of which
one has a new event, is measured in this process. Limits: 1 s for the list, 0.5 s for a run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from orchestrator.dashboard.state import Board
from orchestrator.runs.events import Event, Progress
from orchestrator.runs.store import RunStore
from tests.support.report_runs import BORN, Had, metrics, write_run

ROOT = Path(__file__).parents[1]
NOW = BORN + 10**7


def make(home: Path, runs: int, lines: int, events: int) -> tuple[float, float]:
    """Write the store; return the megabytes of its metrics, and those of its events."""
    made = metrics(Had(last_step=lines), BORN)[:lines]
    for number in range(runs):
        told: list[Event] = [
            Progress(at=BORN + 70 + place, attempt=1, step=1 + place * lines // events, images_per_s=900.0)
            for place in range(events)
        ]
        had = Had(last_step=lines, lines=made, extra=told)
        write_run(home, f"run-{number:04}", [had], born=BORN + 600.0 * number)
    sizes = (sum(path.stat().st_size for path in home.rglob(name)) / 1e6 for name in ("metrics.jsonl", "events.jsonl"))
    return next(sizes), next(sizes)


def messages(url: str) -> tuple[tuple[float, int], tuple[float, int]]:
    """Return (seconds, bytes) of a stream's first message, and until it has sent all that there is to read."""
    began, size = time.perf_counter(), 0
    first = None
    with urllib.request.urlopen(url) as answer:  # noqa: S310  (our own server on 127.0.0.1)
        for line in answer:
            size += len(line)
            first = first or (time.perf_counter() - began, size)
            if line.startswith(b"data: ") and json.loads(line[6:]).get("is_reading") is False:
                return first, (time.perf_counter() - began, size)
    raise AssertionError("the stream has ended")


def fetched(url: str) -> bytes:
    """Return the content of an address."""
    with urllib.request.urlopen(url) as answer:  # noqa: S310  (our own server on 127.0.0.1)
        content: bytes = answer.read()
        return content


def run_page(base: str, token: str, name: str) -> tuple[float, int]:
    """Return (seconds until all that the page of a run shows is here, bytes)."""
    began = time.perf_counter()
    size = len(fetched(f"{base}/run/{name}?{token}"))
    size += messages(f"{base}/run/{name}/events?{token}")[1][1]
    curves = fetched(f"{base}/run/{name}/curves?{token}")
    assert json.loads(curves)["curves"]
    return time.perf_counter() - began, size + len(curves)


def cpu_s(pid: int) -> float:
    """Return the seconds of CPU that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def say(name: str, figures: list[tuple[float, int]], limit: str = "") -> None:
    """Print one row: the median, all of them, and the size of the answer."""
    every = ", ".join(f"{seconds:.3f}" for seconds, _ in figures)
    size = f", {figures[0][1] / 1e3:.0f} kB" if figures[0][1] else ""
    print(f"{name:44} {statistics.median(s for s, _ in figures):6.3f} s ({every}){size}{limit}", flush=True)


@contextmanager
def served(home: Path) -> Iterator[tuple[str, str, int]]:
    """Start the dashboard, and yield its address, its token and its process id once it has answered."""
    server = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", "dashboard"],
        env={**os.environ, "PIXEL_ORCH_HOME": str(home), "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout
    base, _, token = server.stdout.readline().decode().strip().partition("/?")
    try:
        while True:  # the address is printed before the server answers
            try:
                fetched(f"{base}/?{token}")
                break
            except OSError:
                time.sleep(0.02)
        yield base, token, server.pid
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def measured(home: Path, rounds: int) -> None:
    """Measure servers that have just been started, `rounds` times."""
    first, cold, used, warm, pages, again = [], [], [], [], [], []
    names = [store.run for store in RunStore.folders(home)]
    for number in range(rounds):
        with served(home) as (base, token, pid):
            begun, whole = messages(f"{base}/events?{token}")
            first.append(begun)
            cold.append(whole)
            used.append((cpu_s(pid), 0))
            warm.append(messages(f"{base}/events?{token}")[1])
            name = names[number * 7 % len(names)]
            pages.append(run_page(base, token, name))
            again.append(run_page(base, token, name))
    say("the first rows of a server just started", first, ", limit 1 s")
    say("all rows of a server that has just started", cold)
    say("  CPU of the server by then, with its start", used)
    say("the list, again", warm, ", limit 1 s")
    say("a run, for the first time", pages, ", limit 0.5 s")
    say("a run, again", again, ", limit 0.5 s")


def looked_again(home: Path, rounds: int) -> None:
    """Measure a look at all runs of which one has a new event, in this process."""
    board, took = Board(home), []
    board.snapshot(NOW)
    store = RunStore.folders(home)[0]
    for number in range(rounds):
        store.append(Progress(at=BORN + 90, attempt=1, step=number + 2))
        began = time.perf_counter()
        board.snapshot(NOW + 1 + number)
        took.append((time.perf_counter() - began, 0))
    say("a look at all runs, one has a new event", took)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.exists() else []
    cpu = next((x.split(":")[1].strip() for x in names if x.startswith("model name")), platform.processor())
    print(json.dumps({"python": platform.python_version(), "cpu": cpu, "cores": os.cpu_count()}))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        size, told = make(home, args.runs, args.lines, args.events)
        print(f"{args.runs} runs, {args.lines} lines of metrics each ({size:.0f} MB), events of {told:.1f} MB")
        measured(home, args.rounds)
        looked_again(home, args.rounds)


if __name__ == "__main__":
    main()
