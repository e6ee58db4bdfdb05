"""Lowest and highest values of stretches of a captured tensor, answered for many stretches at once.

A table is prepared once, by doubling: level k holds the extremes of every 2 ** k neighbours, so that two entries
cover any stretch. This module knows arrays and index bounds; it refuses to know graphs and what the values mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import limits
from .expr import Captured, Kind

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_ENTRIES = 1 << 17  # of one level; a longer axis is kept in chunks of several neighbours
_EXACT = 2.0**53  # whole numbers beyond are not all float64 numbers


class RangeTable:
    """Extremes of stretches along the longest axis, for one place on the other axes or for all of them."""

    def __init__(self, values: Array) -> None:
        self.shape = values.shape
        self.axis = int(np.argmax(values.shape)) if values.ndim else 0
        length = values.shape[self.axis] if values.ndim else 1
        lines = np.moveaxis(values, self.axis, -1).reshape(-1, length) if values.ndim else values.reshape(1, 1)
        self.whole = _Levels(lines.min(axis=0)[None], lines.max(axis=0)[None])
        self.each = _Levels(lines, lines) if 1 < lines.shape[0] <= _ENTRIES else None

    def query(self, low: Sequence[Array], high: Sequence[Array]) -> tuple[Array, Array]:
        """The extremes over index bounds, inclusive, one pair for each axis; bounds beyond the table are clamped."""
        if not self.shape:
            return self.whole.query(np.zeros((), np.int64), np.zeros(()), np.zeros(()))
        first, last = low[self.axis], high[self.axis]
        found = self.whole.query(np.zeros((), np.int64), first, last)
        if self.each is None:
            return found
        others = [n for n in range(len(self.shape)) if n != self.axis]
        known = np.logical_and.reduce(np.broadcast_arrays(*(low[n] == high[n] for n in others)))
        line = np.zeros((), dtype=np.int64)
        for n in others:
            line = line * self.shape[n] + np.clip(low[n], 0, self.shape[n] - 1).astype(np.int64)
        exact = self.each.query(line, first, last)
        return np.where(known, exact[0], found[0]), np.where(known, exact[1], found[1])


class _Levels:
    """Extremes of 1, 2, 4, ... neighbouring chunks of each line."""

    def __init__(self, lowest: Array, highest: Array) -> None:
        self.length = lowest.shape[1]
        self.chunk = max(1, -(-lowest.size // _ENTRIES))
        starts = np.arange(0, self.length, self.chunk, dtype=np.intp)
        lows, highs = [np.minimum.reduceat(lowest, starts, axis=1)], [np.maximum.reduceat(highest, starts, axis=1)]
        width, step = len(starts), 1
        while 2 * step <= width:
            lows.append(np.minimum(lows[-1][:, :-step], lows[-1][:, step:]))
            highs.append(np.maximum(highs[-1][:, :-step], highs[-1][:, step:]))
            step *= 2
        self.low = np.stack([np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in lows])
        self.high = np.stack([np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in highs])

    def query(self, line: Whole, low: Array, high: Array) -> tuple[Array, Array]:
        first = np.clip(low, 0, self.length - 1).astype(np.int64) // self.chunk
        last = np.clip(high, 0, self.length - 1).astype(np.int64) // self.chunk
        level = np.floor(np.log2(np.maximum(last - first + 1, 1))).astype(np.int64)
        second = np.maximum(last - (1 << level) + 1, 0)
        lowest = np.minimum(self.low[level, line, first], self.low[level, line, second])
        return lowest, np.maximum(self.high[level, line, first], self.high[level, line, second])


def learn(captured: Captured) -> RangeTable | None:
    """The range table of a captured tensor; None where its values cannot be bounded.

    That is so for tensors on a device, large or empty ones, ones that hold NaN or whole numbers beyond 2 ** 53, and
    ones without values of their own (under ``vmap`` or in a fake mode).
    """
    if captured.movable and isinstance(captured.learnt, RangeTable):
        return captured.learnt
    tensor: Tensor = captured.tensor
    if tensor.device.type != "cpu" or tensor.numel() == 0 or tensor.numel() > limits.BOUNDED_TABLE_ELEMENTS:
        return None
    try:
        values = np.asarray(tensor.detach().double().numpy(), dtype=np.float64)
    except RuntimeError:  # torch says so of a tensor without storage
        return None
    if np.isnan(values).any() or (captured.kind is Kind.INT and bool((np.abs(values) >= _EXACT).any())):
        return None
    found = RangeTable(values)
    if captured.movable:
        captured.learnt = found
    return found
