"""Numbers that terms are made with, checked: positive, finite, whole, or one for each head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..coords import Named
from ..errors import ShapeError, SpecError
from .expr import Captured
from .scope import captured

if TYPE_CHECKING:
    from torch import Tensor


def positive(term: str, name: str, value: object) -> float:
    """``value`` as a positive, finite float; ``SpecError`` otherwise."""
    number = finite(term, name, value)
    if number <= 0:
        raise SpecError(
            f"{term}: {name}={value!r} must be positive.\n  A cap or a base of zero or less has no meaning here."
        )
    return number


def finite(term: str, name: str, value: object) -> float:
    """``value`` as a finite float; ``SpecError`` otherwise."""
    if not math.isfinite(number(term, name, value)):
        raise _not_finite(term, name, value)
    return number(term, name, value)


def number(term: str, name: str, value: object) -> float:
    """``value`` as a float, which may be infinite; ``SpecError`` for anything that is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _not_finite(term, name, value)
    return float(value)


def _not_finite(term: str, name: str, value: object) -> SpecError:
    return SpecError(
        f"{term}: {name}={value!r} must be a finite number.\n"
        "  Give a Python number; learned values are given as tensors where the term takes them."
    )


def whole(term: str, name: str, value: object, *, least: int) -> int:
    """``value`` as an int of at least ``least``; ``SpecError`` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(
            f"{term}: {name}={value!r} must be a whole number of at least {least}.\n"
            "  Sizes and counts of positions are whole numbers."
        )
    return value


def by_head(
    term: str, name: str, value: Tensor | Named | float, head: str | None
) -> tuple[Captured | float, str | None]:
    """A finite number, or a float tensor of no axis or of one (heads); with the head's name, which a Named one says."""
    if isinstance(value, Named):
        if value.names:
            head = value.names[0] if len(value.names) == 1 else f"({' '.join(value.names)})"
        value = value.tensor.flatten() if value.names else value.tensor
    if isinstance(value, int | float) or not hasattr(value, "requires_grad"):
        return finite(term, name, value), head
    if len(value.shape) > 1:
        raise ShapeError(
            f"{term}: {name} has the shape {tuple(value.shape)}.\n  Give one number, or one for each query head."
        )
    return captured(term, value, label=name), head
