"""Money on the page is written in units that a person reads."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.report.html.units import amounts, readable, three_digits, unit_for, usd_words


@pytest.mark.parametrize(
    ("values", "title", "first"),
    [
        ([0.00000867, 0.000809], "µ$ (millionths of a dollar) per epoch", "8.67 µ$"),
        ([0.0009, 0.021], "dollars per 1,000 epochs", "$0.900"),
        ([0.271, 12.0], "dollars per epoch", "$0.271"),
        ([], "dollars per epoch", None),
    ],
)
def test_a_chart_has_one_unit_chosen_by_its_largest_value(values: list[float], title: str, first: str | None) -> None:
    unit = unit_for(values, "epoch")
    assert unit.title == title
    assert first is None or unit.words(values[0]) == first


@pytest.mark.parametrize(
    ("value", "text"),
    [(8.67, "8.67"), (809.4, "809"), (13.5, "13.5"), (0.0452, "0.0452"), (1234.5, "1,234"), (200.0, "200"), (0, "0"),
     (0.9996, "1"), (999.6, "1,000"), (-2.5, "-2.5")],
)  # fmt: skip
def test_a_figure_has_at_most_three_digits(value: float, text: str) -> None:
    assert three_digits(value) == text


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.floats(1e-9, 999))
def test_three_digits_are_the_value_to_half_a_percent(value: float) -> None:
    text = three_digits(value)
    assert float(text) == pytest.approx(value, rel=0.005)
    assert "e" not in text


def test_a_card_below_a_tenth_of_a_cent_is_in_millionths() -> None:
    assert usd_words(0.000867) == "867 µ$"
    assert usd_words(0.00172) == "$0.00172"
    assert usd_words(12.3) == "$12.30"
    assert usd_words(0) == "$0"


def test_a_column_of_tiny_amounts_changes_its_unit_and_no_other_does() -> None:
    head, rows = readable((
        ["type", "$/h", "$/epoch", "disk $", "images/$"],
        [["a", "0.210", "0.00000867", "~0.00012", "9.1M"], ["b", "0.520", "-", "free", "8.0M"]],
    ))  # fmt: skip
    assert head == ["type", "$/h", "µ$/epoch", "disk µ$", "images/$"]
    assert rows == [["a", "0.210", "8.67", "~120", "9.1M"], ["b", "0.520", "-", "free", "8.0M"]]

    head, rows = readable((["$/epoch"], [["0.0000431"], ["0.00105"]]))
    assert head == ["$/1,000 epochs"]
    assert rows == [["0.0431"], ["1.05"]]


def test_the_parts_of_a_sum_have_the_unit_and_the_decimals_of_the_largest() -> None:
    assert amounts([0.0167, 0.000741, 0.0000003, 0.0, 0.0571]) == [
        "$0.0167",
        "$0.0007",
        "<$0.0001",
        "$0.0000",
        "$0.0571",
    ]
    assert amounts([0.000867, 0.0000004]) == ["867 µ$", "<1 µ$"]
    assert amounts([1234.5, 2.0]) == ["$1,234.50", "$2.00"]
    assert amounts([0, 0]) == ["$0.00", "$0.00"]
