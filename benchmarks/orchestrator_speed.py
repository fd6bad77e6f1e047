"""How long the orchestrator takes beside the work itself: `python benchmarks/orchestrator_speed.py [--rounds N]`.

Prints, as medians over the rounds, with the limit that the project set itself beside each figure:

- from `launch` to the first training step, and of that what is not ours (start of the embedded cloud, import of torch);
- from the interruption notice to the first resumed step on the next instance;
- `pixel-orch --help` beside an empty interpreter;
- the first sync of 1,000 small files and of one changed, over SSH on loopback, with rsync beside it where there is one;
- the size of the base install (with --install: it makes a virtual environment).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from infra.local import EmbeddedCloud
from orchestrator.cloud.connect import client_settings
from orchestrator.host import sync
from orchestrator.host.base import Job
from orchestrator.host.shell import SshShell, make_key_pair
from orchestrator.host.ssh_host import SshHost
from orchestrator.plan.planner import make_plan
from orchestrator.plan.requests import user_data
from orchestrator.runs.events import InterruptionNoticed
from orchestrator.runs.files import read_jsonl
from orchestrator.runs.spec import EMBEDDED_TITLE, RunSpec
from orchestrator.runs.store import RunStore

FILES = 1000
# torch imports half of itself (dynamo) when the first optimizer is made.
IMPORT_TORCH = "import torch; torch.optim.AdamW([torch.zeros(1, requires_grad=True)])"


def first_step_at(metrics: Path) -> float:
    """Return when the first measured step of an attempt was written (unix seconds)."""
    return next(line["time"] for line in read_jsonl(metrics) if line.get("step") and "event" not in line)


def seconds(action: Callable[[], object]) -> float:
    """Return how long it took."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def say(name: str, figures: list[float], limit: str = "", unit: str = "s") -> None:
    """Print one row."""
    median = statistics.median(figures)
    print(f"{name:58} {median:8.3f} {unit:3} ({min(figures):.3f} to {max(figures):.3f}) {limit}", flush=True)


def python(*words: str) -> None:
    """Run this interpreter."""
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


def measure_launch(rounds: int) -> None:
    """Launch the real trainer, interrupted once; take the figures from its events and metrics."""
    total, start, torch_import, own, resume = [], [], [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder) / "home"
            other = Path(folder) / "other"
            cloud: list[EmbeddedCloud] = []
            start.append(seconds(lambda cloud=cloud, other=other: cloud.append(EmbeddedCloud.ensure(other))))
            cloud[0].stop()
            torch_import.append(seconds(lambda: python("-c", IMPORT_TORCH)) - seconds(lambda: python("-c", "pass")))
            began = time.time()
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "orchestrator.cli",
                    "launch",
                    "--cloud",
                    "local",
                    "--instance",
                    "p2.xlarge",
                    "--spot",
                    "-y",
                    "-n",
                    "bench",
                    "--steps",
                    "900",
                    "--set",
                    "samples=0",
                    "--interrupt-after",
                    "3",
                ],
                check=True,
                capture_output=True,
                env={**os.environ, "PIXEL_ORCH_HOME": str(home)},
            )
            store = RunStore(home, "bench")
            first, resumed = (first_step_at(store.metrics_path(number)) for number in (1, 2))
            notice = next(e.at for e in store.events() if isinstance(e, InterruptionNoticed))
            total.append(first - began)
            own.append(first - began - start[-1] - torch_import[-1])
            resume.append(resumed - notice)
    say("launch to first training step, all in all", total)
    say("  of that: start of the embedded cloud", start)
    say("  of that: import torch, with what a first optimizer imports", torch_import)
    say("  of that: pip (torch is there already)", [0.0])
    say("  of that: our own", own, "limit 4")
    say("notice to first resumed step on the next instance", resume, "limit 15")


def measure_help(rounds: int) -> None:
    """`--help` beside an empty interpreter."""
    program = shutil.which("pixel-orch", path=str(Path(sys.executable).parent)) or "pixel-orch"
    empty = [seconds(lambda: python("-c", "pass")) for _ in range(5 * rounds)]
    shown = [
        seconds(lambda: subprocess.run([program, "--help"], check=True, capture_output=True)) for _ in range(5 * rounds)
    ]
    say("python -c pass", empty)
    say("pixel-orch --help", shown, f"limit 10 x {statistics.median(empty):.3f}")


def measure_sync(rounds: int) -> None:
    """1,000 files of 1 kB, then one of them changed, through the real SSH; rsync over the same server."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        cloud = EmbeddedCloud.ensure(home)
        try:
            _measure_sync(rounds, Path(folder), cloud)
        finally:
            cloud.stop()


@contextmanager
def rented_host(folder: Path, cloud: EmbeddedCloud) -> Iterator[tuple[SshHost, str]]:
    """Rent an instance of the embedded cloud; give its host, and the command with which rsync connects to it."""
    from orchestrator.cloud.aws import AwsCloud

    settings = client_settings(cloud)
    aws = AwsCloud(("us-east-1",), endpoint=settings, title=EMBEDDED_TITLE)
    spec = RunSpec(run="sync", cloud="local", instances=("p2.xlarge",), market="spot", regions=("us-east-1",))
    plan = make_plan(spec, aws, "bench")
    host_private, host_public = make_key_pair("host")
    private, public = make_key_pair("run")
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_text(private)
    group = aws.open_security_group("us-east-1", plan.security_group("us-east-1"), "127.0.0.1/32")
    aws.launch(plan.launch(plan.offers[0], 1, 1, group, user_data(host_private, host_public, public, 30)))
    while not (found := [i for i in aws.instances("sync") if i.state == "running"]):
        time.sleep(0.1)
    shell = SshShell(
        address=found[0].address, port=found[0].ssh_port, user="ubuntu", key_path=key, host_key=host_public
    )
    shell.open()
    remote = f"ssh -F none -i {key} -p {found[0].ssh_port} -o UserKnownHostsFile=/dev/null"
    try:
        yield SshHost(shell, answer_timeout_s=60, setup_timeout_s=60), f"{remote} -o StrictHostKeyChecking=no"
    finally:
        shell.close()
        aws.terminate("us-east-1", [found[0].instance_id])


def job_of(root: str, tree: sync.Tree) -> Job:
    """Return a job that sends a tree and runs nothing."""
    return Job(
        root=root,
        command=("true",),
        env={},
        config_json=None,
        tree=tree.folder,
        files=tree.files,
        digests=tree.digests,
        owner_timeout_s=60,
        stop_timeout_s=5,
        metadata_poll_s=5,
    )


def _measure_sync(rounds: int, folder: Path, cloud: EmbeddedCloud) -> None:
    with rented_host(folder, cloud) as (host, remote):
        _measure_small_sync(rounds, folder, host, remote)


def _measure_small_sync(rounds: int, folder: Path, host: SshHost, remote: str) -> None:
    work = folder / "work"
    work.mkdir()
    for number in range(FILES):
        (work / f"file{number}.py").write_text(f"# {number}\n" + "x = 1\n" * 170)
    first, changed, rsync_first, rsync_changed = [], [], [], []
    for turn in range(rounds):
        job = job_of(f"pixel-orch/{turn}", sync.workdir_tree(work))
        host._send_own_files(job)
        first.append(seconds(lambda job=job: host._sync(job)))
        (work / "file7.py").write_text(f"changed = {turn}\n")
        changed.append(seconds(lambda job=job: host._sync(job)))
        if shutil.which("rsync"):
            words = ["rsync", "-a", "--delete", "-e", remote, f"{work}/", f"ubuntu@127.0.0.1:rsync{turn}/"]
            rsync_first.append(seconds(lambda words=words: subprocess.run(words, check=True, capture_output=True)))
            (work / "file8.py").write_text(f"changed = {turn}\n")
            rsync_changed.append(seconds(lambda words=words: subprocess.run(words, check=True, capture_output=True)))
    say(f"first sync of {FILES} small files", first, "limit 1")
    say("sync of one changed file", changed, "limit 0.5")
    if rsync_first:
        say("  rsync beside it, first (with its own connection)", rsync_first)
        say("  rsync beside it, one changed (with its own connection)", rsync_changed)
    else:
        print("  rsync: not on this machine")


def measure_install() -> None:
    """Size of site-packages less pip and setuptools after `pip install .` into a new environment."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(__file__).parents[1]
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "-q", "-c", str(root / "constraints.txt"), str(root)]
        subprocess.run(pip, check=True, capture_output=True)
        packages = next(Path(folder).glob("lib/python*/site-packages"))
        size = sum(
            f.stat().st_size
            for f in packages.rglob("*")
            if f.is_file() and not f.relative_to(packages).parts[0].startswith(("pip", "setuptools", "_distutils"))
        )
        say("base install, net", [size / 1e6], "limit 100", "MB")
        has_torch = (packages / "torch").exists()
        print(f"  torch in it: {'yes' if has_torch else 'no'}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--install", action="store_true", help="also make a base install and weigh it")
    args = parser.parse_args()
    cpu = next((x.split(":")[1].strip() for x in _cpuinfo() if x.startswith("model name")), platform.processor())
    print(json.dumps({"python": platform.python_version(), "cpu": cpu, "cores": os.cpu_count(), "rounds": args.rounds}))
    print("The embedded cloud on this machine; nothing here is AWS's speed or a GPU's.")
    measure_help(args.rounds)
    measure_sync(args.rounds)
    measure_launch(args.rounds)
    if args.install:
        measure_install()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
