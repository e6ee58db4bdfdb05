"""The first-use check: when it runs, what it refuses, and what it leaves as it was."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import qkv.transformers
from qkv.errors import ModelError
from qkv.transformers import check, eager, qkv_attention, routes, watch
from tests.transformers import families, harness
from tests.transformers.families import Family

BY_NAME = {f.name: f for f in families.CAUSAL + families.ENCODERS + families.SEQ2SEQS + families.OTHERS}


@pytest.fixture(autouse=True)
def _forget() -> None:
    check._passed.clear()


@pytest.mark.parametrize("family", families.DOES_NOT_ROUTE, ids=lambda f: f.name)
def test_a_model_that_does_not_route_is_refused(family: Family) -> None:
    model = family.build()
    before = model.config._attn_implementation
    with pytest.raises(ModelError, match="does not call transformers' attention interface"):
        qkv.transformers.use(model)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("name", ["bloom", "gptj", "xglm", "mpt"])
def test_loaded_with_the_name_it_is_refused_at_its_first_mask(name: str) -> None:
    family = next(f for f in families.DOES_NOT_ROUTE if f.name == name)
    model = family.build()
    model.config._attn_implementation_internal = "qkv"  # what from_pretrained(attn_implementation="qkv") leaves
    routes.refuse_unrouted.cache_clear()
    with pytest.raises(ModelError, match=r"docs/transformers-families\.md"):
        harness.output(model, harness.inputs(family, "left"))


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="takes a transformers model"):
        qkv.transformers.use(nn.Linear(2, 2))  # type: ignore[type-var]


@pytest.mark.parametrize("name", ["llama", "gemma2", "bert", "t5", "clip_text"])
def test_the_first_forward_pass_checks_the_model_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, compared = BY_NAME[name], []
    inner = check.compare
    monkeypatch.setattr(check, "compare", lambda model: compared.append(model) or inner(model))
    model, given = family.build("qkv"), harness.inputs(family, "left")
    first, second = harness.output(model, given), harness.output(model, given)
    assert compared == [model]
    assert torch.equal(first, second)
    harness.output(family.build("qkv"), given)
    assert compared == [model]  # the same class and configuration


@pytest.mark.parametrize("name", ["vit", "whisper", "wav2vec2", "clip", "beit"])
def test_what_reads_no_text_is_checked_call_by_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, looked = BY_NAME[name], []
    inner = check.against_own_eager
    monkeypatch.setattr(check, "against_own_eager", lambda call: looked.append(call.module) or inner(call))
    model, given = family.build("qkv"), harness.inputs(family, "right")
    harness.output(model, given)
    count = len(looked)
    assert count >= 2 and len(set(map(id, looked))) == count  # every attention module, once
    harness.output(model, given)
    assert len(looked) == count


def test_a_wrong_call_is_refused_with_the_figures() -> None:
    family = BY_NAME["vit"]

    call: list[watch.Call] = []
    with watch.watching(call.append):
        harness.output(family.build("qkv"), harness.inputs(family, "none"))
    eager.against_own_eager(call[0])  # agrees
    wrong = replace(call[0], output=call[0].output * 1.001)
    with pytest.raises(ModelError, match=r"ViT\w+ gives other results with qkv .*\n.*times the rounding bound"):
        eager.against_own_eager(wrong)


def test_a_refused_model_keeps_what_it_had() -> None:
    model = BY_NAME["llama"].build("sdpa")

    def broken(*args: Any, **kwargs: Any) -> Any:
        output, weights = qkv_attention(*args, **kwargs)
        return 1.1 * output, weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qkv.transformers.registry.qkv_attention", broken)
        with pytest.raises(ModelError, match="gives other results with qkv than with its own eager attention"):
            qkv.transformers.use(model)
        assert model.config._attn_implementation == "sdpa"
        assert qkv.transformers.use(model, check=False).config._attn_implementation == "qkv"
    qkv.transformers.register()


def test_the_check_leaves_the_model_as_it_was() -> None:
    family = BY_NAME["llama"]
    model = family.build("qkv").train()
    model.model.layers[0].eval()
    model.model.norm.note = marker = object()
    state = torch.random.get_rng_state()
    buffers = dict(model.named_buffers())
    agreement = qkv.transformers.compare(model)
    assert agreement is not None and agreement.agrees and agreement.calls == 2
    assert model.training and not model.model.layers[0].training and model.model.norm.note is marker
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(b is buffers[name] for name, b in model.named_buffers())
    assert model.config._attn_implementation == "qkv"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral", "deepseek_v3", "bert", "t5"])
def test_models_in_sixteen_bits_pass(name: str, dtype: torch.dtype) -> None:
    model = BY_NAME[name].build().to(dtype)
    qkv.transformers.use(model)
    agreement = qkv.transformers.compare(model)
    assert agreement is not None and agreement.agrees
    assert agreement.limit < 0.25  # a lost mask moves the outputs by more: see test_faults


def test_registering_twice_changes_nothing() -> None:
    qkv.transformers.register()
    before = dict(AttentionInterface._global_mapping)
    qkv.transformers.register()
    assert dict(AttentionInterface._global_mapping) == before and before["qkv"] is qkv_attention


def test_from_config_takes_the_name() -> None:
    config = AutoConfig.for_model("llama", **families.TEXT)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="qkv").eval()
    assert isinstance(model, LlamaForCausalLM) and model.config._attn_implementation == "qkv"
    with watch.watching(lambda call: calls.append(call.module)):
        calls: list[nn.Module] = []
        model(harness.tokens())
    assert len(calls) == 2


def test_parts_of_a_model_are_set_too() -> None:
    model = qkv.transformers.use(BY_NAME["clip"].build())
    assert model.config._attn_implementation == "qkv"
    assert model.config.text_config._attn_implementation == model.config.vision_config._attn_implementation == "qkv"


def test_the_log_says_how_well_it_agrees(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="qkv.transformers"):
        qkv.transformers.use(BY_NAME["llama"].build())
        qkv.transformers.use(BY_NAME["vit"].build())
    assert "LlamaForCausalLM agrees with eager: difference" in caplog.text
    assert "ViTModel cannot read a tiny batch of text" in caplog.text


@torch.no_grad()
def test_output_attentions_of_a_model() -> None:
    family = BY_NAME["llama"]
    given = harness.inputs(family, "right")
    eager = family.build()(**given, output_attentions=True).attentions
    ours = qkv.transformers.use(family.build())(**given, output_attentions=True).attentions
    assert len(ours) == len(eager) == 2
    there = given["attention_mask"].bool()
    for a, b in zip(ours, eager, strict=True):
        assert float((a - b).abs().amax((1, 3))[there].max()) < check.limit_of(torch.float32)


def test_padding_rows_do_not_count() -> None:
    """A config whose pad token is read like any other still compares equal: rows at padding are left out."""
    config = LlamaConfig(**{**families.TEXT, "pad_token_id": None})
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    assert qkv.transformers.use(model) is model
