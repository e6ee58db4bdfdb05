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
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import qkv
from qkv.errors import InternalError, LimitError, ModelError, TraceError

from . import hf
from .routes import refuse_unrouted

logger = logging.getLogger("qkv.transformers")

MaskFunction = Callable[[Any, Any, Any, Any], Any]


@dataclass(slots=True)
class Rule:
    """What a mask says: the keep term, where its queries and keys stand, and how to write it out as transformers would.

    ``keep`` is None when every key is kept. ``specs`` belongs to the attention function, which keeps there what it has
    built for this mask, so that all layers of one forward pass share it.
    """

    function: MaskFunction
    keep: qkv.Keep | None
    batch_size: int
    num_queries: int
    num_keys: int
    query_offset: int
    key_offset: int
    device: torch.device
    vmap: bool = False
    captures: bool = False
    specs: dict[Any, Any] = field(default_factory=dict[Any, Any])
    written: Tensor | None = None

    @property
    def positions(self) -> dict[str, int]:
        """Where the first query and the first key stand."""
        return {"i": self.query_offset, "j": self.key_offset}

    def dense(self) -> Tensor:
        """The mask as a bool tensor [batch, 1, query, key], made by transformers' own code from the same function."""
        if self.written is None:
            made: Tensor | None = hf.masking.sdpa_mask(
                batch_size=self.batch_size,
                q_length=self.num_queries,
                kv_length=self.num_keys,
                q_offset=self.query_offset,
                kv_offset=self.key_offset,
                mask_function=self.function,
                allow_is_causal_skip=False,
                use_vmap=self.vmap,
                device=self.device,
            )
            if made is None:
                raise InternalError("a mask was asked for and None came back; please report it with the model's name.")
            self.written = made
            return made
        return self.written

    def narrow(self, dim: int, start: int, length: int) -> Rule:
        """The rule for ``length`` queries (``dim`` 2) or keys (``dim`` 3) from ``start``."""
        if dim == 2:
            return replace(self, num_queries=length, query_offset=self.query_offset + start, specs={}, written=None)
        return replace(self, num_keys=length, key_offset=self.key_offset + start, specs={}, written=None)


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
    attention_mask = None if attention_mask is None else attention_mask.bool()
    padding = hf.masking.prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if hf.is_tracing(padding if padding is not None else q_offset):
        return hf.masking.sdpa_mask(
            batch_size,
            q_length,
            kv_length,
            q_offset,
            kv_offset,
            mask_function,
            attention_mask,
            allow_is_causal_skip=False,
            use_vmap=use_vmap,
            device=device,
        )
    query_offset = int(q_offset)
    causal = mask_function is hf.masking.causal_mask_function
    if padding is not None and attention_mask is not None:
        # The padding that transformers appends covers keys after the last query, which a causal mask drops anyway.
        enough = padding if not causal or attention_mask.shape[-1] < query_offset + q_length else attention_mask
        padding = None if bool(enough.all()) else padding
    if padding is None and allow_is_bidirectional_skip and mask_function is hf.masking.bidirectional_mask_function:
        return None
    function = (
        mask_function
        if padding is None
        else hf.masking.and_masks(mask_function, hf.masking.padding_mask_function(padding))
    )
    rule = Rule(
        function, None, batch_size, q_length, kv_length, query_offset, kv_offset, torch.device(device), vmap=use_vmap
    )
    rule.captures = padding is not None or _closes_over_tensor(mask_function)
    try:
        rule.keep = _recorded(mask_function, padding, last_key=kv_offset + kv_length - 1, first_query=query_offset)
    except (TraceError, LimitError) as reason:
        logger.info("a mask function could not be recorded and is written out as a tensor: %s", reason)
        return rule.dense()
    return SymbolicMask(rule)


def _recorded(function: MaskFunction, padding: Tensor | None, *, last_key: int, first_query: int) -> qkv.Keep | None:
    """The keep term of a mask function and its padding; None when nothing is left to ask."""
    if function is hf.masking.causal_mask_function:
        # In a decoding step every key stands at or before the query.
        term = None if last_key <= first_query else qkv.causal()
    elif function is hf.masking.bidirectional_mask_function:
        term = None
    else:

        def by_position(b: Any, i: Any, j: Any) -> Any:
            return function(b, 0, i, j)  # transformers makes masks for one head, which stands for all

        term = qkv.keep(by_position)
    if padding is None:
        return term

    def there(b: Any, j: Any) -> Any:
        return padding[b, j]

    present = qkv.keep(there)
    return present if term is None else term & present


def _closes_over_tensor(value: object) -> bool:
    """Whether a function holds a tensor, itself or through the functions that it holds."""
    if isinstance(value, Tensor):
        return True
    if isinstance(value, tuple | list):
        return any(_closes_over_tensor(v) for v in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, partial):
        return _closes_over_tensor((value.func, *value.args, *value.keywords.values()))
    cells = getattr(value, "__closure__", None) or ()
    return callable(value) and (
        not hasattr(value, "__code__") or any(_closes_over_tensor(c.cell_contents) for c in cells)
    )
