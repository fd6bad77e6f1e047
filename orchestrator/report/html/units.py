"""Money in a unit that a person reads: one unit for a chart, or for the column of a table. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from orchestrator.formatting import money

MICRO_BELOW = 0.001  # dollars: from a tenth of a cent on, dollars are read with ease
THOUSAND_BELOW = 0.1  # dollars for one of the things that are counted
Table = tuple[list[str], list[list[str]]]
Usd = float | Decimal


@dataclass(frozen=True)
class Unit:
    """How amounts are written: `scale` of the unit make a dollar."""

    scale: float
    sign: str  # $ or µ$
    per: str  # what it is for: "epoch", "1,000 epochs"

    def words(self, usd: Usd) -> str:
        """Return an amount with its sign: $0.271, 8.67 µ$."""
        text = three_digits(float(usd) * self.scale, keeps_zeros=True)
        return f"${text}" if self.sign == "$" else f"{text} {self.sign}"

    @property
    def title(self) -> str:
        """What the axis is called."""
        name = "dollars" if self.sign == "$" else "µ$ (millionths of a dollar)"
        return f"{name} per {self.per}"


def unit_for(values: Iterable[Usd], per: str) -> Unit:
    """Return the one unit for these dollars, each the price of one `per` (a word that has a plural with s)."""
    most = max((abs(float(value)) for value in values), default=0.0)
    if 0 < most < MICRO_BELOW:
        return Unit(1e6, "µ$", per)
    if 0 < most < THOUSAND_BELOW:
        return Unit(1e3, "$", f"1,000 {per}s")
    return Unit(1.0, "$", per)


def usd_words(usd: Usd) -> str:
    """Return dollars for a card: $12.30, $0.0277, and 867 µ$ below a tenth of a cent."""
    value = float(usd)
    if 0 < abs(value) < MICRO_BELOW:
        return f"{three_digits(value * 1e6, keeps_zeros=True)} µ$"
    return f"${money(usd)}"


def amounts(values: Sequence[Usd]) -> list[str]:
    """Return parts of a sum and the sum in one unit and with the same decimals: three digits of the largest."""
    most = max((abs(float(value)) for value in values), default=0.0)
    scale, sign = (1e6, "µ$") if 0 < most < MICRO_BELOW else (1.0, "$")
    decimals = max(0 if scale > 1 else 2, 2 - math.floor(math.log10(most * scale))) if most else 2
    found = []
    for value in values:
        amount, least = float(value) * scale, 10.0**-decimals
        text = f"{max(amount, least) if amount else 0.0:,.{decimals}f}"
        below = "<" if 0 < amount < least / 2 else ""
        found.append(f"{below}${text}" if scale == 1 else f"{below}{text} {sign}")
    return found


def three_digits(value: float, *, keeps_zeros: bool = False) -> str:
    """Return a figure with at most three significant digits and no exponent; what is above 1,000 keeps its integer.

    Args:
        value: the figure.
        keeps_zeros: whether zeros at the end stay, as in figures below each other.
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text if keeps_zeros or "." not in text else text.rstrip("0").rstrip(".")


def readable(table: Table) -> Table:
    """Return a table whose columns of money have one readable unit each: `µ$/epoch` for `$/epoch`, with its figures."""
    head, rows = list(table[0]), [list(row) for row in table[1]]
    for column, name in enumerate(head):
        if not _is_money(name):
            continue
        values = [_amount(row[column]) for row in rows]
        most = max((abs(value) for value in values if value is not None), default=0.0)
        scale, head[column] = _column(name, most)
        for row, value in zip(rows, values, strict=True):
            if value is not None and scale != 1:
                row[column] = f"{'~' * row[column].startswith('~')}{three_digits(value * scale, keeps_zeros=True)}"
    return head, rows


def _column(name: str, most: float) -> tuple[float, str]:
    """Return (the factor of a column, its name) for its largest amount."""
    if 0 < most < MICRO_BELOW:
        return 1e6, name.replace("$", "µ$")
    if name == "$/epoch" and 0 < most < THOUSAND_BELOW:
        return 1e3, "$/1,000 epochs"
    return 1.0, name


def _is_money(name: str) -> bool:
    return name.startswith("$/") or name.endswith(" $")


def _amount(cell: str) -> float | None:
    """Return the dollars of a cell; None for "-" and "free"."""
    try:
        return float(cell.lstrip("~"))
    except ValueError:
        return None
