"""Keys and values of a cache as the compiled core reads them: where they lie, in what type, with which scales.

Rings go round, pages are found by their table, codes are met with their scales: nothing is copied or widened first.
This module knows layouts of storage; it refuses to know what is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import InternalError
from .signature import CODES, Shape, Strides, element_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..cache import Stored


@dataclass(frozen=True, slots=True)
class Placed:
    """What the core is told of one call's keys and values: the number of their type, strides by name, where they lie,
    and the addresses and numbers that change from call to call.
    """

    element: int
    views: dict[str, Strides]
    addresses: dict[str, int]
    placing: dict[str, list[int]] = field(default_factory=dict[str, list[int]])


def plain(shape: Shape, k: Tensor, v: Tensor) -> Placed:
    """Ordinary tensors."""
    addresses = {"k": k.data_ptr(), "v": v.data_ptr()}
    return Placed(element_of(k.dtype), {"k": shape.by_key(k), "v": shape.by_key(v)}, addresses)


def placed(shape: Shape, keys: Stored, values: Stored) -> Placed:
    """A cache's storage. Maps of differential weights are halves of the stored features of keys."""
    if keys.bits != values.bits or keys.data.dtype != values.data.dtype:
        raise InternalError("a cache stores keys and values in two ways; please report this")
    views = {"k": _strides(shape, keys, keys.data), "v": _strides(shape, values, values.data)}
    if shape.lead:
        views["k"] = _by_map(views["k"], _half(keys))
    addresses = {"k": keys.data.data_ptr(), "v": values.data.data_ptr()}
    if keys.scale is not None and values.scale is not None:
        views["k_scale"] = _strides(shape, keys, keys.scale.unsqueeze(-1))
        views["v_scale"] = _strides(shape, values, values.scale.unsqueeze(-1))
        addresses |= {"k_scale": keys.scale.data_ptr(), "v_scale": values.scale.data_ptr()}
    element = element_of(keys.data.dtype) if keys.bits is None else CODES[keys.bits]
    placing: dict[str, list[int]] = {}
    if keys.pages is not None:
        apart = [0 if x is None else x.stride(0) for x in (keys.data, values.data, keys.scale, values.scale)]
        shared = [0] * len(shape.lead) + [keys.pages.stride(0)] + [0] * (len(shape.shared) - 1)
        placing = {
            "num_pages": [keys.data.shape[0]],
            "page_slots": [keys.page_size],
            "page_shared": shared,
            "pages_apart": apart,
        }
        addresses["pages"] = keys.pages.data_ptr()
    elif keys.newest is not None and values.newest is not None:
        data = keys.newest.data, values.newest.data
        views["k_recent"], views["v_recent"] = (
            _strides(shape, x, y) for x, y in zip((keys, values), data, strict=True)
        )
        if shape.lead:
            views["k_recent"] = _by_map(views["k_recent"], keys.feature_size // 2)
        placing = {"recent_slots": [data[0].shape[-2]], "recent_element": [element_of(data[0].dtype)]}
        addresses |= {"k_recent": data[0].data_ptr(), "v_recent": data[1].data_ptr(), "recent_first": keys.newest.first}
    elif keys.start + keys.count > keys.data.shape[-2] or keys.start:
        placing = {"ring_slots": [keys.data.shape[-2]]}
        addresses["ring_start"] = keys.start
    return Placed(element, views, addresses, placing)


def _strides(shape: Shape, stored: Stored, x: Tensor) -> Strides:
    """The strides of data or scales ``[shared..., slot, last]``, or ``[page, shared but the batch..., slot, last]``."""
    *shared, item, last = x.stride()
    if stored.pages is not None:
        shared[0] = 0  # the batch is in the table of pages
    return [0] * len(shape.lead) + shared, [item], last


def _by_map(strides: Strides, step: int) -> Strides:
    """The same for maps that lie one after the other in a row, ``step`` apart."""
    (_, *rest), item, last = strides
    return [step, *rest], item, last


def _half(keys: Stored) -> int:
    """The step from the first map's features to the second's."""
    size = keys.feature_size // 2
    return size // 2 if keys.bits == 4 else size
