"""Draws a small picture in a terminal: each letter `▀` shows two pixels, one above the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

MOST_BYTES = 8 << 20  # of the file: a machine wrote it
MOST_PIXELS = 1 << 22
MOST_ROWS = 10  # of text: the view below needs its place


def half_blocks(path: Path, columns: int, *, rows: int = MOST_ROWS) -> Text | None:
    """Return a PNG as text of at most so many columns and rows; None where it cannot be drawn.

    It is made smaller by a whole factor, by the mean of its pixels, and never larger. Rows of a grid that have no place
    are left out. Pillow reads it, if it is there.
    """
    try:
        from PIL import Image
        from rich.color import Color
        from rich.style import Style
        from rich.text import Text

        if path.is_symlink() or not 0 < path.stat().st_size <= MOST_BYTES:
            return None
        with Image.open(path, formats=("PNG",)) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                return None
            image = opened.convert("RGB")
        image = image.reduce(max(1, -(-image.width // columns)))
        image = image.crop((0, 0, image.width, min(image.height, 2 * rows)))
        pixels = image.load()
        text = Text(no_wrap=True)
        for y in range(0, image.height - 1, 2):
            for x in range(image.width):
                over, under = (Color.from_rgb(*pixels[x, y + row]) for row in (0, 1))
                text.append("▀", Style(color=over, bgcolor=under))
            text.append("\n")
        return text
    except Exception:  # noqa: BLE001 (no Pillow, or a damaged file: a picture is no reason to end a run)
        return None
