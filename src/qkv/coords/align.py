"""Operands brought to one order of axes by their names, before an elementwise operation.

Knows names and sizes: the union in order of appearance, and that equal names must have equal sizes. A size of 1 never
spreads; only a name that an operand lacks does. It does not know which operation follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from qkv import limits
from qkv.coords.names import constant_in_compile
from qkv.coords.text import sized
from qkv.errors import DeviceError, LimitError, SizeMismatch

if TYPE_CHECKING:
    from torch import Tensor

    from qkv.coords.labelled import Labelled

Names = tuple[str, ...]


# How one operand becomes a view with the axes of all: a permutation, then axes of size one inserted from the left.
_View = tuple[tuple[int, ...], tuple[int, ...]]
# All names, one view for each operand, and for each name that several carry its (operand, axis) places.
_Plan = tuple[Names, tuple[_View, ...], tuple[tuple[str, tuple[tuple[int, int], ...]], ...]]


def _plan(carried: tuple[Names, ...]) -> _Plan:
    return _cached_plan(carried)


constant_in_compile(_plan)


@lru_cache(maxsize=4096)
def _cached_plan(carried: tuple[Names, ...]) -> _Plan:
    union = tuple(dict.fromkeys(name for names in carried for name in names))
    views: list[_View] = []
    for names in carried:
        own = tuple(names.index(name) for name in union if name in names)
        # A tensor of rank 0 spreads as it is: with axes, torch would no longer treat it as a number.
        missing = tuple(place for place, name in enumerate(union) if names and name not in names)
        views.append((() if own == tuple(range(len(own))) else own, missing))
    places = {name: tuple((n, names.index(name)) for n, names in enumerate(carried) if name in names) for name in union}
    return union, tuple(views), tuple((name, at) for name, at in places.items() if len(at) > 1)


def disagree(operands: Sequence[Labelled], labels: Sequence[str], name: str, operation: str) -> SizeMismatch:
    """The error for a name that has two sizes among the operands of one operation."""
    sizes = [dict(zip(operand.names, operand.tensor.shape, strict=True)) for operand in operands]
    seen = {label: each[name] for label, each in zip(labels, sizes, strict=True) if name in each}
    width = max(map(len, seen)) + 1
    lines = [
        f"    {label + ':':<{width}} {name}={each[name]}   ({sized(each)})"
        for label, each in zip(labels, sizes, strict=True)
        if name in each
    ]
    values = sorted(set(seen.values()))
    advice = f'Every operand of {operation} that carries "{name}" must agree.'
    if values[0] == 1:
        advice += f" A size of 1 does not spread; .only({name!r}) drops such an axis."
    elif values[-1] - values[0] == 1:
        advice += " Was the last value dropped?"
    else:
        advice += " If they are two coordinates, rename one."
    number = {2: "two", 3: "three"}.get(len(values), str(len(values)))
    message = f'coordinate "{name}" has {number} sizes.\n' + "\n".join(lines) + f"\n  {advice}"
    return SizeMismatch(message, coordinate=name, seen=seen)


def _check(operands: Sequence[Labelled], labels: Sequence[str], operation: str, plan: _Plan) -> None:
    if len(plan[0]) > limits.AXES_PER_TENSOR:
        raise LimitError(
            f"{operation} meets {len(plan[0])} coordinates, and at most {limits.AXES_PER_TENSOR} are carried.\n"
            "  Reduce some, or rename those that are meant to be the same."
        )
    shapes = [operand.tensor.shape for operand in operands]
    for name, places in plan[2]:
        first, axis = places[0]
        size = shapes[first][axis]
        for n, at in places[1:]:
            if shapes[n][at] != size:
                raise disagree(operands, labels, name, operation)
    check_devices(operands, labels, operation)


def check_devices(operands: Sequence[Labelled], labels: Sequence[str], operation: str) -> None:
    """DeviceError unless all operands with axes live on one device; torch itself moves single numbers."""
    device = None
    for operand in operands:
        if operand.names:
            device = device or operand.tensor.device
            if operand.tensor.device != device:
                lines = [f"    {label}: {each.tensor.device}" for label, each in zip(labels, operands, strict=True)]
                raise DeviceError(
                    f"the operands of {operation} live on different devices.\n"
                    + "\n".join(lines)
                    + "\n  Move one with .to(device)."
                )


def check_sizes(operands: Sequence[Labelled], labels: Sequence[str], operation: str) -> Names:
    """All names of the operands, in order of appearance; SizeMismatch when one name has two sizes."""
    plan = _plan(tuple([operand.names for operand in operands]))
    _check(operands, labels, operation, plan)
    return plan[0]


def align(operands: Sequence[Labelled], labels: Sequence[str], operation: str) -> tuple[Names, list[Tensor]]:
    """All names, and each operand as a view whose axes are in that order, of size one where it lacks the name."""
    plan = _plan(tuple([operand.names for operand in operands]))
    _check(operands, labels, operation, plan)
    tensors: list[Tensor] = []
    for operand, (order, missing) in zip(operands, plan[1], strict=True):
        tensor = operand.tensor
        if order:
            tensor = tensor.permute(order)
        for place in missing:
            tensor = tensor.unsqueeze(place)
        tensors.append(tensor)
    return plan[0], tensors
