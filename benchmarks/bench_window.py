"""A causal window: SDPA works through every block, FlexAttention skips them after compiling, qkv skips as it goes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import qkv
from harness import Bench, Thunk, benchmark
from peaks import products
from peers import dense, flex, sdpa
from rss import peak_extra_bytes
from ways import by, exists

WIDTH, HEADS, SIZE = 512, 4, 64


def _mask(width: int, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return (j <= i) & (i - j < width)


def _tensors(heads: int, length: int, size: int = SIZE) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(1, heads, length, size) for _ in range(3))


@benchmark("window", "causal window 512, 4 heads, beside SDPA with that mask and compiled FlexAttention")
def window(bench: Bench) -> None:
    """The goals are 15 times SDPA's speed and 4 times FlexAttention's."""
    length = bench.length(8192)
    q, k, v = _tensors(HEADS, length)
    keep = qkv.causal() & qkv.window(WIDTH)
    mask = partial(_mask, WIDTH)
    kept = dense(mask, length, length)
    added = torch.zeros(length, length).masked_fill_(~kept, float("-inf"))
    work = products(torch.float32, HEADS * keep.count(length), SIZE)
    shapes = f"4 heads, {length} x {length}, d 64, window 512, torch.float32"
    ours = by(bench, qkv.Spec(keep=keep), q, k, v)
    masked: dict[str, Thunk] = {
        "sdpa, bool mask": lambda: sdpa(q, k, v, attn_mask=kept),
        "sdpa, float mask": lambda: sdpa(q, k, v, attn_mask=added),
    }
    bench.compare({**masked, **ours}, shapes=shapes, base=tuple(masked), work=work, at_least={"qkv": 15.0}, agree=1e-3)
    compiled = flex(bench, q, k, v, mask=mask)
    if compiled:
        bench.compare(
            {**compiled, **ours}, shapes=f"{shapes}, beside FlexAttention", work=work, at_least={"qkv": 4.0}, agree=1e-3
        )


@benchmark("window-lengths", "causal window 512, 4 heads: the cost of a visible pair from 4,096 to 65,536")
def window_lengths(bench: Bench) -> None:
    """The cost is in proportion to visible pairs: the longest is to take at most a tenth more for each."""
    keep = qkv.causal() & qkv.window(WIDTH)
    runs, pairs = dict[str, Thunk](), dict[str, float]()
    for wanted in (4096, 8192, 16_384, 32_768, 65_536):
        length = bench.length(wanted, wanted // 64)
        label = f"qkv, {length} x {length}"
        runs |= by(bench, qkv.Spec(keep=keep), *_tensors(HEADS, length), label=label)
        pairs[label] = float(keep.count(length))
    bench.compare(
        runs,
        shapes="4 heads, d 64, window 512, torch.float32; ratios of the time for each visible pair",
        amounts=pairs,
        at_least=dict.fromkeys(list(runs)[1:], 1 / 1.1),
    )


def long_window(strategy: str, length: int) -> Thunk:
    """The call whose memory is measured; its kernels are warm, so that thread pools and code pages do not count."""
    spec = qkv.Spec(keep=qkv.causal() & qkv.window(1024))
    with qkv.strategy(strategy):
        spec(*_tensors(1, 256))
    q, k, v = _tensors(1, length)

    def run() -> object:
        with qkv.strategy(strategy):
            return spec(q, k, v)

    return run


@benchmark("window-memory", "peak extra memory, output included, of a causal window 1024 over 65,536 tokens")
def window_memory(bench: Bench) -> None:
    """The goal is 64 MB; the output is 17 MB of them, and all scores at once would be 17 GB."""
    if not exists(bench):
        return
    length = bench.length(65_536)
    shapes = f"1 head, {length} x {length}, d 64, window 1024, torch.float32"
    bench.figure(
        "qkv", peak_extra_bytes(partial(long_window, bench.strategy, length)), "bytes", shapes=shapes, below=64e6
    )
    run = long_window(bench.strategy, length)
    bench.time("qkv, its time", run, shapes=shapes)
