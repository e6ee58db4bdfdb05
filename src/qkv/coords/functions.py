"""Operations on named tensors as functions, coordinates first: ``sum("d", q * k)``, ``softmax("j", scores)``.

Each is the method of the same name; what it means is documented there. Coordinates are one text (``"i j"``) or several
names in a tuple. Names such as ``sum`` and ``max`` are meant to be used as ``qkv.sum``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qkv.coords.arithmetic import nameless
from qkv.coords.concat import concat as concat
from qkv.coords.named import Named
from qkv.coords.named import where as where
from qkv.errors import CoordinateError

if TYPE_CHECKING:
    from qkv.coords.arithmetic import Operand

Names = str | tuple[str, ...]


def _named(x: Named, operation: str, call: str = '"j", {x}') -> Named:
    """``x`` when it is named; ``call`` shows the arguments in the message when it is not."""
    if isinstance(x, Named):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all type checked
        return x
    order = "Coordinates come first, the tensor second" if call.startswith('"') else "Name the axes of its tensor"
    arguments = call.format(x='qkv.Named(tensor, "i j")')
    raise nameless(x, operation) or CoordinateError(
        f"{operation} is given {x!r:.80}, and a named tensor is expected.\n  {order}: qkv.{operation}({arguments})"
    )


def _given(names: Names, operation: str) -> tuple[str, ...]:
    given = (names,) if isinstance(names, str) else names
    if type(given) is not tuple or not "".join(map(str, given)).strip():
        raise CoordinateError(
            f"{operation} is given {names!r:.80} where coordinates are expected.\n"
            f'  Coordinates come first, the tensor second: qkv.{operation}("j", x)'
        )
    return given


def sum(names: Names, x: Named, *, where: Named | None = None) -> Named:
    """The sum over the named coordinates; 0 over nothing.

    >>> sum("j", Named(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "i j")).tensor
    tensor([3., 7.])
    """
    return _named(x, "sum").sum(*_given(names, "sum"), where=where)


def mean(names: Names, x: Named, *, where: Named | None = None) -> Named:
    """The mean over the named coordinates; exactly 0 where nothing is kept.

    >>> mean("i j", Named(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "i j")).item()
    2.5
    """
    return _named(x, "mean").mean(*_given(names, "mean"), where=where)


def prod(names: Names, x: Named, *, where: Named | None = None) -> Named:
    """The product over the named coordinates; 1 over nothing.

    >>> prod("j", Named(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "i j")).tensor
    tensor([ 2., 12.])
    """
    return _named(x, "prod").prod(*_given(names, "prod"), where=where)


def max(names: Names, x: Named, *, where: Named | None = None) -> Named:
    """The largest element over the named coordinates; -inf over nothing.

    >>> max("i", Named(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "i j"))
    Named(j=2, float32)
    """
    return _named(x, "max").max(*_given(names, "max"), where=where)


def min(names: Names, x: Named, *, where: Named | None = None) -> Named:
    """The smallest element over the named coordinates; inf over nothing.

    >>> min("j", Named(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "i j")).tensor
    tensor([1., 3.])
    """
    return _named(x, "min").min(*_given(names, "min"), where=where)


def any(names: Names, x: Named, *, where: Named | None = None) -> Named:
    """Whether one element holds; False over nothing.

    >>> any("j", Named(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "i j") > 2).tensor
    tensor([False,  True])
    """
    return _named(x, "any").any(*_given(names, "any"), where=where)


def all(names: Names, x: Named, *, where: Named | None = None) -> Named:
    """Whether every element holds; True over nothing.

    >>> all("i", Named(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "i j") > 1).tensor
    tensor([False,  True])
    """
    return _named(x, "all").all(*_given(names, "all"), where=where)


def logsumexp(names: Names, x: Named, *, where: Named | None = None) -> Named:
    """log(sum(exp(x))) over the named coordinates; -inf over nothing.

    >>> logsumexp("j", Named(torch.zeros(2, 4), "i j")).tensor
    tensor([1.3863, 1.3863])
    """
    return _named(x, "logsumexp").logsumexp(*_given(names, "logsumexp"), where=where)


def softmax(names: Names, x: Named, *, where: Named | None = None) -> Named:
    """Weights that sum to 1 over the named coordinates together; exactly 0 in a row that keeps nothing."""
    return _named(x, "softmax").softmax(*_given(names, "softmax"), where=where)


def log_softmax(names: Names, x: Named, *, where: Named | None = None) -> Named:
    """The logarithm of ``softmax``; -inf where nothing is kept.

    >>> log_softmax("j", Named(torch.zeros(4), "j")).tensor
    tensor([-1.3863, -1.3863, -1.3863, -1.3863])
    """
    return _named(x, "log_softmax").log_softmax(*_given(names, "log_softmax"), where=where)


def argmax(name: str, x: Named) -> Named:
    """The index of the first largest element along one coordinate.

    >>> argmax("i", Named(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "i j")).tensor
    tensor([1, 1])
    """
    return _named(x, "argmax").argmax(name)


def argmin(name: str, x: Named) -> Named:
    """The index of the first smallest element along one coordinate.

    >>> argmin("i", Named(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "i j")).tensor
    tensor([0, 0])
    """
    return _named(x, "argmin").argmin(name)


def cumsum(name: str, x: Named) -> Named:
    """The sum of the elements up to and with each one, along one coordinate.

    >>> cumsum("j", Named(torch.ones(4), "j")).tensor
    tensor([1., 2., 3., 4.])
    """
    return _named(x, "cumsum").cumsum(name)


def dot(a: Named, b: Named, *names: str) -> Named:
    """The sum over the named coordinates of the product: ``dot(q, k, "d")``.

    >>> dot(Named(torch.ones(2, 3), "i d"), Named(torch.ones(4, 3), "j d"), "d")
    Named(i=2 j=4, float32)
    """
    return _named(a, "dot", '{x}, other, "j"').dot(b, *names)


def minimum(a: Named, b: Operand) -> Named:
    """The smaller of two elements; NaN where either is."""
    return _named(a, "minimum", "{x}, other").minimum(b)


def maximum(a: Named, b: Operand) -> Named:
    """The larger of two elements; NaN where either is."""
    return _named(a, "maximum", "{x}, other").maximum(b)


def exp(x: Named) -> Named:
    """e to the power of each element."""
    return _named(x, "exp", "{x}").exp()


def log(x: Named) -> Named:
    """The natural logarithm of each element."""
    return _named(x, "log", "{x}").log()


def sqrt(x: Named) -> Named:
    """The square root of each element."""
    return _named(x, "sqrt", "{x}").sqrt()


def tanh(x: Named) -> Named:
    """The hyperbolic tangent of each element."""
    return _named(x, "tanh", "{x}").tanh()


def sin(x: Named) -> Named:
    """The sine of each element, in radians."""
    return _named(x, "sin", "{x}").sin()


def cos(x: Named) -> Named:
    """The cosine of each element, in radians."""
    return _named(x, "cos", "{x}").cos()


def abs(x: Named) -> Named:
    """The absolute value of each element."""
    return _named(x, "abs", "{x}").abs()


def floor(x: Named) -> Named:
    """The largest integer not above each element."""
    return _named(x, "floor", "{x}").floor()


def relu(x: Named) -> Named:
    """Each element, or 0 where it is below.

    >>> relu(Named(torch.tensor([-1.0, 2.0]), "i")).tensor
    tensor([0., 2.])
    """
    return _named(x, "relu", "{x}").relu()


def sigmoid(x: Named) -> Named:
    """1 / (1 + exp(-x)) of each element."""
    return _named(x, "sigmoid", "{x}").sigmoid()


def erf(x: Named) -> Named:
    """The error function of each element."""
    return _named(x, "erf", "{x}").erf()
