"""Each network of the paper from `launch` to a checkpoint at home; PixelCNN alone is the demo's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stage import Stage, last_json, staged

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

SMALL = [word for setting in ("hidden=4", "layers=2", "head=6", "samples=4") for word in ("--set", setting)]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage."""
    yield from staged(tmp_path)


@pytest.mark.parametrize(
    ("model", "more"),
    [("row-lstm", []), ("diagonal-bilstm", []), ("pixelcnn", ["--set", "multiscale=4"])],
    ids=["row-lstm", "diagonal-bilstm", "pixelcnn, multi-scale"],
)
def test_a_network_is_trained_in_the_embedded_cloud(model: str, more: list[str], stage: Stage) -> None:
    words = ["launch", "--cloud", "local", "--instance", "p2.xlarge", "--spot", "-y", "-n", "tiny", "-o", "json"]
    code, said = stage.run(*words, "--model", model, "--steps", "8", *SMALL, *more)
    assert code == 0, said
    answer = last_json(said)
    assert (answer["state"], answer["attempts"][0]["last_step"]) == ("SUCCEEDED", 8)
    assert Path(answer["samples"]).read_bytes().startswith(b"\x89PNG")
    if more:
        code, said = stage.run("evaluate", "--checkpoint", answer["checkpoint"])
        assert code == 0, said
        assert f"model       {model}" in said
        assert "an upper bound on the image's nats" in said
