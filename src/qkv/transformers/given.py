"""A mask that is a real tensor, from the user or from a model, as terms of a spec.

Bool tensors say what is kept. Float tensors are added to the scores; the smallest number of their type, and -inf, say
that a key is dropped. Axes of size 1 stand for all of a coordinate, as everywhere in transformers. This module refuses
to know of symbolic masks.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import qkv
from qkv.errors import DtypeError, ShapeError

AXES = ("b", "(h g)", "i", "j")


@dataclass(frozen=True, slots=True)
class Given:
    """What a tensor says: the keys that it keeps (None: all of them) and the numbers that it adds (a score term; None:
    only zeros).

    ``specs`` belongs to the attention function, as ``Rule.specs`` does.
    """

    keep: qkv.Keep | None
    bias: Any
    specs: dict[Any, qkv.Spec] = field(default_factory=dict[Any, "qkv.Spec"], compare=False)


def pattern_of(tensor: Tensor, sizes: tuple[int, int, int, int], what: str) -> str:
    """The pattern of a tensor [batch, heads, query, key] in which an axis of size 1 stands for all.

    Raises ``ShapeError`` when an axis is neither 1 nor the size that the call has there.
    """
    shape = tuple(tensor.shape)
    names = ("batch", "heads", "queries", "keys")
    if len(shape) != 4 or any(n not in (1, wanted) for n, wanted in zip(shape, sizes, strict=True)):
        wanted = ", ".join(f"{name}={size}" for name, size in zip(names, sizes, strict=True))
        raise ShapeError(
            f"{what} has the shape {shape}, and the call has {wanted}.\n"
            "  Give [batch, heads, query, key]; an axis may be 1 to stand for all."
        )
    return " ".join(axis if size == wanted else "1" for axis, size, wanted in zip(AXES, shape, sizes, strict=True))


def read(mask: Tensor, sizes: tuple[int, int, int, int], what: str) -> Given:
    """The terms for a mask tensor [batch, heads, query, key]; remembered, so that the layers of one forward pass share
    them.

    Raises ``ShapeError`` for a shape that does not fit ``sizes``, ``DtypeError`` for a tensor of whole numbers, which
    could mean either polarity.
    """
    state = (mask._version, sizes)
    seen = _seen.get(id(mask))
    if seen is not None and seen.mask() is mask and seen.state == state:
        return seen.given
    given = _read(mask, sizes, what)
    if not mask.requires_grad:  # terms that hold the mask itself would keep it alive for ever
        _seen[id(mask)] = _Seen(weakref.ref(mask, _forget(id(mask))), state, given)
    return given


@dataclass(frozen=True, slots=True)
class _Seen:
    mask: weakref.ref[Tensor]
    state: tuple[int, tuple[int, int, int, int]]
    given: Given


_seen: dict[int, _Seen] = {}


def _forget(key: int) -> Callable[[weakref.ref[Tensor]], None]:
    def forget(reference: weakref.ref[Tensor]) -> None:
        seen = _seen.get(key)
        if seen is not None and seen.mask is reference:
            del _seen[key]

    return forget


def _read(mask: Tensor, sizes: tuple[int, int, int, int], what: str) -> Given:
    pattern = pattern_of(mask, sizes, what)
    if mask.dtype == torch.bool:
        return Given(None if bool(mask.all()) else qkv.padding(mask.detach(), pattern), None)
    if not mask.is_floating_point():
        raise DtypeError(
            f"{what} is a tensor of {mask.dtype}, which may mean 1 for kept or 0 for kept.\n"
            "  Give bool (True is kept), or float (added to the scores)."
        )
    there = mask.detach() > torch.finfo(mask.dtype).min
    keep = None if bool(there.all()) else qkv.padding(there, pattern)
    plain = not mask.requires_grad and not bool((mask.masked_select(there) != 0).any())
    added = mask if mask.requires_grad else mask.detach()
    return Given(keep, None if plain else qkv.bias(added, pattern))
