"""What qkv costs before a kernel starts: planning, a tiny call from Python, the first call of a spec never seen."""

from __future__ import annotations

import torch

import qkv
from harness import Bench, benchmark
from peers import sdpa
from qkv.errors import Refused
from ways import GROUPED, by, exists


@benchmark("planner", "planning a call that was seen before")
def planner(bench: Bench) -> None:
    """The goal is 30 microseconds."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 16, 16) for _ in range(3))
    spec = qkv.Spec(keep=qkv.causal() & qkv.window(8), score=qkv.softcap(50.0))
    bench.time("plan, repeated", lambda: spec.plan(q, k, v), shapes="1 head, 16 x 16, d 16", below=30e-6)
    grouped = qkv.Spec(GROUPED, position=qkv.rope(), keep=qkv.causal())
    q4 = torch.randn(1, 4, 16, 16)
    bench.time("plan, repeated, grouped and rotary", lambda: grouped.plan(q4, k, v), shapes="4 heads", below=30e-6)


@benchmark("tiny", "a tiny call from end to end, beside SDPA")
def tiny(bench: Bench) -> None:
    """The goal is 1.5 times SDPA's time."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 16, 16) for _ in range(3))
    for name, keep in (("full", None), ("causal", qkv.causal())):
        bench.compare(
            {
                "sdpa": lambda causal=keep is not None: sdpa(q, k, v, is_causal=causal),
                **by(bench, qkv.Spec(keep=keep), q, k, v),
            },
            shapes=f"{name}, 1 head, 16 x 16, d 16, torch.float32",
            at_least={"qkv": 1 / 1.5},
            agree=1e-3,
        )


@benchmark("first-call", "a spec never seen before: made, planned and run once")
def first_call(bench: Bench) -> None:
    """The goal is 20 ms: nothing is compiled, so the first call costs little more than the next."""
    if not exists(bench):
        return
    q, k, v = (torch.randn(1, 4, 64, 32) for _ in range(3))
    counter = iter(range(1 << 30))

    def fresh() -> object:
        cap = 10.0 + next(counter) * 1e-6
        spec = qkv.Spec(keep=qkv.keep(lambda i, j: (i - j) % 3 < 2), score=qkv.softcap(cap))
        with qkv.strategy(bench.strategy):
            return spec(q, k, v)

    try:
        fresh()
    except Refused as refused:
        bench.note(f"qkv: {'; '.join(refused.reasons)}")
        return
    bench.time("qkv: made, planned and run", fresh, shapes="4 heads, 64 x 64, d 32", below=20e-3)
