"""Captions below images, drawn with Pillow's own font."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model.image_files import Pixels

SIZE = 13  # of the letters, in pixels
LINE = 18  # from one line to the next, in pixels
MARGIN = 6  # around the text, in pixels
PAPER, INK = 255, 32  # grey values
LEAST_WIDTH = 272  # of a captioned image: about 40 letters in a line
TIED = "\N{NO-BREAK SPACE}"
TONES = 8  # grey values of the letters' edges, so that a palette of 256 colours has room for the image's own


def captioned(canvas: Pixels, text: str, *, below: Sequence[str] = ()) -> Pixels:
    """Put a caption below an image.

    Args:
        canvas: (height, width, C), C = 1 or 3. It stays as it is, at the top left; a narrow one gets a margin.
        text: the caption, wrapped to the width.
        below: further lines, which are not wrapped.

    Returns:
        Pixels (height + caption, width, C). The size depends on the number of lines only.
    """
    height, width, C = canvas.shape
    room = max(width, LEAST_WIDTH)
    lines = [*wrapped(text, room - 2 * MARGIN), *below]
    made = np.full((height + 2 * MARGIN + LINE * len(lines), room, C), PAPER, dtype=np.uint8)
    made[:height, :width] = canvas
    made[height:] = _written(lines, (made.shape[0] - height, room))[:, :, None]
    return made


def wrapped(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels; a longer word has a line of its own.

    A number stays with the word before it: `h = 16`, `step 1,500`.
    """
    font = _font()
    lines: list[str] = []
    for word in re.sub(r" (?=[=\d])", TIED, text).split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line.replace(TIED, " ") for line in lines if line]


def _written(lines: Sequence[str], size: tuple[int, int]) -> Pixels:
    """Write lines on a strip of paper of a size (height, width)."""
    strip = Image.new("L", (size[1], size[0]), PAPER)
    pen = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        pen.text((MARGIN, MARGIN + LINE * number), line, fill=INK, font=_font())
    step = (PAPER - INK) / (TONES - 1)
    tones: Pixels = (INK + np.round((np.asarray(strip) - float(INK)) / step) * step).round().astype(np.uint8)
    return tones


def _font() -> Any:
    """Return Pillow's font; a Pillow that is built without FreeType has one of a fixed size."""
    return ImageFont.load_default(size=SIZE)
