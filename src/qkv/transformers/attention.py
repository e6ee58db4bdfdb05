"""The attention function that transformers' models call: their arguments become a spec, and the spec runs.

Every argument that changes the result is honoured or refused by name; see ``arguments``. The layout is transformers':
query [batch, heads, query, d], key and value [batch, key-value heads, key, ...], output [batch, query, heads, e]. This
module refuses to know which strategy runs, and what a mask function looks like inside.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import qkv
from qkv.errors import ModelError, SpecError

from . import handed, in_place, watch
from .arguments import refuse_unknown
from .said import Said, chosen, implied, said_by, spec_of


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
    layer = handed.layer_of(key, value) or handed.waiting(module)
    if layer is not None:
        if not layer.untouched:
            layer.confirm(key, value)
        if layer.in_place:
            unusual = output_attentions or indices is not None or cache is not None or watch.wanted(module)
            if not unusual and not others.get("cu_seq_lens_q") and not isinstance(scaling, Tensor):
                read = in_place.attend(
                    layer, name, query, attention_mask, scaling, softcap, s_aux, position_bias, dropout
                )
                if read is not None:
                    return read, None
            key, value = layer.operands(query.dtype)
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
        said = Said(implied(name, sizes[2], sizes[3], causal, sliding_window))
    else:
        said = said_by(name, attention_mask, sizes)
    if indices is not None:
        picked = chosen(indices, sizes)
        said = replace(said, keep=picked if said.keep is None else said.keep & picked, captures=True, specs=None)
    spec = spec_of(said, scaling, softcap, s_aux, position_bias, sizes)
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
