"""The cache that ``generate`` makes for a model when the caller gives none.

It knows where transformers makes one; it refuses to know what a cache is made of.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, Final, Literal, cast

from transformers import PreTrainedModel

from qkv.errors import SpecError

from . import hf
from .caches import Cache
from .tiny import NAME

CacheName = Literal["auto", "dense", "ring", "int8", "int4"]

SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "auto": {},
    "dense": {"kind": "dense"},
    "ring": {"kind": "ring"},
    "int8": {"bits": 8},
    "int4": {"bits": 4},
}
"""What each name says to ``Cache``."""

_SETTING = "_qkv_cache"
_METHOD = "_prepare_cache_for_generation"


def set_default(model: PreTrainedModel, name: CacheName | None) -> None:
    """Makes ``generate`` begin with ``Cache(model, ...)``; with None, with transformers' own cache again.

    Raises ``SpecError`` for another name, and what ``Cache`` raises for this model.
    """
    attributes = vars(model)
    if name is None:
        attributes.pop(_SETTING, None)
        attributes.pop(_METHOD, None)
        return
    if name not in SETTINGS:
        known = ", ".join(f'"{known}"' for known in SETTINGS)
        raise SpecError(f"use: cache = {name!r:.80}.\n  Known: {known}.")
    Cache(model, **SETTINGS[name])  # what it cannot do is said now
    attributes[_SETTING] = name
    attributes[_METHOD] = MethodType(_prepared, model)


def _prepared(self: Any, generation_config: Any, model_kwargs: dict[str, Any], *others: Any, **named: Any) -> Any:
    """In place of the model's method: a cache of transformers' own choice becomes one of qkv's."""
    given = model_kwargs.get("past_key_values")
    of_class: Any = getattr(cast("type[Any]", type(self)), _METHOD)
    answer = of_class(self, generation_config, model_kwargs, *others, **named)
    made: Any = model_kwargs.get("past_key_values")
    chosen = generation_config.cache_implementation in (None, "dynamic")
    if given is not None or not chosen or hf.implementation_of(self.config.get_text_config(decoder=True)) != NAME:
        return answer
    if type(made) is hf.caches.EncoderDecoderCache:
        made.self_attention_cache = _begun(self, made.self_attention_cache)
    elif type(made) is hf.caches.DynamicCache:
        model_kwargs["past_key_values"] = _begun(self, made)
    return answer


def _begun(model: Any, instead_of: Any) -> Cache:
    """An empty cache, which records the past where the one it replaces does."""
    made = Cache(model, **SETTINGS[vars(model)[_SETTING]])
    if any(getattr(layer, "record_past", False) for layer in instead_of.layers):
        made.activate_past_recording()
    return made
