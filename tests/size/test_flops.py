"""FLOPs: by hand, beside torch's counter on plain products, and by their properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import qkv
from qkv.errors import SpecError
from qkv.size import Kind, Layer, flops, layer_work, linear_layer, model, multi_head_layer


def counted(layer: Layer, width: int, keys: int, queries: int, *, backward: bool = False) -> int:
    """What torch counts on its math path for one layer: projections, products of all pairs, output."""
    heads, kv_heads, size = layer.num_heads, layer.num_kv_heads, layer.key_size
    group = heads // kv_heads
    make = lambda *shape: torch.empty(*shape, device="meta", requires_grad=True)  # noqa: E731
    x = make(queries, width)
    w_q, w_k, w_v, w_o = (make(width, n * size) for n in (heads, kv_heads, kv_heads, heads))
    past = make(kv_heads, keys - queries, size).detach()
    with FlopCounterMode(display=False) as counter:
        q = (x @ w_q).unflatten(-1, (kv_heads, group, size)).movedim(0, 2)
        new = [(x @ w).unflatten(-1, (kv_heads, size)).movedim(0, 1) for w in (w_k, w_v)]
        k, v = (torch.cat([past, part], dim=1) for part in new)
        scores = q.flatten(1, 2) @ k.mT
        out = (scores.softmax(-1) @ v).unflatten(1, (group, queries)).movedim(2, 0).flatten(1)
        done = out @ w_o.T
        if backward:
            done.sum().backward()
    return counter.get_total_flops()


def test_the_layer_of_the_docstring_by_part() -> None:
    """n = 2048, d = 4096, 32 heads, multi-head: each part as derived, their products as torch counts them."""
    layer = multi_head_layer(4096, 32)
    work = layer_work(layer, 4096, 2048, convention="full")
    assert {part.name: part.flops for part in work.parts} == {
        "query": 2 * 2048 * 4096 * 4096,
        "key": 2 * 2048 * 4096 * 4096,
        "value": 2 * 2048 * 4096 * 4096,
        "scores": 2 * 2048**2 * 4096,
        "softmax": 5 * 2048**2 * 32,
        "values": 2 * 2048**2 * 4096,
        "output": 2 * 2048 * 4096 * 4096,
    }
    assert work.product_flops == 343_597_383_680 == counted(layer, 4096, 2048, 2048)
    assert work.flops == 343_597_383_680 + 671_088_640


def test_torch_counts_the_same_through_sdpa() -> None:
    q = torch.empty(1, 32, 2048, 128, device="meta")
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    work = layer_work(multi_head_layer(4096, 32), 4096, 2048, convention="full")
    assert counter.get_total_flops() == work.part("scores") + work.part("values")


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize(("queries", "keys"), [(16, 16), (1, 40), (7, 20)])
def test_any_layer_as_torch_counts_it(heads: int, kv_heads: int, queries: int, keys: int) -> None:
    layer = multi_head_layer(96, heads, kv_heads, head_size=8)
    work = layer_work(layer, 96, keys, queries, convention="full")
    assert work.product_flops == counted(layer, 96, keys, queries)


def test_the_backward_as_torch_counts_it() -> None:
    layer = multi_head_layer(64, 4, 2)
    work = layer_work(layer, 64, 24, convention="full")
    softmax = work.part("softmax")
    plain = work.backward_flops(recompute=False) - 2 * softmax
    assert plain == counted(layer, 64, 24, 24, backward=True) - work.product_flops
    assert work.backward_flops() == plain + 2 * softmax + work.part("scores") + softmax


def test_conventions() -> None:
    layer = multi_head_layer(64, 4, window=5)
    pairs = {rule: layer_work(layer, 64, 20, convention=rule).pairs for rule in ("exact", "half", "full")}
    assert pairs == {"exact": 15 + 15 * 5, "half": 200, "full": 400}
    one = {rule: layer_work(layer, 64, 20, 1, convention=rule).pairs for rule in ("exact", "half", "full")}
    assert one == {"exact": 5, "half": 20, "full": 20}


@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(1, 80), st.integers(0, 60), st.integers(0, 30), st.integers(1, 3)
)
def test_exact_is_at_most_full(group: int, kv: int, queries: int, past: int, window: int, batch: int) -> None:
    layer = multi_head_layer(32, group * kv, kv, head_size=8, window=window)
    exact, full = (
        layer_work(layer, 32, queries + past, queries, convention=rule, batch=batch) for rule in ("exact", "full")
    )
    assert exact.flops <= full.flops
    assert full.flops == batch * layer_work(layer, 32, queries + past, queries, convention="full").flops


@pytest.mark.parametrize(
    "name", ["llama-3-8b", "gemma-3-27b", "deepseek-v3", "deepseek-v3.2-exp", "llama-4-scout", "t5-base"]
)
def test_models_exact_is_at_most_full_and_the_sum_is_the_total(name: str) -> None:
    one = model(name)
    exact, full = (flops(one, 3000, convention=rule, source=200) for rule in ("exact", "full"))
    assert 0 < exact.flops <= full.flops
    assert exact.flops == sum(work.flops for work in exact.layers) == sum(exact.parts.values())
    assert len(exact.layers) == len(one.layers)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 50))
def test_grouped_with_all_heads_is_multi_head_and_with_one_multi_query(heads: int, size: int, tokens: int) -> None:
    width = heads * size
    all_heads = layer_work(multi_head_layer(width, heads, heads), width, tokens)
    assert all_heads == layer_work(multi_head_layer(width, heads), width, tokens)
    one = layer_work(multi_head_layer(width, heads, 1), width, tokens)
    assert one.part("key") == 2 * tokens * width * size
    assert one.flops == all_heads.flops - 2 * 2 * tokens * width * (heads - 1) * size
    assert one.write_bytes * heads == all_heads.write_bytes


def test_the_two_forms_of_a_latent_by_hand() -> None:
    layer = Layer(
        Kind.LATENT, num_heads=4, num_kv_heads=4, key_size=24, value_size=16, latent_size=32, rotary_size=8,
        content_size=16, query_latent_size=48,
    )  # fmt: skip
    expanded = layer_work(layer, 64, 10, 2, latent="expanded")
    absorbed = layer_work(layer, 64, 10, 2, latent="absorbed")
    shared = {
        "query down": 2 * 2 * 64 * 48,
        "query": 2 * 2 * 48 * 96,
        "latent": 2 * 2 * 64 * 40,
        "output": 2 * 2 * 64 * 64,
    }
    pairs = 9 + 10
    assert {p.name: p.flops for p in expanded.parts} == shared | {
        "rebuilt keys and values": 2 * 10 * 32 * 4 * 32,
        "scores": 2 * pairs * 4 * 24,
        "softmax": 5 * pairs * 4,
        "values": 2 * pairs * 4 * 16,
    }
    assert {p.name: p.flops for p in absorbed.parts} == shared | {
        "absorbed query": 2 * 2 * 4 * 16 * 32,
        "scores": 2 * pairs * 4 * 40,
        "softmax": 5 * pairs * 4,
        "values": 2 * pairs * 4 * 32,
        "absorbed value": 2 * 2 * 4 * 32 * 16,
    }
    assert absorbed.read_bytes == 10 * 40 * 2


def test_decoding_a_latent_is_cheaper_absorbed_and_prefill_expanded() -> None:
    one = model("deepseek-v3")
    decode = {form: flops(one, 8192, queries=1, latent=form).flops for form in ("expanded", "absorbed")}
    whole = {form: flops(one, 8192, latent=form).flops for form in ("expanded", "absorbed")}
    assert decode["absorbed"] < decode["expanded"]
    assert whole["expanded"] < whole["absorbed"]
    assert flops(one, 8192, queries=1).flops == decode["absorbed"]
    assert flops(one, 8192).flops == whole["expanded"]


def test_an_indexer_scores_every_token_and_chooses_some() -> None:
    layer = next(iter(model("deepseek-v3.2-exp").layers))
    work = layer_work(layer, 7168, 8192, 1, latent="absorbed")
    assert work.pairs == 2048
    assert work.part("indexer scores") == 2 * 8192 * 64 * 128
    assert work.read_bytes == 2048 * 576 * 2 + 8192 * 128 * 2


def test_linear_attention_grows_with_the_length() -> None:
    layer = linear_layer(64, 4)
    works = [layer_work(layer, 64, n) for n in (100, 200)]
    assert works[1].flops == 2 * works[0].flops
    assert works[0].part("state update") == works[0].part("state read") == 2 * 100 * 4 * 16 * 17
    assert works[0].left_out == ""
    found = flops(model("mamba-codestral-7b"), 10)
    assert found.left_out == ()
    bare = layer_work(Layer(Kind.STATE, state_size=8), 4, 2)
    assert bare.left_out == "the projections of a state layer that has no maps"


def test_cross_attention_makes_the_source_once() -> None:
    one = model("t5-base")
    first, later = flops(one, 20, source=50), flops(one, 20, queries=1, source=50)
    cross = [work for work in first.layers if work.kind == "cross"]
    assert cross[0].part("key") == 2 * 50 * 768 * 768
    assert cross[0].pairs == 20 * 50
    assert next(work for work in later.layers if work.kind == "cross").part("key") == 0
    assert all(work.flops == 0 for work in later.layers if work.kind == "none")
    assert next(work for work in first.layers if work.kind == "none").pairs == 50 * 50


def test_a_mask_of_ones_own() -> None:
    keep = qkv.causal() & (qkv.window(4) | qkv.first(2))
    work = layer_work(multi_head_layer(64, 4), 64, 50, keep=keep)
    assert work.pairs == keep.count(50)
    assert work.part("scores") == 2 * keep.count(50) * 64


def test_intensity_is_flops_for_each_byte() -> None:
    work = layer_work(multi_head_layer(4096, 32, 8), 4096, 8192, 1)
    assert work.bytes == 4096 * (4096 + 1024) * 2 * 2 + 8192 * 8 * 256 * 2 + 8 * 256 * 2 + (2 * 4096 + 2 * 32 * 256) * 2
    assert work.intensity == work.flops / work.bytes
    assert layer_work(Layer(Kind.NONE), 64, 5).intensity == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: layer_work(multi_head_layer(8, 1), 8, 4, convention="most"),
            'convention "most" is not known.\n  Known: exact, half, full.',
        ),
        (
            lambda: flops(model("deepseek-v3"), 8, latent="folded"),
            'latent="folded" is not known.\n  Known: expanded, absorbed.',
        ),
        (
            lambda: flops(model("gpt2"), 8, queries=9),
            "queries=9 of a context of 8.\n  New tokens are part of the context.",
        ),
        (
            lambda: flops(model("t5-base"), 8),
            "t5-base has cross-attention, and its config does not say how long a source is.\n"
            "  Give source= (--source), the number of tokens of the encoder or the image.",
        ),
        (
            lambda: multi_head_layer(64, 6, 4),
            "a layer of width 64, 6 heads, 4 key-value heads, window 0.\n"
            "  All are positive, and the heads a multiple of the key-value heads.",
        ),
        (lambda: multi_head_layer(64, 6), "width 64 is no multiple of 6 heads.\n  Give head_size=."),
    ],
)
def test_messages(call: object, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        call()  # type: ignore[operator]
    assert str(caught.value) == message
