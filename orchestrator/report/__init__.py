"""Pure.

Runs in, a cost and performance report out; the terminal table and the JSON are two readers of the same data.
"""

from orchestrator.report.build import AttemptRow, Report, RunRow, TypeRow, build, run_row
from orchestrator.report.text import as_json, as_text

__all__ = ["AttemptRow", "Report", "RunRow", "TypeRow", "as_json", "as_text", "build", "run_row"]
