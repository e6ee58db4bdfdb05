"""Every score term beside its definition: the term as a user writes it, and what it adds to float64 logits.

Knows formulas of papers and published code. What is learned (tables, slopes, temperatures) comes as leaves, so that
gradients can be asked of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

import qkv
from qkv.testing import Sizes
from tests.contract.keeps import positions

Leaves = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Change:
    """What a term does, in the oracle's words: logits are capped, then the bias is added, then ``score`` is applied.

    ``bias`` broadcasts to [b, h, i, j]; ``rows`` is a table [r, e] added to values and the row [i, j] that each pair
    reads; ``size``, for a row of scores [b, h, i], is how large the terms are that it is computed from beside the
    product and the bias: their rounding counts like a bias's.
    """

    softcap: float | None = None
    bias: Tensor | None = None
    score: Callable[[Tensor], Tensor] | None = None
    rows: tuple[Tensor, Tensor] | None = None
    size: float | Tensor = 0.0


@dataclass(frozen=True, slots=True)
class Score:
    """One score term: its leaves, the terms made of them, and the definition from the leaves in float64, scaled
    queries [b, h, i, d] and sizes.
    """

    leaves: Leaves
    terms: Callable[[Leaves], tuple[object, ...]]
    change: Callable[[Leaves, Tensor], Change] = field(default=lambda leaves, q: Change())


def _randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 17))


def none(sizes: Sizes, seed: int) -> Score:
    return Score({}, lambda x: ())


def softcap(sizes: Sizes, seed: int) -> Score:
    return Score({}, lambda x: (qkv.softcap(5.0),), lambda x, q: Change(softcap=5.0))


def published_slopes(heads: int) -> list[float]:
    """The slopes of Press et al.'s code: powers of 2 ** (-8 / n), and every other one of twice as many for other
    counts.
    """
    power = 2 ** math.floor(math.log2(heads))
    start = 2.0 ** (-(2.0 ** -(math.log2(power) - 3)))
    slopes = [start ** (n + 1) for n in range(power)]
    return slopes if power == heads else slopes + published_slopes(2 * power)[0::2][: heads - power]


def _penalty(sizes: Sizes, slopes: Tensor) -> Tensor:
    i, j = positions(sizes)
    return -slopes[:, None, None] * (i - j).abs()


def alibi(sizes: Sizes, seed: int) -> Score:
    slopes = torch.tensor(published_slopes(sizes.query_heads), dtype=torch.float64)
    return Score({}, lambda x: (qkv.alibi(),), lambda x, q: Change(bias=_penalty(sizes, slopes)))


def learned_alibi(sizes: Sizes, seed: int) -> Score:
    slopes = _randn(seed, sizes.query_heads).abs() / 4
    return Score(
        {"slopes": slopes}, lambda x: (qkv.alibi(x["slopes"]),), lambda x, q: Change(bias=_penalty(sizes, x["slopes"]))
    )


def published_bucket(relative: Tensor, *, bidirectional: bool, num_buckets: int, max_distance: int) -> Tensor:
    """T5's bucket function as published, for relative positions (key minus query)."""
    buckets = torch.zeros_like(relative)
    if bidirectional:
        num_buckets //= 2
        buckets = buckets + (relative > 0).long() * num_buckets
        relative = relative.abs()
    else:
        relative = -torch.minimum(relative, torch.zeros_like(relative))
    exact = num_buckets // 2
    large = (
        exact
        + (torch.log(relative.float() / exact) / math.log(max_distance / exact) * (num_buckets - exact))
        .clamp(min=-1e6)
        .long()
    )
    return buckets + torch.where(relative < exact, relative, large.clamp(max=num_buckets - 1))


def t5(sizes: Sizes, seed: int) -> Score:
    """Two-sided buckets, a column for each head."""
    i, j = positions(sizes)
    bucket = published_bucket(j - i, bidirectional=True, num_buckets=32, max_distance=128)
    return Score(
        {"table": _randn(seed, 32, sizes.query_heads)},
        lambda x: (qkv.relative_bias(x["table"]),),
        lambda x, q: Change(bias=x["table"][bucket].permute(2, 0, 1)),
    )


def t5_decoder(sizes: Sizes, seed: int) -> Score:
    """One-sided buckets, one column for all heads."""
    i, j = positions(sizes)
    bucket = published_bucket(j - i, bidirectional=False, num_buckets=16, max_distance=40)
    return Score(
        {"table": _randn(seed, 16)},
        lambda x: (qkv.relative_bias(x["table"], bidirectional=False, max_distance=40),),
        lambda x, q: Change(bias=x["table"][bucket]),
    )


def clipped(sizes: Sizes, seed: int) -> Score:
    i, j = positions(sizes)
    row = (j - i).clamp(-3, 3) + 3
    return Score(
        {"table": _randn(seed, 7, sizes.query_heads)},
        lambda x: (qkv.relative_bias(x["table"], buckets="clip"),),
        lambda x, q: Change(bias=x["table"][row].permute(2, 0, 1)),
    )


def bias(sizes: Sizes, seed: int) -> Score:
    """A number for each merged head, query and key."""
    return Score(
        {"bias": _randn(seed, sizes.query_heads, sizes.query_length, sizes.key_length)},
        lambda x: (qkv.bias(x["bias"], "(h g) i j"),),
        lambda x, q: Change(bias=x["bias"]),
    )


def bias_by_key(sizes: Sizes, seed: int) -> Score:
    """A number for each batch entry, key head and key: the axes of queries and groups are left out."""
    groups = sizes.query_heads // sizes.key_heads
    return Score(
        {"bias": _randn(seed, sizes.key_length, sizes.batch, sizes.key_heads)},
        lambda x: (qkv.bias(x["bias"], "j b h"),),
        lambda x, q: Change(bias=x["bias"].permute(1, 2, 0).repeat_interleave(groups, 1)[:, :, None]),
    )


def shaw(sizes: Sizes, seed: int) -> Score:
    i, j = positions(sizes)
    row = (j - i).clamp(-4, 4) + 4
    return Score(
        {"key_table": _randn(seed, 9, sizes.feature_size)},
        lambda x: (qkv.shaw(x["key_table"]),),
        lambda x, q: Change(bias=_vectors(q, x["key_table"], row), size=_size(q, x["key_table"])),
    )


def shaw_values(sizes: Sizes, seed: int) -> Score:
    i, j = positions(sizes)
    row = (j - i).clamp(-2, 2) + 2
    return Score(
        {"key_table": _randn(seed, 5, sizes.feature_size), "value_table": _randn(seed + 1, 5, sizes.value_size)},
        lambda x: (qkv.shaw(x["key_table"], x["value_table"]),),
        lambda x, q: Change(
            bias=_vectors(q, x["key_table"], row), rows=(x["value_table"], row), size=_size(q, x["key_table"])
        ),
    )


def _vectors(q: Tensor, table: Tensor, row: Tensor) -> Tensor:
    """q . table[row] for scaled queries, by selection."""
    products = q @ table.transpose(0, 1)
    return products.gather(-1, row.expand(*products.shape[:2], *row.shape))


def _size(q: Tensor, table: Tensor) -> Tensor:
    """How large the terms of q . table are: NUMERICS.md's delta for a second product."""
    return q.shape[-1] ** 0.5 * (q.detach().abs() @ table.detach().abs().transpose(0, 1)).amax(-1)


def custom(sizes: Sizes, seed: int) -> Score:
    """A function of every coordinate, with a learned temperature by head and group."""
    i, j = positions(sizes)
    shape = (sizes.key_heads, sizes.query_heads // sizes.key_heads)

    def score(x: Leaves) -> Callable[[Tensor], Tensor]:
        factor = (1 + 0.1 * x["temperature"].flatten())[:, None, None]
        return lambda s: torch.where(
            (i + j) % 2 == 0, s * factor, s - 0.5 * (i - j).abs().double() / (1 + (i - j).abs())
        )

    return Score(
        {"temperature": _randn(seed, *shape)},
        lambda x: (
            qkv.score(
                lambda score, h, g, i, j: qkv.where(
                    (i + j) % 2 == 0,
                    score * (1 + 0.1 * x["temperature"][h, g]),
                    score - 0.5 * abs(i - j) / (1 + abs(i - j)),
                )
            ),
        ),
        lambda x, q: Change(score=score(x), size=0.5),
    )


def several(sizes: Sizes, seed: int) -> Score:
    """A cap, then a bias: the order counts."""
    return Score(
        {"bias": _randn(seed, sizes.query_length, sizes.key_length)},
        lambda x: (qkv.softcap(3.0), qkv.bias(x["bias"], "i j")),
        lambda x, q: Change(softcap=3.0, bias=x["bias"]),
    )


def reversed_order(sizes: Sizes, seed: int) -> Score:
    """A bias, then a cap."""
    made = 2 * _randn(seed, sizes.query_length, sizes.key_length)
    return Score(
        {"bias": made},
        lambda x: (qkv.bias(x["bias"], "i j"), qkv.softcap(3.0)),
        lambda x, q: Change(
            score=lambda s: 3.0 * torch.tanh((s + x["bias"]) / 3.0),
            size=float(made.abs().max()) if made.numel() else 0.0,
        ),
    )


SCORES: dict[str, Callable[[Sizes, int], Score]] = {
    "none": none,
    "softcap": softcap,
    "alibi": alibi,
    "learned alibi": learned_alibi,
    "t5": t5,
    "t5 decoder": t5_decoder,
    "clipped": clipped,
    "bias": bias,
    "bias by key": bias_by_key,
    "shaw": shaw,
    "shaw values": shaw_values,
    "custom": custom,
    "several": several,
    "reversed order": reversed_order,
}
"""Every score term by name."""
