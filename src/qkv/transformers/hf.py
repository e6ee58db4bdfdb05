"""The parts of transformers that its annotations do not describe, and its underscored names, in one place and typed.

This module knows transformers' names and refuses to know what they are used for.
"""

from __future__ import annotations

from typing import Any

import transformers as _transformers
from transformers import PreTrainedConfig, PreTrainedModel, cache_utils, masking_utils, modeling_gguf_pytorch_utils
from transformers.models.auto import modeling_auto
from transformers.utils import import_utils
from transformers.utils import logging as transformers_logging

masking: Any = masking_utils
gguf: Any = modeling_gguf_pytorch_utils
logging: Any = transformers_logging
auto: Any = _transformers
attention: Any = _transformers.AttentionInterface
masks: Any = _transformers.AttentionMaskInterface
caches: Any = cache_utils

CacheLayerMixin = cache_utils.CacheLayerMixin
TransformersCache = cache_utils.Cache

causal_families: Any = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
"""The model types that have a causal language model."""

_imports: Any = import_utils


def is_tracing(tensor: object) -> bool:
    """Whether torch.compile, torch.export or another tracer is recording (``tensor`` may be one of its stand-ins)."""
    return bool(_imports.is_tracing(tensor))


def implementation_of(config: PreTrainedConfig) -> str | None:
    """The name of the attention implementation that a configuration asks for."""
    return config._attn_implementation  # pyright: ignore[reportPrivateUsage] # there is no public way to read it


def set_one(config: PreTrainedConfig, name: str | None) -> None:
    """Sets the name in this configuration alone, without transformers' checks and without its parts."""
    config._attn_implementation_internal = name  # pyright: ignore[reportPrivateUsage] # the public setter goes through the parts


def set_all(model: PreTrainedModel, name: str) -> None:
    """Sets the name in a model and its parts, as ``model.set_attn_implementation`` does."""
    anything: Any = model
    anything.set_attn_implementation(name)


def asks_the_interface(model_class: type[PreTrainedModel]) -> bool:
    """Whether the source of a model class gets its attention function from the attention interface."""
    return model_class._can_set_attn_implementation()  # pyright: ignore[reportPrivateUsage] # transformers has no public question
