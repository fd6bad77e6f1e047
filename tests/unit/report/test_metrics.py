"""The digest of an attempt's metrics: its speed, its curves, and what it leaves out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.metrics import Digest, digest, joined, parse, thinned


def line(step: int, speed: float, wall_s: float, **more: object) -> dict[str, Any]:
    return {"step": step, "images_per_s": speed, "wall_s": wall_s, **more}


def test_the_speed_leaves_out_the_warm_up_and_weights_each_line_by_its_duration() -> None:
    found = digest([line(1, 5, 10.0), line(11, 100, 20.0), line(31, 50, 60.0)])
    assert found.images_per_s == pytest.approx((100 * 10 + 50 * 40) / 50)
    assert found.steps_per_s == pytest.approx(30 / 50)
    assert found.measured == 2


def test_the_spread_is_the_10_and_90_percent_quantiles() -> None:
    found = digest([line(1, 1, 0.0), *(line(step, 99.0 + step, float(step)) for step in range(2, 103))])
    assert found.slow_images_per_s == pytest.approx(111)
    assert found.fast_images_per_s == pytest.approx(191)


def test_warm_up_steps_do_not_count() -> None:
    lines = [line(step, 10 if step <= 5 else 100, float(step)) for step in range(1, 20)]
    assert digest(lines, skip_until_step=5).images_per_s == pytest.approx(100)


def test_truncated_metrics_keep_their_complete_lines() -> None:
    whole = json.dumps(line(1, 5, 1.0)).encode()
    lines, torn = parse(whole + b"\n" + whole[:20] + b"\n" + whole + b"\n[1]\nnull\n" + whole[:-4])
    assert (len(lines), torn) == (2, 4)
    assert digest(lines, torn=torn).problems == ("4 lines of the metrics unreadable and left out",)


def test_losses_that_are_not_finite_are_left_out_and_reported() -> None:
    lines, _ = parse(
        b'{"step": 1, "nats": NaN, "bits_per_dim": NaN, "images_per_s": 5}\n'
        b'{"step": 2, "split": "valid", "nats": Infinity, "bits_per_dim": 2.0}\n'
        b'{"step": 3, "split": "valid", "nats": 80.0, "bits_per_dim": 1.8}\n'
    )
    found = digest(lines)
    assert (found.valid_nats, found.not_finite, found.train_curve) == (80.0, 2, ())
    assert "2 losses not finite and left out" in found.problems


def test_spans_in_which_the_clock_goes_back_are_left_out_and_reported() -> None:
    found = digest([line(1, 9, 1.0), line(2, 100, 2.0), line(3, 100, 1.5), line(4, 100, 2.5)])
    assert found.images_per_s == pytest.approx(100)
    assert "the clock went back; these spans are left out" in found.problems


@pytest.mark.parametrize("odd", [True, "7", None, 1.5, [], {}])
def test_a_step_that_is_not_an_integer_is_skipped(odd: object) -> None:
    assert digest([{"step": odd, "images_per_s": 5.0, "bits_per_dim": 2.0}]).images_per_s is None


def test_missing_metrics_are_reported() -> None:
    assert Digest().problems == ("no metrics",)
    assert digest([{"step": 1}]).problems == ("no speed in the metrics",)


def test_a_curve_of_two_attempts_has_each_step_once() -> None:
    first = Digest(train_curve=((1, 3.0), (2, 2.0), (3, 1.5)))
    second = Digest(train_curve=((3, 1.4), (4, 1.3)))
    assert joined([(0, first), (2, second)])[0] == ((1, 3.0), (2, 2.0), (3, 1.4), (4, 1.3))
    lost = joined([(0, first), (0, Digest()), (2, second)])
    assert lost == joined([(0, first), (2, second)]), "a machine that was lost before it trained takes no step back"


def test_a_thinned_curve_keeps_its_mean() -> None:
    points = [(step, float(step)) for step in range(1, 1001)]
    few = thinned(points, 150)
    assert len(few) <= 150
    assert few[-1][0] == 1000
    assert few[0][1] == pytest.approx(sum(range(1, few[0][0] + 1)) / few[0][0])


def test_seconds_per_step_follow_from_images_per_second(home: Path) -> None:
    slow_clock = [line(step, 800.0, step * 0.5) for step in range(1, 20)]  # validations between the measured spans
    found = digest([{"event": "start", "batch_size": 32}, *slow_clock])
    assert found.images_per_s == pytest.approx(800)
    assert found.steps_per_s == pytest.approx(25)


def test_reading_many_lines_is_fast() -> None:
    text = b"\n".join(json.dumps(line(step, 1918.3456, step / 10, nats=83.2)).encode() for step in range(20_000))
    began = time.process_time()
    lines, _ = parse(text)
    digest(lines)
    assert time.process_time() - began < 1.0, "twenty runs of 1,000 lines; the whole is measured in benchmarks/"
