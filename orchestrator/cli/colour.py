"""Colours the text of a table in a terminal with rich, which is imported only there.

The words are the same with and without colour: nothing is said by a colour alone.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from orchestrator.cli.console import behind, make_safe, typed
from orchestrator.formatting import visible

if TYPE_CHECKING:
    from rich.text import Text

HEAD = re.compile(r"(?m)^(?:RUN|TYPE|2016|GPU) {2,}.*[A-Z$%)]$")
TITLE = re.compile(r"(?m)^\S.*(?=\n(?:RUN|TYPE|2016) {2,}.*[A-Z$]$)")
CELL = r"(?<=  ){}(?=  |$)"
STYLES = (
    (TITLE, "bold"),
    (HEAD, "bold dim"),
    (re.compile("(?m)" + CELL.format("(?:SUCCEEDED|live)")), "green"),
    (re.compile("(?m)" + CELL.format("RUNNING")), "bold green"),
    (re.compile("(?m)" + CELL.format("(?:FAILED|DAMAGED|UNREADABLE)")), "bold red"),
    (re.compile("(?m)" + CELL.format("(?:RECOVERING|STOPPING|PENDING|PROVISIONING|STOPPED|CANCELLED)")), "yellow"),
    (re.compile("(?m)" + CELL.format("(?:recorded|cached)")), "dim"),
    (re.compile(r"(?m)^(?:Billed: ~?\$[\d,.e-]+|Problems in the data:|Not ranked:|Lowest over all .*:)"), "bold"),
    (re.compile(r"\bsaved\s+\d+\s+%"), "bold green"),
    (re.compile(r"(?<=  )\$[\d,.]+/h(?= in )"), "bold green"),
    (re.compile(r"(?m)^\(.*\)$"), "dim"),
    (re.compile(r"(?m)^  pixel-orch .*$"), "cyan"),
)


def say(text: str, *, is_plain: bool = False) -> None:
    """Print a text with tables to standard output, in colour on a terminal that has them.

    Args:
        text: what to print.
        is_plain: whether there is to be no colour (`--plain`).
    """
    stream = behind(sys.stdout)
    if is_plain or not stream.isatty() or os.environ.get("TERM") == "dumb" or os.environ.get("NO_COLOR"):
        print(text)
        return
    from rich.console import Console

    make_safe(stream)
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    console.print(coloured(typed(text, stream)), soft_wrap=True)


def coloured(text: str) -> Text:
    """Return a text with its headings, states, savings and commands in colour; control characters are spelled."""
    from rich.text import Text

    shown = Text(visible(text))
    for pattern, style in STYLES:
        shown.highlight_regex(pattern, style)
    return shown
