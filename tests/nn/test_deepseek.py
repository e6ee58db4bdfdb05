"""Latent attention against transformers' DeepSeek-V2 and V3, whose state dicts it loads as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention, DeepseekV2RotaryEmbedding
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

import qkv
import qkv.nn

MODEL, HEADS, LENGTH = 48, 4, 9
SIZES: dict[str, Any] = {"kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 1.0,
    "mscale_all_dim": 0.8,
}
OTHERS: dict[str, Any] = {
    "hidden_size": MODEL,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "attn_implementation": "eager",
}
FORBIDDEN = torch.full((LENGTH, LENGTH), float("-inf"), dtype=torch.float64).triu(1)[None, None]


def _v2(**options: Any) -> Any:
    config = transformers.DeepseekV2Config(**OTHERS, **SIZES, head_dim=4, **options)
    return DeepseekV2Attention(config, layer_idx=0), DeepseekV2RotaryEmbedding(config)


def _v3(**options: Any) -> Any:
    config = transformers.DeepseekV3Config(**OTHERS, **SIZES, **options)
    return DeepseekV3Attention(config, layer_idx=0), DeepseekV3RotaryEmbedding(config)


@pytest.mark.parametrize("q_lora_rank", [None, 10])
@pytest.mark.parametrize("name", ["v2", "v3", "v3 with yarn and biases"])
@torch.no_grad()
def test_deepseek(name: str, q_lora_rank: int | None) -> None:
    last = name.endswith("biases")
    options: dict[str, Any] = {"rope_parameters": YARN, "attention_bias": True} if last else {}
    source, rotary = (_v2 if name == "v2" else _v3)(q_lora_rank=q_lora_rank, **options)
    source = source.double().eval()
    for parameter in source.parameters():
        parameter.normal_(0, 0.3)
    scaling = qkv.scaling.yarn(4.0, 16, mscale=1.0, mscale_all_dim=0.8) if last else None
    layer = qkv.nn.LatentAttention(
        MODEL,
        HEADS,
        **SIZES,
        q_lora_rank=q_lora_rank,
        position=qkv.rope(1e4, interleaved=True, scaling=scaling),
        keep=qkv.causal(),
        scale=source.scaling,
        bias=last,
        dtype=torch.float64,
    )
    layer.load_state_dict(source.state_dict())
    x = torch.randn(2, LENGTH, MODEL, dtype=torch.float64)
    turns = rotary(x, torch.arange(LENGTH)[None])
    expected = source(hidden_states=x, position_embeddings=turns, attention_mask=FORBIDDEN)[0]
    # transformers computes angles in float32, and V2 turns in complex64
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer(x, absorbed=True), layer(x), rtol=1e-10, atol=1e-10)
