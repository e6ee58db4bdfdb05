"""Rules of classes: indexers, two spellings, layers that hold two attentions; every causal class of transformers."""

from __future__ import annotations

from typing import Any

import pytest

from qkv.errors import ModelError
from qkv.size import Model, token_bytes
from qkv.size.families import FAMILIES
from tests.size.small import SPARSE, read


@pytest.mark.parametrize(
    "keys",
    [
        {"indexer_types": ["full", "shared", "full", "shared"]},
        {"index_topk_pattern": "FSFS"},
        {"index_topk_freq": 2, "index_skip_topk_offset": 1},
    ],
)
def test_indexers_that_are_shared_keep_no_keys(keys: dict[str, Any]) -> None:
    found = read(model_type="glm_moe_dsa", **SPARSE, **keys)
    assert [layer.index_size for layer in found.layers] == [6, 0, 6, 0]
    assert [layer.index_topk for layer in found.layers] == [8] * 4
    assert token_bytes(found) == 2 * (4 * (16 + 4) + 2 * 6)


def test_kimi_delta_attention_by_both_spellings() -> None:
    """The table of the published repository, and the keys of the class in transformers."""
    table = {"full_attn_layers": [4], "num_heads": 2, "head_dim": 8, "short_conv_kernel_size": 4}
    latent = {key: SPARSE[key] for key in ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")}
    published = read(model_type="kimi_linear", linear_attn_config=table, **latent)
    types = ["linear_attention"] * 3 + ["full_attention"]
    keys = {"linear_num_heads": 2, "linear_head_dim": 8, "linear_conv_kernel_dim": 4, "layer_types": types}
    assert published.layers == read(model_type="kimi_linear", **keys, **latent).layers
    assert published.kinds == {"state": 3, "latent": 1}


def test_every_class_that_writes_text_is_read_or_refused_in_a_line() -> None:
    """The defaults of every config class of transformers for causal models: of those with a rule only three, whose
    defaults describe no model, are refused.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    refused: set[str] = set()
    read_types: set[str] = set()
    for name in set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - {"gemma4_assistant"}:  # which has no default
        config = AutoConfig.for_model(name)
        try:
            found = Model.from_config(config)
        except ModelError as error:
            refused.add(name)
            assert type(config).__name__ in str(error).split("\n")[0]
            assert len(str(error)) < 600
            continue
        read_types.add(name)
        assert token_bytes(found) >= 0
        if name not in FAMILIES and found.family == name:
            assert f"model_type {name} is not known: only what the config says itself is read" in found.notes
    assert refused & set(FAMILIES) == {"bamba", "glm4_moe", "lfm2_moe"}
    assert len(read_types) > 100
    assert refused >= {"falcon_h1", "laguna", "deepseek_v4", "gemma4_text", "olmo_hybrid", "zamba2"}


def test_two_attentions_in_a_layer() -> None:
    latent = {key: SPARSE[key] for key in ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")}
    assert read(model_type="longcat_flash", **latent).kinds == {"latent": 8}


def test_layers_are_counted_where_they_are_listed() -> None:
    found = read(
        model_type="nemotron_h", num_hidden_layers="gone", layers_block_type=["mamba", "moe", "attention"],
        mamba_num_heads=4, mamba_head_dim=8, ssm_state_size=16, n_groups=2, conv_kernel=4,
    )  # fmt: skip
    assert found.kinds == {"state": 1, "none": 1, "full": 1}
