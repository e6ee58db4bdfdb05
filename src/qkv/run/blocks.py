"""How the scores of a call are cut into blocks, and which blocks a mask leaves empty, full or partial.

Blocks run along the longest query coordinate and the longest key coordinate; other coordinates of a block are whole,
but for the longest shared one, which is cut too when one block of all of them would be large. The mask's bounds over
all blocks are found at once; no array has the size of the scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..terms.expr import captured_in
from ..terms.interval import Block, bounds

if TYPE_CHECKING:
    from .bind import Bound

BLOCK_SCORES = 1 << 18
"""Scores in one block on a CPU: a few temporaries of this size stay within the cores' own caches."""

DEVICE_BLOCK_SCORES = 1 << 23
"""Scores in one block on other devices, where a call must be large to be worth its start."""

FEW_BLOCKS = 2
"""So few blocks are masked without asking what a captured table leaves of them; learning the table would cost more."""

LEAST_KEYS = 512
LEAST_ROWS = 64


@dataclass(frozen=True, slots=True)
class Blocking:
    """Where blocks begin and end along the cut coordinates (None where there is no such coordinate), and what the mask
    leaves of each.

    ``state[query block, key block]`` is 0 where no pair is kept, 1 where all are, 2 otherwise.
    """

    shared: str | None
    query: str | None
    key: str
    shared_edges: tuple[int, ...]
    query_edges: tuple[int, ...]
    key_edges: tuple[int, ...]
    state: NDArray[np.int8]

    def shared_ranges(self) -> Iterator[dict[str, tuple[int, int]]]:
        """The parts of the shared coordinate, as ranges."""
        if self.shared is None:
            yield {}
            return
        for pair in zip(self.shared_edges, self.shared_edges[1:], strict=False):
            yield {self.shared: pair}

    def query_ranges(self) -> Iterator[tuple[int, dict[str, tuple[int, int]]]]:
        """The query blocks, numbered."""
        if self.query is None:
            yield 0, {}
            return
        for n, pair in enumerate(zip(self.query_edges, self.query_edges[1:], strict=False)):
            yield n, {self.query: pair}

    def key_ranges(self, query_block: int) -> Iterator[tuple[dict[str, tuple[int, int]], bool]]:
        """The key blocks that hold a kept pair, and whether they are partial."""
        for n, pair in enumerate(zip(self.key_edges, self.key_edges[1:], strict=False)):
            if self.state[query_block, n]:
                yield {self.key: pair}, bool(self.state[query_block, n] == 2)


def cut(bound: Bound) -> Blocking:
    """The blocks of a call, each of about ``BLOCK_SCORES`` scores at most (``DEVICE_BLOCK_SCORES`` off the CPU)."""
    scores = BLOCK_SCORES if bound.frame.device.type == "cpu" else DEVICE_BLOCK_SCORES
    sizes, lowered = bound.frame.sizes, bound.lowered
    query = max(lowered.query_order, key=lambda n: sizes[n], default=None)
    if lowered.roles.query_candidates and len(lowered.roles.query_candidates) == 1:
        query = lowered.roles.query_candidates[0]
    key = max(lowered.key, key=lambda n: sizes[n])
    shared = max(lowered.shared, key=lambda n: sizes[n], default=None)
    branches = 2 if bound.q.dim() > len(lowered.shared) + len(lowered.query_order) + 1 else 1
    rest = [n for n in (*lowered.shared, *lowered.query_order, *lowered.key) if n not in (query, key, shared)]
    others = max(1, branches * math.prod(sizes[n] for n in rest))
    num_shared = sizes[shared] if shared else 1
    num_queries, num_keys = sizes[query] if query else 1, sizes[key]
    least = others * min(num_queries, LEAST_ROWS) * min(num_keys, LEAST_KEYS)
    step_shared = max(1, min(num_shared, scores // max(1, least)))
    budget = max(1, scores // (others * step_shared))
    # Wide blocks of keys amortise the rescaling of rows; tall ones amortise reading keys. Near squares do both.
    step_queries = min(num_queries, max(LEAST_ROWS, _power(math.isqrt(budget) // 2 + 1)))
    step_keys = min(num_keys, max(LEAST_KEYS, _power(budget // max(1, step_queries))))
    edges = _edges(num_queries, step_queries), _edges(num_keys, step_keys)
    return Blocking(shared, query, key, _edges(num_shared, step_shared), *edges, _states(bound, query, key, *edges))


def _power(value: int) -> int:
    """The largest power of two that is not above; aligned edges meet the edges of masks."""
    return 1 << (max(1, value).bit_length() - 1)


def _edges(size: int, step: int) -> tuple[int, ...]:
    return (*range(0, size, max(1, step)), size) if size else (0,)


def _states(
    bound: Bound, query: str | None, key: str, query_edges: tuple[int, ...], key_edges: tuple[int, ...]
) -> NDArray[np.int8]:
    shape = (max(1, len(query_edges) - 1) if query else 1, max(0, len(key_edges) - 1))
    if bound.lowered.keep is None or 0 in shape or len(query_edges) < 2:
        return np.ones(shape, dtype=np.int8)
    if shape[0] * shape[1] <= FEW_BLOCKS and any(not table.movable for table in captured_in(bound.lowered.keep)):
        return np.full(shape, 2, dtype=np.int8)
    edges = {
        key: np.stack([np.array(key_edges[:-1], dtype=np.float64), np.array(key_edges[1:], dtype=np.float64)])[
            :, None, :
        ]
    }
    if query is not None:
        edges[query] = np.stack(
            [np.array(query_edges[:-1], dtype=np.float64), np.array(query_edges[1:], dtype=np.float64)]
        )[:, :, None]
    indices, positions = bound.places.bounds(edges)
    found = bounds(bound.lowered.keep, Block(indices, positions, bound.frame.sizes))
    low, high = np.broadcast_to(found.low, shape), np.broadcast_to(found.high, shape)
    return np.where(high == 0, 0, np.where(low == 1, 1, 2)).astype(np.int8)
