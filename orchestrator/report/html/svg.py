"""matplotlib's SVG, adapted to a page: colours become CSS variables, text stays text, each mark has a tooltip.

Each chart is drawn twice, for a wide page and for a phone; the style sheet shows one of the two.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.formatting import one_line, visible

# Placeholder colours for matplotlib; in the page each becomes a CSS variable, which dark mode and print set.
INK, MUTED, GRID, CARD = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
GREY, GOOD, BAD, WARN = "#0b0001", "#0b0002", "#0b0003", "#0b0004"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    CARD: "--card",
    **{colour: f"--s{index}" for index, colour in enumerate(SERIES, 1)},
    GREY: "--grey",
    GOOD: "--good",
    BAD: "--bad",
    WARN: "--warn",
}
WIDE = (7.6, 3.7)  # inches of 72 px: half of a wide page
FULL_WIDTH = 13.5  # of a picture that has a row of a wide page for itself
NARROW = (3.5, 3.5)
_IDS = re.compile(r'(\bid="|href="#|url\(#)')
_GEOMETRY = re.compile(r'\b(?:d|x|y|x1|x2|y1|y2|width|height|points|transform)="[^"]*"')
_LONG = re.compile(r"(\d+\.\d{2})\d+")


@dataclass
class Canvas:
    """One drawing: the figure, its axes, and the tooltips of its marks."""

    figure: Any
    axes: Any  # of several panels the first
    is_wide: bool
    is_full: bool = False  # it has a row of the page for itself
    panels: tuple[Any, ...] = ()  # all axes, from above
    tips: list[str] = field(default_factory=list)

    def tip(self, artist: Any, text: str) -> None:
        """Give an artist a tooltip, which screen readers read too."""
        artist.set_gid(f"tip{len(self.tips)}")
        self.tips.append(text)


@dataclass(frozen=True)
class Picture:
    """A chart of the page."""

    key: str  # its id in the page
    title: str
    caption: str  # what the chart shows, and the origin of its figures
    alt: str  # the content in words, for screen readers
    svg: str
    is_full: bool = False  # it has a row of the page for itself


def check_library() -> None:
    """Raise SpecError if the drawing library is not installed."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None or find_spec("textalloc") is None:
        raise SpecError("--html needs the extra 'report': pip install 'pixel-orch[report]'; -o json works without it")


def picture(
    key: str,
    title: str,
    caption: str,
    alt: str,
    draw: Callable[[Canvas], None],
    *,
    heights: tuple[float, float] = (WIDE[1], NARROW[1]),
    is_full: bool = False,
    panels: Sequence[float] = (1,),
) -> Picture:
    """Draw a chart in both sizes.

    Args:
        key: its id in the page.
        title, caption, alt: see `Picture`.
        draw: draws on the given canvas.
        heights: in inches, wide and narrow.
        is_full: whether it has a row of a wide page for itself.
        panels: the relative heights of the axes, from above; they share the time axis.
    """
    wide = _render(key + "-w", (FULL_WIDTH if is_full else WIDE[0], heights[0]), draw, (True, is_full), panels)
    narrow = _render(key + "-n", (NARROW[0], heights[1]), draw, (False, is_full), panels)
    both = (
        f'<div class="wide" role="img" aria-label="{html.escape(one_line(alt))}">{wide}</div>'
        f'<div class="narrow" role="img" aria-label="{html.escape(one_line(alt))}">{narrow}</div>'
    )
    return Picture(key, title, caption, alt, both, is_full)


def _look(*, is_wide: bool) -> dict[Any, Any]:  # the stubs require literal keys
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "pixel-orch",
        "font.size": 11.5 if is_wide else 9,
        "font.family": "DejaVu Sans",
        "axes.edgecolor": GRID,
        "axes.labelcolor": MUTED,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "figure.facecolor": "none",
        "legend.frameon": False,
        "path.simplify": True,
        "text.parse_math": False,  # a name with two $ is no formula
    }


def drawn(
    size: tuple[float, float],
    draw: Callable[[Canvas], None],
    kind: tuple[bool, bool] = (True, False),
    panels: Sequence[float] = (1,),
) -> tuple[Canvas, str]:
    """Return (the canvas, matplotlib's SVG) of a chart.

    Args:
        size: width and height in inches of 72 px.
        draw: draws on the given canvas.
        kind: whether it is wide, and whether it has a row of the page for itself.
        panels: the relative heights of the axes, from above.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_look(is_wide=kind[0])), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks, a label that is too long: the browser draws it
        figure = Figure(figsize=size, dpi=72, layout="constrained")
        printer: Any = FigureCanvasSVG(figure)
        axes = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=list(panels))
        canvas = Canvas(figure, axes[0][0], kind[0], kind[1], tuple(row[0] for row in axes))
        draw(canvas)
        out = io.StringIO()
        printer.print_svg(out, metadata={"Date": None, "Creator": None})  # `savefig` would lay out and draw it twice
    return canvas, out.getvalue()


def _render(
    prefix: str,
    size: tuple[float, float],
    draw: Callable[[Canvas], None],
    kind: tuple[bool, bool],
    panels: Sequence[float],
) -> str:
    canvas, text = drawn(size, draw, kind, panels)
    return _adapted(text, prefix, canvas.tips)


def _rounded(found: re.Match[str]) -> str:
    """Return an attribute with its coordinates rounded to a hundredth of a point, to keep the page small."""
    return _LONG.sub(r"\1", found[0])


def _adapted(text: str, prefix: str, tips: Sequence[str]) -> str:
    """Return the `<svg>` element with ids that are unique in a page with several."""
    text = visible(text[text.index("<svg") :])
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', text)
    opening = f'<svg viewBox="{box[1] if box else ""}" aria-hidden="true" focusable="false">'
    text = opening + text[text.index(">") + 1 :]
    for index, tip in enumerate(tips):
        text = text.replace(f'<g id="tip{index}">', f'<g class="mark"><title>{html.escape(one_line(tip))}</title>', 1)
    text = _IDS.sub(lambda found: found[1] + prefix + "-", text)
    for colour, name in VARIABLES.items():
        text = text.replace(colour, f"var({name})")
    text = re.sub(r"font: [\d.]+px [^;\"<>]+", lambda found: found[0].split(" ")[1].join(("font-size: ", "")), text)
    text = _GEOMETRY.sub(_rounded, text)
    return re.sub(r"\n\s*", "\n", text).strip()
