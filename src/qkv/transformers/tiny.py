"""A tiny batch that any text model can read, and reading it without leaving a trace in the model."""

from __future__ import annotations

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from . import hf

NAME = "qkv"
"""The name under which transformers knows qkv."""


def tiny_batch(model: PreTrainedModel) -> dict[str, Any] | None:
    """Two rows of six tokens, the first padded by two on the left; None for a model whose main input is not text."""
    if model.main_input_name != "input_ids":
        return None
    config: Any = model.config
    num_tokens = getattr(config.get_text_config(), "vocab_size", None) or 0
    special = {
        v
        for c in configs_of(model)
        for k, v in vars(c).items()
        if k.endswith(("_token_id", "_token_index")) and isinstance(v, int)
    }
    plain = [t for t in range(num_tokens // 3, min(num_tokens, num_tokens // 3 + 64)) if t not in special]
    if len(plain) < 8:
        return None
    device = next(model.parameters()).device
    ids = torch.tensor(
        [[plain[(5 * row + 3 * i * i + i) % len(plain)] for i in range(6)] for row in range(2)], device=device
    )
    there = torch.ones_like(ids)
    there[0, :2] = 0
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": there}
    if getattr(config, "is_encoder_decoder", False):
        batch |= {"decoder_input_ids": ids.flip(1)[:, :4], "decoder_attention_mask": torch.ones_like(ids[:, :4])}
    if "use_cache" in inspect.signature(model.forward).parameters:
        batch["use_cache"] = False
    return batch


def output_of(result: Any) -> Tensor | None:
    """Logits or last hidden states [batch, position, feature] of a model's answer; None when it has neither."""
    for name in ("logits", "last_hidden_state"):
        value = getattr(result, name, None)
        if isinstance(value, Tensor) and value.dim() == 3:
            return value
    return None


def configs_of(model: nn.Module) -> list[PreTrainedConfig]:
    """Every configuration object that the model's modules read, each once."""
    found: dict[int, PreTrainedConfig] = {}

    def add(config: Any) -> None:
        if isinstance(config, PreTrainedConfig) and id(config) not in found:
            found[id(config)] = config
            for value in vars(config).values():
                add(value)

    for module in model.modules():
        add(getattr(module, "config", None))
    return list(found.values())


@contextmanager
def implementation(model: nn.Module, name: str) -> Generator[None]:
    """Configurations of ``model`` that say "qkv" say ``name`` meanwhile."""
    changed = [c for c in configs_of(model) if hf.implementation_of(c) == NAME]
    for config in changed:
        hf.set_one(config, name)
    try:
        yield
    finally:
        for config in changed:
            hf.set_one(config, NAME)


@contextmanager
def untouched(model: nn.Module) -> Generator[None]:
    """The model in evaluation mode; afterwards every module's attributes and buffers are bound as before."""
    before = [(m, dict(vars(m)), dict(m._buffers)) for m in model.modules()]  # pyright: ignore[reportPrivateUsage] # torch's own name for it
    model.eval()
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()  # pyright: ignore[reportPrivateUsage]
            module._buffers.update(buffers)  # pyright: ignore[reportPrivateUsage]
