"""pixel-orch on your machine: plans, rents, watches, recovers, ends and reports. Never imports torch.

import orchestrator
run = orchestrator.launch(instance="p2.xlarge", cloud="local", settings={"steps": 300})
print(run.state, run.cost_usd, run.checkpoint)

In a program that is trained: `from orchestrator import log` and `log(step, loss=...)`; `orchestrator.callbacks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.version import VERSION

if TYPE_CHECKING:
    from infra.instance.program.run_log import log
    from orchestrator.api import RunResult, launch, result

__all__ = ["VERSION", "RunResult", "launch", "log", "result"]


def __getattr__(name: str) -> Any:
    """Import the API when it is asked for: `pixel-orch --help` must not pay for it."""
    if name == "log":  # in a training: it needs nothing of what rents machines
        from infra.instance.program.run_log import log

        return log
    if name in __all__:
        from orchestrator import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
