"""The least times that ``qkv.size`` predicts for this machine, beside what qkv's strategies take."""

from __future__ import annotations

from collections.abc import Callable

import torch

import qkv
from harness import Bench, benchmark
from qkv.size import Layer, layer_work, linear_layer, multi_head_layer, probe, roof
from qkv.size.work import Part, Work

GROUPED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
PROJECTIONS = {"query", "key", "value", "output"}


def without_projections(work: Work, moved: int) -> Work:
    """The products of pairs alone, which is what a strategy computes, and ``moved`` bytes of its tensors."""
    parts: tuple[Part, ...] = tuple(part for part in work.parts if part.name not in PROJECTIONS)
    return Work(work.kind, work.convention, work.pairs, parts, 0, moved, 0, 0)


def _by(strategy: str, spec: qkv.Spec, *tensors: torch.Tensor, **options: object) -> Callable[[], object]:
    def run() -> object:
        with qkv.strategy(strategy):
            return spec(*tensors, **options)

    return run


def _compare(
    bench: Bench, name: str, layer: Layer, spec: qkv.Spec, strategies: tuple[str, ...], keys: int, queries: int,
    **options: object,
) -> None:  # fmt: skip
    """Times every strategy, then prints the predicted time and how many times longer each took."""
    size, kv_heads = layer.key_size, layer.num_kv_heads
    q = torch.randn(1, layer.num_heads, queries, size)
    k, v = (torch.randn(1, kv_heads, keys, size) for _ in range(2))
    moved = 4 * (2 * q.numel() + k.numel() + v.numel())
    width = layer.num_heads * size
    work = without_projections(layer_work(layer, width, keys, queries, dtype="f32"), moved)
    least = roof(work, probe(), "f32")
    shapes = f"{name}, {layer.num_heads}/{kv_heads} heads, {queries} x {keys}, d {size}"
    bench.figure(f"predicted ({least.bound} binds)", least.seconds * 1e3, "ms at least", shapes=shapes)
    strategies = tuple(name for name in strategies if name in qkv.strategies())
    start = len(bench.rows)
    bench.compare({s: _by(s, spec, q, k, v, **options) for s in strategies}, shapes=shapes)
    for row in bench.rows[start : start + len(strategies)]:
        bench.figure(f"{row.label} beside predicted", row.median / least.seconds, "times", shapes=shapes)


@benchmark("roofline", "least times predicted for this machine, beside measured ones")
def roofline(bench: Bench) -> None:
    """A factor of 1 is a strategy at the machine's limit; below 1 the probe was disturbed, or caches helped."""
    torch.manual_seed(0)
    machine = probe()
    bench.figure("products, f32", machine.rate("f32") / 1e9, "GFLOP/s")
    bench.figure("products, bf16", machine.rate("bf16") / 1e9, "GFLOP/s")
    bench.figure("reading", machine.bytes_per_s / 1e9, "GB/s")
    heads = multi_head_layer(512, 8)
    causal = qkv.Spec(keep=qkv.causal())
    _compare(bench, "causal prompt", heads, causal, ("sdpa", "cpu", "chunked"), 2048, 2048)
    window = multi_head_layer(256, 4, window=512)
    windowed = qkv.Spec(keep=qkv.causal() & qkv.window(512))
    _compare(bench, "window 512", window, windowed, ("cpu", "chunked"), 8192, 8192)
    grouped = multi_head_layer(4096, 32, 8)
    decode = qkv.Spec(GROUPED, keep=qkv.causal())
    _compare(bench, "decoded token", grouped, decode, ("cpu", "chunked"), 8192, 1, align="end")
    linear = linear_layer(256, 4)
    spec = qkv.Spec(keep=qkv.causal(), weights=qkv.linear())
    _compare(bench, "linear", linear, spec, ("linear",), 8192, 8192)
