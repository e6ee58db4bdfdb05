"""Small blocks for ``chunked``: the same call cut so that its borders fall everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qkv.run import blocks


@contextmanager
def small_blocks(rows: int = 4, keys: int = 4, scores: int = 1) -> Iterator[None]:
    """Inside, a block has about ``rows`` queries and ``keys`` keys."""
    known = blocks.LEAST_ROWS, blocks.LEAST_KEYS, blocks.BLOCK_SCORES
    blocks.LEAST_ROWS, blocks.LEAST_KEYS, blocks.BLOCK_SCORES = rows, keys, scores
    try:
        yield
    finally:
        blocks.LEAST_ROWS, blocks.LEAST_KEYS, blocks.BLOCK_SCORES = known
