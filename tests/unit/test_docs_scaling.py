"""The figures of docs/scaling.md are those that the code gives."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.market import catalog
from orchestrator.market.scaling import reduction

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()


def test_the_output_of_compare_is_what_it_prints(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    found = re.search(r"```text\n\$ pixel-orch (?P<words>.*)\n(?P<shown>(?s:.*?))```", PAGE)
    assert found is not None
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(shlex.split(found["words"])) == 0
    assert stream.getvalue().startswith(found["shown"])


@pytest.mark.parametrize("name", ["g4dn.xlarge", "g5.xlarge", "g5.12xlarge", "p4d.24xlarge"])
def test_the_table_of_all_reduces_is_computed(name: str) -> None:
    known = catalog.find(name)
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| {name}, "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == f"{known.network.gbit_s:g}"
    for nodes, cell in zip((1, 2, 4, 16), cells[2:], strict=True):
        found = reduction(known, nodes, 30.42e6, network_gbit_s=known.network.gbit_s)
        assert float(cell.removesuffix(" ms")) == pytest.approx(1e3 * found.mid, abs=0.5)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4])
def test_the_table_of_measurements_is_computed(nodes: int) -> None:
    found = reduction(catalog.find("p4d.24xlarge"), nodes, float(1 << 30), network_gbit_s=400)
    mid, low, high = (f"{1e3 * value:.1f}" for value in (found.mid, found.low, found.high))
    assert f"| {nodes} x p4d.24xlarge | " in PAGE
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| {nodes} x p4d.24xlarge | "))
    assert f"| {mid} ms ({low} to {high}) |" in row
