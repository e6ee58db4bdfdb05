"""The memory that strategy chunked allocates beside its inputs and output, where the scores would take gigabytes."""

from __future__ import annotations

import torch

import qkv
from harness import Bench, Thunk, benchmark
from rss import peak_extra_bytes

LENGTH = 32_768


def _tensors(grad: bool) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    # Warm every kernel first, so that thread pools and code pages are not counted as the call's own.
    small = [torch.randn(1, 1, 512, 64, requires_grad=grad) for _ in range(3)]
    with qkv.strategy("chunked"):
        out = qkv.attention(*small, keep=qkv.causal())
    if grad:
        out.sum().backward()
    return tuple(torch.randn(1, 1, LENGTH, 64, requires_grad=grad) for _ in range(3))


def _forward(keep: qkv.Keep | None) -> Thunk:
    q, k, v = _tensors(False)

    def run() -> object:
        with qkv.strategy("chunked"):
            return qkv.attention(q, k, v, keep=keep)

    return run


def full() -> Thunk:
    """All pairs kept."""
    return _forward(None)


def causal() -> Thunk:
    """Half of the pairs kept."""
    return _forward(qkv.causal())


def window() -> Thunk:
    """1024 keys for each query."""
    return _forward(qkv.causal() & qkv.window(1024))


def backward() -> Thunk:
    """Forward and backward of a window; gradients of q, k and v are 25 MB of the figure."""
    q, k, v = _tensors(True)

    def run() -> object:
        with qkv.strategy("chunked"):
            qkv.attention(q, k, v, keep=qkv.causal() & qkv.window(1024)).sum().backward()
        return q.grad

    return run


@benchmark("memory", "peak extra memory of chunked at 32,768 x 32,768, one head, d 64")
def memory(bench: Bench) -> None:
    """The goal is 200 MB; all scores at once would be 4.3 GB."""
    if bench.small:
        bench.note("memory of chunked: left out of quick looks")
        return
    cases = {"full": full, "causal": causal, "window 1024": window, "window 1024, with backward": backward}
    for label, case in cases.items():
        bench.figure(label, peak_extra_bytes(case), "bytes", shapes=f"1 head, {LENGTH} x {LENGTH}", below=200e6)
