"""Every keep term beside its definition: the term as a user writes it, and the mask as one comparison of positions.

Knows positions and the terms' words. The masks share no line with qkv: they are written a second time, the slow and
obvious way.
Queries stand so that the last one is at the last key, which gives negative positions when there are more queries
than keys.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import qkv
from qkv.testing import Sizes

Made = tuple[qkv.Keep | None, Tensor | None]


def positions(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """The positions of queries [i, 1] and of keys [1, j]."""
    first = sizes.key_length - sizes.query_length
    return torch.arange(sizes.query_length)[:, None] + first, torch.arange(sizes.key_length)[None, :]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def full(sizes: Sizes, seed: int) -> Made:
    return None, None


def causal(sizes: Sizes, seed: int) -> Made:
    i, j = positions(sizes)
    return qkv.causal(), j <= i


def window(sizes: Sizes, seed: int) -> Made:
    i, j = positions(sizes)
    return qkv.window(5), (j <= i) & (j > i - 5)


def neighbours(sizes: Sizes, seed: int) -> Made:
    i, j = positions(sizes)
    return qkv.window(3, 2), (j >= i - 3) & (j <= i + 2)


def prefix(sizes: Sizes, seed: int) -> Made:
    i, j = positions(sizes)
    n = sizes.key_length // 3 + 1
    return qkv.causal() | qkv.prefix(n), (j <= i) | ((i < n) & (j < n))


def documents(sizes: Sizes, seed: int) -> Made:
    """Documents of seven tokens, shifted in every batch entry; positions before the first key belong to none."""
    i, j = positions(sizes)
    entry = torch.arange(sizes.batch)[:, None]
    ids = (torch.arange(max(1, sizes.key_length)) + entry) // 7
    at_query = ids[entry[:, :, None], i.clamp(min=0)]
    same = at_query == ids[entry[:, :, None], j]
    return qkv.causal() & qkv.documents(ids), ((j <= i) & same)[:, None]


def padding(sizes: Sizes, seed: int) -> Made:
    """Left padding in even batch entries, right padding in odd ones."""
    _, j = positions(sizes)
    lengths = torch.randint(0, max(1, sizes.key_length), (sizes.batch, 1), generator=_generator(seed))
    even = (torch.arange(sizes.batch) % 2 == 0)[:, None]
    mask = torch.where(even, j >= lengths, j < sizes.key_length - lengths)
    return qkv.padding(mask, "b j"), mask[:, None, None]


def dead_rows(sizes: Sizes, seed: int) -> Made:
    """Every third query keeps nothing, and so does the whole first batch entry where there are others."""
    i = torch.arange(sizes.query_length)[:, None]
    entry = torch.arange(sizes.batch)[:, None, None]
    mask = ((i % 3 != 0) & ((entry > 0) | (sizes.batch == 1))).expand(-1, -1, sizes.key_length)
    return qkv.padding(mask, "b i j"), mask[:, None]


def random(sizes: Sizes, seed: int) -> Made:
    """A mask by batch, merged query head, query and key."""
    shape = (sizes.batch, sizes.query_heads, sizes.query_length, sizes.key_length)
    mask = torch.rand(shape, generator=_generator(seed)) < 0.5
    return qkv.padding(mask, "b (h g) i j"), mask


def sinks(sizes: Sizes, seed: int) -> Made:
    i, j = positions(sizes)
    return qkv.causal() & (qkv.window(4) | qkv.first(2)), (j <= i) & ((j > i - 4) | (j < 2))


def dilated(sizes: Sizes, seed: int) -> Made:
    i, j = positions(sizes)
    return qkv.dilated(3), (i - j) % 3 == 0


def bigbird(sizes: Sizes, seed: int) -> Made:
    """Window, global and random blocks; the random ones by the same numbers in Python's whole numbers."""
    i, j = positions(sizes)
    size, modulus = 4, 67_108_859
    count = max(1, -(-sizes.key_length // size))
    mask = ((i // size - j // size).abs() <= 1) | (i // size < 1) | (j // size < 1)
    for n in range(2):
        stream = (seed * 1_000_003 + n) * 7_919 + 12_345
        chosen: list[int] = []
        for block in (i // size).flatten().tolist():
            mixed = (block * 40_503 + stream % modulus) % modulus
            for shift in (12_345_701, 9_876_543, 31_415_927):
                mixed = (mixed * mixed + shift) % modulus
            chosen.append(mixed % count)
        mask = mask | (j // size == torch.tensor(chosen, dtype=torch.int64)[:, None])
    return qkv.bigbird(window=1, num_global=1, num_random=2, block_size=size, seed=seed), mask


def tree(sizes: Sizes, seed: int) -> Made:
    """A draft with as many nodes as there are queries, its parents drawn at random."""
    count = max(1, sizes.query_length)
    drawn = torch.rand(count, generator=_generator(seed)).tolist()
    parents = [int(x * (n + 1)) - 1 for n, x in enumerate(drawn)]
    seen = torch.eye(count, dtype=torch.bool)
    for n, parent in enumerate(parents):
        while parent >= 0:
            seen[n, parent] = True
            parent = parents[parent]
    node = torch.arange(sizes.key_length) - (sizes.key_length - count)
    return qkv.tree(parents), (node < 0) | seen[: sizes.query_length, node.clamp(min=0)]


def blocks(sizes: Sizes, seed: int) -> Made:
    """Whole blocks of four positions, by head, under ``causal``: positions before the first key have no block."""
    i, j = positions(sizes)
    count = max(1, -(-sizes.key_length // 4))
    table = torch.rand(sizes.key_heads, count, count, generator=_generator(seed)) < 0.6
    mask = table[:, (i // 4).clamp(min=0), j // 4] & (j <= i)
    mask = mask.repeat_interleave(sizes.query_heads // sizes.key_heads, 0)
    return qkv.causal() & qkv.blocks(table, 4, "h i j"), mask[None]


def custom(sizes: Sizes, seed: int) -> Made:
    """A function of every coordinate, with a captured tensor."""
    i, j = positions(sizes)
    groups = sizes.query_heads // sizes.key_heads
    lengths = torch.randint(0, sizes.key_length + 1, (sizes.batch,), generator=_generator(seed))
    head = torch.arange(sizes.query_heads)[:, None, None]
    key_head, group = head // groups, head % groups
    mask = ((j <= i + 2) & ((i + j + 2 * key_head + group) % 3 != 0)) | (j >= lengths[:, None, None, None])
    term = qkv.keep(lambda b, h, g, i, j: ((j <= i + 2) & ((i + j + 2 * h + g) % 3 != 0)) | (j >= lengths[b]))
    return term, mask


def combined(sizes: Sizes, seed: int) -> Made:
    """A negation, a disjunction and a conjunction."""
    i, j = positions(sizes)
    term, padded = padding(sizes, seed)
    near = (j <= i) & (j > i - 6)
    assert term is not None and padded is not None
    return (~qkv.window(6) | qkv.dilated(2)) & term, (~near | ((i - j) % 2 == 0)) & padded


KEEPS: dict[str, Callable[[Sizes, int], Made]] = {
    "full": full,
    "causal": causal,
    "window": window,
    "neighbours": neighbours,
    "prefix": prefix,
    "documents": documents,
    "padding": padding,
    "dead rows": dead_rows,
    "random": random,
    "sinks": sinks,
    "dilated": dilated,
    "bigbird": bigbird,
    "tree": tree,
    "blocks": blocks,
    "custom": custom,
    "combined": combined,
}
"""Every keep term by name: the term and its mask, which broadcasts to [b, h, i, j]; None for both keeps everything."""
