"""Seven ways to lay the same numbers out in memory.

Knows strides, storage offsets and gaps; a gap is filled with NaN, so that a kernel which reads it shows it.
Refuses to know what the numbers mean: it moves them and never computes with them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qkv.errors import ShapeError, SpecError

#: stride of a size-1 axis in the layout ``oversize singleton stride``: a kernel that multiplies by it leaves the tensor
OVERSIZE_STRIDE = 1 << 40

#: elements in front of the tensor in the layout ``storage offset``; odd, so that no vector load is aligned
OFFSET = 3


def lay_out(x: Tensor, layout: str) -> Tensor:
    """A tensor with the values of ``x`` in the named layout.

    Coordinates: ``x`` [b, h, i, d], any float dtype; the result has the same shape and dtype.
    Edges: ``stride-0 heads`` can hold only equal heads, so there, and only there, every head becomes the first.
    Sizes of 0 work in every layout.
    Raises: SpecError for an unknown layout; ShapeError when ``x`` has not four axes, or has no axis of size 1 for
    ``oversize singleton stride``.

    >>> lay_out(torch.zeros(2, 4, 5, 8), "heads last").stride()
    (160, 8, 32, 1)
    """
    if x.dim() != 4:
        raise ShapeError(f"a layout needs four axes, b h i d; the tensor has {x.dim()}: {tuple(x.shape)}")
    if layout not in _MAKERS:
        raise SpecError(f'there is no layout "{layout}".\n    layouts: {", ".join(LAYOUTS)}')
    return _MAKERS[layout](x)


def fits(shape: tuple[int, ...], layout: str) -> bool:
    """Whether a tensor of this shape can show the layout: another than the contiguous one, and no error.

    Coordinates: ``shape`` (b, h, i, d).
    Edges: ``contiguous`` fits everything; ``stride-0 heads`` needs two heads, ``oversize singleton stride`` an
    axis of 1.

    >>> fits((2, 1, 5, 8), "stride-0 heads")
    False
    """
    if layout == "stride-0 heads":
        return shape[1] > 1
    if layout == "oversize singleton stride":
        return 1 in shape
    return True


def _nans(x: Tensor, *shape: int) -> Tensor:
    return torch.full(shape, float("nan"), dtype=x.dtype, device=x.device)


def _contiguous(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _heads_last(x: Tensor) -> Tensor:
    return _contiguous(x.transpose(1, 2)).transpose(1, 2)


def _feature_strided(x: Tensor) -> Tensor:
    storage = _nans(x, *x.shape[:3], 2 * x.shape[3])
    view = storage[..., ::2]
    return view.copy_(x)


def _equal_heads(x: Tensor) -> Tensor:
    return _contiguous(x[:, :1]).expand_as(x)


def _packed_slice(x: Tensor) -> Tensor:
    batch, heads, length, features = x.shape
    storage = _nans(x, batch, length, 3, heads, features)
    view = storage[:, :, 1].transpose(1, 2)
    return view.copy_(x)


def _storage_offset(x: Tensor) -> Tensor:
    storage = _nans(x, x.numel() + 2 * OFFSET)
    view = storage[OFFSET : OFFSET + x.numel()].view(x.shape)
    return view.copy_(x)


def _oversize_singleton(x: Tensor) -> Tensor:
    if 1 not in x.shape:
        raise ShapeError(f"an oversize singleton stride needs an axis of size 1; the shape is {tuple(x.shape)}")
    packed = _contiguous(x)
    strides = [OVERSIZE_STRIDE if size == 1 else stride for size, stride in zip(x.shape, packed.stride(), strict=True)]
    return packed.as_strided(x.shape, strides)


_MAKERS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": _contiguous,
    "heads last": _heads_last,
    "feature strided": _feature_strided,
    "stride-0 heads": _equal_heads,
    "slice of a packed tensor": _packed_slice,
    "storage offset": _storage_offset,
    "oversize singleton stride": _oversize_singleton,
}

#: the names that :func:`lay_out` knows
LAYOUTS: tuple[str, ...] = tuple(_MAKERS)
