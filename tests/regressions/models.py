"""A tiny model with random weights that attends through qkv."""

from __future__ import annotations

import os
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

import qkv.transformers


def llama(attention: str, **settings: Any) -> transformers.LlamaForCausalLM:
    """Two layers, four heads in two groups; the same weights on every call. Drawn wide, so that scores differ."""
    transformers.logging.set_verbosity_error()
    qkv.transformers.register()
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        initializer_range=0.3,
        attn_implementation=attention,
        **settings,
    )
    torch.manual_seed(7)
    return transformers.LlamaForCausalLM(config).eval()
