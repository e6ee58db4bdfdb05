"""What one attention call of a model means: its mask, or the absence of one, and its settings as a spec.

It knows masks and arguments; it refuses to know where keys and values come from, and how the spec runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import qkv
from qkv.errors import PositionError

from . import given
from .mask import SymbolicMask

PATTERN = "b (h g) i d, b h j d, b h j e -> b i (h g) e"
LATENT = "b h i d, b h j d, b h j e -> b i h e"
"""The pattern of a call over latents, whose keys have the heads of the queries."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a mask, or its absence, says: keys kept, numbers added (a score term or None), and where queries and keys
    stand.

    ``captures`` tells that ``keep`` holds tensors of this batch; ``specs`` is where specs built for this mask are kept.
    """

    keep: qkv.Keep | None
    bias: Any = None
    positions: dict[str, int] | None = None
    captures: bool = False
    specs: dict[Any, qkv.Spec] | None = None


def said_by(name: str, mask: Tensor, sizes: tuple[int, int, int, int]) -> Said:
    """What a mask says; ``sizes`` are those of batch, heads, queries and keys."""
    if isinstance(mask, SymbolicMask):
        rule = mask.rule
        if not rule.edited and (rule.batch_size, rule.num_queries, rule.num_keys) == (sizes[0], sizes[2], sizes[3]):
            positions = None if rule.keep is None else rule.positions
            return Said(rule.keep, None, positions, rule.captures, rule.specs)
        mask = rule.dense()
    read = given.read(mask, sizes, f"the attention mask of {name}")
    return Said(read.keep, read.bias, None, True, read.specs)


def implied(name: str, num_queries: int, num_keys: int, causal: bool, window: int | None) -> qkv.Keep | None:
    """What is kept when there is no mask: ``is_causal`` and ``sliding_window``, as transformers' sdpa and flash
    functions read them.
    """
    causal = causal and num_queries > 1
    if not causal and window is None:
        return None
    if num_queries != num_keys and not (num_queries == 1 and window is not None):
        raise PositionError(
            f"{name} asks for causal or windowed attention of {num_queries} queries over {num_keys} keys and sends no "
            "mask, so nothing says where the queries stand.\n"
            "  Give attention_mask, so that the model makes a mask; qkv.transformers.register() registers the "
            "function that makes it."
        )
    if num_queries == 1 and window is not None:  # one query after all keys, as in flash attention
        return ~qkv.first(num_keys - window) if num_keys > window else None
    if window is None:
        return qkv.causal()
    return qkv.causal() & qkv.window(window) if causal else qkv.window(window - 1, window - 1)


def chosen(indices: Tensor, sizes: tuple[int, int, int, int]) -> qkv.Keep:
    """The keys that an indexer chose for each query (DeepSeek sparse attention): [batch, query, chosen], negative ones
    meaning none.
    """
    batch, _, num_queries, num_keys = sizes
    table = torch.zeros(batch, num_queries, num_keys + 1, dtype=torch.bool, device=indices.device)
    where = indices.long()
    table.scatter_(-1, torch.where((where < 0) | (where > num_keys), num_keys, where), True)
    return qkv.padding(table[..., :num_keys], "b i j")


def spec_of(
    said: Said,
    scaling: float | None,
    softcap: float | None,
    sink: Tensor | None,
    position_bias: Tensor | None,
    sizes: tuple[int, int, int, int],
    pattern: str = PATTERN,
) -> qkv.Spec:
    """The spec of a call: one for all layers that read this mask with the same settings, and one for all calls when it
    holds no tensor of this one.
    """
    settings = (scaling, softcap, id(sink), id(position_bias), sizes[1], pattern)
    made = said.specs.get(settings) if said.specs is not None else None
    if made is not None:
        return made
    if said.bias is None and position_bias is None and not said.captures:
        made = _lasting(pattern, said.keep, scaling, softcap, _weights(sink))
    else:
        scores = [] if softcap is None else [qkv.softcap(softcap)]
        if position_bias is not None:
            scores.append(qkv.bias(position_bias, given.pattern_of(position_bias, sizes, "position_bias")))
        if said.bias is not None:
            scores.append(said.bias)
        made = qkv.Spec(pattern, score=tuple(scores), keep=said.keep, weights=_weights(sink), scale=scaling)
    if said.specs is not None:
        said.specs[settings] = made
    return made


@lru_cache(maxsize=512)  # tensors are found by identity
def _weights(sink: Tensor | None) -> qkv.Weights:
    return qkv.softmax(sink=sink)


@lru_cache(maxsize=512)
def _lasting(
    pattern: str, keep: qkv.Keep | None, scaling: float | None, softcap: float | None, weights: qkv.Weights
) -> qkv.Spec:
    """A spec that holds no tensor of one call: each layer's sink is its own, and the same in every call."""
    score = () if softcap is None else (qkv.softcap(softcap),)
    return qkv.Spec(pattern, score=score, keep=keep, weights=weights, scale=scaling)
