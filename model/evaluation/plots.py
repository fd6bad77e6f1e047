"""Plots of a network's predictions and of its training. Only this module imports matplotlib.

Sizes are in pixels: an image is shown at a whole multiple of its resolution, each of its pixels as a square.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import image_files
from model.captions import captioned
from model.evaluation.measured import is_figure, validations
from model.image_files import Levels, Pixels

DPI = 100
INK, SECOND, QUIET = "#1f4e79", "#c0504d", "#8c8c8c"
COLOURS = (("P(red)", "#b03030"), ("P(green | red)", "#308030"), ("P(blue | red, green)", "#3050b0"))
IMAGE = 240  # largest side of a shown image, if it is not larger itself
PANEL_W, PANEL_H, GAP_W, GAP_H = 220, 190, 16, 34
LEFT, TOP, BOTTOM, RIGHT = 60, 34, 46, 16  # margins for axis names


def predictions(
    path: Path,
    image: Levels,
    places: Sequence[tuple[int, int]],
    chances: NDArray[np.float64],
    *,
    caption: str,
) -> None:
    """Plot predictive distributions beside their image, all with the same axes, and mark the image's levels.

    Gray images have two rows of panels; colour images have a row for each colour and a column for each pixel.

    Args:
        path: of the PNG.
        image: levels, (C, H, W).
        places: (row, column) of each pixel.
        chances: probabilities of the levels at these pixels, (pixels, C, K).
        caption: what is seen.

    Raises:
        OSError: the file cannot be written.
    """
    C, H, W = image.shape
    K = chances.shape[2]
    scale = max(1, IMAGE // max(H, W))
    per_row = 3 if C == 1 else len(places)
    rows = -(-len(places) // per_row) * C
    panel_w = PANEL_W if C == 1 else PANEL_W * 2 // 3
    first = LEFT + W * scale + LEFT + 20  # left edge of the first panel
    width = first + per_row * (panel_w + GAP_W) - GAP_W + RIGHT
    height = max(rows * (PANEL_H + GAP_H) - GAP_H, H * scale)
    figure, top = _figure(width, TOP + height + BOTTOM), BOTTOM + height
    _image(figure, image, scale, K=K, left=LEFT, top=top, places=places)
    highest = min(1.0, 1.06 * float(chances.max()))
    for i, (row, column) in enumerate(places):
        for colour in range(C):
            line, across = (i // per_row, i % per_row) if C == 1 else (colour, i)
            left, lower = first + across * (panel_w + GAP_W), top - PANEL_H - line * (PANEL_H + GAP_H)
            axis = _axes(figure, left, lower, panel_w, PANEL_H)
            level = int(image[colour, row, column])
            name, ink = ("probability", INK) if C == 1 else COLOURS[colour]
            axis.bar(np.arange(K), chances[i, colour], width=1.0, color=ink)
            axis.axvline(level, color=SECOND if C == 1 else "black", lw=1.2, ls="--")
            cost = -np.log(max(float(chances[i, colour, level]), 1e-300))
            where = f"({i + 1}) row {row}, column {column}: " if C == 1 else f"({i + 1}) "
            axis.set_title(f"{where}{cost:.2f} nats", fontsize=9)
            axis.set_xlim(-1, K)
            axis.set_ylim(0, highest)
            axis.xaxis.get_major_locator().set_params(integer=True, nbins=5)
            _name_axes(axis, x="level" if line == rows - 1 else "", y=name if across == 0 else "")
    _save(figure, path, caption)


def training(path: Path, metrics: list[dict[str, Any]], *, dims: int, caption: str) -> None:
    """Plot nats per image and bits/dim over steps and epochs, for training and validation images.

    Args:
        path: of the PNG.
        metrics: the measurements of a training.
        dims: values of an image.
        caption: what is seen.

    Raises:
        OSError: the file cannot be written.
    """
    width, height = 880, 420
    figure = _figure(width, height)
    axis = _axes(figure, 70, BOTTOM, width - 140, height - BOTTOM - 52)
    valid = {step: line["nats"] for step, line in validations(metrics).items()}
    train = {line["step"]: line["nats"] for line in metrics if "split" not in line}  # a resumed run repeats steps
    for curve, ink, line_width, marker, label in (
        (train, QUIET, 1.0, None, "training images"),
        (valid, INK, 2.0, "o", "validation images"),
    ):
        steps = sorted(curve)
        axis.plot(
            steps, [curve[step] for step in steps], color=ink, lw=line_width, marker=marker, ms=4, label=label
        )  # fmt: skip
    if valid:
        best = min(valid, key=lambda step: valid[step])
        axis.annotate(
            f"{valid[best]:.2f} nats", (best, valid[best]), textcoords="offset points", xytext=(4, 8), ha="right"
        )
    late = sorted(line["nats"] for line in metrics if line["step"] > 1)
    if late:  # leave out the first steps, whose far higher nats would flatten the curve
        low, high = late[0], late[int(0.98 * (len(late) - 1))]
        axis.set_ylim(low - 0.08 * (high - low) - 0.1, high + 0.05 * (high - low) + 0.1)
    _name_axes(axis, x="step", y="nats per image")
    per_nat = 1 / (np.log(2) * dims)
    bits = axis.secondary_yaxis("right", functions=(lambda nats: nats * per_nat, lambda bits: bits / per_nat))
    bits.set_ylabel("bits/dim", fontsize=9)
    bits.tick_params(labelsize=8)
    paces = [line["epoch"] / line["step"] for line in metrics if line["step"] and is_figure(line.get("epoch"))]
    if paces and paces[-1] > 0:
        pace = paces[-1]
        epochs = axis.secondary_xaxis("top", functions=(lambda step: step * pace, lambda epoch: epoch / pace))
        epochs.set_xlabel("epoch", fontsize=9)
        epochs.tick_params(labelsize=8)
    axis.legend(frameon=False, fontsize=9)
    _save(figure, path, caption)


def _image(
    figure: Any, image: Levels, scale: int, *, K: int, left: int, top: int, places: Sequence[tuple[int, int]]
) -> None:
    """Show an image, each pixel as a square of `scale` pixels, with the numbers of the chosen ones."""
    _, H, W = image.shape
    pixels: Pixels = image_files.bright(image[None], K=K)[0]
    shown = np.broadcast_to(pixels, (H, W, 3)).repeat(scale, axis=0).repeat(scale, axis=1)
    figure.figimage(shown, xo=left, yo=top - H * scale, origin="upper", zorder=-1)  # copied, not resampled
    axis = _axes(figure, left, top - H * scale, W * scale, H * scale)
    axis.patch.set_visible(False)
    axis.set_xlim(-0.5, W - 0.5)
    axis.set_ylim(H - 0.5, -0.5)
    axis.set_xticks([0, W - 1])
    axis.set_yticks([0, H - 1])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)  # a tick would reach into the image
    _name_axes(axis, x="column", y="row")
    axis.set_title("the image", fontsize=9)
    for i, (row, column) in enumerate(places):
        axis.text(column, row, str(i + 1), color="white", ha="center", va="center", fontsize=9,
                  bbox={"boxstyle": "circle,pad=0.15", "facecolor": SECOND, "edgecolor": "none"})  # fmt: skip


def _figure(width: int, height: int) -> Any:
    """Create a figure without matplotlib's global state, which may need a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Any, left: int, lower: int, width: int, height: int) -> Any:
    """Add axes at a place in pixels from the lower left corner."""
    across, up = (side * DPI for side in figure.get_size_inches())
    axis = figure.add_axes((left / across, lower / up, width / across, height / up))
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    return axis


def _name_axes(axis: Any, *, x: str, y: str) -> None:
    """Name the axes; an axis without a name has no numbers either: the one beside it has both."""
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.tick_params(labelbottom=bool(x), labelleft=bool(y))


def _save(figure: Any, path: Path, caption: str) -> None:
    """Write a figure with a caption below it."""
    figure.canvas.draw()
    drawn: Pixels = np.asarray(figure.canvas.buffer_rgba())[:, :, :3]
    image_files.save(path, captioned(drawn, caption))
