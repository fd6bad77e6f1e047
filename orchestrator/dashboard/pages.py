"""The pages as text: one frame, a body for each, the style, and the scripts that a body needs."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

RUNS, RUN, COMPARE = "runs", "run", "compare"
SCRIPTS = {
    RUNS: ("common.js", "runs.js"),
    RUN: ("common.js", "plot.js", "timeline.js", "run.js"),
    COMPARE: ("common.js", "plot.js", "compare.js"),
}
TITLES = {RUNS: "Runs", COMPARE: "Compare runs"}


@lru_cache
def _part(name: str) -> str:
    return resources.files("orchestrator.dashboard").joinpath(name).read_text(encoding="utf-8")


def page_text(body: str, run: str, nonce: str) -> str:
    """Return a page.

    Args:
        body: RUNS, RUN or COMPARE.
        run: the name of the run, which the grammar of names allows; "" for none.
        nonce: of the page's script and style.
    """
    parts = {
        "title": f"{run or TITLES[body]} - pixel-orch",
        "style": _part("page.css"),
        "body": _part(f"{body}.html"),
        "script": "\n".join(_part(name) for name in SCRIPTS[body]),
    }
    text = _part("page.html")
    for name, value in parts.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text.replace("{{run}}", run).replace("{{nonce}}", nonce)
