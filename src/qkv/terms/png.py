"""Masks and matrices of weights as PNG files, drawn with Pillow and the font it brings.

Knows pixels, colours and labels. Refuses to know what a matrix means, and to import Pillow before
something is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import SpecError
from .shade import Colour, heat_colour, ink_on

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

    Font = FreeTypeFont | BitmapFont

MAX_PIXELS = 1024
"""Pixels of the longer side of a matrix; labels stand outside."""

_THIN = 24

_KEPT: Colour = (31, 78, 121)
_DROPPED: Colour = (244, 241, 234)
_PAPER: Colour = (255, 255, 255)
_INK: Colour = (45, 45, 45)
_FAINT: Colour = (120, 120, 120)
_GRID: Colour = (214, 208, 196)

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Panel:
    """One heat map: its title, a matrix, and a label for each row and column."""

    title: str
    matrix: Matrix
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.matrix.shape != (len(self.rows), len(self.columns)) or 0 in self.matrix.shape:
            raise SpecError(
                f"heat map {self.title!r}: a matrix of shape {self.matrix.shape}, {len(self.rows)} row labels and "
                f"{len(self.columns)} column labels.\n  Give one label for each row and column, at least one of each."
            )


def write_png(
    shares: Matrix,
    path: str | PathLike[str],
    *,
    cell: int = 1,
    title: str = "",
    labels: tuple[str, str] = ("query", "key"),
    first: tuple[int, int] = (0, 0),
    colours: tuple[Colour, Colour] = (_DROPPED, _KEPT),
) -> None:
    """Write a matrix of shares from 0 to 1 as a PNG at ``path``, at most 1024 pixels a side without its labels.

    Each entry is a square of ``cell`` pairs a side, the first of them at the positions ``first``; the title, the
    axes' names and a few positions are written beside it. ``colours`` are those of 0 and 1; any share above 0 is
    visible. Raises ``SpecError`` for an empty matrix or one of more than 1024 rows or columns.
    """
    from PIL import Image, ImageDraw

    rows, columns = shares.shape
    if not 0 < rows <= MAX_PIXELS or not 0 < columns <= MAX_PIXELS:
        raise SpecError(f"a PNG of {rows} x {columns} cells.\n  From 1 to {MAX_PIXELS} rows and columns can be drawn.")
    scale = max(1, min(40, MAX_PIXELS // max(rows, columns)))
    high, wide = (max(scale, -(-_THIN // n)) for n in (rows, columns))  # a matrix of one row can still be seen
    strength = np.where(shares > 0, 0.18 + 0.82 * np.clip(shares, 0, 1), 0.0)[..., None]
    none, full = (np.array(c, dtype=np.float64) for c in colours)
    pixels = np.round(none + (full - none) * strength).astype(np.uint8)
    matrix = Image.fromarray(pixels).resize((columns * wide, rows * high), Image.Resampling.NEAREST)

    small, large = _font(13), _font(15)
    note = f"one pixel = {cell} x {cell} pairs" if cell > 1 else ""
    left, top, gap = 78, 74, 16
    width = max(left + matrix.width + gap, int(large.getlength(title)) + 2 * gap)
    height = top + max(matrix.height, 90) + (34 if note else gap)  # room for the upright name
    image = Image.new("RGB", (width, height), _PAPER)
    image.paste(matrix, (left, top))
    draw = ImageDraw.Draw(image)
    if scale >= 8:
        _grid(draw, (left, top), (rows, columns), (high, wide))
    draw.rectangle((left - 1, top - 1, left + matrix.width, top + matrix.height), outline=_FAINT)
    draw.text((gap, gap), title, fill=_INK, font=large)
    draw.text((left + matrix.width, top - 22), f"{labels[1]} (keys)", fill=_INK, font=small, anchor="rs")
    _upright(image, f"{labels[0]} (queries)", (6, top), small)
    for place in ticks(rows):
        text = str(first[0] + place * cell)
        draw.text((left - 7, top + (place + 0.5) * high), text, fill=_FAINT, font=small, anchor="rm")
    for place in ticks(columns):
        text = str(first[1] + place * cell)
        draw.text((left + (place + 0.5) * wide, top - 5), text, fill=_FAINT, font=small, anchor="ms")
    draw.text((left, top + matrix.height + 8), note, fill=_FAINT, font=small)
    image.save(path, format="PNG")


def ticks(number: int) -> list[int]:
    """Round places along an axis of ``number`` cells, from 0, at most nine."""
    step = 1
    while number / step > 9:
        step = step * 2 if str(step)[0] in "15" else step * 5 // 2
    return list(range(0, number, step))


def heat_png(panels: Sequence[Panel], path: str | PathLike[str], *, per_row: int = 3) -> None:
    """Write heat maps as one PNG at ``path``, ``per_row`` side by side, each number written in its square.

    Colours run from white at 0 to dark blue at the largest value of a panel, and to red for negative values.
    Raises ``SpecError`` without panels.
    """
    from PIL import Image, ImageDraw

    if not panels or per_row < 1:
        raise SpecError(f"a picture of {len(panels)} heat maps, {per_row} in a row.\n  Both must be at least 1.")
    font = _font(14)
    square = 54
    margin = 14 + max(int(font.getlength(_short(r))) for p in panels for r in p.rows)
    width = margin + square * max(p.matrix.shape[1] for p in panels) + 26
    width = max(width, max(int(_font(16).getlength(p.title)) for p in panels) + 40)
    height = 66 + square * max(p.matrix.shape[0] for p in panels) + 20
    columns = min(per_row, len(panels))
    image = Image.new("RGB", (columns * width + 14, -(-len(panels) // columns) * height + 14), _PAPER)
    draw = ImageDraw.Draw(image)
    for number, panel in enumerate(panels):
        origin = (14 + number % columns * width, 14 + number // columns * height)
        _panel(draw, panel, origin, margin, square)
    image.save(path, format="PNG")


def _panel(draw: ImageDraw, panel: Panel, origin: tuple[int, int], margin: int, square: int) -> None:
    left, top = origin[0] + margin, origin[1] + 52
    font = _font(14)
    draw.text((origin[0] + 4, origin[1] + 4), panel.title, fill=_INK, font=_font(16))
    largest = float(np.nanmax(np.abs(panel.matrix), initial=0.0))
    for n, label in enumerate(panel.columns):
        draw.text((left + (n + 0.5) * square, top - 6), _short(label), fill=_INK, font=font, anchor="ms")
    for m, label in enumerate(panel.rows):
        draw.text((left - 8, top + (m + 0.5) * square), _short(label), fill=_INK, font=font, anchor="rm")
        for n, value in enumerate(panel.matrix[m].tolist()):
            corner = (left + n * square, top + m * square)
            colour = heat_colour(value, largest)
            draw.rectangle((*corner, corner[0] + square, corner[1] + square), fill=colour, outline=_GRID)
            middle = (corner[0] + square / 2, corner[1] + square / 2)
            draw.text(middle, f"{value:.2f}", fill=ink_on(colour), font=font, anchor="mm")


def _short(label: str) -> str:
    return label if len(label) <= 8 else label[:7] + "…"


def _font(size: int) -> Font:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def _upright(image: Image, text: str, corner: tuple[int, int], font: Font) -> None:
    """Text that reads from below, its end at ``corner``."""
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (int(font.getlength(text)) + 4, 20), _PAPER)
    ImageDraw.Draw(strip).text((2, 2), text, fill=_INK, font=font)
    image.paste(strip.rotate(90, expand=True), corner)


def _grid(draw: ImageDraw, corner: tuple[int, int], number: tuple[int, int], scale: tuple[int, int]) -> None:
    left, top = corner
    right, bottom = left + number[1] * scale[1] - 1, top + number[0] * scale[0] - 1
    for x in range(left + scale[1], right, scale[1]):
        draw.line((x, top, x, bottom), fill=_GRID)
    for y in range(top + scale[0], bottom, scale[0]):
        draw.line((left, y, right, y), fill=_GRID)
