"""The mask that models carry from ``create_causal_mask`` to attention: a function of positions that looks like a
tensor.

transformers describes a mask by a function of (batch, head, query, key) and asks the registered implementation to turn
it into whatever its attention function reads. Here that is the function itself, recorded as a ``keep`` term; nothing of
size query x key is made. To the model it is the float tensor of eager attention, the one form that every model knows: a
slice of the queries or keys stays symbolic, every other operation gets the real tensor. This module refuses to know how
attention is computed.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ..errors import LimitError, ModelError, TraceError
from . import hf
from .routes import refuse_unrouted
from .rule import MaskFunction, Rule, and_padding, write

logger = logging.getLogger("qkv.transformers")


class SymbolicMask(Tensor):
    """A mask [batch, 1, query, key] held as a rule: to the model the float tensor that eager attention adds.

    A slice along query or key is such a mask again; any other operation gets the real tensor.
    """

    rule: Rule

    # torch's documented way to be asked below autograd only.
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    @staticmethod
    def __new__(cls: type[SymbolicMask], rule: Rule) -> SymbolicMask:
        """The tensor that stands for ``rule``; it owns no memory."""
        shape = (rule.batch_size, 1, rule.num_queries, rule.num_keys)
        make: Any = Tensor._make_wrapper_subclass  # pyright: ignore[reportPrivateUsage] # torch's way to make a subclass
        made = make(cls, shape, dtype=rule.dtype, device=rule.device)
        made.rule = rule
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"SymbolicMask({self.rule.keep!r}, shape={tuple(self.shape)}, positions={self.rule.positions})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet, named = func.overloadpacket, kwargs or {}
        first = args[0] if args else None
        if packet in _SAME and isinstance(first, SymbolicMask):
            return SymbolicMask(first.rule)
        if packet is torch.ops.aten.slice and isinstance(first, SymbolicMask):
            narrowed = _sliced(first, *args[1:], **named)
            if narrowed is not None:
                return narrowed
        answer = func(*(_real(a) for a in args), **{k: _real(v) for k, v in named.items()})
        if func._schema.is_mutable and isinstance(first, SymbolicMask):
            _edited(first)
            return first
        return answer


_SAME = {torch.ops.aten.detach, torch.ops.aten.alias}


def _edited(mask: SymbolicMask) -> None:
    """Notes that the written mask was changed in place: from now on it is what counts."""
    if mask.rule.part:
        raise ModelError(
            "a model changes a part of its attention mask in place, which qkv's mask cannot follow.\n"
            '  Load this model with attn_implementation="eager", and please report it.'
        )
    mask.rule.edited = True


def _real(value: Any) -> Any:
    if isinstance(value, SymbolicMask):
        return value.rule.dense()
    if isinstance(value, list | tuple):
        return type(value)(_real(v) for v in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value


def _sliced(
    mask: SymbolicMask, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> SymbolicMask | None:
    size = mask.shape[dim]
    first, last, stride = slice(start, end, step).indices(size)
    length = max(0, last - first)
    if stride != 1:
        return None
    if length == size:
        return SymbolicMask(mask.rule)
    return SymbolicMask(mask.rule.narrow(dim % 4, first, length)) if dim % 4 in (2, 3) else None


def qkv_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: MaskFunction = hf.masking.causal_mask_function,
    attention_mask: Tensor | None = None,
    allow_is_bidirectional_skip: bool = False,
    use_vmap: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    config: Any = None,
    **_shortcuts: Any,
) -> Tensor | None:
    """The mask for one forward pass, as transformers' mask interface asks for it; None when a bidirectional mask keeps
    everything and may be left out.

    Arguments are transformers': lengths and offsets of query and key positions, a function of (batch, head, query,
    key), and the 2-D padding mask, whose axes are batch and key position. The rest of what it sends (``local_size``,
    ``allow_is_causal_skip``) steers shortcuts that nothing here needs. While torch.compile or torch.export traces, and
    for a function that cannot be recorded, the answer is the float tensor that eager attention would get. Raises
    ``ModelError`` for a configuration whose model does not call the attention interface.
    """
    if isinstance(attention_mask, SymbolicMask):
        return attention_mask
    there = None if attention_mask is None else attention_mask.bool()
    padding: Tensor | None = hf.masking.prepare_padding_mask(there, kv_length, kv_offset)
    if hf.is_tracing(padding if padding is not None else q_offset):
        padded = mask_function if padding is None else and_padding(mask_function, padding)
        lengths, offsets = (q_length, kv_length), (q_offset, kv_offset)
        return write(batch_size, lengths, offsets, padded, dtype, device, vmap=use_vmap)
    refuse_unrouted(config.__class__)
    query_offset = int(q_offset)
    if padding is not None and there is not None:
        # What transformers appends to a short mask are keys after the last query, which a causal mask drops anyway.
        causal = mask_function is hf.masking.causal_mask_function
        read = there if causal and there.shape[-1] >= query_offset + q_length else padding
        padding = None if bool(read.all()) else padding
    if padding is None and allow_is_bidirectional_skip and mask_function is hf.masking.bidirectional_mask_function:
        return None
    rule = Rule(
        mask_function,
        padding,
        batch_size,
        q_length,
        kv_length,
        query_offset,
        kv_offset,
        torch.device(device),
        dtype,
        vmap=use_vmap,
    )
    try:
        return SymbolicMask(rule.recorded())
    except (TraceError, LimitError) as reason:
        logger.info("a mask function could not be recorded and is written out as a tensor: %s", reason)
        return rule.dense()
