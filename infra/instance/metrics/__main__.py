"""`python -m infra.instance.metrics ROOT PATTERNS`: collects until its standard input ends, then what is left.

It prints `ready` when it knows what was there before the trainer's start.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time

from infra.instance.metrics.collector import Collector

EVERY_S = 0.5  # lines of a log get the time at which they are seen
LAST_S = 8.0  # for what is left after the trainer's end


def main(argv: list[str]) -> int:
    """Collect; see the module's docstring."""
    collector = Collector(argv[1], json.loads(argv[2]))
    os.write(1, b"ready\n")
    while not select.select([0], [], [], EVERY_S)[0]:
        collector.round()
    give_up_at = time.monotonic() + LAST_S
    while collector.round(is_last=True) and time.monotonic() < give_up_at:
        continue
    collector.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
