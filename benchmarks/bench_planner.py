"""What planning costs a call that was seen before, and the whole of a tiny call beside torch's."""

from __future__ import annotations

import torch

import qkv
from harness import Bench, benchmark


@benchmark("planner", "planning a repeated call, and a tiny call from end to end")
def planner(bench: Bench) -> None:
    """The goal for a repeated plan is 30 microseconds."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 16, 16) for _ in range(3))
    spec = qkv.Spec(keep=qkv.causal() & qkv.window(8), score=qkv.softcap(50.0))
    bench.time("plan, repeated", lambda: spec.plan(q, k, v), shapes="1 head, 16 x 16, d 16", below=30e-6)
    grouped = qkv.Spec("b (h g) i d, b h j d, b h j e -> b i (h g) e", position=qkv.rope(), keep=qkv.causal())
    q4 = torch.randn(1, 4, 16, 16)
    bench.time("plan, repeated, grouped and rotary", lambda: grouped.plan(q4, k, v), shapes="4 heads", below=30e-6)
    plain = qkv.Spec(keep=qkv.causal())
    bench.compare(
        {
            "torch sdpa": lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True),
            "qkv, strategy sdpa": lambda: plain(q, k, v),
            "qkv, strategy chunked": lambda: spec(q, k, v),
        },
        shapes="1 head, 16 x 16, d 16",
    )


@benchmark("first-call", "a spec never seen before: made, planned and run once")
def first_call(bench: Bench) -> None:
    """Nothing is compiled, so the first call costs little more than the next."""
    q, k, v = (torch.randn(1, 4, 64, 32) for _ in range(3))
    counter = iter(range(1 << 30))

    def fresh() -> object:
        cap = 10.0 + next(counter) * 1e-6
        return qkv.Spec(keep=qkv.keep(lambda i, j: (i - j) % 3 < 2), score=qkv.softcap(cap))(q, k, v)

    bench.time("traced, planned and run", fresh, shapes="4 heads, 64 x 64, d 32", below=20e-3)
