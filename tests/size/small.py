"""Small configs: of transformers, one for each family whose caches are compared, and dicts of keys."""

from __future__ import annotations

from typing import Any

from qkv.size import Model

BASE: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 12},
    "gemma2": {"sliding_window": 12},
    "gemma3_text": {"sliding_window": 12},
    "gpt_oss": {"sliding_window": 12, "num_local_experts": 2, "num_experts_per_tok": 1},
    "deepseek_v3": {
        "num_key_value_heads": 4, "head_dim": None, "kv_lora_rank": 24, "q_lora_rank": 16, "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
        "topk_group": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 16,
    },
    "qwen3_next": {
        "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
        "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4, "num_experts": 2, "num_experts_per_tok": 1,
        "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    },
}  # fmt: skip


def tiny(name: str) -> Any:
    """The config of a small model of the family."""
    from transformers import AutoConfig

    settings = {key: value for key, value in {**BASE, **MORE[name]}.items() if value is not None}
    return AutoConfig.for_model(name, **settings)


SPARSE = {
    "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8, "index_n_heads": 2,
    "index_head_dim": 6, "index_topk": 8,
}  # fmt: skip
LLAMA: dict[str, Any] = {
    "model_type": "llama", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 8,
    "num_key_value_heads": 2,
}  # fmt: skip


def read(**keys: Any) -> Model:
    """A llama of four layers with other keys; ``"gone"`` takes one away."""
    return Model.from_config({k: v for k, v in {**LLAMA, **keys}.items() if v != "gone"})
