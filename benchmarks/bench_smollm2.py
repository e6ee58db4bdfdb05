"""A real model: SmolLM2-135M through transformers, its own DynamicCache on both sides, attention by SDPA and by qkv."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

import qkv
from harness import Bench, benchmark
from others import Others
from ways import exists

CONTEXT = 4096
DECODED = 16
"""Tokens decoded in a round; the first one, which finds cold caches, is left out."""


@dataclass
class Clock:
    """The time spent in attention functions since it was set to 0."""

    spent_s: float = 0.0
    calls: int = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, timed."""

        def timed(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                self.spent_s += time.perf_counter() - start
                self.calls += 1

        return timed

    def reset(self) -> None:
        """To 0."""
        self.spent_s, self.calls = 0.0, 0


@dataclass
class Taken:
    """What one implementation took: a figure for each round."""

    prefill: list[float] = field(default_factory=list)  # tokens/s
    prefill_attention: list[float] = field(default_factory=list)  # s
    attention: list[float] = field(default_factory=list)  # s for each decoded token
    token: list[float] = field(default_factory=list)  # s for each decoded token, everything included


@benchmark("smollm2-f32", "SmolLM2-135M in float32, 4096 tokens of context: attention for each decoded token, prefill")
def smollm2_f32(bench: Bench) -> None:
    """The goals are a fifth of sdpa's time in attention, and 1.1 times its prefill."""
    _smollm2(bench, torch.float32, 5.0, 1.1)


@benchmark(
    "smollm2-bf16", "SmolLM2-135M in bfloat16, 4096 tokens of context: attention for each decoded token, prefill"
)
def smollm2_bf16(bench: Bench) -> None:
    """The goals are a tenth of sdpa's time in attention, and 1.4 times its prefill."""
    _smollm2(bench, torch.bfloat16, 10.0, 1.4)


def _smollm2(bench: Bench, dtype: torch.dtype, attention_goal: float, prefill_goal: float) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the model is a file of an installed package
    try:
        import transformers

        import qkv.transformers as bridge
    except ImportError as missing:
        bench.note(f"SmolLM2: {missing}")
        return
    transformers.logging.set_verbosity_error()
    bridge.register()
    length = bench.length(CONTEXT, 48)
    model = _tiny(dtype) if bench.small else _model(dtype)
    shapes = f"{length} tokens of context, {'a tiny model, ' if bench.small else ''}{dtype}"
    sides = ["sdpa", "qkv"] if exists(bench) else ["sdpa"]
    taken = {side: Taken() for side in sides}
    counted = Others()
    with _timed(sides) as clock, torch.no_grad():
        for side in sides:  # warm: kernels chosen, pages of weights there
            _one(bench, model, side, 32, clock, Taken())
        for _ in range(min(bench.min_rounds, 5)):  # A B A B: a slower minute slows both
            for side in sides:
                _one(bench, model, side, length, clock, taken[side])
    others = counted.share()

    def rows(what: str, unit: str, goal: float | None, *, higher: bool = False) -> None:
        samples = {f"{side}, {_NAMES[what]}": getattr(taken[side], what) for side in sides}
        goals = {f"qkv, {_NAMES[what]}": goal} if goal else None
        bench.ratio(samples, shapes=shapes, unit=unit, at_least=goals, higher_is_better=higher, others=others)

    rows("attention", "s", attention_goal)
    rows("token", "s", None)
    rows("prefill", "tokens/s", prefill_goal, higher=True)
    rows("prefill_attention", "s", None)


_NAMES = {
    "attention": "attention for a token",
    "token": "all for a token",
    "prefill": "prefill",
    "prefill_attention": "attention in prefill",
}


def _one(bench: Bench, model: Any, side: str, length: int, clock: Clock, into: Taken) -> None:
    """One prefill and ``DECODED`` tokens with a DynamicCache of the model's own."""
    from transformers import DynamicCache

    model.set_attn_implementation(side)
    ids = torch.randint(0, model.config.vocab_size, (1, length + DECODED), generator=torch.Generator().manual_seed(0))
    cache = DynamicCache(config=model.config)
    with qkv.strategy(bench.strategy) if side == "qkv" else nullcontext():
        clock.reset()
        start = time.perf_counter()
        model(ids[:, :length], past_key_values=cache, logits_to_keep=1)
        into.prefill.append(length / (time.perf_counter() - start))
        into.prefill_attention.append(clock.spent_s)
        attention, token = list[float](), list[float]()
        for n in range(length, length + DECODED):
            clock.reset()
            start = time.perf_counter()
            model(ids[:, n : n + 1], past_key_values=cache)
            token.append(time.perf_counter() - start)
            attention.append(clock.spent_s)
            if clock.calls != model.config.num_hidden_layers:
                raise RuntimeError(f"{clock.calls} calls of attention were timed, one for each layer was expected")
    into.attention.append(statistics.median(attention[1:]))
    into.token.append(statistics.median(token[1:]))


@benchmark("smollm2-cache", "SmolLM2-135M decoding with a cache of qkv's against sdpa and DynamicCache, 4096 and 8192")
def smollm2_cache(bench: Bench) -> None:
    """The goals are 1.6 and 2 times the tokens/s in float32, 2.5 and 4 times in bfloat16, and a tenth of the time
    outside the linear layers.
    """
    for dtype, goals in ((torch.float32, (1.6, 2.0)), (torch.bfloat16, (2.5, 4.0))):
        model: Any = None
        for length, goal in zip((bench.length(4096, 48), bench.length(8192, 64)), goals, strict=True):
            model = _decoding(bench, dtype, length, goal, model)


def _decoding(bench: Bench, dtype: torch.dtype, length: int, goal: float, model: Any) -> Any:
    """Rows of one type and length; the model, for the next ones."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers

        import qkv.transformers as bridge
    except ImportError as missing:
        bench.note(f"SmolLM2: {missing}")
        return None
    transformers.logging.set_verbosity_error()
    bridge.register()
    if model is None:
        model = _tiny(dtype) if bench.small else _model(dtype)
    shapes = f"{length} tokens of context, {'a tiny model, ' if bench.small else ''}{dtype}"
    sides = ["sdpa", "qkv"] if exists(bench) else ["sdpa"]
    rates: dict[str, list[float]] = {side: [] for side in sides}
    shares: dict[str, list[float]] = {side: [] for side in sides}
    counted = Others()
    with _linear_time() as linear, torch.no_grad():
        caches = {side: _filled(model, side, length) for side in sides}
        for _ in range(min(bench.min_rounds, 5)):
            for side in sides:
                model.set_attn_implementation(side)
                with qkv.strategy(bench.strategy) if side == "qkv" else nullcontext():
                    tokens, outside = _decode(model, caches[side], linear)
                rates[side].append(tokens)
                shares[side].append(outside)
    others = counted.share()
    named = {f"{side}, {_CACHES[side]}": rates[side] for side in sides}
    goals = {f"qkv, {_CACHES['qkv']}": goal} if "qkv" in sides else None
    bench.ratio(named, shapes=shapes, unit="tokens/s", at_least=goals, higher_is_better=True, others=others)
    parts = {f"{side}, share outside linear layers": shares[side] for side in sides}
    bench.ratio(parts, shapes=shapes, unit="s of a second", others=others)
    return model


_CACHES = {"sdpa": "DynamicCache", "qkv": "qkv cache"}


def _filled(model: Any, side: str, length: int) -> Any:
    """A cache that holds ``length`` tokens of noise and has decoded one. A prompt would take a model of 16 bits minutes
    where processors have no such products, and what keys hold changes no time.
    """
    from transformers import DynamicCache

    from qkv.transformers import Cache

    model.set_attn_implementation(side)
    cache: Any = Cache(model) if side == "qkv" else DynamicCache(config=model.config)
    config = model.config
    noise = torch.Generator().manual_seed(0)
    for layer in range(config.num_hidden_layers):
        shape = (1, config.num_key_value_heads, length, config.head_dim)
        k, v = (torch.randn(shape, generator=noise).to(model.dtype) for _ in range(2))
        cache.update(k, v, layer)
    model(torch.tensor([[7]]), past_key_values=cache)
    return cache


def _decode(model: Any, cache: Any, linear: Clock) -> tuple[float, float]:
    """Tokens in a second, and the share of the time that was not spent in linear layers; the tokens are forgotten."""
    token = torch.tensor([[7]])
    linear.reset()
    start = time.perf_counter()
    for _ in range(DECODED):
        model(token, past_key_values=cache)
    spent = time.perf_counter() - start
    cache.crop(-DECODED)
    return DECODED / spent, 1.0 - linear.spent_s / spent


@contextmanager
def _linear_time() -> Generator[Clock]:
    """A clock around every linear layer."""
    clock, before = Clock(), torch.nn.functional.linear
    torch.nn.functional.linear = clock.around(before)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield clock
    finally:
        torch.nn.functional.linear = before


@contextmanager
def _timed(sides: list[str]) -> Generator[Clock]:
    """Each side's attention function inside a clock, as transformers knows it; afterwards as before."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    known: Any = ALL_ATTENTION_FUNCTIONS
    clock, before = Clock(), {side: known[side] for side in sides}
    try:
        for side, function in before.items():
            known[side] = clock.around(function)
        yield clock
    finally:
        for side, function in before.items():
            known[side] = function


def _model(dtype: torch.dtype) -> Any:
    from qkv.transformers import load_model

    return load_model().model.to(dtype)


def _tiny(dtype: torch.dtype) -> Any:
    """A model of the same kind with two layers and random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=36, intermediate_size=32, num_hidden_layers=2, num_attention_heads=9,
        num_key_value_heads=3, head_dim=16, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype).eval()
