"""The mask that models carry from ``create_causal_mask`` to attention: a function of coordinates that looks like a bool
tensor.

transformers describes a mask by a function of (batch, head, query, key) and asks the registered implementation to turn
it into whatever its attention function reads. Here that is the function itself, recorded as a ``keep`` term; nothing of
size query x key is made. To the model the object is a bool tensor of shape [batch, 1, query, key], True meaning kept,
as for ``sdpa``: a slice of the queries or keys stays symbolic, every other operation gets the real tensor, and adding
it to scores is refused, because a model that does so would add 0 and 1 instead of masking. This module refuses to know
how attention is computed.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ..errors import LimitError, ModelError, TraceError
from . import hf
from .routes import refuse_unrouted
from .rule import MaskFunction, Rule, and_padding, written

logger = logging.getLogger("qkv.transformers")


class SymbolicMask(Tensor):
    """A bool mask [batch, 1, query, key] that is held as a rule; any operation but a slice along query or key gets the
    real tensor.
    """

    rule: Rule

    # torch's documented way to be asked below autograd only.
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    @staticmethod
    def __new__(cls: type[SymbolicMask], rule: Rule) -> SymbolicMask:
        """The tensor that stands for ``rule``; it owns no memory."""
        shape = (rule.batch_size, 1, rule.num_queries, rule.num_keys)
        make: Any = Tensor._make_wrapper_subclass  # pyright: ignore[reportPrivateUsage] # torch's way to make a subclass
        made = make(cls, shape, dtype=torch.bool, device=rule.device)
        made.rule = rule
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"SymbolicMask({self.rule.keep!r}, shape={tuple(self.shape)}, positions={self.rule.positions})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = func.overloadpacket
        if packet in _SAME:
            return SymbolicMask(args[0].rule)
        if packet is torch.ops.aten.slice and isinstance(args[0], SymbolicMask):
            narrowed = _sliced(args[0], *args[1:], **(kwargs or {}))
            if narrowed is not None:
                return narrowed
        values = [*args, *(kwargs or {}).values()]
        if packet in _ADDING and any(isinstance(v, Tensor) and v.is_floating_point() for v in values):
            raise ModelError(
                "a model adds its attention mask to the scores by itself, so its attention does not go through the "
                "attention interface.\n"
                "  qkv's mask says which keys are kept (True); added to scores it would mask nothing.\n"
                '  Load this model with attn_implementation="eager"; docs/transformers-families.md lists the '
                "families that route."
            )
        return func(*(_real(a) for a in args), **{k: _real(v) for k, v in (kwargs or {}).items()})


_SAME = {torch.ops.aten.detach, torch.ops.aten.alias}
_ADDING = {torch.ops.aten.add, torch.ops.aten.add_, torch.ops.aten.sub, torch.ops.aten.baddbmm, torch.ops.aten.addmm}


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
    device: torch.device | str = "cpu",
    config: Any = None,
    **_shortcuts: Any,
) -> Tensor | None:
    """The mask for one forward pass, as transformers' mask interface asks for it; None when a bidirectional mask keeps
    everything and may be left out.

    Arguments are transformers': lengths and offsets of query and key positions, a function of (batch, head, query,
    key), and the 2-D padding mask, whose axes are batch and key position. The rest of what it sends (``dtype``,
    ``local_size``, ``allow_is_causal_skip``) steers shortcuts that nothing here needs. While torch.compile or
    torch.export traces, and for a function that cannot be recorded, the answer is the bool tensor that ``sdpa`` would
    get. Raises ``ModelError`` for a configuration whose model does not call the attention interface.
    """
    if isinstance(attention_mask, SymbolicMask):
        return attention_mask
    refuse_unrouted(config.__class__)
    there = None if attention_mask is None else attention_mask.bool()
    padding: Tensor | None = hf.masking.prepare_padding_mask(there, kv_length, kv_offset)
    if hf.is_tracing(padding if padding is not None else q_offset):
        padded = mask_function if padding is None else and_padding(mask_function, padding)
        return written(batch_size, q_length, kv_length, q_offset, kv_offset, padded, device, use_vmap)
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
        vmap=use_vmap,
    )
    try:
        return SymbolicMask(rule.recorded())
    except (TraceError, LimitError) as reason:
        logger.info("a mask function could not be recorded and is written out as a tensor: %s", reason)
        return rule.dense()
