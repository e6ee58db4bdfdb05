"""Pictures of masks: a matrix of queries by keys as text or as a PNG.

A mask that is too large for the picture is drawn by cells, each shaded by the share of its pairs that are kept, and
the picture says how many pairs a cell holds. Shares are counted exactly (``count``). This module knows characters and
pixels; it refuses to know what any mask means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from ..errors import SpecError
from .count import count_cells
from .expr import Node
from .png import MAX_PIXELS, write_png

MAX_LINES = 64
"""Lines of a text picture, so that it fits on a tall screen."""
MAX_COLUMNS = 128
"""Characters of a line."""

_SINGLE = 32  # up to so many rows and columns each pair has a sign of its own, two characters wide
_SHADES = " ░▒▓█"
_HALVES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}

Shares = NDArray[np.float64]
Mask = NDArray[np.bool_]


def picture(
    node: Node,
    *,
    query: str,
    key: str,
    num_queries: int,
    num_keys: int,
    offset: int = 0,
    at: Mapping[str, int] | None = None,
    path: str | PathLike[str] | None = None,
    title: str = "",
) -> str:
    """Return the bool graph ``node`` drawn as text, rows being queries; with ``path`` also write it as a PNG there.

    Up to 32 x 32 each pair is two characters, up to 128 x 128 half a character; beyond, a character stands for a cell
    of pairs, shaded by the share that is kept, and the last line says how large it is. At most 64 lines of 128
    characters. Arguments and errors are those of ``count``. ``SpecError`` for an empty matrix.
    """
    if num_queries < 1 or num_keys < 1:
        raise SpecError(f"a picture of {num_queries} queries and {num_keys} keys.\n  Both must be at least 1.")

    def shares(cell: tuple[int, int]) -> tuple[Shares, int]:
        found = count_cells(
            node, query=query, key=key, num_queries=num_queries, num_keys=num_keys, cell=cell, offset=offset, at=at
        )
        return found / _areas((num_queries, num_keys), cell), int(found.sum())

    cell = text_cell(num_queries, num_keys)
    drawn, kept = shares(cell)
    share = 100.0 * kept / (num_queries * num_keys)
    down = f"{num_queries} {'query' if num_queries == 1 else 'queries'} ({query}, down)"
    across = f"{num_keys} {'key' if num_keys == 1 else 'keys'} ({key}, across)"
    size = f"{down} by {across}, {share:.4g} % kept"
    summary = f"{title}: {size}" if title else size
    if path is not None:
        side = math.ceil(max(num_queries, num_keys) / MAX_PIXELS)
        fine = drawn if cell == (side, side) else shares((side, side))[0]
        write_png(fine, path, cell=side, title=summary, labels=(query, key), first=(offset, 0))
    body = draw_mask(drawn > 0) if cell == (1, 1) else [*draw_shares(drawn), scale_line(cell)]
    return "\n".join([summary, *body])


def text_cell(num_queries: int, num_keys: int) -> tuple[int, int]:
    """How many queries and keys one cell of a text picture holds; (1, 1) where each pair can be seen."""
    if num_queries <= 2 * MAX_LINES and num_keys <= MAX_COLUMNS:
        return (1, 1)
    # a character is about twice as high as it is wide, so that a cell holds twice as many queries as keys
    keys = math.ceil(max(num_keys / MAX_COLUMNS, num_queries / (2 * MAX_LINES)))
    return (min(2 * keys, num_queries), min(keys, num_keys))


def draw_text(mask: Mask) -> str:
    """A matrix of truth values as text, rows being queries: pair by pair where it fits, by shaded cells beyond."""
    cell = text_cell(*mask.shape)
    if cell == (1, 1):
        return "\n".join(draw_mask(mask))
    rows, columns = (np.arange(0, n, step, dtype=np.intp) for n, step in zip(mask.shape, cell, strict=True))
    kept = np.add.reduceat(np.add.reduceat(mask.astype(np.float64), rows, axis=0), columns, axis=1)
    return "\n".join([*draw_shares(kept / _areas(mask.shape, cell)), scale_line(cell)])


def _areas(shape: tuple[int, ...], cell: tuple[int, int]) -> Shares:
    """How many pairs each cell holds; the last row and column of cells may hold fewer."""
    rows = np.minimum(shape[0] - np.arange(0, shape[0], cell[0]), cell[0]).astype(np.float64)
    columns = np.minimum(shape[1] - np.arange(0, shape[1], cell[1]), cell[1]).astype(np.float64)
    return rows[:, None] * columns


def draw_mask(mask: Mask) -> list[str]:
    """The framed lines of a small mask, each pair with a sign of its own, and what the signs mean."""
    if max(mask.shape) <= _SINGLE:
        return [*_frame(["".join("██" if kept else "· " for kept in row) for row in mask]), "██ kept   · not"]
    even = np.vstack([mask, np.zeros((mask.shape[0] % 2, mask.shape[1]), dtype=np.bool_)])
    pairs = zip(even[0::2], even[1::2], strict=True)
    lines = ["".join(_HALVES[bool(a), bool(b)] for a, b in zip(upper, lower, strict=True)) for upper, lower in pairs]
    return [*_frame(lines), "█ kept; a character is two queries high"]


def draw_shares(shares: Shares) -> list[str]:
    """The framed lines of a matrix of shares from 0 to 1: anything kept is visible, and only a full cell looks full."""
    some = np.clip(np.ceil(shares * 3), 1, 3)
    level = np.where(shares <= 0, 0, np.where(shares >= 1, 4, some)).astype(int)
    return _frame(["".join(_SHADES[n] for n in row) for row in level])


def scale_line(cell: tuple[int, int]) -> str:
    """What one character of a shaded picture stands for."""
    return f"a character = {cell[0]} queries x {cell[1]} keys: blank none kept, ░ ▒ ▓ some, █ all"


def _frame(lines: list[str]) -> list[str]:
    bar = "─" * len(lines[0])
    return [f"┌{bar}┐", *(f"│{line}│" for line in lines), f"└{bar}┘"]
