"""Partial results over disjoint keys, made one: how a prefix that many sequences share is attended to once.

A softmax over all keys follows from the softmax over each part and its lse. This module knows outputs and lse; it
refuses to know where they come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..coords import Named
from ..errors import DtypeError, ShapeError, SpecError
from ..plan import Plan
from .ordinary import ordinary
from .result import Result

if TYPE_CHECKING:
    from torch import Tensor


APART = 80.0
"""Numbers less far apart have exponentials that are no less than the least normal float32 beside one another."""


PIECE = 30_000
"""Elements of a piece, a little under torch's 32,768, from which on it uses several threads."""

PIECES = 16
"""Outputs of more pieces are left to torch's threads."""


def merge(a: Result, b: Result) -> Result:
    """The result over all keys, from two results of the same queries over disjoint keys.

    Both need their ``lse``: ``spec.run(..., want="lse")``. ``out = (exp(lse_a) a + exp(lse_b) b) / (exp(lse_a) +
    exp(lse_b))``, in float32 at least; associative up to rounding. A row that keeps nothing in one part is the other's,
    bit for bit; in both, exactly 0 with lse -inf. A sink belongs to one part alone, and statistics are not merged.
    Raises ``SpecError`` for a missing lse and differential weights, ``ShapeError`` for other queries, ``DtypeError``
    for other types. Source: Milakov and Gimelshein 2018 (arXiv 1805.02867).

    >>> import qkv, torch
    >>> q, k, v = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 10, 8), torch.randn(1, 2, 10, 8)
    >>> spec = qkv.Spec()
    >>> first = spec.run(q, k[:, :, :6], v[:, :, :6], want="lse")
    >>> second = spec.run(q, k[:, :, 6:], v[:, :, 6:], want="lse")
    >>> torch.allclose(qkv.merge(first, second).output, spec(q, k, v), atol=1e-6)
    True
    """
    _check(a, b)
    if isinstance(a.output, Named):
        return _named(a, b)
    if _is_usual(a, b):
        return _usual(a, b)
    one, two = a.lse.to(torch.promote_types(a.lse.dtype, torch.float32)), b.lse
    largest = torch.maximum(one, two)
    level = torch.where(largest == -torch.inf, 0.0, largest)
    first, second = torch.exp(one - level), torch.exp(two - level)
    total = first + second
    safe = torch.where(total == 0, 1.0, total)
    lse = torch.where(largest == -torch.inf, largest, level + torch.log(safe))
    axes = a.output.dim() - a.lse.dim()
    shares = [_spread(x / safe, a.output.shape, axes) for x in (first, second)]
    # a part without keys has the share 0 and may hold anything where its lse says so: it is not multiplied
    parts = [torch.where(s == 0, 0.0, s * x.output) for s, x in zip(shares, (a, b), strict=True)]
    output = (parts[0] + parts[1]).to(a.output.dtype)
    output = torch.where(_spread(two, output.shape, axes) == -torch.inf, a.output, output)
    output = torch.where(_spread(one, output.shape, axes) == -torch.inf, b.output, output)
    lse = torch.where(two == -torch.inf, one, torch.where(one == -torch.inf, two, lse))
    return Result(output, lse, {}, _plan(a.plan, b.plan))


def _is_usual(a: Result, b: Result) -> bool:
    """Whether both parts have a share in every row, which is above 0, and nothing but numbers is asked for."""
    return (
        not torch.compiler.is_compiling()
        and a.lse.dtype == b.lse.dtype == a.output.dtype
        and a.output.dtype in (torch.float32, torch.float64)
        and ordinary(a.output, b.output, a.lse)
        and ordinary(b.lse, b.lse, b.lse)
        and bool(((a.lse - b.lse).abs() < APART).all())  # false for infinities and NaN
    )


def _usual(a: Result, b: Result) -> Result:
    """The same bits as by ``merge``, without what it does for rows that a part has no share in."""
    level = torch.maximum(a.lse, b.lse)
    first, second = torch.exp(a.lse - level), torch.exp(b.lse - level)
    total = first + second
    shape = (*total.shape, *([1] * (a.output.dim() - total.dim())))
    shares = [(x / total).reshape(shape) for x in (first, second)]
    return Result(_weighed(shares, a.output, b.output), level + torch.log(total), {}, _plan(a.plan, b.plan))


def _weighed(shares: list[Tensor], one: Tensor, two: Tensor) -> Tensor:
    """Both outputs times their shares, added. In pieces that torch takes by one thread: on a busy machine its threads
    wait for one another much longer than such a piece takes.
    """
    count = one.numel() // PIECE + 1
    axis = max(range(one.dim()), key=lambda n: one.shape[n])
    if count == 1 or count > min(PIECES, one.shape[axis]):
        return shares[0] * one + shares[1] * two
    output = torch.empty_like(one)
    wide = [x.expand(one.shape) for x in shares]
    cut = [x.tensor_split(count, axis) for x in (output, *wide, one, two)]
    for to, first, second, x, y in zip(*cut, strict=True):
        torch.mul(first, x, out=to)
        to += second * y
    return output


def _plan(a: Plan, b: Plan) -> Plan:
    """What ran, of both parts together."""
    names = a.strategy if a.strategy == b.strategy else f"{a.strategy} + {b.strategy}"
    return Plan(
        names,
        f"two parts merged by lse: {a.reason}; {b.reason}",
        {**a.refused, **b.refused},
        a.flops + b.flops,
        a.bytes + b.bytes,
        max(a.scratch_bytes, b.scratch_bytes),
    )


def _spread(x: Tensor, shape: torch.Size, axes: int) -> Tensor:
    """A number for each row over the value features, which stand last."""
    return x.reshape(*x.shape, *([1] * axes)).expand(shape)


def _check(a: Any, b: Any) -> None:
    for name, x in (("a", a), ("b", b)):
        if not isinstance(x, Result) or x.lse is None:
            raise SpecError(
                f"merge: {name} {'has no lse' if isinstance(x, Result) else f'is {type(x).__name__}, not a Result'}.\n"
                '  Ask for it: spec.run(q, k, v, want="lse").'
            )
    if type(a.output) is not type(b.output):
        raise DtypeError("merge: one result is Named and the other is not.\n  Name both, or none.")
    one, two = (x.output.tensor if isinstance(x.output, Named) else x.output for x in (a, b))
    if one.shape != two.shape or (isinstance(a.output, Named) and a.output.names != b.output.names):
        raise ShapeError(
            f"merge: the outputs have the shapes {tuple(one.shape)} and {tuple(two.shape)}.\n"
            "  Both are results of the same queries, over different keys."
        )
    if one.dtype != two.dtype or one.device != two.device:
        raise DtypeError(
            f"merge: the outputs are {one.dtype} on {one.device} and {two.dtype} on {two.device}.\n"
            "  Both are results of the same queries, over different keys."
        )
    lse = a.lse.tensor if isinstance(a.lse, Named) else a.lse
    if lse.dim() >= one.dim() or tuple(lse.shape) != tuple(one.shape[: lse.dim()]):
        raise SpecError(
            f"merge: the lse has the shape {tuple(lse.shape)}, and the output {tuple(one.shape)}.\n"
            "  Value features stand last in the output, and rows have one lse: differential weights have two maps, "
            "which are merged before they are subtracted."
        )


def _named(a: Result, b: Result) -> Result:
    """The same under names."""
    plain = [Result(x.output.tensor, x.lse.tensor, {}, x.plan) for x in (a, b)]
    made = merge(plain[0], plain[1])
    return Result(Named(made.output, a.output.names), Named(made.lse, a.lse.names), {}, made.plan)
