"""Forward and backward: time beside SDPA, and memory that grows with the length and not with its square."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import qkv
from harness import Bench, Thunk, benchmark
from peaks import causal_pairs, products
from peers import sdpa
from rss import peak_extra_bytes
from ways import by, exists, step

HEADS = 8
SAME_TASK = {torch.float32: 1e-2, torch.bfloat16: 0.2}


def _tensors(length: int, size: int, dtype: torch.dtype, heads: int = HEADS) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(1, heads, length, size, dtype=dtype, requires_grad=True) for _ in range(3))


@benchmark("train", "forward and backward, causal, 8 heads, float32 and bfloat16, beside SDPA")
def train(bench: Bench) -> None:
    """The goal is 1.2 times SDPA's speed."""
    length = bench.length(2048)
    for dtype in (torch.float32, torch.bfloat16):
        for size in (64, 128):
            shapes = f"causal, {HEADS} heads, {length} x {length}, d {size}, {dtype}"
            if bench.skips(shapes):
                continue
            q, k, v = _tensors(length, size, dtype)
            gradient = torch.randn(1, HEADS, length, size, dtype=dtype)
            ours = by(bench, qkv.Spec(keep=qkv.causal()), q, k, v)
            bench.compare(
                {
                    "sdpa": step(lambda q=q, k=k, v=v: sdpa(q, k, v, is_causal=True), (q, k, v), gradient),
                    **{label: step(run, (q, k, v), gradient) for label, run in ours.items()},
                },
                shapes=shapes,
                work=products(dtype, HEADS * causal_pairs(length), size, passes=3.5),
                at_least={"qkv": 1.2},
                agree=SAME_TASK[dtype],
            )


@benchmark("train-bias", "forward and backward with a learned bias by distance, causal, 8 heads, beside SDPA")
def train_bias(bench: Bench) -> None:
    """The goal is 3 times the speed of SDPA, which gets the same table gathered to a bias of all pairs."""
    length = bench.length(2048)
    shapes = f"causal, table of {2 * length - 1} distances, {HEADS} heads, {length} x {length}, d 64, torch.float32"
    q, k, v = _tensors(length, 64, torch.float32)
    table = (torch.randn(2 * length - 1, HEADS) * 0.5).requires_grad_()
    gradient = torch.randn(1, HEADS, length, 64)
    index = torch.arange(length)
    row = index[None, :] - index[:, None] + length - 1
    dropped = index[None, :] > index[:, None]

    def theirs() -> Tensor:
        bias = table[row].permute(2, 0, 1).masked_fill(dropped, float("-inf"))
        return sdpa(q, k, v, attn_mask=bias[None])

    wanted = (q, k, v, table)
    spec = qkv.Spec(keep=qkv.causal(), score=qkv.relative_bias(table, buckets="clip"))
    ours = by(bench, spec, q, k, v)
    bench.compare(
        {
            "sdpa, bias of all pairs": step(theirs, wanted, gradient),
            **{label: step(run, wanted, gradient) for label, run in ours.items()},
        },
        shapes=shapes,
        at_least={"qkv": 3.0},
        agree=1e-2,
    )


def _step_memory(strategy: str, length: int) -> Thunk:
    """One causal step on one head, warm."""
    spec = qkv.Spec(keep=qkv.causal())

    def made(length: int) -> Thunk:
        q, k, v = _tensors(length, 64, torch.float32, heads=1)
        return lambda: torch.autograd.grad(spec(q, k, v).sum(), (q, k, v))

    def run(inner: Thunk) -> object:
        with qkv.strategy(strategy):
            return inner()

    run(made(256))
    inner = made(length)
    return lambda: run(inner)


@benchmark("train-memory", "peak extra memory of forward and backward, causal, one head, at growing lengths")
def train_memory(bench: Bench) -> None:
    """Linear: twice the length may take 2.5 times the memory at most. Output, its gradient and those of q, k and v are
    in the figure: 5 MB at 4096.
    """
    if not exists(bench):
        return
    before = None
    for wanted in (4096, 8192) if bench.small else (4096, 8192, 16_384):
        length = bench.length(wanted, wanted // 16)
        taken = peak_extra_bytes(partial(_step_memory, bench.strategy, length))
        below = 2.5 * max(before, 8e6) if before is not None else None
        bench.figure(f"qkv, {length} x {length}", taken, "bytes", shapes="1 head, d 64, torch.float32", below=below)
        before = taken
