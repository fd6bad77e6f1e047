"""What the mirror of a program's outputs costs on a machine, and how soon a changed file is here.

    python benchmarks/mirror_speed.py [--files 20000] [--output benchmarks/mirror_speed.txt]

1. CPU time of the watch process's mirror while nothing changes, as a share of one core, over a minute.
2. Time from the poll that tells of one changed file among many until it lies in `outputs/`, on the embedded cloud's
   protocol without its network: the same programs, run as processes. A plain copy of the file stands beside it.
3. The first state: all files at once, downloaded and restored.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from infra.instance.outputs.answers import allow
from infra.instance.outputs.files import Rules
from infra.instance.outputs.mirror import Mirror
from orchestrator.host import tree_answers
from orchestrator.host.tree_transfer import TreeReceiver, feed_state
from orchestrator.runs.output_states import OutputStates
from orchestrator.runs.output_tree import TreeState

AGENT = Path(__file__).parents[1] / "infra" / "instance" / "agent.py"
IDLE_S = 60.0


class Machine:
    """A run's folder on this disk, and the programs that the owner runs over SSH."""

    def __init__(self, root: Path, files: int) -> None:
        self.root = root
        self.state: dict[str, Any] = {"trainer": {"state": "running"}, "notice": None}
        for folder in ("code", "out", "agent"):
            (root / folder).mkdir(parents=True)
        self.mirror = Mirror(str(root), Rules(), lambda: self.state)
        self.mirror.note_sent()
        allow(str(root), "inf")
        for number in range(files):
            folder = root / "code" / f"part-{number // 500}"
            folder.mkdir(exist_ok=True)
            (folder / f"{number}.json").write_text(f'{{"number": {number}}}')

    def agent(self, verb: str, *words: str, data: bytes = b"") -> bytes:
        """Run a verb of the agent, as the owner does; return what it prints."""
        command = [sys.executable, str(AGENT), verb, str(self.root), *words]
        return subprocess.run(command, input=data, capture_output=True, check=True, cwd=AGENT.parents[2]).stdout

    def seal(self) -> None:
        """Look until a state is made."""
        number = self.mirror.number
        while self.mirror.number == number:
            self.mirror.look()
            time.sleep(0.2)


def take(machine: Machine, states: OutputStates) -> int:
    """Download the newest state, as `engine/output_mirror.py` does; return how many files it changed."""
    import json

    base = states.newest()
    home = base.on.get(1, 0)
    raw = machine.agent("changes", str(machine.mirror.number), str(home))
    changes = tree_answers.tree_changes(raw, where="this machine")
    wanted = {file.sha256: file for file in changes.files if file.kind == "file"}
    states.incoming.mkdir(parents=True, exist_ok=True)
    receiver = TreeReceiver(list(wanted.values()), states.incoming, {})
    with receiver:
        receiver.feed(machine.agent("contents", data=json.dumps(receiver.asked).encode()))
    states.commit(base if changes.base else TreeState(), changes, 1)
    machine.agent("mirrored", str(changes.state))
    return len(changes.files)


def idle_share(machine: Machine) -> float:
    """Return the share of one core that the mirror's thread takes while nothing changes."""
    spent: list[float] = []
    over = threading.Event()

    def run() -> None:
        began = time.thread_time()
        while not over.is_set():
            machine.mirror.turn()
            machine.mirror.pause(machine.mirror.pause_s())
        spent.append(time.thread_time() - began)

    thread = threading.Thread(target=run)
    began = time.monotonic()
    thread.start()
    time.sleep(IDLE_S)
    over.set()
    thread.join()
    return spent[0] / (time.monotonic() - began)


def main() -> None:
    """Measure, and print the record."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=20_000)
    options.add_argument("--output")
    asked = options.parse_args()
    lines = [
        f"python benchmarks/mirror_speed.py --files {asked.files}",
        f"{platform.platform()}, Python {platform.python_version()}",
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}",
        "programs of the agent as processes on this disk, without a network; no GPU, no AWS",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder) / "machine", asked.files)
        states = OutputStates(Path(folder) / "home")
        (Path(folder) / "home").mkdir()
        time.sleep(1.2)
        machine.seal()
        began = time.monotonic()
        count = take(machine, states)
        lines.append(f"first state: {count:,} files here after {time.monotonic() - began:.2f} s")
        began = time.monotonic()
        shutil.copytree(machine.root / "code", Path(folder) / "copied")
        lines.append(f"beside it: a plain copy of the same files {time.monotonic() - began:.2f} s")
        machine.mirror.turn()
        lines.append(f"idle: {100 * idle_share(machine):.2f} % of one core over {IDLE_S:.0f} s (limit: 1 %)")
        times = []
        for turn in range(5):
            (machine.root / "code" / "part-0" / "0.json").write_text(f"changed {turn}")
            time.sleep(1.2)
            machine.seal()
            began = time.monotonic()
            assert take(machine, states) == 1
            times.append(time.monotonic() - began)
        shown = ", ".join(f"{seconds:.2f}" for seconds in times)
        lines.append(
            f"one changed file: here {sorted(times)[2]:.2f} s after the poll that tells of it (of {shown}; limit: 1 s)"
        )
        next_machine = Machine(Path(folder) / "next", 0)
        began = time.monotonic()
        stream: list[bytes] = []
        newest = states.newest()
        paths = {file.name: path for file, path in states.contents(newest)}
        feed_state(newest, lambda file: paths[file.name], stream.append)
        next_machine.agent("restore", data=b"".join(stream))
        lines.append(
            f"restored on the next machine: {len(newest.files):,} files after {time.monotonic() - began:.2f} s"
        )
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if asked.output:
        Path(asked.output).write_text(text)


if __name__ == "__main__":
    main()
