"""What the live view of a run costs: CPU time of a process that draws it in a terminal, as a share of one core.

    python benchmarks/live_view.py [--seconds 30] [--output benchmarks/live_view.txt]

The run has 10,000 events, and a new one every five seconds, as a run of some hours has. The limit is 2 % of a core.
Beside it: the same process without a view.
"""

from __future__ import annotations

import argparse
import os
import platform
import pty
import threading
import time
from decimal import Decimal
from pathlib import Path

from orchestrator.cli.console import Screen
from orchestrator.cli.live_panel import RunPanel
from orchestrator.cli.live_screen import live_view
from orchestrator.runs import events as ev

START = 1_700_000_000.0
EVENTS = 10_000
NEW_EVERY_S = 5.0


def panel() -> RunPanel:
    """Return the view of a run that has trained for some hours."""
    begin = [
        ev.RunCreated(at=START, run="digits-1", cloud="embedded cloud"),
        ev.StateChanged(at=START, state="RUNNING"),
        ev.InstanceStarted(at=START, attempt=1, instance_id="i-1", instance_type="g4dn.xlarge", zone="us-east-1a",
                           region="us-east-1", market="spot", price_usd_h=0.1578),
        ev.TrainerStarted(at=START, attempt=1, resumed_from=0),
    ]  # fmt: skip
    return RunPanel("digits-1", 100_000, Decimal(1), [*begin, *(progress(n) for n in range(EVENTS))])


def progress(number: int) -> ev.Progress:
    """Return the event of a step."""
    values = {"nats": 80 + 100 / (number + 1), "valid/nats": 82.0}
    return ev.Progress(at=START + 5 * number, attempt=1, step=number + 1, images_per_s=400.0, values=values)


def share(seconds: float, *, draws: bool) -> float:
    """Return the CPU time of this process as a share of one core while a view is drawn, or none is."""
    ours, theirs = pty.openpty()
    threading.Thread(target=_drain, args=(ours,), daemon=True).start()
    view = panel()
    with os.fdopen(theirs, "w") as stream:
        screen = Screen(stream, is_plain=not draws)
        with live_view(screen, lambda is_unicode: view.rows(START + 5 * EVENTS, is_unicode=is_unicode)):
            time.sleep(1)
            began, spent = time.monotonic(), time.process_time()
            for number in range(int(seconds / NEW_EVERY_S)):
                view.event(progress(EVENTS + number))
                time.sleep(NEW_EVERY_S)
            return (time.process_time() - spent) / (time.monotonic() - began)


def _drain(ours: int) -> None:
    try:
        while os.read(ours, 65536):
            pass
    except OSError:
        return


def main() -> None:
    """Measure, and print the record."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=30.0)
    options.add_argument("--output")
    asked = options.parse_args()
    os.environ.setdefault("TERM", "xterm-256color")
    text = (
        f"python benchmarks/live_view.py --seconds {asked.seconds:g}\n"
        f"{platform.platform()}, Python {platform.python_version()}\n"
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}\n"
        "\n"
        f"without a view: {100 * share(asked.seconds, draws=False):.2f} % of one core\n"
        f"live view: {100 * share(asked.seconds, draws=True):.2f} % of one core (limit: 2 %)\n"
    )
    print(text, end="")
    if asked.output:
        Path(asked.output).write_text(text)


if __name__ == "__main__":
    main()
