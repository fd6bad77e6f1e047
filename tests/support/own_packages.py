"""A Python that has more packages than our own, in an environment of its own: what is too large for `make setup`.

python -m tests.support.own_packages NAME PACKAGE...     prints its path, or why there is none (exit code 1)
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIP_S = 300
KEPT = ("torch", "numpy", "scikit-learn", "pydantic", "protobuf")  # what is here is used, and not installed again


def python_with(name: str, packages: Sequence[str]) -> tuple[Path | None, str]:
    """Return a Python that has these packages beside our own, and "", or None and why there is none.

    It is a virtual environment below `~/.cache`, made once: our packages (torch) are visible in it, and not changed.

    Args:
        name: of the environment.
        packages: as pip takes them.
    """
    key = hashlib.sha256(repr((sys.prefix, sys.version, tuple(packages))).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pixel-orch" / f"{name}-{key}"
    python = cache / "bin" / "python"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with (cache.parent / f"{name}-{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (cache / "complete").exists():
            return python, ""
        try:
            _make(cache, python, packages)
        except (subprocess.SubprocessError, OSError) as error:
            said = getattr(error, "stderr", None) or b""
            lines = said.decode(errors="replace").strip().splitlines() or [str(error)]
            shutil.rmtree(cache, ignore_errors=True)
            return None, f"pip cannot install {', '.join(packages)}: {lines[-1][:200]}"
        (cache / "complete").touch()
    return python, ""


def _make(cache: Path, python: Path, packages: Sequence[str]) -> None:
    run_environment = ROOT / "infra" / "instance" / "run_environment.py"
    subprocess.run([sys.executable, run_environment, cache], check=True, capture_output=True, timeout=PIP_S)
    kept = []
    for name in KEPT:
        try:
            kept.append(f"{name}=={version(name)}\n")
        except PackageNotFoundError:
            continue
    (cache / "constraints.txt").write_text("".join(kept))
    words = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", cache / "constraints.txt"]
    subprocess.run([*words, *packages], check=True, capture_output=True, timeout=PIP_S)


if __name__ == "__main__":
    found, why = python_with(sys.argv[1], sys.argv[2:])
    if found is None:
        sys.exit(why)
    print(found)
