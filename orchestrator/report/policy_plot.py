"""The plot of `simulate --plot`: cost over the optimum against slack, a line for each policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import SpecError

COLOURS = {
    "planned": "#b45309",
    "uniform-progress": "#1d4ed8",
    "uniform-progress-lowered": "#0891b2",
    "greedy": "#15803d",
    "time-sliced": "#7c3aed",
    "spot": "#6b7280",
    "on-demand": "#111827",
}
CEILING = 1.6  # what is above is left out, and said: on-demand alone would flatten all others


def draw(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the plot: one panel for each change-over, means over sets and work.

    Args:
        cells: as `simulate -o json` has them.
        path: of a PNG, SVG or PDF file.

    Raises:
        SpecError: the drawing library is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SpecError("--plot: the package matplotlib is missing; pip install 'pixel-orch[report]'") from None
    changeovers = sorted({cell["changeover_s"] for cell in cells})
    figure = Figure(figsize=(5.2 * len(changeovers), 4.2), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(changeovers), sharey=True, squeeze=False)[0]
    for panel, changeover_s in zip(panels, changeovers, strict=True):
        _draw_panel(panel, [cell for cell in cells if cell["changeover_s"] == changeover_s], changeover_s)
    panels[0].set_ylabel("cost / optimum")
    panels[-1].legend(fontsize=8, frameon=False)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise SpecError(f"--plot: cannot write {path} ({error}); name a .png, .svg or .pdf file") from None


def _draw_panel(panel: Any, cells: Sequence[Mapping[str, Any]], changeover_s: float) -> None:
    above = []
    for policy in dict.fromkeys(cell["policy"] for cell in cells):
        slacks = sorted({cell["slack"] for cell in cells})
        means = [
            _mean([cell["cost_over_optimum"] for cell in cells if cell["policy"] == policy and cell["slack"] == slack])
            for slack in slacks
        ]
        if min(means) > CEILING:
            above.append(f"{policy} {min(means):.2f} to {max(means):.2f}")
            continue
        late = any(cell["late"] for cell in cells if cell["policy"] == policy)
        label = f"{policy} (may be late)" if late else policy
        panel.plot(range(len(slacks)), means, marker="o", ms=4, lw=1.8, label=label, color=COLOURS.get(policy),
                   ls="--" if late else "-")  # fmt: skip
        panel.set_xticks(range(len(slacks)), [f"{slack:g}" for slack in slacks])
    panel.axhline(1.0, color="#9ca3af", lw=0.8)
    panel.set_xlabel("slack, as a share of the work" + (f"\nnot shown: {'; '.join(above)}" if above else ""))
    panel.set_title(f"change-over {changeover_s / 60:g} min", fontsize=10)
    panel.grid(visible=True, color="#e5e7eb", lw=0.6)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def draw_ways(ways: Sequence[Mapping[str, Any]], frontier: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the plot of `plan`: expected cost against the chance of being in time and in budget, with the frontier.

    Args:
        ways: as `plan -o json` has them.
        frontier: those of them that no other one beats.
        path: of a PNG, SVG or PDF file.

    Raises:
        SpecError: the drawing library is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SpecError("--plot: the package matplotlib is missing; pip install 'pixel-orch[report]'") from None
    figure = Figure(figsize=(7.2, 4.6), layout="constrained", dpi=120)
    panel = figure.subplots()
    for policy in dict.fromkeys(way["policy"] for way in ways):
        own = [way for way in ways if way["policy"] == policy]
        panel.scatter([way["mean_usd"] for way in own], [100 * _chance(way) for way in own], s=22, label=policy,
                      color=COLOURS.get(policy))  # fmt: skip
    panel.step([way["mean_usd"] for way in frontier], [100 * _chance(way) for way in frontier], where="post",
               color="#9ca3af", lw=1, zorder=0)  # fmt: skip
    for way in frontier:
        panel.annotate(way["instance_type"], (way["mean_usd"], 100 * _chance(way)), xytext=(4, -10),
                       textcoords="offset points", fontsize=8)  # fmt: skip
    panel.set_xscale("log")
    panel.set_xlabel("expected cost, US dollars (an estimate)")
    panel.set_ylabel("chance of being in time and in budget, %")
    panel.grid(visible=True, color="#e5e7eb", lw=0.6)
    panel.legend(fontsize=8, frameon=False)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise SpecError(f"--plot: cannot write {path} ({error}); name a .png, .svg or .pdf file") from None


def _chance(way: Mapping[str, Any]) -> float:
    return float(way["in_time"]) * (1.0 if way["in_budget"] is None else float(way["in_budget"]))
