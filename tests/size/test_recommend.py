"""Recommendations: every rule with a scenario just on each side of it, and what is returned."""

from __future__ import annotations

from typing import Any

import pytest

import qkv
from qkv.errors import SpecError
from qkv.size import RULES, Recommendation, Use, cache_size, recommend

SMALL: dict[str, Any] = {"width": 512, "heads": 8, "layers": 12}


def ruled_out(found: Recommendation, name: str) -> str:
    """Which rule spoke against a stack."""
    return found.ruled_out[name].split(":")[0]


def cache_of(name: str, **constraints: Any) -> int:
    return next(item.cache_bytes for item in recommend("free", **constraints).figures if item.name == name)


def test_linear_time_is_a_matter_of_being_asked() -> None:
    asked, not_asked = recommend("linear", **SMALL), recommend("generation", **SMALL)
    assert asked.chosen.name == "linear"
    assert {ruled_out(asked, name) for name in asked.ruled_out} == {"linear time"}
    assert ruled_out(not_asked, "linear") == "softmax kept"
    assert recommend("linear", causal=False, context=8192, **SMALL).chosen.name == "bigbird"


def test_softmax_is_kept_until_nothing_with_it_fits() -> None:
    smallest = cache_of("multi-query, local and global, int4 cache", context=100_000, **SMALL)
    at = recommend("free", context=100_000, memory=smallest, **SMALL)
    below = recommend("free", context=100_000, memory=smallest - 1, **SMALL)
    assert at.chosen.name == "multi-query, local and global, int4 cache"
    assert ruled_out(at, "linear") == "softmax kept"
    assert below.chosen.name == "linear"
    assert (at.unmet, below.unmet) == ((), ())


@pytest.mark.parametrize("place", range(5))
def test_memory_goes_down_the_list_step_by_step(place: int) -> None:
    """At exactly the bytes of a stack it is taken, one byte below it is not, quality first."""
    sizes: dict[str, int] = {}
    for item in recommend("training", context=65_536, **SMALL).figures[:-1]:
        if not sizes or item.cache_bytes < min(sizes.values()):
            sizes[item.name] = item.cache_bytes
    name = list(sizes)[place]
    at = recommend("training", context=65_536, memory=sizes[name], **SMALL)
    below = recommend("training", context=65_536, memory=sizes[name] - 1, **SMALL)
    assert at.chosen.name == name
    assert below.chosen.name != name
    assert ruled_out(below, name) == "memory"


def test_memory_that_nothing_fits() -> None:
    linear = cache_of("linear", context=1000, **SMALL)
    at, below = (recommend("free", context=1000, memory=size, first="memory", **SMALL) for size in (linear, 1000))
    assert at.unmet == ()
    assert below.unmet[0].part == "memory"
    assert "1000 B are there" in below.unmet[0].why
    assert below.chosen.cache_bytes == min(item.cache_bytes for item in below.figures if item.name != "linear")


def test_whole_reach_is_for_retrieval() -> None:
    limit = cache_of("multi-query", context=50_000, **SMALL)
    asked = {"context": 50_000, "memory": limit, "batch": 1, **SMALL}
    free, retrieval = (recommend(use, **asked) for use in ("training", "retrieval"))
    assert free.chosen.name == "grouped-query, local and global"
    assert retrieval.chosen.name == "multi-query"
    assert ruled_out(retrieval, "grouped-query, local and global") == "whole reach"
    below = recommend("retrieval", context=50_000, memory=limit - 1, **SMALL)
    assert below.chosen.stack.reach == "some layers"
    assert [item.part for item in below.unmet] == ["whole reach"]


def test_cache_reads_against_weights() -> None:
    """Multi-head reads 2 n width a layer and 4 width**2 of weights: they meet at n = 2 width."""
    at, above = (recommend("generation", context=n, **SMALL) for n in (1024, 1025))
    assert at.chosen.name == "multi-head"
    assert at.chosen.cache_read_bytes == at.chosen.weight_bytes
    assert above.chosen.name == "grouped-query"
    assert ruled_out(above, "multi-head") == "cache reads"
    assert recommend("training", context=1025, **SMALL).chosen.name == "multi-head"
    double = recommend("generation", context=513, batch=2, **SMALL)
    assert double.chosen.name == "grouped-query"


def test_what_is_not_asked_is_not_judged() -> None:
    """The rule of cache reads is not of this use, and no memory binds what keeps nothing."""
    free = recommend("memory", first="quality", memory="1TiB", context=1025, **SMALL)
    assert free.chosen.name == "multi-head"
    assert free.reasons[0].why.startswith("no rule of this use speaks against it; a decoded token reads")
    both = recommend("documents", memory=1, context=512, **SMALL)
    assert (both.unmet, "memory" in str(both.ruled_out)) == ((), False)


def test_a_state_alone_fits_a_retrieval() -> None:
    linear = cache_of("linear", context=1 << 20, **SMALL)
    found = recommend("retrieval", context=1 << 20, memory=linear, **SMALL)
    assert found.chosen.name == "linear"
    assert [item.part for item in found.unmet] == ["whole reach"]
    assert "its state of" in found.unmet[0].why


def crossing(use: str, **constraints: Any) -> int:
    """The first context at which pairs cost more than projections, found by halving on the figures."""
    low, high = 1, 100_000
    while high - low > 1:
        middle = (low + high) // 2
        figures = recommend(use, context=middle, **constraints).figures
        item = next(
            one for one in figures if (one.stack.reach == "all" and one.name != "multi-head") or one is figures[-1]
        )
        low, high = (middle, high) if item.pair_flops <= item.projection_flops else (low, middle)
    return high


def test_pairs_against_projections() -> None:
    place = crossing("generation", **SMALL)
    below, above = (recommend("serving", context=n, batch=1, **SMALL) for n in (place - 1, place))
    assert below.chosen.name == "grouped-query"
    assert above.chosen.stack.reach != "all" or above.chosen.name == "latent"
    assert ruled_out(above, "grouped-query") == "pairs"
    assert recommend("generation", context=place, **SMALL).chosen.name == "grouped-query"


def test_documents_both_ways() -> None:
    """Full attention while it costs less than the projections, BigBird beyond: 2 n d + softmax against 4 d**2."""
    # n**2 (4 * 512 + 5 * 8) pairs' operations against 8 n 512**2 of projections
    place = 8 * 512**2 // (4 * 512 + 5 * 8)
    found = {n: recommend("documents", context=n, **SMALL) for n in (place, place + 1)}
    assert [item.chosen.name for item in found.values()] == ["multi-head", "bigbird"]
    for n, item in found.items():
        full = item.figures[0]
        assert (full.pair_flops > full.projection_flops) == (n == place + 1)
        assert item.chosen.cache_bytes == 0
    assert recommend("documents").chosen.name == "bigbird"


def test_memory_first_takes_the_smallest_that_passes() -> None:
    quality, memory = (recommend("generation", first=first, **SMALL) for first in ("quality", "memory"))
    assert quality.chosen.name == "grouped-query"
    left = [item for item in memory.figures if item.name != "linear"]
    assert memory.chosen.cache_bytes == min(item.cache_bytes for item in left)
    assert ruled_out(memory, "grouped-query") == "memory first"
    assert ruled_out(quality, "latent") == "quality first"


@pytest.mark.parametrize(("context", "theta"), [(4096, 1e4), (4097, 5e5), (32768, 5e5), (32769, 1e6)])
def test_the_base_of_rotary_positions(context: int, theta: float) -> None:
    found = recommend("training", context=context, **SMALL)
    assert f"theta {theta:,.0f}" in next(item.why for item in found.reasons if item.choice == "rope")
    assert found.specs["all"].position == qkv.rope(theta)


@pytest.mark.parametrize(("layers", "mixed"), [(5, False), (6, True)])
def test_local_and_global_layers_need_six(layers: int, mixed: bool) -> None:
    names = [item.name for item in recommend("free", width=512, heads=8, layers=layers).figures]
    assert any("local and global" in name for name in names) == mixed


@pytest.mark.parametrize(("heads", "grouped"), [(1, False), (4, False), (8, True)])
def test_heads_that_can_be_grouped(heads: int, grouped: bool) -> None:
    names = [item.name for item in recommend("free", width=512, heads=heads, layers=2).figures]
    assert ("grouped-query" in names) == grouped
    assert ("multi-query" in names) == (heads > 1)


@pytest.mark.parametrize("use", list(Use))
def test_every_use_gives_specs_that_run(use: Use) -> None:
    """Small tensors through every segment: the specs are ready to use."""
    import torch

    found = recommend(use)
    assert set(found.mechanisms) <= set(qkv.mechanisms.names())
    assert found.specs
    for segment in found.chosen.stack.segments:
        layer = segment.layer
        heads, kv_heads = layer.num_heads, layer.num_kv_heads
        key = layer.query_size or layer.key_size
        kv = heads if layer.latent_size else kv_heads
        q = torch.randn(1, heads, 3, key)
        k, v = torch.randn(1, kv, 3, key), torch.randn(1, kv, 3, layer.value_size)
        assert segment.spec(q, k, v).shape == (1, heads, 3, layer.value_size)


@pytest.mark.parametrize("use", list(Use))
def test_every_candidate_has_figures_and_a_reason(use: Use) -> None:
    found = recommend(use, layers=6, width=512, heads=8)
    assert {item.name for item in found.figures} == {found.chosen.name, *found.ruled_out}
    assert found == recommend(use, layers=6, width=512, heads=8)
    for item in found.figures:
        assert item.prefill.seconds > 0
        assert (item.decode is None) == (not found.scenario.causal)
    assert all(reason.why and reason.source for reason in found.reasons)
    chosen, scenario = found.chosen, found.scenario
    if scenario.causal:
        model = chosen.stack.model(scenario)
        again = cache_size(
            model, scenario.context, batch=scenario.batch, dtype=chosen.stack.cache_dtype, source=scenario.source
        )
        assert again.bytes == chosen.cache_bytes
        assert chosen.cache_bytes <= (scenario.memory_bytes or chosen.cache_bytes)


def test_every_rule_has_a_source() -> None:
    assert [rule.name for rule in RULES] == [
        "linear time",
        "softmax kept",
        "memory",
        "whole reach",
        "cache reads",
        "pairs",
    ]
    assert all(rule.source for rule in RULES)


def test_encoder_and_decoder() -> None:
    def found(n: int) -> Recommendation:
        return recommend("encoder-decoder", context=n, source=n, **SMALL)

    low, high = 100, 5000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if found(middle).chosen.name == "multi-head" else (low, middle)
    near, far = found(low), found(high)
    # a decoded token reads its cache and the decoder's weights: the crossing is where the cache is the larger part
    for one, is_far in ((near, False), (far, True)):
        most = one.figures[0]
        assert (most.cache_read_bytes > most.weight_bytes) == is_far
    assert list(near.specs) == ["encoder", "decoder", "cross"]
    assert near.chosen.name == "multi-head"
    assert far.chosen.name == "grouped-query"
    assert far.mechanisms == ("multi-head", "grouped-query", "cross")


def test_linear_time_with_a_source_is_not_met_and_says_why() -> None:
    found = recommend("linear", source=4096, context=4096, **SMALL)
    assert [item.part for item in found.unmet] == ["linear time"]
    assert "grow with the square of the context" in found.unmet[0].why
    assert recommend("linear", context=4096, **SMALL).unmet == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: recommend("serve"),
            'use="serve" is not known.\n  Did you mean serving? Known: training, serving, memory, documents, '
            "generation, encoder-decoder, retrieval, linear, free.",
        ),
        (
            lambda: recommend("free", first="speed"),
            'first="speed" is not known.\n  Known: quality, memory.',
        ),
        (
            lambda: recommend("free", width=100, heads=3),
            "width 100 is no multiple of 3 heads.\n  Give a width that the heads divide.",
        ),
        (
            lambda: recommend("encoder-decoder", source=0),
            "source=0: an encoder-decoder reads a source.\n  Give its length in tokens.",
        ),
        (
            lambda: recommend("encoder-decoder", causal=False),
            "source=1024 for a stack that is not causal: what reads a source writes token by token.\n"
            "  Leave source out, or give causal=True (--causal).",
        ),
        (lambda: recommend("free", memory=0), "memory=0 is too small.\n  It is at least 1."),
        (lambda: recommend("free", context=0), "context=0 is too small.\n  It is at least 1."),
        (
            lambda: recommend("free", dtype="int8"),
            "dtype=int8: weights and activations are f32, f16 or bf16.\n  The cache's follows by rule.",
        ),
        (
            lambda: recommend("free", machine="cray"),
            'no machine is called "cray".\n  Known: a100-40gb, a100-80gb, h100, h200, b200, l4, rtx-4090, apple-m1, '
            'apple-m1-max, apple-m2, epyc-7763, epyc-9654, xeon-8480, ryzen-7950x, and "this".',
        ),
    ],
)
def test_messages(call: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        call()
    assert str(caught.value) == message


def test_a_constraint_that_is_not_known() -> None:
    with pytest.raises(SpecError) as caught:
        recommend("free", depth=3)
    assert "'depth'" in str(caught.value)
    assert str(caught.value).splitlines()[1] == (
        "  Known: width, heads, layers, context, batch, memory, causal, first, dtype, machine, source."
    )
