"""Linear attention by states and by scores: the same numbers, at a cost of the length and of its square."""

from __future__ import annotations

import torch

import qkv
from harness import Bench, Thunk, benchmark


def _by(strategy: str, spec: qkv.Spec, *tensors: torch.Tensor) -> Thunk:
    def run() -> object:
        with qkv.strategy(strategy):
            return spec(*tensors)

    return run


@benchmark("linear", "linear attention by states and by scores")
def linear(bench: Bench) -> None:
    """Strategy linear beside strategy chunked."""
    torch.manual_seed(0)
    for wanted in (1024, 8192):
        length = bench.length(wanted)
        q, k, v = (torch.randn(1, 4, length, 64) for _ in range(3))
        spec = qkv.Spec(keep=qkv.causal(), weights=qkv.linear())
        ways = {"qkv chunked": _by("chunked", spec, q, k, v), "qkv linear": _by("linear", spec, q, k, v)}
        bench.compare(ways, shapes=f"causal, 4 heads, {length} x {length}, d 64")
