"""What the numbers of events may be."""

from __future__ import annotations

from orchestrator.runs.checked import MOST_STEP, UNIX_TIMES, Range
from orchestrator.runs.outputs import MOST_SIZE_BYTES

RANGES: dict[str, Range] = {
    "at": UNIX_TIMES,
    "ended_at": UNIX_TIMES,
    "ends_at": UNIX_TIMES,
    "again_at": UNIX_TIMES,
    "gives_up_at": UNIX_TIMES,
    "since": UNIX_TIMES,
    "until": UNIX_TIMES,
    "attempts": (1, 10**6),
    "kept_from": (0, 10**6),
    "generation": (1, 10**6),
    "count": (1, 10**4),
    "attempt": (0, 10**6),  # 0: a checkpoint that was there before the first machine
    "step": (0, MOST_STEP),
    "last_step": (0, MOST_STEP),
    "total": (0, MOST_STEP),
    "resumed_from": (0, MOST_STEP),
    "hour": (0, 10**7),
    "price_usd_h": (0, 1e5),
    "images_per_s": (0, 1e12),
    "steps_per_s": (0, 1e12),
    "every_s": (0, 1e9),
    "loses_s": (0, 1e9),
    "left_s": (-1e9, 1e9),
    "work_s": (0, 1e12),
    "margin_s": (0, 1e9),
    "saves": (0, MOST_SIZE_BYTES),
    "disk_gib": (0, 1e6),
    "public_addresses": (0, 1000),
    **dict.fromkeys(("setup_s", "data_s", "user_setup_s"), (0, 1e9)),
    "size_bytes": (0, MOST_SIZE_BYTES),
    "files": (0, 10**9),
    "all_files": (0, 10**9),
    "deleted": (0, 10**9),
    "number": (0, 2**40),
    "all_bytes": (0, MOST_SIZE_BYTES),
    "received_bytes": (0, MOST_SIZE_BYTES),
    "pools": (0, 10**6),
    "pid": (0, 2**32),
    "exit_code": (-(2**31), 2**32),
}
"""What the numbers of an event may be; outside of it the line is not read."""
