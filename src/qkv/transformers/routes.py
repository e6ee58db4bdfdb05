"""Which models ask transformers' attention interface for their attention, as far as their source shows.

Knows what to tell a user whose model does not. Refuses to know of masks and tensors.
"""

from __future__ import annotations

import sys
from functools import cache

from transformers import PreTrainedModel

from ..errors import ModelError
from . import hf


@cache
def refuse_unrouted(config_class: type) -> None:
    """Nothing, when the models of a configuration class call transformers' attention interface; ``ModelError`` when
    their source shows that they do not.
    """
    name = config_class.__module__.replace(".configuration_", ".modeling_")
    module = sys.modules.get(name)
    if module is None or name == config_class.__module__:
        return
    classes = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, PreTrainedModel) and c.__module__ == name
    ]
    if classes and not any(hf.asks_the_interface(c) for c in classes):
        raise ModelError(unrouted(name.rsplit(".modeling_", 1)[-1]))


def unrouted(family: str) -> str:
    """The message for a model whose attention cannot be replaced."""
    return (
        f"{family} computes attention by itself and does not call transformers' attention interface, so qkv cannot "
        "take its place.\n"
        '  Load it with attn_implementation="eager" or "sdpa". docs/transformers-families.md lists the families that '
        "route."
    )
