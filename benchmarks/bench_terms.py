"""What a term costs: the time for each visible pair beside plain causal attention's, and what people use today."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import qkv
from harness import Bench, Thunk, benchmark
from peers import eager, sdpa
from ways import by

HEADS, SIZE = 8, 64
GOAL = 1 / 1.3


@dataclass(frozen=True)
class Term:
    """A spec, the pairs that one head sees, and the way of today: a function that makes it, since its mask is large."""

    name: str
    spec: qkv.Spec
    pairs: float
    today: str
    made: Callable[[Tensor, Tensor, Tensor], Thunk]


def terms(length: int) -> list[Term]:
    """Every kind of term that the library has a fast way to run, each causal."""
    torch.manual_seed(1)
    index = torch.arange(length)
    distance = index[:, None] - index[None, :]
    causal = distance >= 0
    full = float(qkv.causal().count(length))
    slopes = torch.tensor([2.0 ** -(n + 1) for n in range(HEADS)])
    table = torch.randn(32, HEADS)
    documents = torch.bucketize(index, torch.tensor([0.17, 0.37, 0.46, 0.73]) * length)
    blocks: dict[str, Any] = {"window": 3, "num_global": 2, "num_random": 3, "block_size": max(1, length // 64)}
    sparse = qkv.causal() & qkv.bigbird(**blocks)
    strided = qkv.keep(lambda i, j: (j <= i) & ((i - j < length // 4) | (j % (length // 4) < length // 32)))

    def added(bias: Callable[[], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Thunk]:
        """SDPA with a float mask of all pairs."""

        def made(q: Tensor, k: Tensor, v: Tensor) -> Thunk:
            mask = bias().masked_fill_(~causal, float("-inf"))[None]  # of three axes it would leave its fused kernel
            return lambda: sdpa(q, k, v, attn_mask=mask)

        return made

    def masked(keep: Callable[[], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Thunk]:
        """SDPA with a bool mask of all pairs."""

        def made(q: Tensor, k: Tensor, v: Tensor) -> Thunk:
            mask = keep()
            return lambda: sdpa(q, k, v, attn_mask=mask)

        return made

    def capped(q: Tensor, k: Tensor, v: Tensor) -> Thunk:
        """Eager torch: SDPA has no softcap."""
        dropped = torch.zeros(length, length).masked_fill_(~causal, float("-inf"))
        return lambda: eager(q, k, v, bias=dropped, cap=30.0)

    def logarithmic(score: Any, h: Any, i: Any, j: Any) -> Any:
        return score - slopes[h] * qkv.log(qkv.abs(i - j) + 1)

    bias, mask = "sdpa, bias of all pairs", "sdpa, bool mask of all pairs"
    spec, with_causal = qkv.Spec, qkv.causal()
    return [
        Term("alibi", spec(keep=with_causal, score=qkv.alibi(slopes)), full, bias,
             added(lambda: -slopes[:, None, None] * distance)),
        Term("T5 bias", spec(keep=with_causal, score=qkv.relative_bias(table, bidirectional=False)), full, bias,
             added(lambda: _t5(table, distance))),
        Term("softcap", spec(keep=with_causal, score=qkv.softcap(30.0)), full, "eager torch", capped),
        Term("documents", spec(keep=with_causal & qkv.documents(documents, "j")),
             float((with_causal & qkv.documents(documents, "j")).count(length)), mask,
             masked(lambda: causal & (documents[:, None] == documents[None, :]))),
        Term("BigBird", spec(keep=sparse), float(sparse.count(length)), mask, masked(lambda: _kept(sparse, length))),
        Term("user's score", spec(keep=with_causal, score=qkv.score(logarithmic)), full, bias,
             added(lambda: -slopes[:, None, None] * torch.log(distance.abs() + 1.0))),
        Term("user's mask", spec(keep=strided), float(strided.count(length)), mask,
             masked(lambda: causal & ((distance < length // 4) | (index % (length // 4) < length // 32)))),
    ]  # fmt: skip


@benchmark("terms", "library terms and functions of a user's, each causal: time for a visible pair beside plain causal")
def terms_per_pair(bench: Bench) -> None:
    """The goal is 1.3 times plain causal's time for each visible pair."""
    length = bench.length(4096)
    shapes = f"causal, {HEADS} heads, {length} x {length}, d {SIZE}, torch.float32"
    q, k, v = _tensors(length)
    found = [t for t in terms(length) if not bench.skips(f"{t.name}, {shapes}")]
    runs = by(bench, qkv.Spec(keep=qkv.causal()), q, k, v, label="qkv, plain causal")
    pairs = {"qkv, plain causal": float(qkv.causal().count(length))}
    if not runs:
        return
    for term in found:
        runs |= by(bench, term.spec, q, k, v, label=f"qkv, {term.name}")
        pairs[f"qkv, {term.name}"] = term.pairs
    goals = {label: GOAL for label in runs if label != "qkv, plain causal"}
    bench.compare(runs, shapes=f"{shapes}; ratios of the time for each visible pair", amounts=pairs, at_least=goals)


@benchmark(
    "terms-peers", "the same terms beside SDPA with a mask or bias of all pairs, made beforehand, or eager torch"
)
def terms_peers(bench: Bench) -> None:
    """No goal of its own."""
    length = bench.length(2048)
    q, k, v = _tensors(length)
    for term in terms(length):
        shapes = f"{term.name}, causal, {HEADS} heads, {length} x {length}, d {SIZE}, torch.float32"
        if bench.skips(shapes):
            continue
        ours = by(bench, term.spec, q, k, v, label=f"qkv, {term.name}")
        bench.compare({term.today: term.made(q, k, v), **ours}, shapes=shapes, agree=1e-3)


def _tensors(length: int) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(1, HEADS, length, SIZE) for _ in range(3))


def _t5(table: Tensor, distance: Tensor) -> Tensor:
    """T5's bias for keys before the query, [head, query, key], by its published formula (max_distance 128)."""
    count, exact = table.shape[0], table.shape[0] // 2
    before = distance.clamp(min=0)
    log = torch.log(before.float().clamp(min=1) / exact) / torch.log(torch.tensor(128 / exact)) * (count - exact)
    bucket = torch.where(before < exact, before, (exact + log.long()).clamp(max=count - 1))
    return table[bucket].permute(2, 0, 1).contiguous()  # as a kernel reads it best


def _kept(keep: qkv.Keep, length: int) -> Tensor:
    """A mask of qkv's as a tensor, for a peer that needs one: ones where a key alone has weight."""
    q, k, v = torch.zeros(1, 1, length, 1), torch.zeros(1, 1, length, 1), torch.zeros(1, 1, length, 1)
    with qkv.strategy("reference"):
        weights = qkv.Spec(keep=keep).run(q, k, v, want=("weights",)).stats["weights"]
    return weights[0, 0] > 0
