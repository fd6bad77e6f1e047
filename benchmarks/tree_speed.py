"""Large trees from a folder to a machine: `python benchmarks/tree_speed.py [--files 100000] [--gib 4]`.

Prints how long each part takes for many small files (limits: 30 s the first time, 5 s again), with rsync and a plain
copy beside it, and how much memory either side needs for one sparse file of many GiB (limit: 200 MB).
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from infra.local import EmbeddedCloud
from orchestrator.host import snapshot, sync
from orchestrator.host.ssh_host import SshHost
from orchestrator.runs.spec import RunSpec
from orchestrator.runs.store import RunStore

from orchestrator_speed import job_of, rented_host, seconds  # isort: skip  (of this folder)

FILES_A_FOLDER = 1_000
RSYNC = ("rsync", "-a", "--delete", "-e")


def say(name: str, figure: str, limit: str = "") -> None:
    """Print one row."""
    print(f"{name:62} {figure:>12} {limit}", flush=True)


@contextmanager
def peak_of(words: str) -> Iterator[list[int]]:
    """Give a list whose one element is the peak memory (bytes) of any process with `words` in its command line."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError, StopIteration, ValueError):
                    if words in (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                        lines = (folder / "status").read_text().splitlines()
                        peak[0] = max(peak[0], int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) << 10)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def a_run(home: Path, name: str) -> RunStore:
    """Make the folder of a run."""
    spec = RunSpec(run=name, cloud="local", instances=("p2.xlarge",), market="spot", regions=("us-east-1",))
    store, lock = RunStore.begin(home, spec)
    lock.release()
    return store


def measure_many(folder: Path, host: SshHost, remote: str, count: int) -> None:
    """Many small files: list, copy to the run's folder, send, again."""
    work = folder / "many"
    for number in range(count):
        if number % FILES_A_FOLDER == 0:
            (work / f"folder{number // FILES_A_FOLDER}").mkdir(parents=True)
        (work / f"folder{number // FILES_A_FOLDER}" / f"{number}.txt").write_text(f"{number}\n" * 20)
    trees: list[sync.Tree] = []
    store = a_run(folder / "home", "many")
    listing = seconds(lambda: trees.append(sync.workdir_tree(work)))
    copying = seconds(lambda: trees.append(snapshot.take(store, trees[0])))
    copying_again = seconds(lambda: snapshot.take(a_run(folder / "home", "again"), trees[0]))
    job = job_of("pixel-orch/many", trees[1])
    host._send_own_files(job)
    sending = seconds(lambda: host._sync(job))
    again = seconds(lambda: host._sync(job))
    say(f"{count:,} files: listed", f"{listing:.1f} s")
    say("  copied to the run's folder, each with its digest", f"{copying:.1f} s")
    say("  sent over SSH, digests compared", f"{sending:.1f} s")
    say("  first time, all in all", f"{listing + copying + sending:.1f} s", "limit 30")
    say("  again to the same machine: nothing has changed", f"{again:.1f} s", "limit 5")
    say("  again for another run: copied", f"{copying_again:.1f} s")
    plain = seconds(lambda: shutil.copytree(work, folder / "copy"))
    say("  beside it: a plain copy on this disk", f"{plain:.1f} s")
    if shutil.which("rsync"):
        words = [*RSYNC, remote, f"{work}/", "ubuntu@127.0.0.1:rsync/"]
        for name in ("first", "again"):
            taken = seconds(lambda: subprocess.run(words, check=True, capture_output=True))
            say(f"  beside it: rsync over the same server, {name}", f"{taken:.1f} s")
    else:
        print("  rsync: not on this machine")


def measure_sparse(folder: Path, host: SshHost, gib: float) -> None:
    """One sparse file: memory of both sides, and what it takes on the disks."""
    work = folder / "sparse"
    work.mkdir()
    with (work / "weights.bin").open("wb") as file:
        file.write(b"begin")
        file.truncate(int(gib * (1 << 30)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    store = a_run(folder / "home", "sparse")
    tree = snapshot.take(store, sync.workdir_tree(work))
    job = job_of("pixel-orch/sparse", tree)
    host._send_own_files(job)
    with peak_of("agent.py apply") as peak:
        taken = seconds(lambda: host._sync(job))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    say(f"a sparse file of {gib:g} GiB: sent over SSH", f"{taken:.1f} s", f"{gib * 1073.7 / taken:.0f} MB/s")
    say("  memory of this process at its peak", f"{after / 1e6:.0f} MB", f"limit 200; {before / 1e6:.0f} before")
    say("  memory of the machine's program at its peak", f"{peak[0] / 1e6:.0f} MB", "limit 200")
    blocks = (tree.folder / "weights.bin").stat().st_blocks * 512
    say("  what the copy takes on this disk", f"{blocks / 1e6:.1f} MB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--gib", type=float, default=4.0)
    args = parser.parse_args()
    day = time.strftime("%Y-%m-%d")
    print(f"{day}, Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("An instance of the embedded cloud on this machine: both sides share its cores and its disk.")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        cloud = EmbeddedCloud.ensure(folder / "cloud")
        try:
            with rented_host(folder, cloud) as (host, remote):
                measure_sparse(folder, host, args.gib)
                measure_many(folder, host, remote, args.files)
        finally:
            cloud.stop()


if __name__ == "__main__":
    main()
