"""The linear maps of state layers beside the modules of transformers that have them: as many weights, by name."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from qkv.size import Kind, Model, flops, layer_work

_DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("MambaMixer", {"state_size": 4, "expand": 2, "time_step_rank": 5}),
    "falcon_mamba": ("FalconMambaMixer", {"state_size": 4, "expand": 2}),
    "jamba": ("JambaMambaMixer", {"mamba_d_state": 4, "mamba_dt_rank": 3, "num_hidden_layers": 8}),
    "mamba2": ("Mamba2Mixer", {"num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 2, "expand": 2}),
    "bamba": ("BambaMixer", {
        "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2, "attn_layer_indices": [1],
    }),
    "qwen3_next": ("Qwen3NextGatedDeltaNet", {**_DELTA, "num_hidden_layers": 4}),
    "qwen3_5_text": ("Qwen3_5GatedDeltaNet", {**_DELTA, "num_hidden_layers": 4}),
    "minimax": ("MiniMaxLightningAttention", {"head_dim": 12}),
    "recurrent_gemma": ("RecurrentGemmaRecurrentBlock", {"lru_width": 48}),
    "lfm2": ("Lfm2ShortConv", {"layer_types": ["conv", "full_attention"]}),
    "rwkv": ("RwkvSelfAttention", {"attention_hidden_size": 96}),
}  # fmt: skip
ROOMS = {"qwen3_5_text": "qwen3_5"}
BASE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}


def config_of(name: str, **more: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(name, **{**BASE, **more})


def weights(module: torch.nn.Module) -> int:
    """Numbers in the linear maps of a module: its ``nn.Linear`` and the blocks of gates; no biases, no convolution."""
    linear = sum(inner.weight.numel() for inner in module.modules() if isinstance(inner, torch.nn.Linear))
    return linear + sum(p.numel() for key, p in module.named_parameters() if key.endswith("gate_weight"))


@pytest.mark.parametrize("name", CASES)
def test_the_maps_are_those_of_the_module(name: str) -> None:
    kind, more = CASES[name]
    config = config_of(name, **more)
    room = ROOMS.get(name, name)
    module_type = getattr(importlib.import_module(f"transformers.models.{room}.modeling_{room}"), kind)
    layer = next(one for one in Model.from_config(config).layers if one.kind is Kind.STATE)
    with torch.device("meta"):
        module = module_type(config, 0) if name != "lfm2" else module_type(config, layer_idx=0)
    assert sum(size_in * size_out for _, size_in, size_out in layer.maps) == weights(module)
    work = layer_work(layer, config.hidden_size, 8)
    assert work.left_out == ""
    assert sum(work.part(part) for part, _, _ in layer.maps) == 2 * 8 * weights(module)


def test_a_gate_of_the_size_of_the_queries() -> None:
    """Qwen3-Next: the query's map of a full layer makes a gate for each feature of the result."""
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextAttention

    config = config_of("qwen3_next", **_DELTA, num_hidden_layers=4, head_dim=16)
    with torch.device("meta"):
        module = Qwen3NextAttention(config, 3)
    layer = next(one for one in Model.from_config(config).layers if one.kind is Kind.FULL)
    work = layer_work(layer, 64, 8)
    assert sum(work.part(part) for part in ("query", "gate", "key", "value", "output")) == 2 * 8 * weights(module)


def test_a_time_step_that_the_config_leaves_open() -> None:
    found = Model.from_config({
        "model_type": "mamba", "num_hidden_layers": 1, "hidden_size": 40, "intermediate_size": 80, "state_size": 4,
        "conv_kernel": 4,
    })  # fmt: skip
    assert ("time step", 3, 80) in found.layers[0].maps
    assert "time_step_rank is not in the config: auto, the default of its class" in found.notes
    assert flops(found, 4).left_out == ()


def test_the_state_and_the_maps_of_rwkv_and_what_moves() -> None:
    """RWKV-4, 8 wide and 12 inside: three numbers a channel and two shifted inputs; bytes of inputs and results."""
    config = {"model_type": "rwkv", "num_hidden_layers": 1, "hidden_size": 8, "attention_hidden_size": 12}
    layer = Model.from_config(config).layers[0]
    assert layer.state_size == 3 * 12 + 2 * 8
    assert layer.maps == (("receptance, key and value", 8, 36), ("output", 12, 8))
    work = layer_work(layer, 8, 5, batch=2)
    assert work.activation_bytes == 2 * 5 * (8 + 36 + 12 + 8) * 2
    assert work.read_bytes == work.write_bytes == 2 * 4 * layer.state_size
    assert work.weight_bytes == (8 * 36 + 12 * 8) * 2
