"""The figures that must hold, to the byte: one formula for all layers misses each of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qkv.size import KNOWN, cache_size, model, models, token_bytes


@pytest.mark.parametrize(
    ("name", "context", "expected"),
    [
        ("llama-3-8b", 8192, 1_073_741_824),
        ("falcon-7b", 2048, 16_777_216),
        ("mistral-7b-v0.1", 32_768, 536_870_912),
        ("gemma-3-27b", 131_072, 11_173_625_856),
        ("gpt-oss-120b", 131_072, 4_836_556_800),
        ("gemma-2-9b", 8192, 2_113_929_216),
        ("llama-2-70b", 1, 327_680),
        ("deepseek-v3", 1, 70_272),
    ],
)
def test_bytes_in_bf16_under_math(name: str, context: int, expected: int) -> None:
    assert cache_size(model(name), context).bytes == expected


@pytest.mark.parametrize(("name", "expected"), [("llama-2-70b", 327_680), ("deepseek-v3", 70_272)])
def test_bytes_of_a_token(name: str, expected: int) -> None:
    assert token_bytes(model(name)) == expected
    found = cache_size(model(name), 1000)
    assert (found.bytes, found.token_bytes) == (1000 * expected, expected)


def test_q8_0_beside_f16_in_llama_cpp() -> None:
    sizes = [cache_size(model("llama-3-8b"), 8192, policy="llama.cpp", dtype=dtype).bytes for dtype in ("q8_0", "f16")]
    assert sizes[0] / sizes[1] == 0.53125


def test_the_configs_lack_what_calculators_expect() -> None:
    """The cases are the hard ones: no layer_types, no key-value heads, a window that applies to every layer."""
    assert "layer_types" not in KNOWN["gemma-2-9b"].config
    assert "layer_types" not in KNOWN["mistral-7b-v0.1"].config
    assert not {"num_key_value_heads", "num_kv_heads", "n_head_kv"} & set(KNOWN["falcon-7b"].config)
    assert model("gemma-3-27b").kinds == {"window": 52, "full": 10}
    assert model("falcon-7b").layers[0].num_heads == 71


# Bytes of a token in bf16 while no window is full, worked out by hand from the published sizes: layers x 2 x heads x
# head size x 2, or layers x (latent + rotary + indexer) x 2.
BY_HAND = {
    "llama-2-7b": 32 * 2 * 32 * 128 * 2,
    "llama-3.1-405b": 126 * 2 * 8 * 128 * 2,
    "llama-3.2-1b": 16 * 2 * 8 * 64 * 2,
    "qwen2.5-72b": 80 * 2 * 8 * 128 * 2,
    "qwen3-0.6b": 28 * 2 * 8 * 128 * 2,
    "qwen3-235b-a22b": 94 * 2 * 4 * 128 * 2,
    "qwen3-next-80b-a3b": 12 * 2 * 2 * 256 * 2,
    "gemma-2b": 18 * 2 * 1 * 256 * 2,
    "gemma-3-1b": 26 * 2 * 1 * 256 * 2,
    "gemma-3-4b": 34 * 2 * 4 * 256 * 2,
    "gemma-3n-e4b": 20 * 2 * 2 * 256 * 2,
    "gpt-oss-20b": 24 * 2 * 8 * 64 * 2,
    "deepseek-v2-lite": 27 * (512 + 64) * 2,
    "deepseek-v3.2-exp": 61 * (512 + 64 + 128) * 2,
    "falcon-40b": 60 * 2 * 8 * 64 * 2,
    "gpt2-xl": 48 * 2 * 25 * 64 * 2,
    "starcoder": 40 * 2 * 1 * 128 * 2,
    "chatglm3-6b": 28 * 2 * 2 * 128 * 2,
    "dbrx": 40 * 2 * 8 * 128 * 2,
    "jamba-v0.1": 4 * 2 * 8 * 128 * 2,
    "recurrentgemma-2b": 8 * 2 * 1 * 256 * 2,
    "minimax-text-01": 10 * 2 * 8 * 128 * 2,
    "llama-3.2-11b-vision": 32 * 2 * 8 * 128 * 2,
    "whisper-large-v3": 32 * 2 * 20 * 64 * 2,
    "falcon-mamba-7b": 0,
    "bert-base": 0,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_token_by_hand(name: str) -> None:
    assert token_bytes(model(name)) == BY_HAND[name]


def test_states_by_hand() -> None:
    """float32 states, and the inputs of a convolution in bf16, one less than its taps."""
    assert cache_size(model("mamba-codestral-7b"), 999).bytes == 64 * (
        128 * 64 * 128 * 4 + (8192 + 2 * 8 * 128) * 3 * 2
    )
    assert cache_size(model("falcon-mamba-7b"), 1).bytes == 64 * (8192 * 16 * 4 + 8192 * 3 * 2)
    linear = next(g for g in cache_size(model("qwen3-next-80b-a3b"), 5).groups if g.kind == "state")
    assert linear.bytes == 36 * (32 * 128 * 128 * 4 + (2 * 16 * 128 + 32 * 128) * 3 * 2)


def test_the_table_of_models() -> None:
    assert len(models()) >= 30
    assert len({entry.repo for entry in KNOWN.values()}) == len(KNOWN)
    for name, entry in KNOWN.items():
        assert entry.name == name
        assert entry.source == f"config.json of {entry.repo} (huggingface.co)"
        found = model(name)
        assert (found.name, found.source) == (name, entry.source)
        assert len(found.layers) > 0


def test_each_kind_of_layer_is_in_the_table() -> None:
    kinds = {layer.kind for name in models() for layer in model(name).layers}
    assert kinds == {"full", "window", "chunk", "cross", "latent", "shared", "state", "none"}


def test_the_room_loads_and_computes_without_torch() -> None:
    code = (
        "import sys, qkv; from qkv.size import *; m = model('gemma-3-27b'); cache_size(m, 8192); flops(m, 8192);"
        "fit(m, '24GiB'); times(m, 8192, 'h100'); recommend('serving'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
