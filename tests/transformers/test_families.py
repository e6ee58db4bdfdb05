"""Every family that routes gives with qkv what it gives with its own eager attention, padded on either side or not."""

from __future__ import annotations

import pytest
import torch

import qkv.transformers
from qkv.transformers.check import limit_of
from tests.transformers import families, harness
from tests.transformers.families import Family

LIMIT = limit_of(torch.float32)
TEXT = families.CAUSAL + families.ENCODERS + families.SEQ2SEQS
PADDED = [f for f in TEXT + families.OTHERS if f.kind not in ("vision", "speech2text")]


def named(chosen: list[Family]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("family", chosen, ids=[f.name for f in chosen])


@named(TEXT + families.OTHERS)
def test_the_first_use_check_passes(family: Family) -> None:
    model = family.build()
    assert qkv.transformers.use(model) is model
    assert model.config._attn_implementation == "qkv"
    agreement = qkv.transformers.compare(model)
    if family.kind in ("vision", "speech", "speech2text", "clip"):
        assert agreement is None  # these are checked at their first forward pass, below
    else:
        assert agreement is not None and agreement.agrees and agreement.calls >= 1, agreement


@named(PADDED)
@pytest.mark.parametrize("side", harness.SIDES)
def test_outputs_equal_eager(family: Family, side: str) -> None:
    given = harness.inputs(family, side)
    eager = harness.output(family.build(), given)
    ours = harness.output(qkv.transformers.use(family.build()), given)
    assert harness.difference(family, given, ours, eager) <= LIMIT


@named([f for f in families.OTHERS if f not in PADDED])
def test_outputs_without_padding_equal_eager(family: Family) -> None:
    given = harness.inputs(family, "none")
    eager = harness.output(family.build(), given)
    ours = harness.output(qkv.transformers.use(family.build()), given)
    assert harness.difference(family, given, ours, eager) <= LIMIT


@named(families.CAUSAL)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_a_left_padded_batch_is_continued_token_for_token(family: Family, cache: str) -> None:
    given = harness.inputs(family, "left")
    eager = harness.greedy(family.build(), given, cache_implementation=cache, disable_compile=True)
    ours = harness.greedy(qkv.transformers.use(family.build()), given, cache_implementation=cache, disable_compile=True)
    assert torch.equal(ours, eager)


@named(families.SEQ2SEQS + [f for f in families.OTHERS if f.kind == "speech2text"])
def test_a_translation_is_written_token_for_token(family: Family) -> None:
    given = {k: v for k, v in harness.inputs(family, "right").items() if not k.startswith("decoder")}
    eager = harness.greedy(family.build(), given)
    ours = harness.greedy(qkv.transformers.use(family.build()), given)
    assert torch.equal(ours, eager)


@named([f for f in families.CAUSAL if f.name in ("llama", "gemma2", "gpt_oss", "mistral", "deepseek_v3")])
def test_a_prompt_in_parts_equals_the_prompt_at_once(family: Family) -> None:
    model = qkv.transformers.use(family.build())
    ids, there = harness.tokens(), harness.padding("left")
    with torch.no_grad():
        whole = model(ids, attention_mask=there).logits
        first = model(ids[:, :7], attention_mask=there[:, :7], use_cache=True)
        rest = model(ids[:, 7:], attention_mask=there, past_key_values=first.past_key_values, use_cache=True).logits
    apart = (rest - whole[:, 7:]).abs().amax(-1) / whole[:, 7:].abs().amax(-1)
    assert float(apart.max()) <= LIMIT


@named([f for f in families.CAUSAL if f.name in ("llama", "gemma2", "gpt_oss", "diffllama")] + families.SEQ2SEQS[-2:])
def test_gradients_equal_eager(family: Family) -> None:
    given = harness.inputs(family, "left")
    gradients = []
    for model in (family.build(), qkv.transformers.use(family.build())):
        logits = model(**given).logits
        kept = logits if "decoder_input_ids" in given else logits[given["attention_mask"].bool()]
        kept.square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, eager in gradients[0].items():
        apart = (gradients[1][name] - eager).abs().max() / eager.abs().max().clamp_min(1e-6)
        assert float(apart) <= LIMIT, name
