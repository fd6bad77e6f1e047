"""A Python with the oldest torch that `model/` runs on, in an environment of its own: gigabytes, with CUDA's libraries.

python -m tests.support.oldest_torch           prints its path, or why there is none (exit code 1)
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

TORCH = "2.0.1"  # the newest build on PyPI with kernels for a K80; docs/decisions/0002-dependencies.md
PACKAGES = (
    f"torch=={TORCH}", "numpy<2", "scikit-learn", "pillow", "numba", "matplotlib", "tensorboard", "simplejpeg", "lz4",
    "pydantic", "pyyaml", "boto3", "fabric", "rich", "pytest", "pytest-xdist", "hypothesis", "rosbags",
)  # fmt: skip
NEWEST_PYTHON = (3, 11)  # that this torch is built for
PIP_S = 1800


def python_with_it() -> tuple[Path | None, str]:
    """Return a Python that has the oldest torch, and "", or None and why there is none. It is made once."""
    if sys.version_info[:2] > NEWEST_PYTHON:
        return None, f"torch {TORCH} needs Python 3.11 or older; make .venv with one: PYTHON=python3.11 make setup"
    key = hashlib.sha256(repr((sys.version, PACKAGES)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pixel-orch" / f"oldest-torch-{key}"
    python = cache / "bin" / "python"
    if (cache / "complete").exists():
        return python, ""
    print(f"installing torch {TORCH} into {cache}: 5 GB, some minutes", file=sys.stderr)
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", cache], check=True, capture_output=True, timeout=120)
        words = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES]
        subprocess.run(words, check=True, capture_output=True, timeout=PIP_S)
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", None) or b""
        lines = said.decode(errors="replace").strip().splitlines() or [str(error)]
        shutil.rmtree(cache, ignore_errors=True)
        return None, (
            f"pip cannot install torch {TORCH} here: {lines[-1][:200]}; tests/unit/model/test_oldest_torch.py compares "
            "the names that model/ uses with those that torch 2.0 lacks, and needs none of it"
        )
    (cache / "complete").touch()
    return python, ""


if __name__ == "__main__":
    found, why = python_with_it()
    if found is None:
        sys.exit(why)
    print(found)
