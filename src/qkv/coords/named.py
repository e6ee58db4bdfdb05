"""``Named``: a tensor with a name for each axis, and everything that can be done with it by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qkv.coords.align import align
from qkv.coords.arithmetic import Arithmetic, is_number, nameless
from qkv.coords.labelled import Labelled
from qkv.coords.layout import Layout
from qkv.coords.reduce import Reductions
from qkv.errors import CoordinateError, DtypeError

if TYPE_CHECKING:
    from qkv.coords.arithmetic import Operand


class Named(Arithmetic, Reductions, Layout):
    """A tensor whose axes are known by name: ``Named(x, "b h i d")``, or ``Named(x, ("b", "h", "i", "d"))``.

    Coordinates: one name for each axis; ``..b`` takes the axes that the others leave. Merged axes are parted with
    ``split`` first. ``tensor`` and ``names`` are what was given: nothing is copied, gradients flow, and no operation
    changes a Named in place (``x += y`` makes a new one). Arithmetic matches axes by name: the result carries the left
    operand's names, then the right one's new ones. A size of 1 never spreads. Numbers and tensors of rank 0 need no
    names; other tensors are refused. Raises PatternError, ShapeError or CoordinateError for names that do not fit.

    >>> q, k = Named(torch.ones(2, 3, 4), "b i d"), Named(torch.ones(2, 5, 4), "b j d")
    >>> (q * k).sum("d").softmax("j")
    Named(b=2 i=3 j=5, float32)
    """

    __slots__ = ()

    def where(self, condition: Named, other: Operand) -> Named:
        """The elements of this tensor where the condition holds, and of ``other`` elsewhere."""
        return where(condition, self, other)


class Deferred(Named):
    """A named value that is not there yet: what it stands for is recorded, and every operation is its own."""

    __slots__ = ()

    def choose(self, condition: Any, then: Any, otherwise: Any) -> Any:
        """What ``where`` makes of it."""
        raise NotImplementedError

    def joined(self, operands: Any, axis: str) -> Any:
        """What ``concat`` makes of it."""
        raise NotImplementedError


def where(condition: Named, then: Operand, otherwise: Operand) -> Named:
    """``then`` where the condition holds, ``otherwise`` elsewhere; all three meet by name.

    Coordinates: the union, the condition's first. ``condition`` is of truth values; the other two may be numbers.
    Raises DtypeError, SizeMismatch or CoordinateError.
    """
    import torch

    for operand in (condition, then, otherwise):
        if isinstance(operand, Deferred):
            return operand.choose(condition, then, otherwise)
    if not isinstance(condition, Named):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all type checked
        raise nameless(condition, "where") or CoordinateError(
            f"the condition of where is {condition!r:.80}, and a named truth tensor is expected.\n"
            '  Name it: qkv.Named(mask, "i j")'
        )
    if condition.dtype != torch.bool:
        raise DtypeError(
            f"the condition of where is {condition!r}, and truth values are expected.\n  Compare: where(x > 0, ...)"
        )
    operands: list[Labelled] = [condition]
    labels = ["condition"]
    for label, choice in (("then", then), ("otherwise", otherwise)):
        if isinstance(choice, Labelled):
            operands.append(choice)
            labels.append(label)
        elif not is_number(choice):
            raise nameless(choice, f"{label} of where") or CoordinateError(
                f"{label} of where is {choice!r:.80}, and a number or a named tensor is expected.\n"
                '  Name a tensor\'s axes: qkv.Named(tensor, "...")'
            )
    names, tensors = align(operands, labels, "where")
    aligned: dict[str, Any] = {"then": then, "otherwise": otherwise, **dict(zip(labels, tensors, strict=True))}
    return Named(torch.where(tensors[0], aligned["then"], aligned["otherwise"]), names)
