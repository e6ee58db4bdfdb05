"""Cache bytes: properties over random layers, the policies' rounding by hand, what transformers really allocates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.errors import LimitError, SpecError
from qkv.size import (
    Kind,
    Layer,
    Model,
    cache_size,
    formats,
    llama_cpp,
    model,
    models,
    multi_head_layer,
    paged,
    policies,
)
from tests.size.small import tiny

TOKENS = st.integers(1, 5000)


def of(*layers: Layer, family: str = "") -> Model:
    return Model("made", family, layers, 64)


@st.composite
def any_layer(draw: st.DrawFn) -> Layer:
    kind = draw(st.sampled_from([Kind.FULL, Kind.WINDOW, Kind.CHUNK, Kind.CROSS, Kind.LATENT, Kind.STATE, Kind.NONE]))
    kv = draw(st.integers(1, 9))
    return Layer(
        kind,
        num_heads=kv * draw(st.integers(1, 4)),
        num_kv_heads=kv,
        key_size=draw(st.integers(1, 200)),
        value_size=draw(st.integers(1, 200)),
        span=draw(st.integers(1, 3000)) if kind in (Kind.WINDOW, Kind.CHUNK) else 0,
        latent_size=draw(st.integers(1, 600)) if kind is Kind.LATENT else 0,
        rotary_size=draw(st.integers(0, 64)) if kind is Kind.LATENT else 0,
        state_size=draw(st.integers(1, 999)) if kind is Kind.STATE else 0,
        state_heads=draw(st.integers(1, 8)) if kind is Kind.STATE else 0,
        conv_channels=draw(st.integers(0, 99)) if kind is Kind.STATE else 0,
        conv_kernel=draw(st.integers(1, 4)) if kind is Kind.STATE else 0,
    )


def allowed(policy: str) -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(policies[policy].dtypes))


@given(st.data(), any_layer(), TOKENS, TOKENS, st.integers(1, 5), st.sampled_from(sorted(policies)))
def test_monotone_in_every_size(data: st.DataObject, layer: Layer, a: int, b: int, batch: int, policy: str) -> None:
    if policy == "llama.cpp" and layer.kind is Kind.CROSS:
        return
    dtype = data.draw(allowed(policy))

    def size(one: Layer, n: int, number: int = batch, source: int = 7) -> int:
        return cache_size(of(one), n, batch=number, dtype=dtype, policy=policy, source=source).bytes

    low, high = sorted((a, b))
    assert size(layer, low) <= size(layer, high)
    assert size(layer, low) <= size(layer, low, number=batch + 1)
    assert size(layer, low, source=7) <= size(layer, low, source=8)
    for name in ("num_kv_heads", "key_size", "value_size", "span", "latent_size", "rotary_size", "state_size"):
        if getattr(layer, name):
            larger = replace(layer, **{name: getattr(layer, name) + 1})
            assert size(layer, low) <= size(larger, low), name
    wider = {"int4": "int8", "int8": "f16", "fp8": "f16", "q4_0": "q8_0", "q8_0": "f16", "f16": "f32", "bf16": "f32"}
    if dtype in wider and layer.key_size >= 32 and layer.value_size >= 32 and wider[dtype] in policies[policy].dtypes:
        other = cache_size(of(layer), low, batch=batch, dtype=wider[dtype], policy=policy, source=7).bytes
        assert size(layer, low) <= other


@given(any_layer(), TOKENS, st.sampled_from(sorted(policies)))
def test_no_policy_is_below_math(layer: Layer, tokens: int, policy: str) -> None:
    if policy == "llama.cpp" and layer.kind is Kind.CROSS:
        return
    at = [cache_size(of(layer), tokens, dtype="bf16", policy=rule, source=9).bytes for rule in ("math", policy)]
    assert at[0] <= at[1]


@given(st.lists(any_layer(), max_size=5), TOKENS, st.integers(1, 4))
def test_the_sum_over_layers_is_the_total(layers: list[Layer], tokens: int, batch: int) -> None:
    whole = cache_size(of(*layers), tokens, batch=batch, source=5)
    assert whole.bytes == sum(cache_size(of(one), tokens, batch=batch, source=5).bytes for one in layers)
    assert whole.bytes == sum(group.bytes for group in whole.groups)
    assert sum(group.num_layers for group in whole.groups) == len(layers)
    assert whole.bytes == batch * cache_size(of(*layers), tokens, source=5).bytes


@given(st.integers(1, 8), st.integers(1, 64), TOKENS)
def test_grouped_with_all_heads_is_multi_head_and_with_one_multi_query(heads: int, size: int, tokens: int) -> None:
    width = heads * size
    by = {n: cache_size(of(multi_head_layer(width, heads, n)), tokens).bytes for n in (1, heads)}
    assert by[heads] == cache_size(of(multi_head_layer(width, heads)), tokens).bytes == 2 * width * tokens * 2
    assert by[1] == 2 * size * tokens * 2


def test_the_next_token() -> None:
    one = model("gemma-3-27b")
    for context in (1, 100, 1023, 1024, 5000):
        here, next_ = cache_size(one, context), cache_size(one, context + 1)
        assert here.token_bytes == next_.bytes - here.bytes
    assert cache_size(one, 1023).token_bytes == 62 * 8192
    assert cache_size(one, 1024).token_bytes == 10 * 8192


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("f32", 512), ("f16", 256), ("bf16", 256), ("fp8", 128), ("int8", 132), ("int4", 68), ("q8_0", 136), ("q4_0", 72)],
)
def test_formats_with_their_scales(dtype: str, expected: int) -> None:
    assert formats[dtype].row_bytes(128) == expected
    assert cache_size(of(multi_head_layer(128, 1)), 10, dtype=dtype).bytes == 10 * 2 * expected
    assert formats[dtype].row_bytes(0) == 0
    assert formats[dtype].row_bytes(33) >= formats[dtype].row_bytes(32)


def test_tensor_parallel() -> None:
    """Heads are split, replicate below the degree, and latents always replicate."""
    one, latent = model("llama-3-8b"), model("deepseek-v3")
    sizes = {n: cache_size(one, 1024, tensor_parallel=n) for n in (1, 2, 8, 16)}
    assert sizes[2].bytes == sizes[1].bytes // 2
    assert sizes[8].bytes == sizes[16].bytes == sizes[1].bytes // 8
    assert sizes[16].all_bytes == 2 * sizes[1].bytes
    assert cache_size(latent, 1024, tensor_parallel=8).bytes == cache_size(latent, 1024).bytes
    assert cache_size(model("falcon-7b"), 1024, tensor_parallel=2).bytes == cache_size(model("falcon-7b"), 1024).bytes


@pytest.mark.parametrize(
    ("policy", "kind", "tokens", "expected"),
    [
        ("paged", Kind.FULL, 1, 16),
        ("paged", Kind.FULL, 17, 32),
        ("paged", Kind.WINDOW, 100, 128),  # 100 tokens in 7 blocks, and one more
        ("paged", Kind.WINDOW, 100_000, 3088),  # 1023 + 2048 = 3071 tokens in 192 blocks, and one more
        ("paged", Kind.CHUNK, 100_000, 3072),
        ("paged", Kind.LATENT, 33, 48),
        ("llama.cpp", Kind.FULL, 1, 256),
        ("llama.cpp", Kind.FULL, 257, 512),
        ("llama.cpp", Kind.WINDOW, 100_000, 1536),  # 1024 + 512, a multiple of 256
        ("llama.cpp", Kind.WINDOW, 300, 512),
        ("transformers", Kind.WINDOW, 5000, 1024),
        ("transformers-static", Kind.FULL, 77, 77),
        ("qkv", Kind.WINDOW, 5000, 1024),
        ("math", Kind.CHUNK, 5000, 1024),
    ],
)
def test_slots_of_policies(policy: str, kind: Kind, tokens: int, expected: int) -> None:
    layer = Layer(kind, num_heads=1, num_kv_heads=1, key_size=32, value_size=32, span=1024, latent_size=32)
    found = cache_size(of(layer, family="gemma3_text"), tokens, policy=policy)
    assert found.groups[0].slots == expected
    assert found.policy == policy


def test_llama_cpp_keeps_states_in_f32() -> None:
    layer = Layer(Kind.STATE, state_size=10, state_heads=1, conv_channels=6, conv_kernel=4)
    found = [cache_size(of(layer), 8, dtype=dtype, policy="llama.cpp").bytes for dtype in ("f32", "f16", "q8_0")]
    assert found == [4 * (10 + 6 * 3)] * 3
    assert cache_size(of(layer), 8, dtype="f16").bytes == 4 * 10 + 2 * 6 * 3


def test_llama_cpp_has_short_caches_for_some_families_alone() -> None:
    mistral, gemma = model("mistral-7b-v0.1"), model("gemma-2-9b")
    assert {g.slots for g in cache_size(mistral, 32768, policy="llama.cpp", dtype="f16").groups} == {32768}
    assert {g.slots for g in cache_size(gemma, 8192, policy="llama.cpp", dtype="f16").groups} == {4608, 8192}


def test_policies_of_ones_own_shape() -> None:
    layer = Layer(Kind.WINDOW, num_heads=1, num_kv_heads=1, key_size=1, value_size=1, span=100)
    found = cache_size(of(layer), 10_000, policy=paged(block_size=32, chunk=512))
    assert (found.policy, found.groups[0].slots) == ("paged(32, 512)", 672)
    found = cache_size(of(layer, family="gemma2"), 10_000, policy=llama_cpp(ubatch=64, pad=32), dtype="f16")
    assert (found.policy, found.groups[0].slots) == ("llama.cpp(64, 32)", 192)


def stored(cache: Any) -> int:
    """Bytes of the storages behind a transformers cache, each once: views of larger tensors count in full."""
    seen: dict[int, int] = {}
    for layer in cache.layers:
        tensors: list[Any] = []
        for name in ("keys", "values", "indexer_keys", "conv_states", "recurrent_states"):
            value = getattr(layer, name, None)
            tensors += (
                list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
            )
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gemma3_text", "gpt_oss", "deepseek_v3", "qwen3_next"])
@pytest.mark.parametrize("length", [5, 30])
def test_what_transformers_allocates(name: str, length: int) -> None:
    """A small model of each family decodes one token; its cache holds what the policies say, to the byte."""
    import transformers

    config = tiny(name)
    network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    ids = torch.arange(2 * length).reshape(2, length) % 50
    one = Model.from_config(config)
    ways: dict[str, Any] = {"transformers": transformers.DynamicCache(config=config)}
    if name != "qwen3_next":
        ways["transformers-static"] = transformers.StaticCache(config=config, max_cache_len=length)
    for policy, cache in ways.items():
        with torch.no_grad():
            for part in (ids[:, :-1], ids[:, -1:]):
                network(part, past_key_values=cache, use_cache=True)
        expected = cache_size(one, length, batch=2, dtype="f32", policy=policy)
        assert stored(cache) == expected.bytes, (policy, expected)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: cache_size(model("gpt2"), 8, policy="slab"),
            SpecError,
            'policy "slab" is not known.\n  Known: math, transformers, transformers-static, paged, llama.cpp, qkv.',
        ),
        (
            lambda: cache_size(model("gpt2"), 8, dtype="bf61"),
            SpecError,
            'dtype "bf61" is not known.\n  Did you mean bf16? Known: f32, f16, bf16, fp8, int8, int4, q8_0, q4_0.',
        ),
        (
            lambda: cache_size(model("gpt2"), 8, policy="transformers", dtype="q8_0"),
            SpecError,
            'policy "transformers" does not store q8_0.\n  It stores: bf16, f16, f32.',
        ),
        (
            lambda: cache_size(model("gpt2"), 8, policy="llama.cpp", tensor_parallel=2),
            SpecError,
            'policy "llama.cpp" does not split heads over devices: it gives whole layers to each.\n'
            "  Leave tensor_parallel at 1, and divide by layers.",
        ),
        (
            lambda: cache_size(model("t5-base"), 8, policy="llama.cpp", source=9),
            SpecError,
            'policy "llama.cpp" is not known for cross layers: its graphs make the source\'s keys and values at each '
            'step.\n  Take "math".',
        ),
        (
            lambda: cache_size(model("t5-base"), 8),
            SpecError,
            "t5-base has cross-attention, and its config does not say how long a source is.\n"
            "  Give source= (--source), the number of tokens of the encoder or the image.",
        ),
        (
            lambda: cache_size(model("gpt2"), 8, state_dtype="int8"),
            SpecError,
            "state_dtype=int8: a state is summed into at every token.\n  Take f32, f16 or bf16.",
        ),
        (
            lambda: cache_size(model("gpt2"), "many"),
            SpecError,
            "context='many' is no size.\n  Write it as 4096, 128k or 1m.",
        ),
        (lambda: cache_size(model("gpt2"), 0), SpecError, "context=0 is too small.\n  It is at least 1."),
        (lambda: cache_size(model("gpt2"), 8, batch=0), SpecError, "batch=0 is too small.\n  It is at least 1."),
        (
            lambda: cache_size(model("gpt2"), 8, tensor_parallel=0),
            SpecError,
            "tensor_parallel=0 is too small.\n  It is at least 1.",
        ),
        (
            lambda: cache_size(model("jamba-v0.1"), 8, policy="llama.cpp", state_dtype="bf16"),
            SpecError,
            'policy "llama.cpp" stores states in f32, not in bf16.\n  Leave state_dtype at f32.',
        ),
        (
            lambda: cache_size(model("gpt2"), 1 << 61),
            LimitError,
            f"context={1 << 61} is beyond {1 << 60}, the largest size that is counted.",
        ),
        (
            lambda: paged(block_size=0),
            SpecError,
            "paged(block_size=0, chunk=2048): both are at least 1.",
        ),
        (lambda: llama_cpp(pad=0), SpecError, "llama_cpp(ubatch=512, pad=0): both are at least 1."),
    ],
)
def test_messages(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message


@settings(max_examples=30)
@given(st.sampled_from(models()), st.integers(1, 10**7), st.sampled_from(["math", "paged", "qkv"]))
def test_every_known_model_under_policies(name: str, context: int, policy: str) -> None:
    one = model(name)
    found = cache_size(one, context, policy=policy, source=100)
    assert found.bytes == sum(group.bytes for group in found.groups)
    assert all(str(group.num_layers) in group.formula for group in found.groups)
