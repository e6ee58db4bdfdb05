"""Words of the public face that mean one thing for several kinds of argument: named tensors, symbols of a recorded
function, and spec terms.

``qkv.softmax("j", x)`` normalises a named tensor and ``qkv.softmax(sink=...)`` is a spec's weights; which one is meant
follows from whether a tensor is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from .coords import Named, functions
from .coords import named as named_module
from .errors import SpecError
from .terms import symbol, weights
from .terms.symbol import Symbol
from .terms.weights import Weights

if TYPE_CHECKING:
    from torch import Tensor

Names = str | tuple[str, ...]


@overload
def softmax(names: Names, x: Named, /, *, where: Named | None = None) -> Named: ...
@overload
def softmax(*, sink: Tensor | float | None = None, off_by_one: bool = False, head: str | None = None) -> Weights: ...
def softmax(*given: Any, **options: Any) -> Any:
    """``softmax("j", x)``: a named tensor normalised over j, a row without a kept entry giving 0. ``softmax(sink=...,
    off_by_one=...)``: the weights of a spec.

    For a spec: ``exp(s_j) / (sum_j exp(s_j) + exp(sink))``; ``sink`` is one score for all heads or a float tensor with
    one for each query head (its gradient flows), ``off_by_one`` a sink of score 0. Source: Xiao et al. 2023 (sinks),
    OpenAI 2025 gpt-oss model card (learned sinks), Miller 2023 (off by one).

    >>> import qkv, torch
    >>> qkv.softmax("j", qkv.Named(torch.zeros(2, 4), "i j")).tensor[0, 0].item()
    0.25
    >>> qkv.softmax(off_by_one=True)
    softmax(off_by_one=True)
    """
    return functions.softmax(*given, **options) if given else weights.softmax(**options)


@overload
def sigmoid(x: Named, /) -> Named: ...
@overload
def sigmoid(x: Symbol, /) -> Symbol: ...
@overload
def sigmoid(bias: float = 0.0) -> Weights: ...
def sigmoid(bias: Any = 0.0) -> Any:
    """``sigmoid(x)`` of a named tensor or of a symbol; ``sigmoid(bias=0.0)``: the weights of a spec, each key on its
    own.

    For a spec: ``1 / (1 + exp(-(s_j + bias)))``; rows do not sum to one and there is no lse. Source: Ramapuram et al.
    2024, Theory, Analysis, and Best Practices for Sigmoid Self-Attention.

    >>> import qkv
    >>> qkv.sigmoid(bias=-3.0)
    sigmoid(bias=-3)
    """
    if isinstance(bias, Symbol):
        return bias.sigmoid()
    return functions.sigmoid(bias) if isinstance(bias, Named) else weights.sigmoid(bias)


def where(condition: Any, chosen: Any, other: Any) -> Any:
    """``chosen`` where ``condition`` holds, else ``other``: for named tensors, and inside keep and score functions.

    Inside a function of coordinates, a lookup in the branch that is not chosen is not made, so it may lie outside its
    table.

    >>> import qkv
    >>> qkv.score(lambda score, i, j: qkv.where(i == j, score + 1.0, score))
    score(where(i == j, score + 1, score))
    """
    if isinstance(condition, Symbol) or isinstance(chosen, Symbol) or isinstance(other, Symbol):
        return symbol.where(condition, chosen, other)
    return named_module.where(condition, chosen, other)


def _pointwise(name: str, x: Any) -> Any:
    if isinstance(x, Symbol):
        return symbol.record(name, x)
    if isinstance(x, Named):
        return getattr(functions, name)(x)
    raise SpecError(
        f"qkv.{name} takes a Named tensor or, inside a function of coordinates, a symbol; this is "
        f"{type(x).__name__}.\n  For plain tensors use torch.{name}."
    )


def exp(x: Any) -> Any:
    """The natural exponential of a named tensor or a symbol.

    >>> import qkv
    >>> qkv.score(lambda score, i, j: score + qkv.exp(j - i))
    score(score + exp(j - i))
    """
    return _pointwise("exp", x)


def log(x: Any) -> Any:
    """The natural logarithm of a named tensor or a symbol.

    >>> import qkv
    >>> qkv.score(lambda score, i, j: score - qkv.log(abs(i - j) + 1))
    score(score - log(abs(i - j) + 1))
    """
    return _pointwise("log", x)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent of a named tensor or a symbol.

    >>> import qkv
    >>> qkv.score(lambda score: 30.0 * qkv.tanh(score / 30.0))
    score(30 * tanh(score / 30))
    """
    return _pointwise("tanh", x)


def sqrt(x: Any) -> Any:
    """The square root of a named tensor or a symbol.

    >>> import qkv, torch
    >>> qkv.sqrt(qkv.Named(torch.tensor([4.0, 9.0]), "i")).tensor
    tensor([2., 3.])
    """
    return _pointwise("sqrt", x)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two, of named tensors or inside a function of coordinates.

    >>> import qkv
    >>> qkv.score(lambda score, i, j: score - qkv.minimum(i - j, 8))
    score(score - minimum(i - j, 8))
    """
    return symbol.record("min", a, b) if isinstance(a, Symbol) or isinstance(b, Symbol) else functions.minimum(a, b)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two, of named tensors or inside a function of coordinates.

    >>> import qkv
    >>> qkv.score(lambda score, i, j: score - qkv.maximum(i - j, 0))
    score(score - maximum(i - j, 0))
    """
    return symbol.record("max", a, b) if isinstance(a, Symbol) or isinstance(b, Symbol) else functions.maximum(a, b)


def sin(x: Any) -> Any:
    """The sine of a named tensor or a symbol.

    >>> import qkv
    >>> qkv.score(lambda score, i, j: score + qkv.sin(0.1 * (i - j)))
    score(score + sin(0.1 * (i - j)))
    """
    return _pointwise("sin", x)


def cos(x: Any) -> Any:
    """The cosine of a named tensor or a symbol.

    >>> import qkv
    >>> qkv.score(lambda score, i, j: score + qkv.cos(0.1 * (i - j)))
    score(score + cos(0.1 * (i - j)))
    """
    return _pointwise("cos", x)


def erf(x: Any) -> Any:
    """The error function of a named tensor or a symbol.

    >>> import qkv
    >>> qkv.score(lambda score: 30.0 * qkv.erf(score / 30.0))
    score(30 * erf(score / 30))
    """
    return _pointwise("erf", x)


def abs(x: Any) -> Any:
    """The absolute value of a named tensor or a symbol.

    >>> import qkv
    >>> qkv.keep(lambda i, j: qkv.abs(i - j) < 3)
    keep(abs(i - j) < 3)
    """
    return _pointwise("abs", x)


def floor(x: Any) -> Any:
    """The largest whole number not above each element of a named tensor, or not above a symbol.

    >>> import qkv, torch
    >>> qkv.floor(qkv.Named(torch.tensor([1.5, -1.5]), "i")).tensor
    tensor([ 1., -2.])
    """
    return _pointwise("floor", x)
