"""BigBird's mask: windows, global blocks and random blocks, and how many pairs it keeps.

Knows how the random blocks are drawn, so that each call and each strategy has the same ones. Refuses to know other
masks (``masks``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import limits
from ..errors import LimitError
from .expr import Constant, Node, Position, Size, apply
from .keep import Keep, compare
from .numbers import whole
from .scope import Scope

_MODULUS = 67_108_859
_SHIFTS = (12_345_701, 9_876_543, 31_415_927)
"""The largest prime below 2^26: squares of residues stay below 2^52, exact in every number that a strategy may use."""


def _random_block(block: Node, count: Node, stream: int) -> Node:
    """A number below ``count`` that depends on ``block`` and ``stream`` alone: squared and shifted three times modulo a
    prime, so that neighbouring blocks get unrelated numbers.
    """
    start = apply("add", apply("mul", block, Constant(40_503)), Constant(stream % _MODULUS))
    node = apply("mod", start, Constant(_MODULUS))
    for shift in _SHIFTS:
        node = apply("mod", apply("add", apply("mul", node, node), Constant(shift)), Constant(_MODULUS))
    return apply("mod", node, count)


def _random_numbers(blocks: NDArray[np.int64], count: int, stream: int) -> NDArray[np.int64]:
    """``_random_block`` of many blocks, in integers."""
    number = (blocks * 40_503 + stream % _MODULUS) % _MODULUS
    for shift in _SHIFTS:
        number = (number * number + shift) % _MODULUS
    return number % count


_BATCH = 1 << 16
"""Blocks whose random blocks are drawn at once."""


@dataclass(frozen=True, slots=True)
class BigBird(Keep):
    """Window, global tokens and random blocks."""

    window: int
    num_global: int
    num_random: int
    block_size: int
    seed: int
    query: str | None
    key: str | None

    def lower(self, scope: Scope) -> Node:
        """The union of the three."""
        query, key = scope.query("bigbird", self.query), scope.key_of("bigbird", self.key)
        i, j, size = Position(query), Position(key), Constant(self.block_size)
        query_block, key_block = apply("floordiv", i, size), apply("floordiv", j, size)
        near = compare("le", apply("abs", apply("sub", query_block, key_block)), self.window)
        everywhere = apply("or", compare("lt", query_block, self.num_global), compare("lt", key_block, self.num_global))
        node = apply("or", near, everywhere)
        num_blocks = apply("floordiv", apply("add", Size(key), Constant(self.block_size - 1)), size)
        for n in range(self.num_random):
            node = apply("or", node, apply("eq", key_block, _random_block(query_block, num_blocks, self._stream(n))))
        return node

    def _stream(self, n: int) -> int:
        return (self.seed * 1_000_003 + n) * 7_919 + 12_345

    def square_pairs(self, length: int) -> int:
        """``count(length)``, from the visible pairs of blocks: all are squares but those of the last block, which may
        be short. Raises ``LimitError`` beyond ``limits.COUNTED_BLOCKS`` blocks.
        """
        size, num_blocks = self.block_size, -(-length // self.block_size)
        if num_blocks > limits.COUNTED_BLOCKS:
            raise LimitError(
                f"count of {length} positions in blocks of {size}: more than {limits.COUNTED_BLOCKS} blocks.\n"
                "  Counting takes time in proportion to them; count a shorter part, or take larger blocks."
            )
        if num_blocks <= self.num_global:
            return length * length
        pairs = self.num_global * num_blocks  # global queries see every key
        column = row = self.num_global
        for start in range(self.num_global, num_blocks, _BATCH):
            blocks = np.arange(start, min(start + _BATCH, num_blocks), dtype=np.int64)
            seen, sees_last = self._seen(blocks, num_blocks)
            pairs += int(seen.sum())
            column += int(sees_last.sum())
            row = int(seen[-1])
        short = size * num_blocks - length
        return size * size * pairs - size * short * (row + column) + short * short  # the last block sees itself

    def _seen(self, blocks: NDArray[np.int64], num_blocks: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """How many blocks of keys each of ``blocks`` sees, none of them global, and whether it sees the last."""
        first = np.maximum(self.num_global, blocks - self.window)
        last = np.minimum(num_blocks - 1, blocks + self.window)
        seen, sees_last = self.num_global + last - first + 1, last == num_blocks - 1
        drawn: list[NDArray[np.int64]] = []
        for n in range(self.num_random):
            other = _random_numbers(blocks, num_blocks, self._stream(n))
            new = (other >= self.num_global) & ((other < first) | (other > last))
            for earlier in drawn:
                new &= other != earlier
            drawn.append(other)
            seen += new
            sees_last |= new & (other == num_blocks - 1)
        return seen, sees_last

    def __repr__(self) -> str:
        names = ("window", "num_global", "num_random", "block_size", "seed")
        return f"bigbird({', '.join(f'{name}={getattr(self, name)}' for name in names)})"


def bigbird(
    *,
    window: int = 1,
    num_global: int = 1,
    num_random: int = 1,
    block_size: int = 1,
    seed: int = 0,
    query: str | None = None,
    key: str | None = None,
) -> Keep:
    """Keeps blocks near the query, global blocks (as keys and as queries) and ``num_random`` random blocks for each
    query block.

    All counts are in blocks of ``block_size`` positions; ``window`` counts blocks on each side. The random blocks
    depend on ``seed``, the query's block and the number of key blocks alone, so they are the same in every call and
    strategy; one may coincide with a block that is kept anyway. Source: Zaheer et al. 2020, Big Bird, section 2.

    >>> import qkv
    >>> qkv.bigbird(window=0, num_global=0, num_random=0).count(8), qkv.bigbird().count(8)
    (8, 38)
    """
    counts = {"window": window, "num_global": num_global, "num_random": num_random, "seed": seed}
    for name, value in counts.items():
        whole("bigbird", name, value, least=0)
    if num_random > limits.RANDOM_BLOCKS:
        raise LimitError(
            f"bigbird: num_random={num_random} is more than {limits.RANDOM_BLOCKS}.\n"
            "  So many random blocks are better given as a table: qkv.blocks(table, size)."
        )
    return BigBird(
        window, num_global, num_random, whole("bigbird", "block_size", block_size, least=1), seed, query, key
    )
