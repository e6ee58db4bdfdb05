"""Einlang: how long checking takes, and what a call of a definition adds to the attention that it is."""

from __future__ import annotations

import torch

import qkv
from harness import Bench, benchmark

DEFINITION = """fn attention_{n}[h, q, k, d](Q: [f32; h, q, d], K: [f32; h, k, d], V: [f32; h, k, d]) ->
    [f32; h, q, d] {{
    let s[h, q, k] = sum[d](Q[h, q, d] * K[h, k, d]) / size[d] ** 0.5;
    let t[h, q, k] = if k <= q && q - k < 128 {{ s[h, q, k] }} else {{ -inf }};
    let w[h, q, k] = softmax[k](t[h, q, k]);
    sum[k](w[h, q, k] * V[h, k, d])
}}
"""
PLAIN = """fn attention[h, q, k, d](Q: [f32; h, q, d], K: [f32; h, k, d], V: [f32; h, k, d]) -> [f32; h, q, d] {
    let s[h, q, k] = sum[d](Q[h, q, d] * K[h, k, d]) / size[d] ** 0.5;
    sum[k](softmax[k](s[h, q, k]) * V[h, k, d])
}
"""
BIASED = """fn attention[h, q, k, d](
    Q: [f32; h, q, d], K: [f32; h, k, d], V: [f32; h, k, d], B: [f32; h, q, k],
) -> [f32; h, q, d] {
    sum[k](softmax[k](sum[d](Q[h, q, d] * K[h, k, d]) / size[d] ** 0.5 + B[h, q, k]) * V[h, k, d])
}
"""


@benchmark("ein-check", "checking texts of 50 and of 10,000 lines")
def check(bench: Bench) -> None:
    """Time in the number of lines."""
    texts = {lines: "".join(DEFINITION.format(n=n) for n in range(lines // 6 + 1)) for lines in (50, 500, 10_000)}
    bench.compare(
        {f"{lines} lines": lambda text=text: qkv.ein.check(text) for lines, text in texts.items()},
        shapes="definitions of six lines",
    )


@benchmark("ein-call", "attention as a definition, as qkv.attention and as torch's SDPA")
def call(bench: Bench) -> None:
    """Eight heads, 256 positions, 64 features, forward."""
    q, k, v = (torch.randn(8, 256, 64) for _ in range(3))
    f = qkv.ein.source(PLAIN).attention
    pattern = "h i d, h j d, h j e -> h i e"
    bench.compare(
        {
            "torch SDPA": lambda: torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None]),
            "qkv.attention": lambda: qkv.attention(q, k, v, pattern),
            "definition": lambda: f(q, k, v),
        },
        shapes="8 x 256 x 64, float32",
    )


@benchmark("ein-overhead", "what a call of a definition adds to the strategy's own time")
def overhead(bench: Bench) -> None:
    """Two positions, so that nearly all is the way to the kernel; a bias is another tensor for a spec made before."""
    pattern = "h i d, h j d, h j e -> h i e"
    q, k, v, b = (*(torch.randn(1, 2, 8) for _ in range(3)), torch.randn(1, 2, 2))
    plain, biased = qkv.ein.source(PLAIN).attention, qkv.ein.source(BIASED).attention
    spec, with_bias = qkv.Spec(pattern), qkv.Spec(pattern, score=qkv.bias(b, "h i j"))
    bench.compare(
        {
            "spec": lambda: spec(q, k, v),
            "definition": lambda: plain(q, k, v),
            "spec with a bias": lambda: with_bias(q, k, v),
            "definition with a bias": lambda: biased(q, k, v, b),
        },
        shapes="1 x 2 x 8, float32",
    )
