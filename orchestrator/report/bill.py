"""The bill of a run by its parts, for programs: the Python API and the export to a tracker."""

from __future__ import annotations

from orchestrator.report.rows import RunRow


def bill_of(row: RunRow) -> dict[str, float | bool | None]:
    """Return dollars by the parts of the bill, their `total`, and `is_estimate`.

    `on_demand` is what the same time would have cost, None where that price is not known.
    """
    parts = {"disk": row.volume_usd, "address": row.address_usd, "data_out": row.data_out_usd}
    instance = row.cost_usd - sum(parts.values())
    usd = {"instance": instance, **parts, "total": row.cost_usd}
    on_demand = None if row.on_demand_usd is None else float(row.on_demand_usd)
    known = {name: float(value) for name, value in usd.items()}
    return {**known, "on_demand": on_demand, "is_estimate": row.is_estimate}
