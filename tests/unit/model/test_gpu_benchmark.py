"""benchmarks/gpu.py: the record of a GPU in one run; without a GPU it says so in a line. The rest runs on a CPU too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import benchmarks.gpu as benchmark

torch.set_num_threads(1)
ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "sees no GPU here" in err


@pytest.mark.slow
def test_every_row_is_measured_on_a_cpu() -> None:
    words = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--device", "cpu", "--sizes", "small", "--seconds", "60"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=90)
    rows = done.stdout.splitlines()
    assert not [row for row in rows if "failed" in row or "not measured" in row]
    for model in ("pixelcnn", "row-lstm", "diagonal-bilstm"):
        for way in ("float32", "float32, graph", "tf32, graph", "bf16", "bf16, graph"):
            assert [row for row in rows if re.match(rf"{model}, B = 4, {way} +[\d.]+ ", row)]
        assert [row for row in rows if re.match(rf"{model}, B = 2, torch +[\d.]+ +[\d.]+  are the same", row)]


def test_what_fails_or_is_too_late_has_its_reason_in_its_row() -> None:
    def fail() -> str:
        raise RuntimeError("CUDA out of memory\nmore")

    clock = benchmark.Clock(torch.device("cpu"), 60)
    assert benchmark.tried(clock, "x", fail).split(maxsplit=1) == ["x", "failed: CUDA out of memory"]
    late = benchmark.Clock(torch.device("cpu"), 0)
    assert benchmark.tried(late, "x", lambda: "y").endswith("not measured: the time is over")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.slow
def test_a_gpu_is_measured_in_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--sizes", "small", "--seconds", "60"]) == 0
    assert "failed" not in capsys.readouterr().out
