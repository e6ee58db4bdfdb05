"""Joining named tensors along one coordinate: past and new keys, or two parts of a feature.

Knows which coordinate of each operand is joined, and that every other one must be carried by all, with one size. The
axes of the operands may stand in any order.
"""

from __future__ import annotations

from collections.abc import Sequence

from qkv.coords.align import check_devices, disagree
from qkv.coords.arithmetic import nameless
from qkv.coords.named import Deferred, Named
from qkv.coords.text import did_you_mean, quoted, sized
from qkv.errors import CoordinateError


def concat(*tensors: Named | Sequence[Named], axis: str) -> Named:
    """The operands joined along ``axis``: ``concat(past, new, axis="seq_k")``; one list of operands is taken too.

    Each operand carries ``axis`` itself, or exactly one coordinate that the others lack, which then becomes ``axis``.
    All other coordinates must be the same ones with the same sizes; their order is the first operand's. Sizes along the
    axis add up. Raises CoordinateError or SizeMismatch, naming the operand.

    >>> concat(Named(torch.zeros(2, 5), "b past"), Named(torch.zeros(2, 1), "b new"), axis="j").sizes
    {'b': 2, 'j': 6}
    """
    import torch

    operands = _flat(tensors, axis)
    for each in operands:
        if isinstance(each, Deferred):
            return each.joined(operands, axis)
    labels = [f"operand {n}" for n in range(1, len(operands) + 1)]
    joined = [_joined(operands, n, axis) for n in range(len(operands))]
    renamed = [each if name == axis else each.rename({name: axis}) for each, name in zip(operands, joined, strict=True)]
    names = renamed[0].names
    for each in renamed[1:]:
        for name in (*names, *each.names):
            if name not in names or name not in each.names:
                raise _differ(operands, labels, name, axis)
            if name != axis and each.size(name) != renamed[0].size(name):
                raise disagree(renamed, labels, name, "concat")
    check_devices(renamed, labels, "concat")
    return Named(torch.cat([each.order(*names).tensor for each in renamed], names.index(axis)), names)


def _flat(tensors: Sequence[Named | Sequence[Named]], axis: str) -> list[Named]:
    operands: list[Named] = []
    for given in tensors:
        for each in given if isinstance(given, list | tuple) else [given]:
            if not isinstance(each, Named):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all type checked
                raise nameless(each, "concat") or CoordinateError(
                    f"concat is given {each!r:.80}, and named tensors are expected.\n"
                    f'  Write qkv.concat(past, new, axis="{axis}")'
                )
            operands.append(each)
    if not operands:
        raise CoordinateError(f'concat is given no tensors.\n  Write qkv.concat(past, new, axis="{axis}")')
    return operands


def _joined(operands: Sequence[Named], place: int, axis: str) -> str:
    """The coordinate of one operand that is joined."""
    names = operands[place].names
    if axis in names:
        return axis
    others = {name for n, each in enumerate(operands) if n != place for name in each.names}
    own = [name for name in names if name not in others]
    if len(own) == 1 and len(operands) > 1:
        return own[0]
    lines = "\n".join(f"    operand {n}: {sized(each.sizes)}" for n, each in enumerate(operands, start=1))
    found = f"and {quoted(own)} stand only there" if len(own) > 1 else "and no coordinate that only it carries"
    raise CoordinateError(
        f'operand {place + 1} of concat has no coordinate "{axis}", {found}.\n{lines}\n'
        f"  {did_you_mean(axis, names) or f'Rename the coordinate that is joined: x.rename(old={axis!r})'}"
    )


def _differ(operands: Sequence[Named], labels: Sequence[str], name: str, axis: str) -> CoordinateError:
    lines = "\n".join(f"    {label}: {sized(each.sizes)}" for label, each in zip(labels, operands, strict=True))
    lacking = [label for label, each in zip(labels, operands, strict=True) if name not in each.names]
    return CoordinateError(
        f'concat over "{axis}": "{name}" is not carried by {lacking[0]}.\n{lines}\n'
        "  Operands differ in the coordinate that is joined and in nothing else."
    )
