"""Public models by name: the keys of their config.json that settle their layers, each with where it stands.

Knows facts, copied from the config.json of the repository on huggingface.co that ``repo`` names. Refuses to hold
figures that follow from them: every entry is read as a user's config is, and a key that a config lacks is left out here
too.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, cast

from ..errors import ModelError
from .description import Model
from .files import Source

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


@dataclass(frozen=True, slots=True)
class Known:
    """One public model: its name here, its repository, and what its config.json says."""

    name: str
    repo: str
    config: Mapping[str, Any]

    @property
    def source(self) -> str:
        """Where the facts stand."""
        return f"config.json of {self.repo} (huggingface.co)"


def _plain(
    model_type: str, layers: int, width: int, heads: int, kv_heads: int, positions: int = 0, **more: Any
) -> dict[str, Any]:
    """A config with the keys that most have."""
    made: dict[str, Any] = {
        "model_type": model_type, "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }  # fmt: skip
    if positions:
        made["max_position_embeddings"] = positions
    return {**made, **more}


def _latent(
    model_type: str, layers: int, width: int, heads: int, positions: int, query: int | None, **more: Any
) -> dict[str, Any]:
    """A config of the DeepSeek line; all of it has the same latent."""
    return _plain(
        model_type, layers, width, heads, heads, positions, kv_lora_rank=512, q_lora_rank=query, qk_rope_head_dim=64,
        qk_nope_head_dim=128, v_head_dim=128, **more,
    )  # fmt: skip


def _gemma3(layers: int, width: int, window: int = 1024, **more: Any) -> dict[str, Any]:
    text = {
        "model_type": "gemma3_text", "num_hidden_layers": layers, "hidden_size": width, "sliding_window": window, **more
    }  # fmt: skip
    return {"model_type": "gemma3", "text_config": text}


def _gemma3n(layers: int, shared: int) -> dict[str, Any]:
    types = [_LOCAL, _LOCAL, _LOCAL, _LOCAL, _GLOBAL] * (layers // 5)
    text = _plain(
        "gemma3n_text", layers, 2048, 8, 2, 32768, head_dim=256, sliding_window=512, num_kv_shared_layers=shared,
        layer_types=types,
    )  # fmt: skip
    return {"model_type": "gemma3n", "text_config": text}


def _qwen2(layers: int, width: int, heads: int, kv_heads: int, positions: int, window: int) -> dict[str, Any]:
    return _plain(
        "qwen2", layers, width, heads, kv_heads, positions, sliding_window=window, use_sliding_window=False,
        max_window_layers=layers,
    )  # fmt: skip


def _gpt_oss(layers: int) -> dict[str, Any]:
    types = [_LOCAL, _GLOBAL] * (layers // 2)
    return _plain("gpt_oss", layers, 2880, 64, 8, 131072, head_dim=64, sliding_window=128, layer_types=types)


_FALCON = {"model_type": "falcon"}
_VISION = [3, 8, 13, 18, 23, 28, 33, 38]

KNOWN: dict[str, Known] = {
    name: Known(name, repo, config)
    for name, repo, config in (
        ("llama-2-7b", "meta-llama/Llama-2-7b-hf", _plain("llama", 32, 4096, 32, 32, 4096)),
        ("llama-2-13b", "meta-llama/Llama-2-13b-hf", _plain("llama", 40, 5120, 40, 40, 4096)),
        ("llama-2-70b", "meta-llama/Llama-2-70b-hf", _plain("llama", 80, 8192, 64, 8, 4096)),
        ("llama-3-8b", "meta-llama/Meta-Llama-3-8B", _plain("llama", 32, 4096, 32, 8, 8192)),
        ("llama-3-70b", "meta-llama/Meta-Llama-3-70B", _plain("llama", 80, 8192, 64, 8, 8192)),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B", _plain("llama", 32, 4096, 32, 8, 131072)),
        ("llama-3.1-405b", "meta-llama/Llama-3.1-405B", _plain("llama", 126, 16384, 128, 8, 131072)),
        ("llama-3.2-1b", "meta-llama/Llama-3.2-1B", _plain("llama", 16, 2048, 32, 8, 131072, head_dim=64)),
        ("llama-3.2-3b", "meta-llama/Llama-3.2-3B", _plain("llama", 28, 3072, 24, 8, 131072, head_dim=128)),
        (
            "llama-3.2-11b-vision", "meta-llama/Llama-3.2-11B-Vision",
            {"model_type": "mllama", "text_config": _plain(
                "mllama_text_model", 40, 4096, 32, 8, 131072, cross_attention_layers=_VISION)},
        ),
        (
            "llama-4-scout", "meta-llama/Llama-4-Scout-17B-16E",
            {"model_type": "llama4", "text_config": _plain(
                "llama4_text", 48, 5120, 40, 8, head_dim=128, attention_chunk_size=8192)},
        ),
        ("tinyllama-1.1b", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", _plain("llama", 22, 2048, 32, 4, 2048)),
        ("yi-34b", "01-ai/Yi-34B", _plain("llama", 60, 7168, 56, 8, 4096)),
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M", _plain("llama", 30, 576, 9, 3, 8192)),
        (
            "mistral-7b-v0.1", "mistralai/Mistral-7B-v0.1",
            _plain("mistral", 32, 4096, 32, 8, 32768, sliding_window=4096),
        ),
        (
            "mistral-7b-v0.3", "mistralai/Mistral-7B-v0.3",
            _plain("mistral", 32, 4096, 32, 8, 32768, sliding_window=None),
        ),
        (
            "mistral-nemo-12b", "mistralai/Mistral-Nemo-Base-2407",
            _plain("mistral", 40, 5120, 32, 8, head_dim=128, sliding_window=None),
        ),
        ("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1", _plain("mixtral", 32, 4096, 32, 8, 32768, sliding_window=None)),
        (
            "mixtral-8x22b", "mistralai/Mixtral-8x22B-v0.1",
            _plain("mixtral", 56, 6144, 48, 8, 65536, sliding_window=None),
        ),
        ("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", _qwen2(24, 896, 14, 2, 32768, 32768)),
        ("qwen2.5-7b", "Qwen/Qwen2.5-7B", _qwen2(28, 3584, 28, 4, 131072, 131072)),
        ("qwen2.5-72b", "Qwen/Qwen2.5-72B", _qwen2(80, 8192, 64, 8, 131072, 131072)),
        (
            "qwen3-0.6b", "Qwen/Qwen3-0.6B",
            _plain("qwen3", 28, 1024, 16, 8, 40960, head_dim=128, use_sliding_window=False),
        ),
        ("qwen3-8b", "Qwen/Qwen3-8B", _plain("qwen3", 36, 4096, 32, 8, 40960, head_dim=128, use_sliding_window=False)),
        (
            "qwen3-32b", "Qwen/Qwen3-32B",
            _plain("qwen3", 64, 5120, 64, 8, 40960, head_dim=128, use_sliding_window=False),
        ),
        (
            "qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B",
            _plain("qwen3_moe", 48, 2048, 32, 4, 40960, head_dim=128, use_sliding_window=False),
        ),
        (
            "qwen3-235b-a22b", "Qwen/Qwen3-235B-A22B",
            _plain("qwen3_moe", 94, 4096, 64, 4, 40960, head_dim=128, use_sliding_window=False),
        ),
        (
            "qwen3-next-80b-a3b", "Qwen/Qwen3-Next-80B-A3B-Instruct",
            _plain(
                "qwen3_next", 48, 2048, 16, 2, 262144, head_dim=256, full_attention_interval=4, linear_num_key_heads=16,
                linear_num_value_heads=32, linear_key_head_dim=128, linear_value_head_dim=128, linear_conv_kernel_dim=4,
            ),
        ),
        ("gemma-2b", "google/gemma-2b", _plain("gemma", 18, 2048, 8, 1, 8192, head_dim=256)),
        ("gemma-7b", "google/gemma-7b", _plain("gemma", 28, 3072, 16, 16, 8192, head_dim=256)),
        ("gemma-2-2b", "google/gemma-2-2b", _plain("gemma2", 26, 2304, 8, 4, 8192, head_dim=256, sliding_window=4096)),
        ("gemma-2-9b", "google/gemma-2-9b", _plain("gemma2", 42, 3584, 16, 8, 8192, head_dim=256, sliding_window=4096)),
        (
            "gemma-2-27b", "google/gemma-2-27b",
            _plain("gemma2", 46, 4608, 32, 16, 8192, head_dim=128, sliding_window=4096),
        ),
        (
            "gemma-3-1b", "google/gemma-3-1b-pt",
            _plain("gemma3_text", 26, 1152, 4, 1, 32768, head_dim=256, sliding_window=512, sliding_window_pattern=6),
        ),
        ("gemma-3-4b", "google/gemma-3-4b-pt", _gemma3(34, 2560)),
        (
            "gemma-3-12b", "google/gemma-3-12b-pt",
            _gemma3(48, 3840, num_attention_heads=16, num_key_value_heads=8),
        ),
        (
            "gemma-3-27b", "google/gemma-3-27b-pt",
            _gemma3(62, 5376, num_attention_heads=32, num_key_value_heads=16, head_dim=128),
        ),
        ("gemma-3n-e2b", "google/gemma-3n-E2B-it", _gemma3n(30, 10)),
        ("gemma-3n-e4b", "google/gemma-3n-E4B-it", _gemma3n(35, 15)),
        ("gpt-oss-20b", "openai/gpt-oss-20b", _gpt_oss(24)),
        ("gpt-oss-120b", "openai/gpt-oss-120b", _gpt_oss(36)),
        ("deepseek-v2-lite", "deepseek-ai/DeepSeek-V2-Lite", _latent("deepseek_v2", 27, 2048, 16, 163840, None)),
        ("deepseek-v2", "deepseek-ai/DeepSeek-V2", _latent("deepseek_v2", 60, 5120, 128, 163840, 1536)),
        ("deepseek-v3", "deepseek-ai/DeepSeek-V3", _latent("deepseek_v3", 61, 7168, 128, 163840, 1536)),
        ("deepseek-r1", "deepseek-ai/DeepSeek-R1", _latent("deepseek_v3", 61, 7168, 128, 163840, 1536)),
        (
            "deepseek-v3.2-exp", "deepseek-ai/DeepSeek-V3.2-Exp",
            _latent("deepseek_v32", 61, 7168, 128, 163840, 1536, index_n_heads=64, index_head_dim=128, index_topk=2048),
        ),
        ("kimi-k2", "moonshotai/Kimi-K2-Instruct", _latent("kimi_k2", 61, 7168, 64, 131072, 1536)),
        (
            "falcon-7b", "tiiuae/falcon-7b",
            {**_FALCON, "num_hidden_layers": 32, "hidden_size": 4544, "num_attention_heads": 71, "multi_query": True,
             "new_decoder_architecture": False},
        ),
        (
            "falcon-40b", "tiiuae/falcon-40b",
            {**_FALCON, "num_hidden_layers": 60, "hidden_size": 8192, "num_attention_heads": 128, "num_kv_heads": 8,
             "multi_query": True, "new_decoder_architecture": True},
        ),
        (
            "gpt2", "openai-community/gpt2",
            {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024},
        ),
        (
            "gpt2-xl", "openai-community/gpt2-xl",
            {"model_type": "gpt2", "n_layer": 48, "n_embd": 1600, "n_head": 25, "n_positions": 1024},
        ),
        (
            "gpt-j-6b", "EleutherAI/gpt-j-6b",
            {"model_type": "gptj", "n_layer": 28, "n_embd": 4096, "n_head": 16, "n_positions": 2048},
        ),
        (
            "gpt-neo-2.7b", "EleutherAI/gpt-neo-2.7B",
            {"model_type": "gpt_neo", "num_layers": 32, "hidden_size": 2560, "num_heads": 20, "window_size": 256,
             "attention_types": [[["global", "local"], 16]], "max_position_embeddings": 2048},
        ),
        (
            "gpt-neox-20b", "EleutherAI/gpt-neox-20b",
            {"model_type": "gpt_neox", "num_hidden_layers": 44, "hidden_size": 6144, "num_attention_heads": 64,
             "max_position_embeddings": 2048},
        ),
        (
            "bloom", "bigscience/bloom",
            {"model_type": "bloom", "n_layer": 70, "n_embed": 14336, "num_attention_heads": 112},
        ),
        (
            "starcoder", "bigcode/starcoder",
            {"model_type": "gpt_bigcode", "n_layer": 40, "n_embd": 6144, "n_head": 48, "multi_query": True,
             "n_positions": 8192},
        ),
        ("starcoder2-7b", "bigcode/starcoder2-7b", _plain("starcoder2", 32, 4608, 36, 4, 16384, sliding_window=4096)),
        ("starcoder2-15b", "bigcode/starcoder2-15b", _plain("starcoder2", 40, 6144, 48, 4, 16384, sliding_window=4096)),
        ("phi-2", "microsoft/phi-2", _plain("phi", 32, 2560, 32, 32, 2048)),
        (
            "phi-3-mini-4k", "microsoft/Phi-3-mini-4k-instruct",
            _plain("phi3", 32, 3072, 32, 32, 4096, sliding_window=2047),
        ),
        ("phi-4", "microsoft/phi-4", _plain("phi3", 40, 5120, 40, 10, 16384, sliding_window=None)),
        ("command-r", "CohereForAI/c4ai-command-r-v01", _plain("cohere", 40, 8192, 64, 64)),
        ("command-r-plus", "CohereForAI/c4ai-command-r-plus", _plain("cohere", 64, 12288, 96, 8)),
        (
            "command-r7b", "CohereForAI/c4ai-command-r7b-12-2024",
            _plain("cohere2", 32, 4096, 32, 8, head_dim=128, sliding_window=4096, sliding_window_pattern=4),
        ),
        ("olmo-2-7b", "allenai/OLMo-2-1124-7B", _plain("olmo2", 32, 4096, 32, 32, 4096)),
        (
            "dbrx", "databricks/dbrx-base",
            {"model_type": "dbrx", "n_layers": 40, "d_model": 6144, "n_heads": 48, "attn_config": {"kv_n_heads": 8},
             "max_seq_len": 32768},
        ),
        (
            "chatglm3-6b", "THUDM/chatglm3-6b",
            {"model_type": "chatglm", "num_layers": 28, "hidden_size": 4096, "num_attention_heads": 32,
             "kv_channels": 128, "multi_query_attention": True, "multi_query_group_num": 2, "seq_length": 8192},
        ),
        (
            "jamba-v0.1", "ai21labs/Jamba-v0.1",
            _plain(  # mamba_dt_rank is what JambaConfig makes of "auto", its default: ceil(4096 / 16)
                "jamba", 32, 4096, 32, 8, 262144, attn_layer_period=8, attn_layer_offset=4, mamba_d_state=16,
                mamba_d_conv=4, mamba_expand=2, mamba_dt_rank=256,
            ),
        ),
        (
            "falcon-mamba-7b", "tiiuae/falcon-mamba-7b",
            {"model_type": "falcon_mamba", "num_hidden_layers": 64, "hidden_size": 4096, "intermediate_size": 8192,
             "state_size": 16, "conv_kernel": 4, "time_step_rank": 256},
        ),
        (
            "mamba-codestral-7b", "mistralai/Mamba-Codestral-7B-v0.1",
            {"model_type": "mamba2", "num_hidden_layers": 64, "hidden_size": 4096, "num_heads": 128, "head_dim": 64,
             "state_size": 128, "n_groups": 8, "conv_kernel": 4},
        ),
        (
            "recurrentgemma-2b", "google/recurrentgemma-2b",
            _plain(
                "recurrent_gemma", 26, 2560, 10, 1, head_dim=256, attention_window_size=2048, lru_width=2560,
                conv1d_width=4, _block_types=["recurrent", "recurrent", "attention"],
            ),
        ),
        (
            "minimax-text-01", "MiniMaxAI/MiniMax-Text-01",
            _plain("minimax_text_01", 80, 6144, 64, 8, head_dim=128, attn_type_list=[0, 0, 0, 0, 0, 0, 0, 1] * 10),
        ),
        (
            "t5-base", "google-t5/t5-base",
            {"model_type": "t5", "num_layers": 12, "num_decoder_layers": 12, "d_model": 768,
             "num_heads": 12, "d_kv": 64},
        ),
        (
            "whisper-large-v3", "openai/whisper-large-v3",
            {"model_type": "whisper", "encoder_layers": 32, "decoder_layers": 32, "d_model": 1280,
             "decoder_attention_heads": 20, "max_source_positions": 1500},
        ),
        (
            "bert-base", "google-bert/bert-base-uncased",
            {"model_type": "bert", "num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12,
             "max_position_embeddings": 512},
        ),
    )
}  # fmt: skip
"""Every known model by its name."""


def models() -> tuple[str, ...]:
    """The names of the public models whose layers are known.

    >>> import qkv
    >>> "deepseek-v3" in qkv.size.models()
    True
    """
    return tuple(KNOWN)


def sources() -> dict[str, str]:
    """Where the facts of each public model stand, by its name.

    >>> import qkv
    >>> qkv.size.sources()["gpt2"]
    'config.json of openai-community/gpt2 (huggingface.co)'
    """
    return {name: entry.source for name, entry in KNOWN.items()}


def model(what: Source | Model) -> Model:
    """The model called ``what`` in the table of public models, or the one that a path, dict or config describes.

    A name is looked up first, whatever its case. Raises ``ModelError`` for what is neither, with names that are near.

    >>> import qkv
    >>> qkv.size.model("gemma-3-27b").kinds
    {'window': 52, 'full': 10}
    """
    if isinstance(what, Model):
        return what
    if not isinstance(what, str | PathLike):
        return Model.from_config(what)
    text = os.fspath(cast("str | PathLike[str]", what))
    plain = text.strip().lower().replace("_", "-").split("/")[-1]
    if isinstance(what, str) and plain in KNOWN:
        return _known(plain)
    if not _is_there(text):
        near = difflib.get_close_matches(plain[:100], KNOWN, n=3)
        hint = f"Did you mean {', '.join(near)}? " if near else ""
        raise ModelError(
            f'"{text[:200]}" is no known model, and no file.\n'
            f"  {hint}Give a config.json, its directory, a .gguf file or a name: qkv size --list shows them."
        )
    return Model.from_config(text)


def _is_there(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a name too long for a file system, a zero byte, no home
        return False


@lru_cache(maxsize=256)
def _known(name: str) -> Model:
    entry = KNOWN[name]
    return replace(Model.from_config(entry.config, name=name), source=entry.source)
