"""Whether a tensor that a term captured (a bias, a mask, a table of documents) fits the coordinates of a call.

Knows the captured tensor's pattern and shape and the solved sizes of the call. It does not know roles: which
coordinates a term may carry is checked where terms meet a pattern.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from qkv.coords.axes import TensorPattern
from qkv.coords.text import did_you_mean, point, quoted, sized
from qkv.errors import CoordinateError, ShapeError, SizeMismatch


def fit(tensor: TensorPattern, shape: tuple[int, ...], sizes: Mapping[str, int], called: str) -> TensorPattern:
    """The captured tensor's pattern with its rest written out, once it fits the call.

    ``sizes`` are the call's, with rests written out (``Solved.sizes``); ``called`` is the tensor's name in messages. A
    rest takes as many of the call's coordinates of that rest as the shape leaves, the last ones. Raises ShapeError for
    a number of axes, CoordinateError for a coordinate that no tensor of the call carries, SizeMismatch for a size.

    >>> str(fit(parse_tensor("h i j"), (8, 5, 7), {"b": 2, "h": 8, "i": 5, "j": 7, "d": 64}, "bias"))
    'h i j'
    """
    expanded = _written_out(tensor, shape, sizes, called)
    for name in expanded.coordinates:
        if name not in sizes:
            raise _unknown(tensor, name, sizes, called)
    for axis, size in zip(expanded.axes, shape, strict=True):
        expected = math.prod(sizes[name] for name in axis.names)
        if size != expected:
            own = " ".join(f"{each}={number}" for each, number in zip(expanded.axes, shape, strict=True))
            what = f'coordinate "{axis}"' if len(axis.names) == 1 else f'the axis "{axis}"'
            width = max(len(called), 4) + 1
            broadcast = " A size of 1 does not spread: squeeze it and leave the name out." if size == 1 else ""
            raise SizeMismatch(
                f"{what} has two sizes.\n    {'call:':<{width}} {axis}={expected}   ({sized(sizes)})\n"
                f"    {called + ':':<{width}} {axis}={size}   ({own})\n"
                f'  Every tensor that carries "{axis}" must agree.{broadcast}',
                coordinate=str(axis),
                seen={"call": expected, called: size},
            )
    return expanded


def _written_out(tensor: TensorPattern, shape: tuple[int, ...], sizes: Mapping[str, int], called: str) -> TensorPattern:
    named = sum(not axis.rest for axis in tensor.axes)
    extra = len(shape) - named
    carried = [name for rest in tensor.rests for name in sizes if name.startswith(f"{rest}.")]
    if extra < 0 or (extra and not tensor.rests):
        raise ShapeError(
            f"{called} has {len(shape)} ax{'is' if len(shape) == 1 else 'es'}, and "
            f"{'at least ' if tensor.rests else ''}{named} {'is' if named == 1 else 'are'} named.\n"
            f"    names: {tensor}\n    shape: {tuple(shape)}\n  Name every axis once."
        )
    if extra > len(carried):
        raise ShapeError(
            f"..{tensor.rests[0]} stands for {extra} coordinates in {called}, and for {len(carried)} in the call.\n"
            f"    names: {tensor}\n    shape: {tuple(shape)}\n    call:  {sized(sizes)}\n"
            f"  A captured tensor carries at most the coordinates of the call."
        )
    expanded = tensor.expand(dict.fromkeys(tensor.rests, extra))
    skipped = len(carried) - extra
    return expanded.rename({f"{rest}.{n}": f"{rest}.{n + skipped}" for rest in tensor.rests for n in range(extra)})


def _unknown(tensor: TensorPattern, name: str, sizes: Mapping[str, int], called: str) -> CoordinateError:
    start, end = tensor.place(name)
    carried = f"The call carries {quoted(sizes)}."
    return CoordinateError(
        f'{called} carries "{name}", which no tensor of the call carries.\n'
        f"{point(tensor.text, start, end)}\n    call: {sized(sizes)}\n  {did_you_mean(name, tuple(sizes)) or carried}"
    )
