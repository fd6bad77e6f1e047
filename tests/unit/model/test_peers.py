"""The benchmark beside public implementations: what it says when one of them is missing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "peers.py"


@pytest.fixture(scope="module")
def peers() -> Any:
    spec = importlib.util.spec_from_file_location("peers_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


def test_a_missing_or_wrong_folder_is_one_line_with_the_repository(
    peers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "pytorch_generative/models/autoregressive/pixel_cnn.py"
    there.parent.mkdir(parents=True)
    there.touch()
    for folder, says in ((None, "is missing"), (tmp_path, f"{tmp_path} has no torchlake/")):
        with pytest.raises(SystemExit, match="2"):
            peers.checked({"pytorch_generative": tmp_path, "torchlake": folder})
        err = capsys.readouterr().err
        assert err.startswith("error: --torchlake ")
        assert says in err
        assert "clone https://github.com/gitE0Z9/pytorch-implementations" in err
        assert err.count("\n") == 1


def test_ratios_are_those_of_the_same_rounds(peers: Any) -> None:
    net = peers.PixelCNN(channels=1, levels=2, hidden=2, layers=1, head=2)
    ours = peers.Contender("PixelCNN", "pixel-orch", net, lambda _: None, ours=True, seconds=[1.0, 2.0, 4.0])
    theirs = peers.Contender("PixelCNN", "theirs", net, lambda _: None, seconds=[2.0, 6.0, 10.0])
    rows = peers.table([ours, theirs], batch=8).splitlines()
    assert rows[0].endswith("2.50 x theirs")
    assert rows[1].split()[-2:] == ["1.3", "4.0"]  # images/s of the median, and of the best round
