"""One run as a small piece of HTML, for a notebook: state, cost, progress, newest values, newest samples."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from orchestrator.formatting import counted, figure, money, number, one_line

MOST_VALUES = 4
BAR_STYLE = "display:block;width:20em;max-width:100%"
IMAGE_STYLE = "max-height:12em;max-width:100%"


def run_card(details: Mapping[str, Any], samples: bytes = b"", *, steps: int | None = None) -> str:
    """Return the card. Whatever a machine has written stands in it as text.

    Args:
        details: of a run, as `summary_json` gives them.
        samples: a PNG, b"" for none.
        steps: how many there are to do, None where only the trainer knows.
    """
    rows = [("state", details["state"] + (f" ({details['reason']})" if details["reason"] else ""))]
    rows.append(("cloud", details["cloud"]))
    about = "~" if details["cost_is_estimate"] else ""
    rows.append(("cost", f"{about}${money(details['cost_usd'])}"))
    if details["steps"] is not None:
        of = f" of {number(steps, 0)}" if steps else ""
        rows.append((details["steps_are"], f"{number(details['steps'], 0)}{of}"))
    machines = details["attempts"]
    if machines:
        last, count = machines[-1], len(machines)
        lost = f", {counted(details['interruptions'], 'interruption')}" if details["interruptions"] else ""
        rows.append(("machine", f"{last['instance_type']} {last['market']} in {last['zone']}"))
        rows.append(("machines", f"{count}{lost}"))
    rows += [(key, figure(value)) for key, value in list(details["metrics"].items())[:MOST_VALUES]]
    rows.append(("folder", details["folder"]))
    cells = "".join(
        f"<tr><th style='text-align:left'>{_text(name)}</th><td style='text-align:left'>{_text(value)}</td></tr>"
        for name, value in rows
    )
    bar = image = ""
    if steps and details["steps"] is not None:
        done = min(details["steps"], steps)
        bar = f"<progress max='{steps}' value='{done}' style='{BAR_STYLE}'></progress>"
    if samples:
        source = base64.b64encode(samples).decode()
        image = f"<img alt='newest samples' style='{IMAGE_STYLE}' src='data:image/png;base64,{source}'>"
    return f"<div><strong>{_text(details['run'])}</strong><table>{cells}</table>{bar}{image}</div>"


def _text(value: object) -> str:
    return escape(one_line(value))
