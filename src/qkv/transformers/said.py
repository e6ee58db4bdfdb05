"""What one attention call of a model means: its mask, or the absence of one, and its settings as a spec.

It knows masks and arguments; it refuses to know where keys and values come from, and how the spec runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

import qkv
from qkv.errors import PositionError

from . import given, hf
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
    lasts = said.bias is None and position_bias is None and not said.captures
    sunk = _sunk(sink) if lasts else None
    if sunk is not None:
        made = _lasting(pattern, said.keep, scaling, softcap, *sunk)
    else:
        scores = [] if softcap is None else [qkv.softcap(softcap)]
        if position_bias is not None:
            scores.append(qkv.bias(position_bias, given.pattern_of(position_bias, sizes, "position_bias")))
        if said.bias is not None:
            scores.append(said.bias)
        made = qkv.Spec(pattern, score=tuple(scores), keep=said.keep, weights=qkv.softmax(sink=sink), scale=scaling)
    if said.specs is not None:
        said.specs[settings] = made
    return made


SINKS = 512
"""How many layers' sinks are remembered; the oldest is forgotten first."""


@dataclass(slots=True)
class _Sink:
    """A layer's sink with what it held when it was looked at last, and a number that is another's for each content."""

    parameter: nn.Parameter
    seen: Tensor
    weights: qkv.Weights
    number: int

    def holds(self) -> bool:
        """Whether the parameter holds what it held: through ``.data`` it can be written to without a trace."""
        one, other = self.seen, self.parameter
        return (one.dtype, one.device, one.shape) == (other.dtype, other.device, other.shape) and torch.equal(
            one, other
        )


_sinks: dict[int, _Sink] = {}
_numbers = count(1)  # never the same twice: a sink that was forgotten may come again with other values


def _sunk(sink: Tensor | None) -> tuple[qkv.Weights, int] | None:
    """Softmax with a layer's sink, the same in every call as long as the sink is; None for tensors of one call."""
    if sink is None:
        return qkv.softmax(), 0
    if not isinstance(sink, nn.Parameter) or not sink.is_cpu or hf.is_tracing(sink):
        return None
    known = _sinks.get(id(sink))
    if known is None or known.parameter is not sink:
        if len(_sinks) >= SINKS:
            _sinks.pop(next(iter(_sinks)), None)
        known = _sinks[id(sink)] = _Sink(sink, sink.detach().clone(), qkv.softmax(sink=sink), next(_numbers))
    elif not known.holds():
        known.seen, known.number = sink.detach().clone(), next(_numbers)
    return known.weights, known.number


@lru_cache(maxsize=512)
def _lasting(
    pattern: str,
    keep: qkv.Keep | None,
    scaling: float | None,
    softcap: float | None,
    weights: qkv.Weights,
    number: int,  # of what the weights' sink holds: a spec remembers steps with it
) -> qkv.Spec:
    """A spec that holds no tensor of one call: each layer's sink is its own, and the same in every call."""
    score = () if softcap is None else (qkv.softcap(softcap),)
    return qkv.Spec(pattern, score=score, keep=keep, weights=weights, scale=scaling)
