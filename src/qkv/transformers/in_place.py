"""Attention over what a cache layer holds, read where it lies: the spec of the call runs with the layer's cache.

It knows which calls are such ones, and says no to the others, which then get ordinary tensors. It refuses to know how a
cache is read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qkv.errors import CacheError

from .layers import DROPPED, LatentLayer, Layer
from .mask import SymbolicMask
from .said import LATENT, PATTERN, Said, implied, said_by, spec_of


def attend(
    layer: Layer,
    name: str,
    query: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sink: Tensor | None,
    position_bias: Tensor | None,
    dropout: float,
) -> Tensor | None:
    """The output ``[batch, query, heads, feature]`` over all that ``layer`` holds; None for a call that needs ordinary
    tensors.

    These are calls under autocast, those that stand elsewhere than at the last tokens, masks written out over a window,
    and masks that may keep what the window has dropped.
    """
    cache, rows = layer.cache, layer.cache.rows
    latent = isinstance(layer, LatentLayer)
    if rows is None or query.shape[0] != rows.shared[0] or torch.is_autocast_enabled(query.device.type):
        return None
    if latent and (sink is not None or position_bias is not None):
        return None
    held, seen, count = cache.standing.count, cache.length, query.shape[2]
    sizes = (query.shape[0], query.shape[1], count, held)
    if isinstance(mask, SymbolicMask) and not mask.rule.edited:
        rule = mask.rule
        if (rule.query_offset + count, rule.key_offset + held, rule.num_keys) != (seen, seen, held):
            return None
        said = said_by(name, mask, sizes)
    elif held != seen:
        return None
    elif mask is None:
        said = Said(implied(name, count, held, True, None)) if count == 1 else None
    else:
        said = said_by(name, mask, sizes)
    if said is None:
        return None
    spec = spec_of(said, scaling, softcap, sink, position_bias, sizes, LATENT if latent else PATTERN)
    try:
        output: Tensor = spec(query, cache=cache, dropout=dropout) if dropout else spec(query, cache=cache)
    except CacheError:
        if held == seen:
            raise
        layer.reading = (
            DROPPED  # a mask that cannot be seen to stay inside the window; the model's own cache drops the same
        )
        return None
    return output.contiguous()
