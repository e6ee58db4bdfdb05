"""What classes of models settle where their config.json is silent: who is windowed, and what a missing key means.

Each family is the rule of its class in transformers (``models/<name>/configuration_<name>.py``, and where noted its
modeling file). Knows rules as data. Refuses to guess for a family that is not here: ``kinds`` then reads only what the
config says itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Pattern(StrEnum):
    """Which layers are windowed where the config has no ``layer_types``."""

    NONE = "none"
    """No layer: a ``sliding_window`` in the config is not read by the class."""
    ALL = "all"
    """Every layer, if ``sliding_window`` is a positive number."""
    ALTERNATE = "alternate"
    """Layers 0, 2, 4, ...: the others are full."""
    PERIOD = "period"
    """All but every p-th; p is ``sliding_window_pattern``, or the family's."""
    FROM_LAYER = "from layer"
    """Layers from ``max_window_layers`` on, if ``use_sliding_window``."""
    FLAG_OFF = "flag off"
    """None unless ``use_sliding_window``, and then only ``layer_types`` says which."""
    CHUNKS = "chunks"
    """All but every fourth are chunked-local (``attention_chunk_size``); ``no_rope_layers`` says which."""
    TYPES = "types"
    """``attention_types``: [[[names], repeats], ...] (GPT-Neo)."""
    UNKNOWN = "unknown"
    """The family is not known here: a window without ``layer_types`` is not settled."""


class Recurrent(StrEnum):
    """What stands in the layers that do not attend."""

    MAMBA = "mamba"
    MAMBA2 = "mamba2"
    DELTA = "gated delta rule"
    KIMI_DELTA = "kimi delta attention"
    LIGHTNING = "lightning attention"
    RG_LRU = "RG-LRU"
    CONV = "short convolution"
    RWKV = "RWKV-4"


class Heads(StrEnum):
    """What a config without a number of key-value heads means."""

    SAME = "as many as query heads"
    FALCON = "by multi_query and new_decoder_architecture"
    BIGCODE = "one, unless multi_query is false"
    REQUIRED = "not settled"


@dataclass(frozen=True, slots=True)
class Family:
    """The rule of one class of models; ``defaults`` are those of its config class in transformers."""

    pattern: Pattern = Pattern.NONE
    heads: Heads = Heads.SAME
    period: int = 0
    recurrent: Recurrent | None = None
    every: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    attentions: int = 1
    """Attentions in each of the layers that the config counts."""
    gated: bool = False
    """Whether a gate of the queries' size stands on the result of its full attention."""
    encoder: bool = False
    encoder_decoder: bool = False
    known: bool = True
    windowed_in_llama_cpp: bool = False
    """Whether llama.cpp keeps a short cache for its windowed layers (``swa_type`` in llama-model.cpp)."""


_PLAIN = Family()
_ALL = Family(Pattern.ALL)
_GEMMA_3 = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "num_hidden_layers": 26}
_MAMBA_HYBRID = Family(recurrent=Recurrent.MAMBA2)
_ENCODER = Family(encoder=True)
_T5 = Family(encoder_decoder=True)

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        (
            "llama", "gemma", "qwen2_vl", "olmo", "olmo2", "olmoe", "phi", "gpt2", "gptj",
            "gpt_neox", "opt", "bloom", "mpt", "codegen", "stablelm", "cohere", "granite", "granitemoe", "glm", "glm4",
            "glm4_moe", "internlm2", "internlm3", "nemotron", "persimmon", "dbrx", "chatglm", "baichuan", "ernie4_5",
            "ernie4_5_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "minicpm3", "minicpm", "dots1",
            "seed_oss", "apertus", "arcee", "helium", "biogpt", "xglm", "hunyuan_v1_dense", "hunyuan_v1_moe",
            "diffllama", "exaone", "mllama_text_model", "glm_moe_dsa", "minimax_m2",
        ),
        _PLAIN,
    ),
    **dict.fromkeys(("mistral", "mixtral", "phi3", "phimoe", "starcoder2", "ministral"), _ALL),
    **dict.fromkeys(("qwen2", "qwen3"), Family(Pattern.FROM_LAYER)),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe", "smollm3"), Family(Pattern.FLAG_OFF)),
    "gemma2": Family(Pattern.ALTERNATE, windowed_in_llama_cpp=True),
    "gpt_oss": Family(Pattern.ALTERNATE, defaults={"head_dim": 64}, windowed_in_llama_cpp=True),
    "gemma3_text": Family(Pattern.PERIOD, period=6, defaults=_GEMMA_3, windowed_in_llama_cpp=True),
    "gemma3n_text": Family(
        Pattern.PERIOD, period=5, windowed_in_llama_cpp=True,
        defaults={"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "num_kv_shared_layers": 15},
    ),
    "cohere2": Family(Pattern.PERIOD, period=4, windowed_in_llama_cpp=True),
    "exaone4": Family(Pattern.PERIOD, period=4, windowed_in_llama_cpp=True),
    "olmo3": Family(Pattern.PERIOD, period=4, windowed_in_llama_cpp=True),
    "llama4_text": Family(Pattern.CHUNKS, defaults={"attention_chunk_size": 8192}, windowed_in_llama_cpp=True),
    "gpt_neo": Family(Pattern.TYPES, defaults={"window_size": 256}),
    **dict.fromkeys(("falcon", "RefinedWeb", "RefinedWebModel"), Family(heads=Heads.FALCON)),
    "gpt_bigcode": Family(heads=Heads.BIGCODE),
    **dict.fromkeys(("mamba", "falcon_mamba"), Family(recurrent=Recurrent.MAMBA, every=True)),
    "mamba2": Family(recurrent=Recurrent.MAMBA2, every=True),
    "jamba": Family(recurrent=Recurrent.MAMBA),
    **dict.fromkeys(("bamba", "granitemoehybrid", "nemotron_h"), _MAMBA_HYBRID),
    **dict.fromkeys(
        ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), Family(recurrent=Recurrent.DELTA, gated=True)
    ),
    "longcat_flash": Family(attentions=2),
    "rwkv": Family(recurrent=Recurrent.RWKV, every=True),
    "kimi_linear": Family(recurrent=Recurrent.KIMI_DELTA),
    "minimax": Family(recurrent=Recurrent.LIGHTNING),
    "minimax_text_01": Family(recurrent=Recurrent.LIGHTNING),
    "recurrent_gemma": Family(recurrent=Recurrent.RG_LRU),
    **dict.fromkeys(("lfm2", "lfm2_moe"), Family(recurrent=Recurrent.CONV)),
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "deberta-v2", "albert", "camembert"), _ENCODER
    ),
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5", "bart", "mbart", "whisper", "marian", "pegasus", "m2m_100"), _T5),
}  # fmt: skip

UNKNOWN = Family(Pattern.UNKNOWN, Heads.REQUIRED, known=False)
"""A class of models without a rule: only what its config says itself is read."""

NESTED = ("text_config", "llm_config", "language_config", "thinker_config", "decoder_config")
"""Where models of several senses keep the configuration of their language model."""

TYPES_OF_NESTED = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "llama4": "llama4_text",
    "mllama": "mllama_text_model",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}
"""The model type of a nested configuration that does not say its own."""

NOT_UNDERSTOOD = (
    "global_head_dim", "num_global_key_value_heads", "attention_k_eq_v", "per_layer_config", "block_configs",
    "cache_compression", "kv_compression_ratio", "compress_ratios",
)  # fmt: skip
"""Keys that change what is kept, in ways that are not modelled: a config with one of them is not settled."""

ONLY_OF_KNOWN = (
    "is_encoder_decoder", "indexer_types", "kv_source_layers", "num_attention_heads_per_layer", "sliding_windows",
    "num_sliding_attention_heads", "index_block_size", "index_topk_blocks", "keep_window_size",
)  # fmt: skip
ONLY_OF_KNOWN_PREFIXES = ("mamba_", "ssm_", "cross_", "swa_", "linear_", "conv_L")
"""Keys of states, cross-attention, indexers and heads by layer: what they do is settled by the class alone, so that a
class without a rule that has one of them is not read."""
