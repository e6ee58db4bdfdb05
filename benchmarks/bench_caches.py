"""Caches: what decoding reads where it lies, beside the same tokens as ordinary tensors or in another kind of cache."""

from __future__ import annotations

import torch

import qkv
from harness import Bench, Thunk, benchmark
from ways import GROUPED

SAME_TASK = 2e-2
"""Codes of 8 bits move a weighted mean of random values by about a hundredth."""

HEADS, KV_HEADS, SIZE = 32, 8, 128


def _tokens(length: int, batch: int = 1, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    q = torch.randn(batch, HEADS, 1, SIZE, dtype=dtype)
    k, v = (torch.randn(batch, KV_HEADS, length, SIZE, dtype=dtype) for _ in range(2))
    return q, k, v


def _reading(spec: qkv.Spec, q: torch.Tensor, cache: qkv.cache.Cache) -> Thunk:
    """One query over what the cache holds."""

    def run() -> object:
        with torch.inference_mode():
            return spec(q, cache=cache)

    return run


def _filled(cache: qkv.cache.Cache, k: torch.Tensor, v: torch.Tensor) -> qkv.cache.Cache:
    cache.append(k, v)
    return cache


@benchmark("cache-codes", "one query on caches of float32, 8-bit and 4-bit codes, 32 query heads on 8, d 128")
def cache_codes(bench: Bench) -> None:
    """The goals for 8 bits are twice the speed of float32 at 32,768 keys and 0.27 of its bytes, scales counted."""
    length = bench.length(32768)
    q, k, v = _tokens(length)
    spec = qkv.Spec(GROUPED, keep=qkv.causal())
    caches = {
        "float32": _filled(qkv.cache.Dense(capacity=length), k, v),
        "8 bits": _filled(qkv.cache.Quantized(bits=8, capacity=length), k, v),
        "4 bits": _filled(qkv.cache.Quantized(bits=4, capacity=length), k, v),
    }
    shapes = f"1 x {length}, 32 heads on 8, d 128"
    bench.compare(
        {f"qkv {name}": _reading(spec, q, cache) for name, cache in caches.items()},
        shapes=shapes,
        at_least={"qkv 8 bits": 2.0},
    )
    for name, below in (("8 bits", 0.27), ("4 bits", 0.15)):
        share = caches[name].nbytes / caches["float32"].nbytes
        bench.figure(f"bytes of {name} beside float32", share, "", shapes=shapes, below=below)


@benchmark("cache-pages", "one query on pages of 64 tokens beside one tensor, 32 query heads on 8, 8192 keys")
def cache_pages(bench: Bench) -> None:
    """The goal is at most 1.1 times the time of the dense cache."""
    length = bench.length(8192)
    q, k, v = _tokens(length)
    spec = qkv.Spec(GROUPED, keep=qkv.causal())
    dense = _filled(qkv.cache.Dense(capacity=length), k, v)
    ways = {"qkv dense": _reading(spec, q, dense)}
    for size in (64, 16):
        paged = _filled(qkv.cache.Paged(qkv.cache.PagePool(page_size=size)), k, v)
        ways[f"qkv pages of {size}"] = _reading(spec, q, paged)
    bench.compare(
        ways,
        shapes=f"1 x {length}, 32 heads on 8, d 128",
        at_least={"qkv pages of 64": 1 / 1.1},
        agree=1e-4,
    )


@benchmark("cache-cascade", "16 sequences that share a prefix of 4096 tokens: attended once, or by each")
def cache_cascade(bench: Bench) -> None:
    """The goal is 5 times the speed of 16 separate caches; each sequence has 64 tokens of its own. Where queries share
    heads of keys, the products of 16 times as many rows with the prefix set a bound of their own.
    """
    for heads in (KV_HEADS, HEADS):
        _cascade(bench, heads)


def _cascade(bench: Bench, heads: int) -> None:
    prefix, own, batch = bench.length(4096), 64, 16
    _, k, v = _tokens(prefix)
    each = [_tokens(own, batch=1) for _ in range(batch)]
    queries = torch.randn(batch, heads, 1, SIZE)
    spec = qkv.Spec(GROUPED)
    separate = []
    for n in range(batch):
        cache = qkv.cache.Dense(capacity=prefix + own)
        cache.append(k, v)
        cache.append(each[n][1], each[n][2])
        separate.append(cache)
    shared = _filled(qkv.cache.Dense(capacity=prefix), k, v)
    rest = _filled(qkv.cache.Dense(capacity=own), torch.cat([x[1] for x in each]), torch.cat([x[2] for x in each]))
    # the prefix has one batch element, and the sequences' queries stand along the query axis
    together = qkv.Spec("b (h g) s i d, b h j d, b h j e -> b (h g) s i e")

    def by_each() -> object:
        with torch.inference_mode():
            return torch.cat([spec(queries[n : n + 1], cache=cache) for n, cache in enumerate(separate)])

    def cascade() -> object:
        with torch.inference_mode():
            first = together.run(queries.permute(1, 0, 2, 3)[None], cache=shared, want="lse")
            second = spec.run(queries, cache=rest, want="lse")
            output, lse = first.output[0].permute(1, 0, 2, 3), first.lse[0].permute(1, 0, 2)
            return qkv.merge(qkv.Result(output, lse, {}, first.plan), second).output

    bench.compare(
        {"qkv, 16 caches": by_each, "qkv, the prefix once": cascade},
        shapes=f"16 x ({prefix} + {own}), {heads} heads on {KV_HEADS}, d {SIZE}",
        at_least={"qkv, the prefix once": 5.0},
        agree=1e-3,
    )


@benchmark("cache-latent", "one query on latents of DeepSeek-V2's shapes: absorbed, or keys and values rebuilt")
def cache_latent(bench: Bench) -> None:
    """128 heads, 512 + 64, value 128, 8192 tokens; the goal is 10 times the expanded form's speed."""
    length, heads, latent, rotary, content = bench.length(8192), 128, 512, 64, 128
    torch.manual_seed(0)
    up_k, up_v = (torch.randn(heads, content, latent) * latent**-0.5 for _ in range(2))
    cache = qkv.cache.Latent(up_k, up_v)
    cache.append(torch.randn(1, length, latent), torch.randn(1, length, rotary))
    q = torch.randn(1, heads, 1, content + rotary)
    spec = qkv.Spec(keep=qkv.causal())

    def by(strategy: str) -> Thunk:
        def run() -> object:
            with torch.inference_mode(), qkv.strategy(strategy):
                return spec(q, cache=cache)

        return run

    ways = {"qkv, expanded": by("cpu"), "qkv, absorbed": by("absorbed")}
    bench.compare(
        ways, shapes=f"1 x {length}, 128 heads, 512 + 64, float32", at_least={"qkv, absorbed": 10.0}, agree=1e-3
    )


@benchmark("cache-ring", "100,000 tokens streamed through a window of 512: memory, and the time of a step")
def cache_ring(bench: Bench) -> None:
    """The goals are constant memory after the window fills and steps within 10 % of each other."""
    total = bench.length(100_000)
    torch.manual_seed(0)
    q, x = torch.randn(1, HEADS, 1, SIZE), torch.randn(1, KV_HEADS, 1, SIZE)
    spec = qkv.Spec(GROUPED, keep=qkv.causal() & qkv.window(512))

    def streamed(count: int) -> tuple[qkv.cache.Ring, Thunk]:
        cache = qkv.cache.Ring(512)

        def step() -> object:
            with torch.inference_mode():
                return spec(q, x, x, cache=cache)

        for _ in range(count):
            step()
        return cache, step

    early, early_step = streamed(1024)
    late, late_step = streamed(total)
    shapes = f"1024 and {total} tokens, window 512, 32 heads on 8, d 128"
    bench.figure(
        "bytes after the stream beside those after 1024 tokens",
        late.nbytes / early.nbytes,
        "",
        shapes=shapes,
        below=1.0001,
    )
    bench.compare(
        {"qkv, a step after 1024": early_step, "qkv, a step after the stream": late_step},
        shapes=shapes,
        at_least={"qkv, a step after the stream": 1 / 1.1},
    )
