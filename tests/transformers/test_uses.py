"""Ways in which models are used: beams, checkpoints, compiled, packed, with masks of the user's, and for training."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import qkv.transformers
from qkv.transformers import watch
from qkv.transformers.check import limit_of
from tests.transformers import families, harness

LIMIT = limit_of(torch.float32)
LLAMA = next(f for f in families.CAUSAL if f.name == "llama")
GEMMA = next(f for f in families.CAUSAL if f.name == "gemma2")


def test_beams_are_the_same() -> None:
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    given = harness.inputs(LLAMA, "left")
    eager = LLAMA.build().generate(**given, **settings)
    assert torch.equal(qkv.transformers.use(LLAMA.build()).generate(**given, **settings), eager)


@pytest.mark.parametrize("family", [LLAMA, GEMMA], ids=lambda f: f.name)
def test_a_compiled_model_gives_the_same(family: families.Family) -> None:
    given = harness.inputs(family, "left")
    compiled = torch.compile(qkv.transformers.use(family.build()), backend="eager")
    apart = harness.difference(family, given, harness.output(compiled, given), harness.output(family.build(), given))
    assert apart <= LIMIT


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_gradients_are_the_same(reentrant: bool) -> None:
    given = harness.inputs(LLAMA, "right")
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    gradients = []
    for model in (LLAMA.build(), qkv.transformers.use(LLAMA.build())):
        model.train()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # transformers renames it
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model(**given, labels=labels, use_cache=False).loss.backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad)
    eager, ours = gradients
    assert float((ours - eager).abs().max() / eager.abs().max()) <= LIMIT


def test_inference_mode() -> None:
    given = harness.inputs(LLAMA, "left")
    model = qkv.transformers.use(LLAMA.build())
    with torch.inference_mode():
        ours = model(**given).logits
    assert harness.difference(LLAMA, given, ours, harness.output(LLAMA.build(), given)) <= LIMIT


def test_a_copy_of_a_model_is_set_too() -> None:
    model = copy.deepcopy(qkv.transformers.use(LLAMA.build()))
    calls: list[object] = []
    with watch.watching(calls.append):
        harness.output(model, harness.inputs(LLAMA, "left"))
    assert len(calls) == 2


def test_four_dimensional_masks_of_the_user() -> None:
    given = harness.inputs(LLAMA, "left")
    kept = torch.ones(12, 12, dtype=torch.bool).tril() & given["attention_mask"].bool()[:, None, None, :]
    added = torch.where(kept, 0.0, torch.finfo(torch.float32).min)
    eager = harness.output(LLAMA.build(), {**given, "attention_mask": added})
    model = qkv.transformers.use(LLAMA.build())
    for mask in (kept, added):
        ours = harness.output(model, {**given, "attention_mask": mask})
        assert harness.difference(LLAMA, given, ours, eager) <= LIMIT


def test_packed_sequences_are_kept_apart() -> None:
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4]])
    ends = torch.tensor([0, 4, 7, 12], dtype=torch.int32)
    packed = {"input_ids": harness.tokens(batch=1), "position_ids": positions, "use_cache": False}
    lengths = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 5, "max_length_k": 5}
    model = qkv.transformers.use(LLAMA.build())
    ours = harness.output(model, packed | lengths)
    assert float((ours - harness.output(LLAMA.build(), packed)).abs().max()) <= LIMIT * float(ours.abs().max())
    alone = harness.output(model, {"input_ids": packed["input_ids"][:, 4:7]})
    assert float((ours[:, 4:7] - alone).abs().max()) <= LIMIT * float(alone.abs().max())


def test_dropout_is_for_training() -> None:
    torch.manual_seed(0)
    model = qkv.transformers.use(LlamaForCausalLM(LlamaConfig(**families.TEXT, attention_dropout=0.5)))
    given = harness.inputs(LLAMA, "none")
    model.train()
    assert not torch.equal(model(**given).logits, model(**given).logits)
    model.eval()
    assert torch.equal(model(**given).logits, model(**given).logits)


def test_a_model_that_attends_to_both_sides() -> None:
    """transformers turns a decoder into an encoder by ``config.is_causal = False``; the mask then keeps later keys."""
    given, outputs = harness.inputs(LLAMA, "left"), []
    for model in (LLAMA.build(), qkv.transformers.use(LLAMA.build())):
        model.config.is_causal = False
        outputs.append(harness.output(model, given | {"is_causal": False, "use_cache": False}))
    eager, ours = outputs
    assert harness.difference(LLAMA, given, ours, eager) <= LIMIT
    causal = harness.output(LLAMA.build(), given)
    assert harness.difference(LLAMA, given, ours, causal) > 20 * LIMIT
