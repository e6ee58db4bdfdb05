"""Decoding with grouped heads: one query, a long cache; what counts is how fast the cache is read."""

from __future__ import annotations

import torch

import qkv
from harness import Bench, benchmark
from peaks import bandwidth, reading
from peers import grouped
from ways import GROUPED, by

SAME_TASK = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def _decode(bench: Bench, dtype: torch.dtype, goal: float) -> None:
    length = bench.length(8192)
    shapes = f"1 x {length}, 32 heads on 8, d 128, {dtype}"
    torch.manual_seed(0)
    q = torch.randn(1, 32, 1, 128, dtype=dtype)
    k, v = (torch.randn(1, 8, length, 128, dtype=dtype) for _ in range(2))
    spec = qkv.Spec(GROUPED, keep=qkv.causal())
    theirs = grouped(q, k, v)
    as_the_cache_lies = tuple(name for name in theirs if "folded" not in name)
    bench.compare(
        {**theirs, **by(bench, spec, q, k, v, align="end")},
        shapes=shapes,
        base=as_the_cache_lies,
        work=reading(k, v),
        at_least={"qkv": goal},
        share_at_least={"qkv": 0.8},
        agree=SAME_TASK[dtype],
    )
    bench.figure("read bandwidth, 1 GiB array", bandwidth(1 << 30), "B/s", shapes=shapes)


@benchmark("decode-f32", "one query on 8192 cached keys, 32 query heads on 8, float32, beside SDPA's ways")
def decode_f32(bench: Bench) -> None:
    """The goals are 8 times SDPA's speed and 80 % of the bandwidth at which such an array is read again and again."""
    _decode(bench, torch.float32, 8.0)


@benchmark("decode-bf16", "one query on 8192 cached keys, 32 query heads on 8, bfloat16, beside SDPA's ways")
def decode_bf16(bench: Bench) -> None:
    """The goals are 25 times SDPA's speed and 80 % of the bandwidth."""
    _decode(bench, torch.bfloat16, 25.0)
