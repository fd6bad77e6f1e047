"""Money, figures, lengths of time and tables as text; knows nothing of runs."""

from __future__ import annotations

import math
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TextIO

WIDTH = 80
DAYS_FROM_S = 100 * 3600

# C0 and C1 controls, soft hyphen, zero-width, direction and line marks, fillers, tags, lone surrogates.
_HIDDEN = (
    "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f\\u2028-\\u202e"
    "\\u2060-\\u206f\\u3164\\ufeff\\uffa0\\ufff0-\\ufffb\\ud800-\\udfff\\U0001bca0-\\U0001bca3\\U0001d173-\\U0001d17a"
    "\\U000e0000-\\U000e0fff"
)
_HIDDEN_LETTER = re.compile(f"[{_HIDDEN}]")
_COLOUR = re.compile(r"\x1b\[[0-9;]{0,40}m")
_LONG_WORD = re.compile(r"\S{1001,}")
_HIDDEN_OR_BREAK = re.compile(f"[{_HIDDEN}\\t\\n]")

LONGEST_LINE = 1000  # letters of a line of a trainer that is shown


def visible(text: str, *, keeps_lines: bool = True) -> str:
    """Return a text in which nothing can act on a terminal: a control character is spelled, as in `\\x1b[2J`.

    Spelled are control characters, marks of direction, letters of no width and halves of surrogate pairs.

    Args:
        text: of a machine, of a file, or our own.
        keeps_lines: whether line breaks and tabs stay; else they are spelled too.
    """
    if text.isascii() and text.isprintable():
        return text
    return (_HIDDEN_LETTER if keeps_lines else _HIDDEN_OR_BREAK).sub(_spelled, text)


def uncoloured(text: str) -> str:
    """Return a line of a program's log without its colours, which `visible` would spell."""
    return _COLOUR.sub("", text)


def shortened(text: str) -> str:
    """Return an error whose words can be read: a value that was given by mistake may be a whole file."""
    return _LONG_WORD.sub(lambda found: f"{found[0][:200]}…{found[0][-100:]}", text)


def both_ends(line: str) -> str:
    """Return a line of a log that fits a message: a bar, or a tensor that is printed, may have a million letters."""
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 2 :]}"


def one_line(text: object) -> str:
    """Return a text as one line without control characters: a name, or the cell of a table."""
    return visible(str(text), keeps_lines=False)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    if found[0] in "\t\n\r":
        return {"\t": "\\t", "\n": "\\n", "\r": "\\r"}[found[0]]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def money(usd: float | Decimal | None) -> str:
    """Return dollars with as many digits as say something: 12.30, 0.271, 0.00045."""
    if usd is None:
        return "-"
    value = float(usd)
    if value == 0 or abs(value) < 1e-12:
        return "0"
    if value < 0:
        return f"-{money(-value)}"
    if value >= 10:
        return f"{value:.2f}"
    return f"{value:.{max(2, 2 - math.floor(math.log10(value)))}f}" if value < 1 else f"{value:.3f}"


def price(usd_h: float) -> str:
    """Return dollars per hour as EC2 writes them, to a hundredth of a cent."""
    return f"{usd_h:.4f}"


def number(value: float | None, digits: int | None = None) -> str:
    """Return a figure for people, "-" for none."""
    if value is None:
        return "-"
    if digits is not None:
        return f"{value:.{digits}f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def figure(value: float) -> str:
    """Return a measured value with four digits: 0.5312, 12.4, 3.2e-05."""
    return f"{value:.4g}"


def span(seconds: float) -> str:
    """Return a length of time: 8s, 3m12s, 2h05m; of more than four days: 69d05h."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole >= DAYS_FROM_S:
        return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def megabytes(size_bytes: int) -> str:
    """Return a size in megabytes, a small one in bytes: 5.31 MB, 812 bytes."""
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 10_000 else counted(size_bytes, "byte")


def unwritable(text: str) -> str:
    """Return why a text cannot be stored or given to a program, "" if it can."""
    if "\0" in text:
        return "holds a NUL byte"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate: bytes that are not UTF-8)"
    return ""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word that is nearest to a mistyped one, "" if none is near."""
    import difflib

    return next(iter(difflib.get_close_matches(word[:100], list(known), n=1)), "")


def counted(count: int, what: str) -> str:
    """Return a number of things: 1 run, 2 runs."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def columns(stream: TextIO) -> int | None:
    """Return how wide the terminal behind a stream is; None where there is none."""
    if not stream.isatty():
        return None
    asked = os.environ.get("COLUMNS", "")
    if re.fullmatch("[1-9][0-9]{0,5}", asked):
        return int(asked)
    try:
        return os.get_terminal_size(stream.fileno()).columns or WIDTH
    except (OSError, ValueError):
        return WIDTH


def prose_width(stream: TextIO | None = None) -> int:
    """Return at which column our sentences end: at 80, or where the terminal does."""
    return min(columns(stream or sys.stdout) or WIDTH, WIDTH)


def wrapped(text: str, width: int, indent: str = "") -> str:
    """Break lines that are too long between words, never in one; a path stays whole."""
    return "\n".join(
        line
        if len(line) <= width
        else textwrap.fill(
            line, max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        for line in visible(text).splitlines()
    )


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: str = "",
    *,
    width: float | None = None,
    whole: Sequence[str] = ("RUN",),
    drop: Sequence[str] = (),
) -> str:
    """Return aligned columns, two blanks between them.

    Args:
        head: names of the columns.
        rows: their cells.
        right: columns that are set to the right.
        width: what there is room for; None: the terminal's width, and no limit in a pipe.
        whole: columns that are never cut: what they hold is to be copied.
        drop: columns that are left out, and named below, in this order, before any other is cut.
    """
    if width is None:
        width = columns(sys.stdout) or math.inf
    cells = [list(head), *[[one_line(cell) for cell in row] for row in rows]]
    widths = {name: max(len(row[i]) for row in cells) for i, name in enumerate(head)}
    dropped = []
    for name in drop:
        if _needed(widths) > width and name in widths:
            dropped.append(name)
            del widths[name]
    while _needed(widths) > width:
        able = [name for name in widths if name not in whole and widths[name] > 8]
        able = [name for name in able if name not in right] or able  # words before figures
        if not able:
            break
        widths[max(able, key=lambda name: widths[name])] -= 1
    lines = []
    for row in cells:
        set_cells = [
            cut(cell, widths[name]).rjust(widths[name])
            if name in right
            else cut(cell, widths[name]).ljust(widths[name])
            for cell, name in zip(row, head, strict=True)
            if name in widths
        ]
        lines.append("  ".join(set_cells).rstrip())
    if dropped:
        lines.append(
            wrapped(
                f"(no room for {', '.join(name.strip() for name in dropped)}: in a wider terminal, or -o json)",
                int(width),
            )
        )
    return "\n".join(lines)


def _needed(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + 2 * (len(widths) - 1)


def cut(text: str, width: int) -> str:
    """Return a text of at most so many characters; an ellipsis stands for what is cut off."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"
