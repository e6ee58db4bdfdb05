"""Elementwise arithmetic on named tensors: the axes meet by name, wherever they stand.

Knows operators and pointwise functions. The result carries the union of the names: the left operand's in their order,
then the right one's new ones. Nothing spreads because its size is 1.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qkv.coords.align import align
from qkv.coords.labelled import Labelled
from qkv.errors import CoordinateError, ShapeError

if TYPE_CHECKING:
    from typing import Self, TypeGuard

    from torch import Tensor

    # A number, a named tensor, or a tensor without axes.
    Operand = Labelled | Tensor | complex

_Function = Callable[[Any, Any], Any]


def is_number(value: object) -> TypeGuard[Tensor | complex]:
    """Whether a value has no axes: a Python or numpy number, or a tensor of rank 0."""
    if isinstance(value, numbers.Number):
        return True
    from torch import Tensor

    return isinstance(value, Tensor) and value.dim() == 0


def nameless(value: object, operation: str) -> CoordinateError | None:
    """The error for a tensor or array with axes but without names; None for anything else."""
    shape = getattr(value, "shape", None)
    if shape is None or isinstance(value, Labelled) or not hasattr(value, "dtype"):
        return None
    return CoordinateError(
        f"{operation} is given a {type(value).__name__} of shape {tuple(shape)} without names, beside named tensors.\n"
        '  Name its axes: qkv.Named(tensor, "..."). Only numbers and tensors of rank 0 need no names.'
    )


class Arithmetic(Labelled):
    """Operators and pointwise functions of ``Named``."""

    __slots__ = ()

    def _binary(self, other: Operand, function: _Function, symbol: str, *, reflected: bool = False) -> Any:
        if isinstance(other, Labelled):
            left, right = (other, self) if reflected else (self, other)
            if left.names == right.names and left.tensor.shape == right.tensor.shape and left.device == right.device:
                return self._with(function(left.tensor, right.tensor), self.names)
            names, (a, b) = align((left, right), ("left", "right"), f'"{symbol}"')
            return self._with(function(a, b), names)
        if is_number(other):
            result = function(other, self.tensor) if reflected else function(self.tensor, other)
            return self._with(result, self.names)
        error = nameless(other, f'"{symbol}"')
        if error is not None:
            raise error
        return NotImplemented

    def __add__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a + b, "+")

    def __radd__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a + b, "+", reflected=True)

    def __sub__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a - b, "-")

    def __rsub__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a - b, "-", reflected=True)

    def __mul__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a * b, "*")

    def __rmul__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a * b, "*", reflected=True)

    def __truediv__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a / b, "/")

    def __rtruediv__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a / b, "/", reflected=True)

    def __floordiv__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a // b, "//")

    def __rfloordiv__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a // b, "//", reflected=True)

    def __mod__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a % b, "%")

    def __rmod__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a % b, "%", reflected=True)

    def __pow__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a**b, "**")

    def __rpow__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a**b, "**", reflected=True)

    def __and__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a & b, "&")

    def __rand__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a & b, "&", reflected=True)

    def __or__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a | b, "|")

    def __ror__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a | b, "|", reflected=True)

    def __xor__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a ^ b, "^")

    def __rxor__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a ^ b, "^", reflected=True)

    def __lt__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a < b, "<")

    def __le__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a <= b, "<=")

    def __gt__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a > b, ">")

    def __ge__(self, other: Operand) -> Self:
        return self._binary(other, lambda a, b: a >= b, ">=")

    # Comparison is elementwise, as torch's is, so a Named is hashed by what it is and not by what it holds.
    def __eq__(self, other: Operand) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._binary(other, lambda a, b: a == b, "==")

    def __ne__(self, other: Operand) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._binary(other, lambda a, b: a != b, "!=")

    __hash__ = object.__hash__

    def __neg__(self) -> Self:
        return self._map(operator.neg)

    def __pos__(self) -> Self:
        return self

    def __abs__(self) -> Self:
        return self._map(operator.abs)

    def __invert__(self) -> Self:
        return self._map(operator.invert)

    def exp(self) -> Self:
        """e to the power of each element."""
        return self._map(lambda tensor: tensor.exp())

    def log(self) -> Self:
        """The natural logarithm of each element; -inf at 0, NaN below."""
        return self._map(lambda tensor: tensor.log())

    def sqrt(self) -> Self:
        """The square root of each element; NaN below 0."""
        return self._map(lambda tensor: tensor.sqrt())

    def tanh(self) -> Self:
        """The hyperbolic tangent of each element."""
        return self._map(lambda tensor: tensor.tanh())

    def sin(self) -> Self:
        """The sine of each element, in radians."""
        return self._map(lambda tensor: tensor.sin())

    def cos(self) -> Self:
        """The cosine of each element, in radians."""
        return self._map(lambda tensor: tensor.cos())

    def abs(self) -> Self:
        """The absolute value of each element."""
        return self._map(operator.abs)

    def floor(self) -> Self:
        """The largest integer not above each element."""
        return self._map(lambda tensor: tensor.floor())

    def relu(self) -> Self:
        """Each element, or 0 where it is below."""
        return self._map(lambda tensor: tensor.relu())

    def sigmoid(self) -> Self:
        """1 / (1 + exp(-x)) of each element."""
        return self._map(lambda tensor: tensor.sigmoid())

    def erf(self) -> Self:
        """The error function of each element."""
        return self._map(lambda tensor: tensor.erf())

    def minimum(self, other: Operand) -> Self:
        """The smaller of two elements; NaN where either is."""
        import torch

        return self._extreme(other, torch.minimum, "minimum")

    def maximum(self, other: Operand) -> Self:
        """The larger of two elements; NaN where either is."""
        import torch

        return self._extreme(other, torch.maximum, "maximum")

    def _extreme(self, other: Operand, function: _Function, name: str) -> Self:
        import torch

        if is_number(other):
            dtype = torch.result_type(self.tensor, other)
            return self._with(
                function(self.tensor, torch.as_tensor(other, dtype=dtype, device=self.device)), self.names
            )
        result = self._binary(other, function, name)
        if result is NotImplemented:
            raise TypeError(f"{name} is given {other!r:.80}, which is neither a number nor a named tensor.")
        return result

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Any pointwise function of a tensor, such as ``torch.erfinv``; ShapeError when it changes the shape."""
        result = function(self.tensor)
        if result.shape != self.tensor.shape:
            raise ShapeError(
                f"map was given a function that makes {tuple(result.shape)} of {tuple(self.tensor.shape)}.\n"
                f"    tensor: {self!r}\n  Only pointwise functions keep the names; name the result of others anew."
            )
        return self._with(result, self.names)
