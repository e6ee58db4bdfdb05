"""The attention function that transformers' models call: their arguments become a spec, and the spec runs.

Every argument that changes the result is honoured or refused by name; see ``arguments``. The layout is transformers':
query [batch, heads, query, d], key and value [batch, key-value heads, key, ...], output [batch, query, heads, e]. This
module refuses to know which strategy runs, and what a mask function looks like inside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

import qkv
from qkv.errors import ModelError, PositionError, SpecError

from . import given, watch
from .arguments import refuse_unknown
from .mask import SymbolicMask

PATTERN = "b (h g) i d, b h j d, b h j e -> b i (h g) e"


# A graph of torch.compile ends before attention and goes on after it.
@torch.compiler.disable  # pyright: ignore[reportUnknownMemberType] # torch leaves its type open
def qkv_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | Tensor | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    cache: Any = None,
    indices: Tensor | None = None,
    output_attentions: bool | None = False,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """The attention output [batch, query, heads, e], and the weights [batch, heads, query, key] when
    ``output_attentions`` asks for them.

    ``attention_mask`` is what the registered mask function made, or a tensor [batch, heads, query, key] of the caller's
    (bool: True is kept; float: added, its type's minimum and -inf drop the key), or None: then ``is_causal`` (or the
    module's own ``is_causal``) and ``sliding_window`` say what is kept. With a mask, those two are already in it. A row
    that keeps nothing gives 0. Raises ``SpecError`` for an argument that is not known, ``PositionError`` for causal
    attention of unequal lengths without a mask, ``ModelError`` when the first use of a model does not agree with its
    own eager attention.
    """
    name = type(module).__name__
    refuse_unknown(others, name)
    if cache is not None:
        key, value = _paged(module, key, value, attention_mask, cache, others)
    if attention_mask is None and others.get("cu_seq_lens_q") is not None:
        raise SpecError(
            f"{name} sends `cu_seq_lens_q` (packed sequences) without a mask, so nothing keeps the sequences apart.\n"
            "  Give position_ids that restart at 0 in each sequence and no attention_mask; transformers then makes "
            "the mask."
        )
    query, key, value = _alike(query, key, value, attention_mask)
    if isinstance(scaling, Tensor):  # a learned scale: its gradient flows through the queries
        query, scaling = query * scaling, 1.0
    sizes = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    if attention_mask is None:
        causal = is_causal if is_causal is not None else bool(getattr(module, "is_causal", True))
        said = Said(_implied(name, sizes[2], sizes[3], causal, sliding_window))
    else:
        said = _said(name, attention_mask, sizes)
    if indices is not None:
        chosen = _chosen(indices, sizes)
        said = replace(said, keep=chosen if said.keep is None else said.keep & chosen, captures=True, specs=None)
    spec = _spec(said, scaling, softcap, s_aux, position_bias, sizes)
    if output_attentions:
        with qkv.strategy("reference"):
            # weights come as [b, h, i, g, j]: queries before head groups
            result = spec.run(query, key, value, want=("weights",), positions=said.positions, dropout=dropout)
        output, weights = result.output, result.stats["weights"].transpose(2, 3).flatten(1, 2)
    else:
        output, weights = spec(query, key, value, positions=said.positions, dropout=dropout), None
    output = output.contiguous()  # models view it with heads and features merged
    if watch.wanted(module):
        sent = {
            "scaling": scaling,
            "softcap": softcap,
            "s_aux": s_aux,
            "position_bias": position_bias,
            "sliding_window": sliding_window,
            "indices": indices,
        }
        watch.examine(watch.Call(module, query, key, value, attention_mask, said, sent, dropout, output))
    return output, weights


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


def _alike(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The three in autocast's type where autocast is on, and of one batch: a batch of 1 stands for all, as with eager
    attention (queries that are learned, masks of several prompts).
    """
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    batch = max(query.shape[0], key.shape[0], 1 if mask is None else mask.shape[0])
    if query.shape[0] == 1 < batch:
        query = query.expand(batch, -1, -1, -1)
    if key.shape[0] == 1 < batch:
        key, value = key.expand(batch, -1, -1, -1), value.expand(batch, -1, -1, -1)
    return query, key, value


def _said(name: str, mask: Tensor, sizes: tuple[int, int, int, int]) -> Said:
    if isinstance(mask, SymbolicMask):
        rule = mask.rule
        if not rule.edited and (rule.batch_size, rule.num_queries, rule.num_keys) == (sizes[0], sizes[2], sizes[3]):
            positions = None if rule.keep is None else rule.positions
            return Said(rule.keep, None, positions, rule.captures, rule.specs)
        mask = rule.dense()
    read = given.read(mask, sizes, f"the attention mask of {name}")
    return Said(read.keep, read.bias, None, True, read.specs)


def _implied(name: str, num_queries: int, num_keys: int, causal: bool, window: int | None) -> qkv.Keep | None:
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


def _chosen(indices: Tensor, sizes: tuple[int, int, int, int]) -> qkv.Keep:
    """The keys that an indexer chose for each query (DeepSeek sparse attention): [batch, query, chosen], negative ones
    meaning none.
    """
    batch, _, num_queries, num_keys = sizes
    table = torch.zeros(batch, num_queries, num_keys + 1, dtype=torch.bool, device=indices.device)
    where = indices.long()
    table.scatter_(-1, torch.where((where < 0) | (where > num_keys), num_keys, where), True)
    return qkv.padding(table[..., :num_keys], "b i j")


def _spec(
    said: Said,
    scaling: float | None,
    softcap: float | None,
    sink: Tensor | None,
    position_bias: Tensor | None,
    sizes: tuple[int, int, int, int],
) -> qkv.Spec:
    """The spec of a call: one for all layers that read this mask with the same settings, and one for all calls when it
    holds no tensor.
    """
    settings = (scaling, softcap, id(sink), id(position_bias), sizes[1])
    made = said.specs.get(settings) if said.specs is not None else None
    if made is not None:
        return made
    if said.bias is None and sink is None and position_bias is None and not said.captures:
        made = _plain(said.keep, scaling, softcap)
    else:
        scores = [] if softcap is None else [qkv.softcap(softcap)]
        if position_bias is not None:
            scores.append(qkv.bias(position_bias, given.pattern_of(position_bias, sizes, "position_bias")))
        if said.bias is not None:
            scores.append(said.bias)
        made = qkv.Spec(PATTERN, score=tuple(scores), keep=said.keep, weights=qkv.softmax(sink=sink), scale=scaling)
    if said.specs is not None:
        said.specs[settings] = made
    return made


@lru_cache(maxsize=256)
def _plain(keep: qkv.Keep | None, scaling: float | None, softcap: float | None) -> qkv.Spec:
    return qkv.Spec(PATTERN, score=() if softcap is None else (qkv.softcap(softcap),), keep=keep, scale=scaling)


def _paged(
    module: nn.Module, key: Tensor, value: Tensor, mask: Tensor | None, cache: Any, others: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Keys and values of continuous batching, past ones included."""
    name = type(module).__name__
    if others.get("block_table") is not None:
        raise ModelError(
            f"{name} sends `cache` with a block table, which flash attention's own kernel would update.\n"
            "  Use continuous batching without block tables."
        )
    if mask is None:
        raise ModelError(
            f"{name} sends `cache` (continuous batching) without a mask, so nothing keeps the requests apart.\n"
            '  transformers makes that mask for attn_implementation="sdpa" and "paged|eager" only; use one of them '
            "for generate_batch."
        )
    return cache.update(key_states=key, value_states=value, layer_idx=getattr(module, "layer_idx", 0), kwargs=others)
