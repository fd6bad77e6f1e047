"""`plan`: ways to get some work done in time and in budget."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.plan.ways import Speed, Way, frontier
from tests.support.report_runs import Had, write_run

TYPES = ("-t", "g4dn.xlarge,g5.xlarge")


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def empty_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIXEL_ORCH_HOME", str(home))
    return home


def ways_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, list[dict[str, object]]]:
    assert main(["plan", *words, *TYPES, "-o", "json"]) == 0
    told: dict[str, list[dict[str, object]]] = json.loads(capsys.readouterr().out)
    return told


def test_every_type_pool_and_policy_has_its_cost_and_its_chances(capsys: pytest.CaptureFixture[str]) -> None:
    told = ways_of(capsys, "--work", "4h", "--deadline", "8h", "--budget", "3")
    found = told["ways"]
    assert {(way["instance_type"], way["policy"]) for way in found} == {
        (name, policy) for name in ("g4dn.xlarge", "g5.xlarge") for policy in ("planned", "greedy", "on-demand")
    }
    by_policy = {way["policy"]: way["mean_usd"] for way in found if way["instance_type"] == "g4dn.xlarge"}
    assert by_policy["planned"] <= by_policy["greedy"] < by_policy["on-demand"]  # type: ignore[operator]
    assert all(way["in_time"] == 1 for way in found), "the work is given, and the safety rule holds"
    assert all(0 <= way["in_budget"] <= 1 for way in found)  # type: ignore[operator]
    best = told["frontier"]
    assert best[0]["mean_usd"] == min(way["mean_usd"] for way in found)  # type: ignore[type-var]


def test_predicted_speeds_make_the_time_uncertain_and_measured_ones_less_so(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ways_of(capsys, "--images", "500M", "--deadline", "24h", "--policy", "on-demand")
    (slow, *_) = [way for way in told["ways"] if way["instance_type"] == "g4dn.xlarge"]
    assert slow["basis"] == "predicted"
    assert 0 < slow["in_time"] < 1  # type: ignore[operator]
    write_run(home, "one", [Had("g4dn.xlarge", images_per_s=1000.0)])
    told = ways_of(capsys, "--images", "50M", "--deadline", "24h", "--policy", "on-demand")
    (known, *_) = [way for way in told["ways"] if way["instance_type"] == "g4dn.xlarge"]
    assert (known["basis"], known["work_h"]) == ("measured", pytest.approx(50e6 / 1000 / 3600, rel=1e-3))
    assert known["in_time"] == pytest.approx(1.0)


@pytest.mark.parametrize("width", [80, 40])
def test_the_table_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with redirect_stdout(terminal):
        assert main(["plan", "--work", "2h", "--deadline", "4h", "--budget", "9", *TYPES]) == 0
    text = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    assert max(map(len, text.splitlines())) <= width, text
    assert "g4dn.xlarge" in text
    assert "Estimates" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--images 50M", "--deadline is missing"),
        ("--deadline 4h", "give one of --images"),
        ("--images 5M --steps 3 --deadline 4h", "give one of --images"),
        ("--images x --deadline 4h", "not a number"),
        ("--images 0 --deadline 4h", "not above zero"),
        ("--steps 0 --deadline 4h", "not above zero"),
        ("--work 0h --deadline 4h", "not above zero"),
        ("--work 1h --deadline 3m", "less than one change-over"),
        ("--work 1h --deadline 2020-01-01T10:00", "ago"),
        ("--work 10h --deadline 4h", "give a later --deadline"),
        ("--work 10h --deadline 12h --budget 0.5", "give --budget"),
        ("--work 1h --deadline 4h -t p2.xlarge", "retired"),
        ("--work 1h --deadline 4h --policy nope", "there is no policy"),
        ("--work 1h --deadline 4h --plot /nonexistent/a.png", "cannot write"),
    ],
)
def test_an_impossible_wish_is_one_line_that_says_what_would_be_possible(
    words: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words.split() if "-t" in words else [*words.split(), *TYPES]
    assert main(["plan", *given]) == 2
    told = capsys.readouterr()
    assert says in told.err, told.err
    assert told.out == ""


def test_a_speed_is_a_distribution() -> None:
    speed = Speed.of_images(3600 * 1000, mean=1000.0, low=500.0, high=2000.0, basis="predicted")
    assert speed.work_h == pytest.approx(1.0)
    assert speed.chance_within(1.0) == pytest.approx(0.5)
    assert speed.chance_within(2.0) == pytest.approx(0.95, abs=0.001)
    assert speed.chance_within(0.5) == pytest.approx(0.05, abs=0.001)
    assert speed.chance_within(0.0) == 0.0
    factors = speed.factors()
    assert factors == sorted(factors)
    assert factors[0] < 0.5
    assert factors[-1] > 2
    assert Speed(1.0, 0.0, "given").chance_within(0.99) == 0.0


def way(usd: float, in_time: float) -> Way:
    return Way("t", "r", "zone", "p", 1.0, "given", usd, usd, in_time, None, "recorded")


def test_the_frontier_is_what_no_other_way_beats() -> None:
    found = [way(3, 1.0), way(1, 0.5), way(2, 0.4), way(2.5, 0.9), way(5, 1.0), way(0.5, 0.0)]
    assert [(one.mean_usd, one.in_time) for one in frontier(found)] == [(1, 0.5), (2.5, 0.9), (3, 1.0)]
