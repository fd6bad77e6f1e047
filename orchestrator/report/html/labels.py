"""Labels beside the marks of a chart, placed by textalloc so that they cover no mark, no line and no other label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.html.svg import INK, MUTED, Canvas

RADIUS = 6.0  # of a mark, in points
MARGIN = 0.006  # between a label and what it must not cover, as a share of the chart's width
NEAREST = 0.0065  # from a mark to its label; above the margin, or no place beside the mark is free
TRIES = 120  # places around a mark
Line = tuple[Sequence[float], Sequence[float]]  # xs and ys


@dataclass(frozen=True)
class Label:
    """A mark and its name."""

    x: float
    y: float
    text: str


def place(canvas: Canvas, labels: Sequence[Label], lines: Sequence[Line]) -> list[str]:
    """Draw the labels; return those for which there is no room, which stay undrawn.

    Args:
        canvas: with all marks and the final limits of its axes.
        labels: those that come first get their place first.
        lines: what the labels must not cross, beside the marks.
    """
    import textalloc

    figure, axes = canvas.figure, canvas.axes
    axes.autoscale_view()
    axes.autoscale(enable=False)  # the line to a label changes no limit
    xs, ys = [one.x for one in labels], [one.y for one in labels]
    allocate: Any = textalloc.allocate  # its annotations refuse the None that it documents
    _, _, texts, _ = allocate(
        axes, xs, ys, [one.text for one in labels],
        x_scatter=xs, y_scatter=ys, scatter_sizes=[RADIUS] * len(labels), text_scatter_sizes=[RADIUS] * len(labels),
        x_lines=[list(line[0]) for line in lines] or None, y_lines=[list(line[1]) for line in lines] or None,
        textsize=10.5 if canvas.is_wide else 8.0, textcolor=INK, linecolor=MUTED, linewidth=0.7,
        min_distance=NEAREST, max_distance=0.45, margin=MARGIN, nbr_candidates=TRIES, draw_all=False, auto_ha=False,
        avoid_label_lines_overlap=True, avoid_crossing_label_lines=True, va="bottom",
    )  # fmt: skip
    figure.set_layout_engine("none")  # it was laid out in `allocate`; a label moves no axis
    return [label.text for label, text in zip(labels, texts, strict=True) if text is None]
