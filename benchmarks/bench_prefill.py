"""Full and causal attention, forward: the plain work, where a fused kernel is held against the machine itself."""

from __future__ import annotations

import torch

import qkv
from harness import Bench, benchmark
from peaks import causal_pairs, products
from peers import sdpa
from ways import by

HEADS = 8
SAME_TASK = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def _prefill(bench: Bench, dtype: torch.dtype, goal: float, share: float | None) -> None:
    for wanted in (2048, 8192):
        for size in (64, 128):
            length = bench.length(wanted)
            torch.manual_seed(0)
            q, k, v = (torch.randn(1, HEADS, length, size, dtype=dtype) for _ in range(3))
            for name, keep in (("full", None), ("causal", qkv.causal())):
                shapes = f"{name}, {HEADS} heads, {length} x {length}, d {size}, {dtype}"
                if bench.skips(shapes):
                    continue
                pairs = HEADS * (causal_pairs(length) if keep is not None else float(length * length))
                bench.compare(
                    {
                        "sdpa": lambda q=q, k=k, v=v, causal=keep is not None: sdpa(q, k, v, is_causal=causal),
                        **by(bench, qkv.Spec(keep=keep), q, k, v),
                    },
                    shapes=shapes,
                    work=products(dtype, pairs, size),
                    at_least={"qkv": goal},
                    share_at_least={"qkv": share} if share and wanted == 8192 else None,
                    agree=SAME_TASK[dtype],
                )


@benchmark("prefill-f32", "full and causal, 8 heads, float32, beside SDPA and the machine's multiply-adds")
def prefill_f32(bench: Bench) -> None:
    """The goal is 1.2 times SDPA's speed, and 80 % of the FMA peak at 8192."""
    _prefill(bench, torch.float32, 1.2, 0.8)


@benchmark("prefill-bf16", "full and causal, 8 heads, bfloat16, beside SDPA and the machine's multiply-adds")
def prefill_bf16(bench: Bench) -> None:
    """The goal is 2.5 times SDPA's speed."""
    _prefill(bench, torch.bfloat16, 2.5, None)
