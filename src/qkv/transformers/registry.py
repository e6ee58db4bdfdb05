"""Giving transformers the name "qkv": the attention function and the mask function, always both.

With the attention function alone, transformers would make no mask at all for the name, and padding and windows would be
lost without a word.
"""

from __future__ import annotations

import logging
from typing import TypeVar

from transformers import PreTrainedModel

from ..errors import ModelError
from . import hf
from .attention import qkv_attention
from .check import compare
from .default import CacheName, set_default
from .mask import qkv_mask
from .routes import unrouted
from .tiny import NAME, configs_of

Model = TypeVar("Model", bound=PreTrainedModel)

logger = logging.getLogger("qkv.transformers")


def register() -> None:
    """Makes ``attn_implementation="qkv"`` known to transformers: attention and masks. Doing it again changes nothing.

    A model that is loaded with it is checked against its own eager attention at its first forward pass.

    >>> import qkv.transformers
    >>> qkv.transformers.register()
    """
    hf.attention.register(NAME, qkv_attention)
    hf.masks.register(NAME, qkv_mask)


def use(model: Model, *, check: bool = True, cache: CacheName | None = None) -> Model:
    """The same ``model``, its attention and that of its parts now computed by qkv.

    ``cache`` is what ``generate`` keeps keys and values in where it is given no cache: a ``Cache`` of the kind
    ``"auto"``, ``"dense"`` or ``"ring"``, or of ``"int8"`` or ``"int4"`` codes; None is transformers' own.

    With ``check``, a tiny left-padded batch is read with eager attention and with qkv; models that do not read text are
    checked at their first forward pass instead. Raises ``ModelError`` for a model that does not call transformers'
    attention interface, and, with the figures, for one whose results differ; the model then has the implementation that
    it had before.
    """
    if not isinstance(model, PreTrainedModel):  # pyright: ignore[reportUnnecessaryIsInstance] # callers need not be typed
        raise ModelError(
            f"use() takes a transformers model (PreTrainedModel), not {type(model).__name__}.\n"
            "  Load one: AutoModelForCausalLM.from_pretrained(path)."
        )
    register()
    name = type(model).__name__
    if not hf.asks_the_interface(type(model)):
        raise ModelError(unrouted(name))
    set_default(model, cache)
    before = [(config, hf.implementation_of(config)) for config in configs_of(model)]
    hf.set_all(model, NAME)
    if not check:
        return model
    try:
        agreement = compare(model)
        if agreement is not None and not agreement.agrees:
            raise ModelError(agreement.explain())
    except BaseException:
        for config, implementation in before:
            hf.set_one(config, implementation)
        raise
    if agreement is None:
        logger.info("%s cannot read a tiny batch of text; its attention is checked at the first forward pass", name)
    else:
        logger.info(
            "%s agrees with eager: difference %.2g, limit %.2g, %d calls",
            name,
            agreement.difference,
            agreement.limit,
            agreement.calls,
        )
    return model
