"""A real model with a cache of qkv's: SmolLM2-135M-Instruct writes what it writes with its own cache and attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import qkv.transformers
from qkv.transformers import Cache, Loaded, load_model
from tests.transformers.test_smollm2 import PROMPTS

COUNT = 100
TEXT = (
    "A lighthouse stands where ships would otherwise not see the land until it is too late. Its keeper used to live in "
    "the tower, trim the wick every few hours, and wind the clockwork that turned the lens. In 1822 Augustin Fresnel "
    "found that a lens can be cut into rings, each a prism that bends the light by a little more than the one inside "
    "it. Such a lens is thin, and a lamp behind it can be seen thirty kilometres away. The rings were ground by hand. "
    "Today most lighthouses have no keepers. A sensor turns the lamp on at dusk, and the ships have better maps than "
    "their captains once dreamt of. People still visit the towers, climb the narrow stairs, and look at the sea."
)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    made = load_model()
    made.tokenizer.padding_side = "left"
    yield made


@torch.no_grad()
def written(loaded: Loaded, prompts: list[str], cache: Any, count: int = COUNT) -> Tensor:
    """The ``count`` tokens that follow each prompt, [prompt, token]."""
    batch = loaded.tokenizer(prompts, return_tensors="pt", padding=True)
    settings = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
    model: Any = loaded.model
    return model.generate(**batch, past_key_values=cache, **settings)[:, batch.input_ids.shape[1] :]


@pytest.fixture(scope="module")
def own(loaded: Loaded) -> Tensor:
    """What sdpa and a DynamicCache write after the prompts, in a left-padded batch."""
    loaded.model.set_attn_implementation("sdpa")
    return written(loaded, PROMPTS, DynamicCache(config=loaded.model.config))


def test_a_left_padded_batch_is_continued_with_the_same_tokens(loaded: Loaded, own: Tensor) -> None:
    model = qkv.transformers.use(loaded.model)
    cache = Cache(model)
    assert torch.equal(written(loaded, PROMPTS, cache), own)
    assert cache.explain() == "30 layers of 30: dense, read in place"


def test_each_prompt_alone_is_continued_with_the_same_tokens(loaded: Loaded, own: Tensor) -> None:
    model = qkv.transformers.use(loaded.model)
    for n, prompt in enumerate(PROMPTS):
        cache = Cache(model)
        assert torch.equal(written(loaded, [prompt], cache, 16)[0], own[n, :16]), prompt
        assert cache.explain() == "30 layers of 30: dense, read in place"


def test_codes_of_8_bits_leave_texts_as_they_are_for_long(loaded: Loaded, own: Tensor) -> None:
    """A greedy text turns where two tokens are nearly as likely, which a rounding may decide, that of another order of
    float32 sums too: of five texts of 100 tokens four stay whole where this was written, and none turns early.
    """
    model = qkv.transformers.use(loaded.model)
    found = written(loaded, PROMPTS, Cache(model, bits=8))
    same = (found == own).long().cumprod(-1).sum(-1)
    assert int(same.min()) >= 50, same
    assert int((same == 100).sum()) >= 3, same


@torch.no_grad()
def test_codes_of_8_bits_move_perplexity_by_less_than_half_a_percent(loaded: Loaded) -> None:
    """Each token is read by itself and none is held as it came, so that all keys come from codes."""
    model: Any = qkv.transformers.use(loaded.model)
    ids = loaded.tokenizer(TEXT, return_tensors="pt").input_ids
    exact = float(torch.exp(model(ids, labels=ids).loss))
    cache = Cache(model, bits=8, recent=0)
    logits = [model(ids[:, n : n + 1], past_key_values=cache).logits for n in range(ids.shape[1] - 1)]
    loss = torch.nn.functional.cross_entropy(torch.cat(logits, dim=1)[0], ids[0, 1:])
    assert ids.shape[1] > 120
    assert abs(float(torch.exp(loss)) / exact - 1.0) < 0.005
    plain = model.config
    floats = 2 * 30 * ids.shape[1] * plain.num_key_value_heads * (plain.hidden_size // plain.num_attention_heads) * 4
    slots = cache.layers[0].cache.state.keys.num_slots
    assert cache.nbytes <= 0.27 * floats * slots / ids.shape[1]


def test_the_newest_tokens_fit_into_the_bytes_of_a_long_context() -> None:
    """Room for 32,768 tokens in a layer of SmolLM2."""
    cache = qkv.cache.Quantized(bits=8, capacity=32768)
    cache.append(torch.zeros(1, 3, 1, 64), torch.zeros(1, 3, 1, 64))
    assert cache.recent == 64
    assert cache.nbytes <= 0.27 * 2 * 3 * 32768 * 64 * 4
