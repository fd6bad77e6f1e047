"""`bench --nodes`: a launch for each type and number of machines, its share of the budget, and its settings."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from orchestrator.cli import bench
from orchestrator.cli.flags import parser
from orchestrator.cli.main import main
from orchestrator.errors import SpecError
from orchestrator.plan.settings_file import read_settings

WORDS = ["bench", "--cloud", "local", "--spot", "-y", "--instance", "g5.xlarge,g6.xlarge", "--budget", "14"]


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    monkeypatch.chdir(tmp_path)


def children(home: Path, *more: str) -> list[bench.Child]:
    args = parser().parse_args([*WORDS, *more])
    return bench.prepare_children(home, "b", args, [], files=read_settings(args.file))


def value_of(child: bench.Child, flag: str) -> str:
    return child.words[child.words.index(flag) + 1]


def test_there_is_a_launch_for_each_type_and_number_of_machines(home: Path) -> None:
    made = children(home, "--nodes", "1,2,4")
    assert [child.spec.run for child in made] == [
        "b-g5-xlarge-x1", "b-g5-xlarge-x2", "b-g5-xlarge-x4", "b-g6-xlarge-x1", "b-g6-xlarge-x2", "b-g6-xlarge-x4",
    ]  # fmt: skip
    assert [value_of(child, "--nodes") for child in made] == ["1", "2", "4"] * 2
    assert [child.label for child in made[:3]] == ["g5.xlarge", "2 x g5.xlarge", "4 x g5.xlarge"]
    assert len({child.log for child in made}) == 6


def test_the_budget_is_shared_by_the_machines(home: Path) -> None:
    made = children(home, "--nodes", "1,2,4")
    assert [Decimal(value_of(child, "--budget")) for child in made] == [1, 2, 4, 1, 2, 4]
    assert [Decimal(value_of(child, "--budget")) for child in children(home)] == [7, 7]


def test_without_the_flag_the_launches_are_those_of_before(home: Path) -> None:
    made = children(home)
    assert [child.spec.run for child in made] == ["b-g5-xlarge", "b-g6-xlarge"]
    assert all("--nodes" not in child.words and child.nodes == 1 for child in made)


def test_a_settings_file_may_say_how_many_machines(home: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("nodes: 2\n")
    made = children(home, "-f", "run.yaml")
    assert [child.label for child in made] == ["2 x g5.xlarge", "2 x g6.xlarge"]
    assert [child.label for child in children(home, "-f", "run.yaml", "--nodes", "1")] == ["g5.xlarge", "g6.xlarge"]


def test_the_settings_of_each_run_say_how_many_machines(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = bench.spec_from

    def spec_from(flags, command, files):  # type: ignore[no-untyped-def]  # as it is
        seen.append(flags.get("nodes"))
        return real(flags, command, files)

    monkeypatch.setattr(bench, "spec_from", spec_from)
    children(home, "--nodes", "2,1")
    assert seen == ["1", "2", "1", "2"]


def test_a_long_name_leaves_room_for_type_and_machines(home: Path) -> None:
    args = parser().parse_args([*WORDS, "--nodes", "1,2"])
    made = bench.prepare_children(home, "x" * 40, args, [], files=read_settings(None))
    assert {len(child.spec.run) for child in made} == {40}
    assert len({child.spec.run for child in made}) == 4


@pytest.mark.parametrize("nodes", ["0", "x", "1,,2", "-1"])
def test_what_is_no_number_of_machines_is_refused(nodes: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SpecError, match="--nodes"):
        children(home, f"--nodes={nodes}")
    assert main([*WORDS, f"--nodes={nodes}"]) == 2
    assert "is no number of machines" in capsys.readouterr().err
    assert not (home / "benches").exists()
    assert not (home / "runs").exists()
