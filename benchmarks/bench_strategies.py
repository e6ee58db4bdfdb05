"""Each strategy beside torch's scaled_dot_product_attention, given the same task."""

from __future__ import annotations

from collections.abc import Callable

import torch

import qkv
from harness import Bench, Thunk, benchmark

sdpa: Callable[..., torch.Tensor] = torch.nn.functional.scaled_dot_product_attention
GROUPED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"


def _by(strategy: str, spec: qkv.Spec, *tensors: torch.Tensor, **options: object) -> Thunk:
    def run() -> object:
        with qkv.strategy(strategy):
            return spec(*tensors, **options)

    return run


@benchmark("prefill", "causal and full attention, 8 heads, beside SDPA")
def prefill(bench: Bench) -> None:
    """Chunked is torch operations block by block; it is held against a fused kernel here."""
    torch.manual_seed(0)
    for length in (512, 2048):
        q, k, v = (torch.randn(1, 8, length, 64) for _ in range(3))
        for name, keep in (("full", None), ("causal", qkv.causal())):
            spec = qkv.Spec(keep=keep)
            ways = {
                "torch sdpa": lambda q=q, k=k, v=v, c=keep is not None: sdpa(q, k, v, is_causal=c),
                "qkv sdpa": _by("sdpa", spec, q, k, v),
                "qkv chunked": _by("chunked", spec, q, k, v),
            }
            bench.compare(ways, shapes=f"{name}, 8 heads, {length} x {length}, d 64")


@benchmark("window", "causal window 512, where SDPA needs a mask tensor and works through every block")
def window(bench: Bench) -> None:
    """Blocks without a kept pair are skipped by bounds of the mask."""
    torch.manual_seed(0)
    length = 8192
    q, k, v = (torch.randn(1, 4, length, 64) for _ in range(3))
    index = torch.arange(length)
    distance = index[:, None] - index[None, :]
    mask = (distance >= 0) & (distance < 512)
    ways = {
        "torch sdpa, bool mask": lambda: sdpa(q, k, v, attn_mask=mask),
        "qkv chunked": _by("chunked", qkv.Spec(keep=qkv.causal() & qkv.window(512)), q, k, v),
    }
    bench.compare(ways, shapes=f"4 heads, {length} x {length}, d 64")


@benchmark("decode", "one query against 8192 keys, 32 query heads on 8 key heads")
def decode(bench: Bench) -> None:
    """Grouped heads read each key once; nothing is repeated."""
    torch.manual_seed(0)
    q = torch.randn(1, 32, 1, 128)
    k, v = (torch.randn(1, 8, 8192, 128) for _ in range(2))
    spec = qkv.Spec(GROUPED, keep=qkv.causal())
    ways = {
        "torch sdpa, enable_gqa": lambda: sdpa(q, k, v, enable_gqa=True),
        "qkv chunked": _by("chunked", spec, q, k, v, align="end"),
    }
    bench.compare(ways, shapes="1 x 8192, 32 on 8 heads, d 128")


@benchmark("linear", "linear attention by states and by scores")
def linear(bench: Bench) -> None:
    """The same numbers at a cost that grows with the length, and with its square."""
    torch.manual_seed(0)
    for length in (1024, 8192):
        q, k, v = (torch.randn(1, 4, length, 64) for _ in range(3))
        spec = qkv.Spec(keep=qkv.causal(), weights=qkv.linear())
        ways = {"qkv chunked": _by("chunked", spec, q, k, v), "qkv linear": _by("linear", spec, q, k, v)}
        bench.compare(ways, shapes=f"causal, 4 heads, {length} x {length}, d 64")


@benchmark("train", "forward and backward, causal, beside SDPA")
def train(bench: Bench) -> None:
    """The backward makes the scores again; memory stays linear in the length."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 8, 1024, 64, requires_grad=True) for _ in range(3))
    spec = qkv.Spec(keep=qkv.causal())

    def step(way: Callable[[], torch.Tensor]) -> object:
        return torch.autograd.grad(way().sum(), (q, k, v))

    def chunked() -> torch.Tensor:
        with qkv.strategy("chunked"):
            return spec(q, k, v)

    ways: dict[str, Thunk] = {
        "torch sdpa": lambda: step(lambda: sdpa(q, k, v, is_causal=True)),
        "qkv chunked": lambda: step(chunked),
    }
    bench.compare(ways, shapes="8 heads, 1024 x 1024, d 64")
