"""Colours of heat maps, and heat maps as lines of text.

Knows how a number becomes a colour or a shade. Refuses to know files and whether a terminal has colours: the caller
says.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import SpecError

Colour = tuple[int, int, int]

_ZERO: Colour = (250, 249, 246)
_POSITIVE: Colour = (20, 66, 114)
_NEGATIVE: Colour = (158, 42, 43)
_UNKNOWN: Colour = (200, 200, 200)
_BARS = " ▁▂▃▄▅▆▇█"
_LABEL = 10
_NARROW = 6  # a cell with fewer characters has no room for the 0 before the point


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """The colour ``share`` of the way from the first to the second."""
    a, b, c = (round(x + (y - x) * share) for x, y in zip(first, second, strict=True))
    return (a, b, c)


def heat_colour(value: float, largest: float) -> Colour:
    """White for 0, dark blue for ``largest``, dark red for its negative, grey for NaN."""
    if math.isnan(value):
        return _UNKNOWN
    share = 0.0 if largest <= 0 else min(abs(value) / largest, 1.0)
    return blend(_ZERO, _POSITIVE if value >= 0 else _NEGATIVE, share)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever contrasts more with the colour (WCAG 2.2, relative luminance)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def heat_lines(
    matrix: NDArray[np.float64],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    colour: bool,
    width: int = 8,
) -> list[str]:
    """Return a heat map as lines of text: a heading line, then one line for each row.

    With ``colour`` each number stands on a background of 24-bit colour with ink that can be read on it, whatever the
    terminal's own colours; without, a bar as high as the number's share of the largest stands before it.
    ``width`` is the number of characters of a cell, at least 5; below 6 numbers are written without their leading 0.
    Raises ``SpecError`` unless there is one label for each row and column.

    >>> for line in heat_lines(np.array([[1.0, 0.0], [0.25, 0.75]]), ["the", "cat"], ["the", "cat"], colour=False):
    ...     print(line)
             the     cat
    the   █ 1.00    0.00
    cat   ▂ 0.25  ▆ 0.75
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape != (len(row_labels), len(column_labels)):
        raise SpecError(
            f"a heat map of shape {values.shape}, {len(row_labels)} row and {len(column_labels)} column labels.\n"
            "  Give one label for each row and column."
        )
    if width < 5:
        raise SpecError(f"a heat map with cells of {width} characters.\n  A number with two decimals needs 5.")
    largest = float(np.nanmax(np.abs(values), initial=0.0))
    rows = [fit(label, _LABEL) for label in row_labels]
    margin = max((cells(label) for label in rows), default=0)
    heading = " " * margin + "".join(pad(fit(label, width - 1), width, right=True) for label in column_labels)
    cell = _coloured if colour else _barred
    lines = [
        pad(label, margin) + "".join(cell(value, largest, width) for value in row)
        for label, row in zip(rows, values.tolist(), strict=True)
    ]
    return [heading, *lines]


def _number(value: float, width: int) -> str:
    text = f"{value:.2f}"
    return text if width >= _NARROW else text.replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.1f}"


def _barred(value: float, largest: float, width: int) -> str:
    share = 0.0 if largest <= 0 or math.isnan(value) else abs(value) / largest
    bar = _BARS[min(8, max(round(share * 8), 1))] if share > 0 else " "
    return f"{bar}{_number(value, width).rjust(5 if width >= _NARROW else 3)}".rjust(width)


def _coloured(value: float, largest: float, width: int) -> str:
    ground = heat_colour(value, largest)
    ink = ink_on(ground)
    return (
        "\x1b[38;2;{};{};{};48;2;{};{};{}m".format(*ink, *ground) + f"{_number(value, width)} ".rjust(width) + "\x1b[0m"
    )


def cells(text: str) -> int:
    """How many columns of a terminal the text takes; East Asian wide characters take two, combining ones none."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text if not unicodedata.combining(c))


def fit(label: str, width: int) -> str:
    """The label on one line, cut to ``width`` columns with an ellipsis."""
    plain = "".join(c if c.isprintable() else "·" for c in label)
    if cells(plain) <= width:
        return plain
    while plain and cells(plain) > width - 1:
        plain = plain[:-1]
    return plain + "…"


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text with spaces up to ``width`` columns, after it or, with ``right``, before it."""
    space = " " * max(0, width - cells(text))
    return space + text if right else text + space
