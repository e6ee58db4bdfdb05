"""Reading configurations: the many spellings of one fact, what is not settled, odd values, hostile files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv import limits
from qkv.errors import LimitError, ModelError, QkvError
from qkv.size import KNOWN, Model, cache_size, model, models
from tests.size.small import LLAMA, MORE, SPARSE, read, tiny


def test_explicit_head_dim_beats_the_quotient() -> None:
    assert read().layers[0].key_size == 8
    assert read(head_dim=32).layers[0].key_size == 32
    assert read(head_dim=None).layers[0].key_size == 8


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"num_key_value_heads": 2}, 2),
        ({"num_key_value_heads": "gone"}, 8),
        ({"num_key_value_heads": "gone", "multi_query": True}, 1),
        ({"num_key_value_heads": "gone", "num_kv_heads": 4}, 4),
        ({"num_key_value_heads": "gone", "n_head_kv": 4}, 4),
        ({"num_key_value_heads": "gone", "multi_query_group_num": 2, "multi_query_attention": True}, 2),
        ({"num_key_value_heads": "gone", "multi_query_group_num": 2, "multi_query_attention": False}, 8),
        ({"model_type": "falcon", "num_key_value_heads": "gone", "multi_query": True, "num_kv_heads": 8}, 1),
        (
            {
                "model_type": "falcon", "num_key_value_heads": "gone", "multi_query": True, "num_kv_heads": 4,
                "new_decoder_architecture": True,
            },
            4,
        ),
        ({"model_type": "falcon", "num_key_value_heads": "gone", "multi_query": False}, 8),
        ({"model_type": "falcon", "num_key_value_heads": "gone"}, 1),
        ({"model_type": "gpt_bigcode", "num_key_value_heads": "gone"}, 1),
        ({"model_type": "gpt_bigcode", "num_key_value_heads": "gone", "multi_query": False}, 8),
        ({"model_type": "dbrx", "num_key_value_heads": "gone", "attn_config": {"kv_n_heads": 4}}, 4),
    ],
)  # fmt: skip
def test_key_value_heads(keys: dict[str, Any], expected: int) -> None:
    assert read(**keys).layers[0].num_kv_heads == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"sliding_window": 16}, "ffff"),  # the class of llama does not read it
        ({"model_type": "mistral", "sliding_window": 16}, "wwww"),
        ({"model_type": "mistral", "sliding_window": None}, "ffff"),
        ({"model_type": "mistral", "sliding_window": 0}, "ffff"),
        ({"model_type": "mistral", "sliding_window": -1}, "ffff"),
        ({"model_type": "gemma2", "sliding_window": 16}, "wfwf"),
        ({"model_type": "gemma3_text", "sliding_window": 16, "sliding_window_pattern": 2}, "wfwf"),
        ({"model_type": "gemma3_text", "sliding_window": 16}, "wwww"),
        ({"model_type": "cohere2", "sliding_window": 16}, "wwwf"),
        ({"model_type": "exaone4", "sliding_window": 16, "sliding_window_pattern": "LG"}, "wfwf"),
        ({"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": False, "max_window_layers": 2}, "ffff"),
        ({"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": True, "max_window_layers": 2}, "ffww"),
        ({"model_type": "llama4_text", "attention_chunk_size": 16}, "cccf"),
        ({"model_type": "llama4_text", "attention_chunk_size": 16, "no_rope_layers": [1, 0, 1, 0]}, "cfcf"),
        (
            {"model_type": "gpt_neo", "window_size": 16, "attention_types": [[["global", "local"], 2]]},
            "fwfw",
        ),
        (
            {"layer_types": ["full_attention", "sliding_attention"] * 2, "sliding_window": 16},
            "fwfw",
        ),
        (
            {"layer_types": ["full_attention", "sliding_attention"] * 2, "sliding_window": 16, "model_type": "new"},
            "fwfw",
        ),
    ],
)
def test_who_is_windowed(keys: dict[str, Any], expected: str) -> None:
    found = read(**keys).layers
    assert "".join(layer.kind[0] for layer in found) == expected
    assert all(layer.span == (16 if layer.kind != "full" else 0) for layer in found)


def test_shared_layers_read_the_last_of_their_kind() -> None:
    types = ["sliding_attention", "full_attention"] * 3
    found = read(num_hidden_layers=6, layer_types=types, sliding_window=4, num_kv_shared_layers=2)
    assert [layer.kind for layer in found.layers] == ["window", "full", "window", "full", "shared", "shared"]
    assert [layer.shares for layer in found.layers[4:]] == [2, 3]
    assert cache_size(found, 3).bytes == 4 * 3 * 2 * 16 * 2
    across = read(use_cla=True, cla_share_factor=2)
    assert [layer.kind for layer in across.layers] == ["full", "shared", "full", "shared"]


def test_heads_of_each_layer() -> None:
    found = read(num_attention_heads=[8, 8, 0, 4], num_key_value_heads=[2, 1, 0, 4], head_dim=8)
    assert [layer.num_kv_heads for layer in found.layers] == [2, 1, 0, 4]
    assert [layer.kind for layer in found.layers] == ["full", "full", "none", "full"]


def test_a_nested_config_and_what_its_class_settles() -> None:
    text = {"model_type": "gemma3_text", "num_hidden_layers": 6, "hidden_size": 64, "sliding_window": 4}
    found = Model.from_config({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 9}})
    assert (found.family, found.kinds, found.layers[0].key_size) == ("gemma3_text", {"window": 5, "full": 1}, 256)
    assert found.notes == (
        "layer_types is not in the config: every 6th layer is full, as its class has it",
        "num_attention_heads is not in the config: 8, the default of the config class of gemma3_text",
        "num_key_value_heads is not in the config: 4, the default of the config class of gemma3_text",
        "head_dim is not in the config: 256, the default of the config class of gemma3_text",
    )
    assert dict(found.used)["sliding_window"] == 4


@pytest.mark.parametrize("name", sorted(MORE))
def test_configs_of_transformers_and_the_keys_that_they_save_are_one(name: str) -> None:
    """Newer configs write layer_types; without them the family's rule gives the same layers."""
    config = tiny(name)
    found = Model.from_config(config)
    again = Model.from_config(
        {k: v for k, v in config.to_dict().items() if k != "layer_types"} | {"full_attention_interval": 4}
    )
    assert found.layers == again.layers
    assert len(found.layers) == config.num_hidden_layers


UNSETTLED = [
    (
        {"model_type": "new", "num_key_value_heads": "gone"},
        "the config does not settle its number of key-value heads: it has no num_key_value_heads or num_kv_heads or "
        "n_head_kv.\n  Add num_key_value_heads; nothing is guessed.",
    ),
    (
        {"model_type": "new", "sliding_window": 16},
        "the config does not settle which of its layers are windowed (sliding_window is set): it has no layer_types.\n"
        "  Add layer_types; nothing is guessed.",
    ),
    (
        {"num_attention_heads": 7, "num_key_value_heads": 7},
        "the config does not settle the size of a head: hidden_size 64 is no multiple of 7 heads.\n"
        "  Add head_dim; nothing is guessed.",
    ),
    (
        {"num_hidden_layers": "gone"},
        "the config does not settle its number of layers: it has no num_hidden_layers or n_layer or n_layers or "
        "num_layers or decoder_layers.\n  Add num_hidden_layers; nothing is guessed.",
    ),
    (
        {"global_head_dim": 512},
        "the config has global_head_dim, which changes what layers keep in a way that is not modelled.\n"
        "  Its size is not settled here.",
    ),
    (
        {"model_type": "new", "mamba_d_state": 16},
        "the config has mamba_d_state, and no rule says what new does with it.\n  Its size is not settled here.",
    ),
    (
        {"model_type": "gone", "is_encoder_decoder": True},
        "the config has is_encoder_decoder, and no rule says what a model without model_type does with it.\n"
        "  Its size is not settled here.",
    ),
    (
        {"model_type": "new", "layer_types": ["linear_attention", *["full_attention"] * 3]},
        "the config has layers with a state, and no rule says what the state of new is.\n"
        "  Its size is not settled here.",
    ),
    (
        {"model_type": "glm_moe_dsa", **SPARSE, "indexer_types": ["full"]},
        "indexer_types in the config is ['full'], and full or shared for each of 4 layers is expected.\n"
        "  Correct the config, or copy it again.",
    ),
    (
        {"num_key_value_heads": 3},
        "the config has 8 query heads on 3 key-value heads, which is no whole group.\n  Correct num_key_value_heads.",
    ),
    (
        {"num_key_value_heads": [1, 2]},
        "num_key_value_heads in the config lists 2 values for 4 layers.\n  Give one for each layer.",
    ),
    (
        {"layer_types": ["full_attention"]},
        "layer_types in the config lists 1 kinds for 4 layers.\n  Give one for each layer.",
    ),
    (
        {"layer_types": ["sliding_attention"] * 4},
        "the config does not settle how wide its windowed layers are: it has no sliding_window.\n"
        "  Add sliding_window; nothing is guessed.",
    ),
    (
        {"num_hidden_layers": "many"},
        "num_hidden_layers in the config is 'many', and a whole number from 0 on is expected.\n"
        "  Correct the config, or copy it again.",
    ),
    (
        {"head_dim": True},
        "head_dim in the config is True, and a whole number from 1 on is expected.\n"
        "  Correct the config, or copy it again.",
    ),
    (
        {"multi_query": 1, "num_key_value_heads": "gone"},
        "multi_query in the config is 1, and true or false is expected.\n  Correct the config, or copy it again.",
    ),
    (
        {"layer_types": 3},
        "layer_types in the config is 3, and a list is expected.\n  Correct the config, or copy it again.",
    ),
    (
        {"num_kv_shared_layers": 4},
        "num_kv_shared_layers in the config is 4, and less than 4 layers is expected.\n"
        "  Correct the config, or copy it again.",
    ),
]


@pytest.mark.parametrize(("keys", "message"), UNSETTLED)
def test_what_is_not_settled_is_said(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        read(**keys)
    assert str(caught.value) == message


def test_limits() -> None:
    with pytest.raises(LimitError) as caught:
        read(num_hidden_layers=5000)
    assert str(caught.value) == "the config has 5,000 layers, and at most 4,096 are read."
    with pytest.raises(LimitError) as caught:
        read(hidden_size=1 << 70)
    assert str(caught.value) == f"hidden_size in the config is beyond {1 << 60}, the largest size that is counted."
    with pytest.raises(LimitError) as caught:
        read(layer_types=["full_attention"] * 5000)
    assert str(caught.value) == "layer_types in the config has 5,000 entries, and at most 4,096 layers are read."


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA))
    for source in (file, str(file), tmp_path):
        assert Model.from_config(source).layers == Model.from_config(LLAMA).layers
        assert model(source).layers == Model.from_config(LLAMA).layers
    monkeypatch.setattr(limits, "CONFIG_BYTES", 10)
    with pytest.raises(LimitError, match=r"^the config has \d+ bytes, and at most 10 are read\.\n"):
        Model.from_config(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "the config is not JSON."),
        (b"[" * 100_000, "the config is not JSON."),
        (b"[1]", "the config is JSON, but no table of keys."),
        (b"\xff\xfe{}", "the config cannot be read: it is not text."),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "the config is not JSON."),
        (b"{}", "config.json does not settle its width: it has no hidden_size or n_embd or n_embed or d_model or dim."),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        Model.from_config(file)
    assert str(caught.value).splitlines()[0] == message


def test_what_is_no_source(tmp_path: Path) -> None:
    for source, message in (
        (3, "a model cannot be read from int."),
        (tmp_path, "this directory has no config.json."),
        (tmp_path / "gone", "there is no config at this path."),
        ("a\0b", "this path holds a zero byte."),
    ):
        with pytest.raises(ModelError) as caught:
            Model.from_config(source)
        assert str(caught.value).splitlines()[0] == message
    for name in ("llama-3-9b", "a\0b", "x" * 5000):
        with pytest.raises(ModelError, match=r"is no known model, and no file\.\n"):
            model(name)
    with pytest.raises(ModelError, match="Did you mean llama-3-8b"):
        model("llama-3-8")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70) | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted(
    {key for entry in KNOWN.values() for key in entry.config} | {"sliding_window", "layer_types", "text_config"}
)


@settings(max_examples=400)
@given(st.sampled_from(models()), st.dictionaries(st.sampled_from(KEYS), values, max_size=4))
def test_a_config_is_read_or_refused_by_name(name: str, changes: dict[str, Any]) -> None:
    """Whatever stands under a key: a model, or an error of qkv's own."""
    try:
        found = Model.from_config({**KNOWN[name].config, **changes})
    except QkvError:
        return
    assert len(found.layers) <= 2 * limits.MODEL_LAYERS
    assert cache_size(found, 100, source=7).bytes >= 0


def gguf(path: Path, facts: dict[str, Any], *, version: int = 3) -> Path:
    """Write the head of a GGUF file: texts, uint32, and arrays of int32 or bool."""

    def text(value: str) -> bytes:
        data = value.encode()
        return struct.pack("<Q", len(data)) + data

    out = b"GGUF" + struct.pack("<IQQ", version, 0, len(facts))
    for key, value in facts.items():
        out += text(key)
        if isinstance(value, str):
            out += struct.pack("<I", 8) + text(value)
        elif isinstance(value, list) and value and isinstance(value[0], str):
            out += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        elif isinstance(value, list):
            code = "?" if isinstance(value[0], bool) else "<i"
            kind = 7 if code == "?" else 5
            out += struct.pack("<IIQ", 9, kind, len(value)) + b"".join(struct.pack(code, n) for n in value)
        else:
            out += struct.pack("<II", 4, value)
    path.write_bytes(out)
    return path


FACTS: dict[str, Any] = {
    "general.architecture": "gemma3", "general.name": "Small", "tokenizer.ggml.tokens": ["a", "b"],
    "gemma3.block_count": 6, "gemma3.embedding_length": 64, "gemma3.context_length": 512,
    "gemma3.attention.head_count": 4, "gemma3.attention.head_count_kv": 2, "gemma3.attention.key_length": 16,
    "gemma3.attention.value_length": 16, "gemma3.attention.sliding_window": 8,
}  # fmt: skip


def test_gguf_metadata(tmp_path: Path) -> None:
    found = Model.from_config(gguf(tmp_path / "a.gguf", FACTS))
    assert (found.name, found.family, found.max_context) == ("Small", "gemma3_text", 512)
    assert found.kinds == {"window": 5, "full": 1}
    assert cache_size(found, 20).bytes == (5 * 8 + 20) * 2 * 32 * 2
    flags = {**FACTS, "gemma3.attention.sliding_window_pattern": [True, False] * 3}
    assert Model.from_config(gguf(tmp_path / "b.gguf", flags)).kinds == {"window": 3, "full": 3}
    heads = {**FACTS, "gemma3.attention.head_count_kv": [2, 2, 4, 4, 1, 1]}
    assert [n.num_kv_heads for n in Model.from_config(gguf(tmp_path / "c.gguf", heads)).layers] == [2, 2, 4, 4, 1, 1]


def test_gguf_of_a_latent_model(tmp_path: Path) -> None:
    facts = {
        "general.architecture": "deepseek2", "deepseek2.block_count": 2, "deepseek2.embedding_length": 64,
        "deepseek2.attention.head_count": 4, "deepseek2.attention.head_count_kv": 1,
        "deepseek2.attention.key_length": 40, "deepseek2.attention.value_length": 32,
        "deepseek2.attention.key_length_mla": 24, "deepseek2.attention.value_length_mla": 16,
        "deepseek2.attention.kv_lora_rank": 32, "deepseek2.rope.dimension_count": 8,
    }  # fmt: skip
    layer = Model.from_config(gguf(tmp_path / "a.gguf", facts)).layers[0]
    assert (layer.kind, layer.latent_size, layer.rotary_size, layer.content_size, layer.value_size) == (
        "latent", 32, 8, 16, 16,
    )  # fmt: skip


def test_gguf_that_is_cut_off_or_damaged(tmp_path: Path) -> None:
    whole = gguf(tmp_path / "whole.gguf", FACTS).read_bytes()
    file = tmp_path / "part.gguf"
    for length in range(4, len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            Model.from_config(file)
    for place in range(4, len(whole)):
        file.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        try:
            Model.from_config(file)
        except QkvError:
            continue
    with pytest.raises(ModelError, match="of version 9, and versions 2 and 3 are read"):
        Model.from_config(gguf(tmp_path / "v.gguf", FACTS, version=9))
    with pytest.raises(ModelError, match="does not name its architecture"):
        Model.from_config(gguf(tmp_path / "n.gguf", {"general.name": "x"}))


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_after_the_magic(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.gguf"
    file.write_bytes(b"GGUF" + data)
    with pytest.raises(QkvError):
        Model.from_config(file)
