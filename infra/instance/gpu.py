"""The GPU while a trainer runs: what nvidia-smi logs of it, and whether it is broken when the trainer fails or hangs.

`bootstrap.sh look` knows what the words of nvidia-smi and of the kernel mean.

Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

from infra.instance.deadline import steady
from infra.instance.programs import end, ended, last_line

FIELDS = ("name", "clocks.sm", "clocks.mem", "utilization.gpu", "memory.used", "memory.total", "temperature.gpu")
LOG_EVERY_S = 5
MOST_LOG_BYTES = 1 << 17  # about the last two hours
NEWEST = 3  # lines of the log whose mean is the use of now: 15 s
LOOK_S = 200.0  # each program of a look has a shorter limit of its own
BROKEN = 75  # exit code of the bootstrap: the GPU itself; another code: its driver


class GpuWatch:
    """Logs the first GPU's load, and looks whether it is broken; nothing here waits.

    Args:
        root: the run's folder.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.log = os.path.join(root, "agent", "gpu.csv")
        self.since_s = steady()
        self._logging: subprocess.Popen[bytes] | None = None
        self._look: subprocess.Popen[bytes] | None = None
        self._looks_until_s = 0.0
        self._words = os.path.join(root, "agent", "gpu.look")

    def start(self) -> None:
        """Start nvidia-smi, which logs the load every few seconds; without nvidia-smi, do nothing."""
        words = ["nvidia-smi", "--id=0", "--query-gpu=" + ",".join(FIELDS), "--format=csv,noheader,nounits"]
        try:
            with open(self.log, "ab") as file:
                self._logging = subprocess.Popen(
                    [*words, "--loop=%d" % LOG_EVERY_S],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.DEVNULL,
                )
        except OSError:
            pass

    def stop(self) -> None:
        """End the log. A driver that hangs keeps nvidia-smi: it is not waited for."""
        if self._logging is not None:
            self._logging.kill()
            ended(self._logging, 1.0)

    @property
    def started(self) -> list[subprocess.Popen[bytes]]:
        """The processes of this watch that may run."""
        return [one for one in (self._logging, self._look) if one is not None]

    @property
    def is_looking(self) -> bool:
        """Whether a look was begun and its result not asked for."""
        return self._look is not None

    @property
    def is_logging(self) -> bool:
        """Whether nvidia-smi runs."""
        return self._logging is not None and self._logging.poll() is None

    @property
    def worked(self) -> bool:
        """Whether nvidia-smi has logged a GPU since the trainer's start."""
        return bool(gpu_facts(self.log))

    def look(self) -> tuple[int, str] | None:
        """Look at the GPU; None while the look runs, then (exit code, what is wrong), once. 0: nothing is."""
        if self._look is None:
            words = ["bash", os.path.join(self.root, "bin", "bootstrap.sh"), self.root, "look", "%d" % self.since_s]
            try:
                with open(self._words, "wb") as file:
                    self._look = subprocess.Popen(
                        words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
                    )
            except OSError as error:
                return 0, str(error)
            self._looks_until_s = steady() + LOOK_S
        code = self._look.poll()
        if code is None and steady() < self._looks_until_s:
            return None
        if code is None:
            end(self._look)
        self._look = None
        return (BROKEN, "the look at it did not end") if code is None else (code, self._said() if code else "")

    def _said(self) -> str:
        try:
            with open(self._words, "rb") as file:
                said = last_line(file.read(1 << 16).decode(errors="replace"))
        except OSError:
            said = ""
        return said[len("bootstrap: ") :] if said.startswith("bootstrap: ") else said


def gpu_facts(path: str) -> dict[str, Any]:
    """Return the first GPU's figures that nvidia-smi logged while the trainer ran: {} without a GPU."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - MOST_LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return {}
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    rows = [row for row in rows if len(FIELDS) - 1 <= len(row) <= len(FIELDS) and row[3].isdigit()]
    if not rows:
        return {}

    def is_number(cell: str) -> bool:
        return cell.replace(".", "", 1).isdigit()

    def numbers(column: int) -> list[float]:
        return [float(row[column]) for row in rows if row[column : column + 1] and is_number(row[column])]

    def newest(values: list[float]) -> float | None:
        return values[-1] if values else None

    return {
        "name": rows[-1][0],
        "sm_clock_mhz": max(numbers(1), default=None),
        "memory_clock_mhz": max(numbers(2), default=None),
        "utilization_percent": sum(numbers(3)) / len(rows),
        "memory_peak_mib": max(numbers(4), default=None),
        "memory_total_mib": max(numbers(5), default=None),
        "looks": len(rows),
        "utilization_now_percent": sum(numbers(3)[-NEWEST:]) / len(rows[-NEWEST:]),
        "memory_now_mib": newest(numbers(4)),
        "temperature_c": newest(numbers(6)),
    }
