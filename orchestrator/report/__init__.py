"""Pure.

Runs in, a cost and performance report out; the terminal, JSON, CSV, Markdown and HTML read the same data.
"""

from orchestrator.report.build import build, run_row
from orchestrator.report.forms import as_csv, as_json, as_markdown
from orchestrator.report.rows import AttemptRow, Report, RunRow, TypeRow, Workload
from orchestrator.report.text import as_text

__all__ = [
    "AttemptRow",
    "Report",
    "RunRow",
    "TypeRow",
    "Workload",
    "as_csv",
    "as_json",
    "as_markdown",
    "as_text",
    "build",
    "run_row",
]
