"""What transformers does with a cache beside appending to it: beams, crops, batches, copies; and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import qkv
import qkv.transformers
from qkv.transformers import Cache
from qkv.transformers.check import limit_of
from qkv.transformers.layers import DROPPED, IN_PLACE, OTHERS, TOUCHED, UNREAD, LatentLayer, Layer
from tests.transformers import families, harness

LIMIT = limit_of(torch.float32)
BY_NAME = {f.name: f for f in families.CAUSAL}
LLAMA, MISTRAL, DEEPSEEK = BY_NAME["llama"], BY_NAME["mistral"], BY_NAME["deepseek_v3"]
THREE = pytest.mark.parametrize("family", [LLAMA, MISTRAL, DEEPSEEK], ids=lambda f: f.name)


def ours(family: families.Family, **settings: Any) -> tuple[Any, Cache]:
    """A model and its cache."""
    model = qkv.transformers.use(family.build())
    return model, Cache(model, **settings)


@torch.no_grad()
def read(model: Any, cache: Any, ids: Tensor) -> Tensor:
    """The logits of tokens that are read with a cache."""
    return model(ids, past_key_values=cache).logits


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((found - wanted).abs().max() / wanted.abs().max())


@THREE
def test_beams_are_the_same(family: families.Family) -> None:
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    given = harness.inputs(family, "left")
    own = family.build().generate(**given, **settings)
    model = qkv.transformers.use(family.build(), cache="auto")
    assert torch.equal(model.generate(**given, **settings), own)


@THREE
def test_samples_are_the_same(family: families.Family) -> None:
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": True, "pad_token_id": 0, "temperature": 0.7}
    given = harness.inputs(family, "left")
    eager = family.build()
    torch.manual_seed(5)
    own = eager.generate(**given, **settings)
    model = qkv.transformers.use(family.build(), cache="auto")
    torch.manual_seed(5)
    assert torch.equal(model.generate(**given, **settings), own)


@THREE
def test_an_assistant_proposes_and_tokens_are_taken_back(family: families.Family) -> None:
    ids = harness.tokens(12, batch=1)
    settings = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    own = family.build().generate(ids, **settings)
    model = qkv.transformers.use(family.build(), cache="auto")
    helper = qkv.transformers.use(family.build(), cache="auto")
    assert torch.equal(model.generate(ids, assistant_model=helper, **settings), own)
    assert torch.equal(model.generate(ids, prompt_lookup_num_tokens=3, **settings), own)


@THREE
def test_a_crop_forgets(family: families.Family) -> None:
    """The tokens of the last pass can always be taken back; a ring that records the past keeps more."""
    model, cache = ours(family)
    ids = harness.tokens(16)
    read(model, cache, ids[:, :8])
    cache.activate_past_recording()
    read(model, cache, ids[:, 8:12])
    read(model, cache, ids[:, 12:15])
    cache.crop(-5)
    assert cache.get_seq_length() == 10
    found = read(model, cache, ids[:, 10:])
    assert apart(found, read(family.build(), DynamicCache(config=family.build().config), ids)[:, 10:]) <= LIMIT


@THREE
def test_sequences_are_chosen_repeated_and_copied(family: families.Family) -> None:
    model, cache = ours(family)
    ids = harness.tokens(9, batch=3)
    whole = read(family.build(), None, ids)
    read(model, cache, ids[:, :7])
    twin = copy.deepcopy(cache)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([5, 0, 1]))
    cache.reorder_cache(torch.tensor([1, 0, 2]))
    chosen = torch.tensor([0, 2, 0])
    for at in (7, 8):
        assert apart(read(model, cache, ids[chosen, at : at + 1]), whole[chosen, at : at + 1]) <= LIMIT
    twin.batch_select_indices(torch.tensor([False, True, True]))
    for at in (7, 8):
        assert apart(read(model, twin, ids[1:, at : at + 1]), whole[1:, at : at + 1]) <= LIMIT
    assert cache.get_seq_length() == twin.get_seq_length() == 9
    cache.reset()
    assert cache.get_seq_length() == 0
    assert apart(read(model, cache, ids), whole) <= LIMIT


def test_what_is_read_in_place_is_what_is_stored() -> None:
    """No tensor of all keys is made: the bytes are those of the slots, and a ring's do not grow."""
    model, cache = ours(MISTRAL)
    assert UNREAD in cache.explain()
    ids = harness.tokens(40)
    read(model, cache, ids[:, :8])
    seen = set()
    for n in range(8, 40):
        read(model, cache, ids[:, n : n + 1])
        seen.add(cache.nbytes)
    assert len(seen) == 1
    assert cache.explain() == f"2 layers of 2: ring, {IN_PLACE}"
    layer = cache.layers[0]
    assert layer.get_mask_sizes(1) == (layer.cache.window + 1, 40 - layer.cache.window)
    assert layer.keys.shape[-2] == layer.values.shape[-2] == layer.cache.window
    assert (layer.get_max_length(), layer.is_sliding, layer.is_croppable) == (5, True, False)
    assert repr(layer).startswith("Layer(Ring(40 tokens")


def test_a_capacity_is_kept() -> None:
    model, cache = ours(LLAMA, capacity=10)
    assert cache.get_max_length() == 10 and cache.layers[0].get_max_cache_shape() == 10
    ids = harness.tokens(12)
    read(model, cache, ids[:, :8])
    before = cache.nbytes
    with pytest.raises(qkv.CacheError, match="4 tokens do not fit"):
        read(model, cache, ids[:, 8:])
    assert cache.get_seq_length() == 8 and cache.nbytes == before
    read(model, cache, ids[:, 8:10])
    assert cache.nbytes == before


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", [LLAMA, MISTRAL], ids=lambda f: f.name)
def test_codes_are_close_and_small(family: families.Family, bits: int) -> None:
    model, cache = ours(family, bits=bits)
    whole, ids = read(family.build(), None, harness.tokens(16)), harness.tokens(16)
    read(model, cache, ids[:, :8])
    found = torch.cat([read(model, cache, ids[:, n : n + 1]) for n in range(8, 16)], dim=1)
    assert 0 < apart(found, whole[:, 8:]) < {8: 0.02, 4: 0.3}[bits]
    kind = "quantized" if family is LLAMA else "ring"
    assert cache.explain() == f"2 layers of 2: {kind} of {bits} bits, {IN_PLACE}"


def test_other_attention_gets_ordinary_tensors() -> None:
    for family in (LLAMA, MISTRAL, DEEPSEEK):
        model, cache = ours(family)
        ids = harness.tokens(16)
        whole = read(family.build(), None, ids)
        found = [read(model, cache, ids[:, :8])]
        for n, name in enumerate(("sdpa", "eager", "qkv", "qkv", "eager", "qkv")):
            model.set_attn_implementation(name)
            found.append(read(model, cache, ids[:, 8 + n : 9 + n]))
            if name != "qkv":
                assert OTHERS in cache.explain()
        assert apart(torch.cat(found, dim=1), whole[:, :14]) <= LIMIT
        assert IN_PLACE in cache.explain()


def test_weights_come_from_ordinary_tensors() -> None:
    for family in (LLAMA, MISTRAL, DEEPSEEK):
        model, cache = ours(family)
        ids = harness.tokens(10)
        read(model, cache, ids[:, :8])
        read(model, cache, ids[:, 8:9])
        with torch.no_grad():
            made = model(ids[:, 9:], past_key_values=cache, output_attentions=True)
        held = cache.layers[0].cache.standing.count
        assert made.attentions[0].shape == (2, 4, 1, held)
        assert apart(made.logits, read(family.build(), None, ids)[:, 9:]) <= LIMIT


def _doubled(update: Any) -> Any:
    def touched(self: Any, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        key, value = update(self, *given, **named)
        return key, value * 2.0

    return touched


def test_a_model_that_touches_what_it_gets_has_ordinary_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are doubled between the cache and attention, as a model might scale or normalise them."""
    parts = harness.tokens(10).split([7, 1, 2], dim=1)
    monkeypatch.setattr(DynamicCache, "update", _doubled(DynamicCache.update))
    monkeypatch.setattr(Cache, "update", _doubled(Cache.update))
    model, cache = ours(LLAMA)
    eager, its = LLAMA.build(), DynamicCache()
    own = torch.cat([read(eager, its, part) for part in parts], dim=1)
    found = torch.cat([read(model, cache, part) for part in parts], dim=1)
    assert apart(found, own) <= LIMIT
    assert cache.explain() == f"2 layers of 2: dense, {TOUCHED}"


def test_masks_written_out() -> None:
    """A 4-D mask of the user's is read with a dense cache, and with ordinary tensors over a window."""
    ids = harness.tokens(9)
    for family in (LLAMA, MISTRAL):
        model, cache = ours(family)
        read(model, cache, ids[:, :8])
        held = cache.layers[0].get_mask_sizes(1)[0]
        kept = torch.ones(2, 1, 1, held, dtype=torch.bool)
        kept[0, 0, 0, -2] = False
        kept[..., : held - 5] = False
        added = torch.where(kept, 0.0, torch.finfo(torch.float32).min)
        dense = torch.cat((torch.full((2, 1, 1, 9 - held), torch.finfo(torch.float32).min), added), dim=-1)
        with torch.no_grad():
            found = model(ids[:, 8:], past_key_values=cache, attention_mask=added).logits
            eager, own = family.build(), Cache(family.build(), kind="dense")
            read(eager, own, ids[:, :8])
            wanted = eager(ids[:, 8:], past_key_values=own, attention_mask=dense).logits
        assert apart(found, wanted) <= LIMIT


def test_gradients_are_refused() -> None:
    model, cache = ours(LLAMA)
    with pytest.raises(qkv.ModelError) as refused:
        model(harness.tokens(4), past_key_values=cache)
    assert str(refused.value) == (
        "keys need a gradient, and qkv.transformers.Cache keeps numbers alone.\n"
        "  Call the model under torch.no_grad() or torch.inference_mode(); train with use_cache=False."
    )
    assert cache.get_seq_length() == 0
    with torch.inference_mode():
        model(harness.tokens(4), past_key_values=cache)
    read(model, cache, harness.tokens(1))
    assert cache.get_seq_length() == 5


def test_what_is_refused_and_how_it_is_said() -> None:
    model = qkv.transformers.use(LLAMA.build())
    with pytest.raises(qkv.SpecError) as refused:
        Cache(model, kind="rings")  # type: ignore[arg-type]
    assert str(refused.value) == 'Cache: kind = \'rings\'.\n  Known: "auto", "dense", "ring".'
    with pytest.raises(qkv.ModelError) as unfit:
        Cache(model, kind="ring")
    assert str(unfit.value) == (
        'Cache: kind = "ring", and no layer of LlamaForCausalLM has a sliding window.\n'
        '  Use kind="auto"; a ring would drop keys that the model reads.'
    )
    with pytest.raises(qkv.ModelError) as latents:
        Cache(DEEPSEEK.build(), bits=8)
    assert str(latents.value) == (
        "Cache: bits = 8, and DeepseekV3ForCausalLM caches latents, which are not quantized.\n"
        "  Leave bits out; latents are small."
    )
    with pytest.raises(qkv.SpecError, match="bits = 5"):
        Cache(model, bits=5)
    with pytest.raises(qkv.SpecError) as alone:
        Cache(model, recent=8)
    assert str(alone.value) == (
        "Cache: recent = 8, and no bits.\n"
        "  Beside codes the newest tokens are held as they came; give bits=8 or bits=4, or leave recent out."
    )
    with pytest.raises(qkv.SpecError, match="Quantized: recent = -1"):
        Cache(model, bits=8, recent=-1)
    assert [Cache(model, bits=4, recent=n).layers[0].cache.recent for n in (0, 5, None)] == [0, 5, 64]
    with pytest.raises(qkv.SpecError) as name:
        qkv.transformers.use(model, cache="int2")  # type: ignore[arg-type]
    assert str(name.value) == 'use: cache = \'int2\'.\n  Known: "auto", "dense", "ring", "int8", "int4".'
    cache = Cache(model)
    with pytest.raises(qkv.CacheError) as positive:
        cache.crop(3)
    assert str(positive.value) == (
        "crop(3): give how many tokens to take back as a negative number, as transformers does.\n"
        "  To keep 3 tokens: crop(3 - cache.get_seq_length())."
    )
    with pytest.raises(qkv.CacheError) as moved:
        cache.layers[0].offload()
    assert str(moved.value) == (
        "qkv.transformers.Cache is not moved between devices.\n  Use DynamicCache(offloading=True) for that."
    )


def test_the_default_of_generate() -> None:
    model = qkv.transformers.use(LLAMA.build(), cache="int8")
    given = harness.inputs(LLAMA, "none")

    def made(**settings: Any) -> Any:
        return model.generate(
            **given, max_new_tokens=3, do_sample=False, pad_token_id=0, return_dict_in_generate=True, **settings
        ).past_key_values

    cache = made()
    assert isinstance(cache, Cache) and "quantized of 8 bits" in cache.explain()
    assert type(made(cache_implementation="static")) is not Cache
    assert made(past_key_values=(own := DynamicCache())) is own
    assert made(use_cache=False) is None
    again = copy.deepcopy(model)
    assert (
        "quantized" in again.generate(**given, max_new_tokens=2, return_dict_in_generate=True).past_key_values.explain()
    )
    model.set_attn_implementation("sdpa")
    assert type(made()) is DynamicCache
    qkv.transformers.use(model)
    assert type(made()) is DynamicCache


def test_layers_of_other_kinds_are_transformers_own() -> None:
    config = LlamaConfig(**{**families.TEXT, "layer_types": ["full_attention", "linear_attention"]})
    cache = Cache(LlamaForCausalLM(config))
    assert type(cache.layers[0]) is Layer
    assert "LinearAttentionLayer of transformers" in cache.explain()


def test_up_projections_that_are_not_what_the_module_does() -> None:
    """A module whose expansion is another gets all latents, and expands them."""
    model, cache = ours(DEEPSEEK)
    assert all(isinstance(layer, LatentLayer) for layer in cache.layers)
    for layer in cache.layers:
        layer.cache.up_v = layer.cache.up_v * 2.0
    ids = harness.tokens(10)
    found = torch.cat([read(model, cache, part) for part in ids.split([7, 1, 2], dim=1)], dim=1)
    assert apart(found, read(DEEPSEEK.build(), None, ids)) <= LIMIT
    assert TOUCHED in cache.explain()


def test_the_words_for_masks_over_windows() -> None:
    assert DROPPED.startswith("plain tensors: the mask may keep tokens")
