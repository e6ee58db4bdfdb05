"""The metadata of a GGUF file, with every length checked, under the names that config.json uses.

Knows the head of the format: magic, version, counts, then keys with typed values. Refuses to read tensors. Source:
ggml, docs/gguf.md, versions 2 and 3, section "Standardized key-value pairs".
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

from .. import limits
from ..errors import ModelError

_SCALARS: Final = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9

_NAMES: Final = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "v_head_dim",
    "attention.key_length_mla": "mla_key_length",
    "attention.value_length_mla": "mla_value_length",
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": "sliding_window_pattern",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.q_lora_rank": "q_lora_rank",
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "attention.indexer.head_count": "index_n_heads",
    "attention.indexer.key_length": "index_head_dim",
    "attention.indexer.top_k": "index_topk",
    "rope.dimension_count": "rope_dimension_count",
    "ssm.conv_kernel": "conv_kernel",
    "ssm.inner_size": "intermediate_size",
    "ssm.state_size": "state_size",
    "ssm.group_count": "n_groups",
    "ssm.time_step_rank": "num_heads",
}
"""What a key is called in config.json; the architecture's name stands before each in the file."""

_FAMILIES: Final = {
    "llama": "llama", "qwen2": "qwen2", "qwen2moe": "qwen2_moe", "qwen3": "qwen3", "qwen3moe": "qwen3_moe",
    "gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma3_text", "gemma3n": "gemma3n_text", "phi2": "phi",
    "phi3": "phi3", "falcon": "falcon", "gpt2": "gpt2", "gptneox": "gpt_neox", "bloom": "bloom", "mpt": "mpt",
    "stablelm": "stablelm", "starcoder": "gpt_bigcode", "starcoder2": "starcoder2", "command-r": "cohere",
    "cohere2": "cohere2", "olmo": "olmo", "olmoe": "olmoe", "deepseek2": "deepseek_v3", "gpt-oss": "gpt_oss",
    "granite": "granite", "mamba": "mamba", "mamba2": "mamba2", "smollm3": "smollm3", "glm4": "glm4",
    "internlm2": "internlm2", "llama4": "llama4_text",
}  # fmt: skip
"""llama.cpp's names of architectures and the model type of the same layers."""


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of the GGUF file at ``path`` as keys of config.json, with ``model_type`` for its architecture.

    Raises ``ModelError`` for a file that is cut off, of another version, or whose lengths cannot be true.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            facts = _Metadata(file, path, size).read()
        except struct.error:
            raise ModelError(
                f"the GGUF file ends inside its metadata, after {size:,} bytes.\n    {path}\n  Copy it again."
            ) from None
    architecture = facts.get("general.architecture")
    if not isinstance(architecture, str):
        raise ModelError(
            f"this GGUF file does not name its architecture (general.architecture).\n    {path}\n"
            "  Convert the model again."
        )
    config: dict[str, Any] = {"model_type": _FAMILIES.get(architecture, architecture)}
    if isinstance(facts.get("general.name"), str):
        config["_name_or_path"] = facts["general.name"]
    for theirs, ours in _NAMES.items():
        value = facts.get(f"{architecture}.{theirs}")
        if value is not None:
            config[ours] = value
    return _latent(config)


def _latent(config: dict[str, Any]) -> dict[str, Any]:
    """With latent attention ``key_length`` counts the stored row, or a rebuilt head where no other key does."""
    rotary = config.pop("rope_dimension_count", None)
    key, value = config.pop("mla_key_length", None), config.pop("mla_value_length", None)
    if config.get("kv_lora_rank") is None:
        return config
    key = config.get("head_dim") if key is None else key
    value = config.get("v_head_dim") if value is None else value
    if isinstance(rotary, int) and isinstance(key, int):
        config["qk_rope_head_dim"], config["qk_nope_head_dim"] = rotary, key - rotary
    config.pop("head_dim", None)
    config["v_head_dim"] = value
    return config


class _Metadata:
    """One pass over the head of a file; every length is compared with what is left of it."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file, self.path, self.size = file, path, size

    def read(self) -> dict[str, Any]:
        self.file.read(4)
        version = self.number("<I")
        if version not in (2, 3):
            raise ModelError(
                f"this GGUF file is of version {version}, and versions 2 and 3 are read.\n"
                f"    {self.path}\n  Convert it with a current llama.cpp."
            )
        self.number("<Q")
        facts: dict[str, Any] = {}
        for _ in range(self.count(limits.GGUF_ENTRIES, "metadata entries")):
            key, kind = self.text(), self.number("<I")
            facts[key] = self.value(kind)
        return facts

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.file.read(struct.calcsize(code)))[0]

    def count(self, most: int, what: str) -> int:
        value: int = self.number("<Q")
        if value > most or value > self.size:
            raise ModelError(
                f"the GGUF file claims {value:,} {what}, more than there can be.\n    {self.path}\n"
                "  The file is damaged; copy it again."
            )
        return value

    def text(self) -> str:
        length = self.count(limits.GGUF_TEXT_BYTES, "bytes in one text")
        data = self.file.read(length)
        if len(data) < length:
            raise struct.error
        return data.decode("utf-8", errors="replace")

    def scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise ModelError(
                f"the GGUF file holds a value of unknown type {kind}.\n    {self.path}\n"
                "  The file is damaged; copy it again."
            )
        return _SCALARS[kind]

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY:
            return self.number(self.scalar(kind))
        inner, length = self.number("<I"), self.count(limits.GGUF_ITEMS, "items in one array")
        if inner == _TEXT:
            for _ in range(length):
                self.skip(self.count(limits.GGUF_TEXT_BYTES, "bytes in one text"))
            return None
        code = self.scalar(inner)
        if length > limits.MODEL_LAYERS:  # a table of tokens; what counts layers is shorter
            self.skip(length * struct.calcsize(code))
            return None
        return [self.number(code) for _ in range(length)]

    def skip(self, num_bytes: int) -> None:
        if self.file.tell() + num_bytes > self.size:
            raise struct.error
        self.file.seek(num_bytes, 1)
