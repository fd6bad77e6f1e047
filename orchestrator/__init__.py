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
    from orchestrator.api import RunResult, compare_types, get_prices, launch, list_runs, result

__all__ = ["VERSION", "RunResult", "compare_types", "get_prices", "launch", "list_runs", "log", "result"]


def __getattr__(name: str) -> Any:
    """Import the API when it is asked for: `pixel-orch --help` must not pay for it."""
    if name == "log":  # in a training: it needs nothing of what rents machines
        from infra.instance.program.run_log import log

        return log
    if name in __all__:
        from orchestrator import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what is public: a completion in a notebook shows that, and none of our modules."""
    return sorted(__all__)
