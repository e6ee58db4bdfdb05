"""Reductions, softmax and contraction of named tensors, over coordinates that are named.

Knows what each makes of nothing: a mean or a softmax over no kept element is exactly 0, a maximum or logsumexp -inf,
with gradients of exactly 0; elements that ``where`` does not keep never enter, NaN included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from qkv.coords.align import align, check_sizes
from qkv.coords.arithmetic import nameless
from qkv.coords.labelled import Labelled
from qkv.coords.names import pick
from qkv.coords.text import quoted, sized
from qkv.errors import CoordinateError, DtypeError, ShapeError

if TYPE_CHECKING:
    from typing import Self

    import torch
    from torch import Tensor

_Dims = tuple[int, ...]
_INFINITY = math.inf


def _need_float(tensor: Labelled, operation: str) -> None:
    if not tensor.tensor.is_floating_point() and not tensor.tensor.is_complex():
        raise DtypeError(
            f"{operation} is asked of {tensor!r}, and its result is no integer or truth value.\n"
            "  Convert it first: x.to(torch.float32)"
        )


def _lowest(dtype: torch.dtype) -> float | int | bool:
    """What a maximum over nothing is; for integers the smallest of the type, for lack of -inf."""
    import torch

    if dtype.is_floating_point:
        return -_INFINITY
    return False if dtype == torch.bool else torch.iinfo(dtype).min


def _highest(dtype: torch.dtype) -> float | int | bool:
    import torch

    if dtype.is_floating_point:
        return _INFINITY
    return True if dtype == torch.bool else torch.iinfo(dtype).max


class Reductions(Labelled):
    """Reductions of ``Named``; each takes names, none meaning all, and drops their axes unless it says otherwise.

    ``where`` is a named truth tensor: only elements at which it holds enter. Its names that the tensor lacks are added.
    """

    __slots__ = ()

    def _axes(self, names: tuple[str, ...], operation: str) -> tuple[_Dims, tuple[str, ...]]:
        """The axes of the names, all when none is given, and the names that remain."""
        picked = self.pick(names, operation) if names else self.names
        return tuple(map(self.names.index, picked)), tuple(name for name in self.names if name not in picked)

    def _axis(self, name: str, operation: str) -> int:
        """The axis of the one name that the operation takes."""
        picked = self.pick((name,), operation)
        if len(picked) != 1:
            raise CoordinateError(
                f"{operation} takes one coordinate, and {len(picked)} are named.\n    tensor: {self!r}\n"
                "  Name one, or merge them first: x.merge(..., into=...)"
            )
        return self.names.index(picked[0])

    def _masked(self, where: Labelled, operation: str) -> tuple[tuple[str, ...], Tensor, Tensor]:
        """All names, the tensor and the truth values, aligned; refuses what is no named truth tensor."""
        if not isinstance(where, Labelled):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all type checked
            raise nameless(where, f"where= of {operation}") or CoordinateError(
                f"where= of {operation} is {where!r:.80}, and a named truth tensor is expected.\n"
                '  Name it: qkv.Named(mask, "i j"); it holds where an element is kept.'
            )
        import torch

        if where.dtype != torch.bool:
            raise DtypeError(
                f"where= of {operation} is {where!r}, and truth values are expected.\n"
                "  A mask says what is kept: compare, such as where=mask > 0"
            )
        names, (tensor, keep) = align((self, where), ("tensor", "where"), operation)
        return names, tensor, keep

    def _kept(self, where: Labelled | None, fill: float | int | bool, operation: str) -> Self:
        if where is None:
            return self
        names, tensor, keep = self._masked(where, operation)
        return self._with(tensor.where(keep, fill), names)

    def _reduce(
        self,
        names: tuple[str, ...],
        where: Labelled | None,
        fill: float | int | bool,
        operation: str,
        function: Callable[[Tensor, _Dims], Tensor],
    ) -> Self:
        kept = self._kept(where, fill, operation)
        dims, remaining = kept._axes(names, operation)
        # torch reads an empty list of axes as all of them, so reducing over nothing reduces over an axis of size one.
        return kept._with(function(kept.tensor, dims) if dims else function(kept.tensor.unsqueeze(0), (0,)), remaining)

    def sum(self, *names: str, where: Labelled | None = None) -> Self:
        """The sum over the named coordinates, over all when none is named; 0 over nothing."""
        return self._reduce(names, where, 0, "sum", lambda tensor, dims: tensor.sum(dims))

    def mean(self, *names: str, where: Labelled | None = None) -> Self:
        """The mean over the named coordinates; exactly 0 where nothing is kept, as a dead row of attention is."""
        _need_float(self, "mean")
        if where is None:
            return self._reduce(names, None, 0, "mean", _mean)
        union, tensor, keep = self._masked(where, "mean")
        count = self._with(keep.expand(tensor.where(keep, 0).shape), union).sum(*names)
        total = self.sum(*names, where=where)
        return total._with(total.tensor / count.tensor.clamp(min=1), total.names)

    def prod(self, *names: str, where: Labelled | None = None) -> Self:
        """The product over the named coordinates; 1 over nothing."""

        return self._reduce(names, where, 1, "prod", _product)

    def max(self, *names: str, where: Labelled | None = None) -> Self:
        """The largest element; over nothing -inf, for integers the smallest of their type. Ties share the gradient."""
        least = _lowest(self.dtype)

        def largest(tensor: Tensor, dims: _Dims) -> Tensor:
            return _if_any(tensor, dims, least) if 0 in tensor.shape else tensor.amax(dims)

        return self._reduce(names, where, least, "max", largest)

    def min(self, *names: str, where: Labelled | None = None) -> Self:
        """The smallest element; over nothing inf, for integers the largest of their type. Ties share the gradient."""
        most = _highest(self.dtype)

        def smallest(tensor: Tensor, dims: _Dims) -> Tensor:
            return _if_any(tensor, dims, most) if 0 in tensor.shape else tensor.amin(dims)

        return self._reduce(names, where, most, "min", smallest)

    def any(self, *names: str, where: Labelled | None = None) -> Self:
        """Whether one element holds; False over nothing."""
        return self._reduce(names, where, False, "any", lambda tensor, dims: tensor.any(dims))._truth()

    def all(self, *names: str, where: Labelled | None = None) -> Self:
        """Whether every element holds; True over nothing."""
        return self._reduce(names, where, True, "all", lambda tensor, dims: tensor.all(dims))._truth()

    def _truth(self) -> Self:
        return self._map(lambda tensor: tensor.bool())

    def argmax(self, name: str) -> Self:
        """The index of the first largest element along one coordinate; ShapeError when its size is 0."""
        return self._index_of(name, "argmax", lambda tensor, dim: tensor.argmax(dim))

    def argmin(self, name: str) -> Self:
        """The index of the first smallest element along one coordinate; ShapeError when its size is 0."""
        return self._index_of(name, "argmin", lambda tensor, dim: tensor.argmin(dim))

    def _index_of(self, name: str, operation: str, function: Callable[[Tensor, int], Tensor]) -> Self:
        import torch

        dim = self._axis(name, operation)
        if self.tensor.shape[dim] == 0:
            raise ShapeError(f'{operation} over "{name}" of {self!r}: no element is there.\n  Give at least one.')
        tensor = self.tensor.to(torch.uint8) if self.dtype == torch.bool else self.tensor
        return self._with(function(tensor, dim), self.names[:dim] + self.names[dim + 1 :])

    def cumsum(self, name: str) -> Self:
        """The sum of the elements up to and with each one, along one coordinate."""
        dim = self._axis(name, "cumsum")
        return self._map(lambda tensor: tensor.cumsum(dim))

    def logsumexp(self, *names: str, where: Labelled | None = None) -> Self:
        """log(sum(exp(x))) over the named coordinates; -inf over nothing, with a gradient of 0."""
        _need_float(self, "logsumexp")
        return self._reduce(names, where, -_INFINITY, "logsumexp", _logsumexp)

    def softmax(self, *names: str, where: Labelled | None = None) -> Self:
        """Weights that sum to 1 over the named coordinates together; the coordinates stay.

        At least one name is needed. A row in which nothing is kept, because ``where`` says so or every element is
        -inf, gives exactly 0 with a gradient of 0: the meaning of a row without keys everywhere in qkv.
        """
        return self._normalised(names, where, "softmax", _softmax)

    def log_softmax(self, *names: str, where: Labelled | None = None) -> Self:
        """The logarithm of ``softmax``; -inf where nothing is kept."""
        return self._normalised(names, where, "log_softmax", _log_softmax)

    def _normalised(
        self, names: tuple[str, ...], where: Labelled | None, operation: str, function: Callable[[Tensor, int], Tensor]
    ) -> Self:
        _need_float(self, operation)
        kept = self._kept(where, -_INFINITY, operation)
        picked = kept.pick(names, operation)
        if not picked:
            raise CoordinateError(
                f"{operation} is given no coordinate to normalise over.\n    tensor: {kept!r}\n"
                f'  Name it, such as x.{operation}("{kept.names[-1] if kept.names else "j"}")'
            )
        dims = tuple(map(kept.names.index, picked))
        if len(dims) == 1:
            return kept._map(lambda tensor: function(tensor, dims[0]))
        last = tuple(range(-len(dims), 0))

        def together(tensor: Tensor) -> Tensor:
            moved = tensor.movedim(dims, last)
            return function(moved.flatten(-len(dims)), -1).reshape(moved.shape).movedim(last, dims)

        return kept._map(together)

    def dot(self, other: Labelled, *names: str) -> Self:
        """The sum over the named coordinates of the product: the contraction of two named tensors.

        Both must carry each name, with one size. The result carries the union of the other names, this tensor's first.
        """
        if not isinstance(other, Labelled):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all type checked
            raise nameless(other, "dot") or CoordinateError(
                f"dot is given {other!r:.80}, and a named tensor is expected.\n  With a number, write a * b."
            )
        both = f"    left:  {sized(self.sizes)}\n    right: {sized(other.sizes)}"
        if not names:
            shared = [name for name in self.names if name in other.names]
            raise CoordinateError(
                f"dot is given no coordinate to contract.\n{both}\n  Name it, such as a.dot(b, "
                f'"{shared[-1] if shared else "d"}"); both carry {quoted(shared) or "none"}.'
            )
        picked = pick(names, {**self.sizes, **other.sizes}, "dot")
        for name in picked:
            if name not in self.names or name not in other.names:
                lone = "left" if name in self.names else "right"
                raise CoordinateError(
                    f'dot contracts "{name}", which only the {lone} operand carries.\n{both}\n'
                    f'  To sum it away, write .sum("{name}") on that operand.'
                )
        union = check_sizes((self, other), ("left", "right"), "dot")
        remaining = tuple(name for name in union if name not in picked)
        return self._with(_einsum(self, other, union, remaining), remaining)


def _einsum(a: Labelled, b: Labelled, union: tuple[str, ...], remaining: tuple[str, ...]) -> Tensor:
    import torch

    dtype = torch.promote_types(a.dtype, b.dtype)
    if dtype == torch.bool:
        raise DtypeError(
            f"dot of {a!r} and {b!r}: truth values have no product to sum.\n  Convert one: x.to(torch.int64)"
        )
    left, right, result = ([union.index(name) for name in names] for names in (a.names, b.names, remaining))
    return torch.einsum(a.tensor.to(dtype), left, b.tensor.to(dtype), right, result)


def _mean(tensor: Tensor, dims: _Dims) -> Tensor:
    return tensor.sum(dims) if 0 in tensor.shape else tensor.mean(dims)


def _product(tensor: Tensor, dims: _Dims) -> Tensor:
    for dim in sorted(dims, reverse=True):
        tensor = tensor.prod(dim)
    return tensor


def _if_any(tensor: Tensor, dims: _Dims, otherwise: float | int | bool) -> Tensor:
    """A maximum or minimum of a tensor without elements: no rows, or rows that hold nothing."""
    return tensor.new_full([size for dim, size in enumerate(tensor.shape) if dim not in dims], otherwise)


def _dead(tensor: Tensor, dims: _Dims) -> Tensor:
    """Where a row keeps nothing: its gradient must be 0, and -inf minus -inf would make it NaN."""
    return (tensor == -_INFINITY).all(dims, keepdim=True)


def _logsumexp(tensor: Tensor, dims: _Dims) -> Tensor:
    dead = _dead(tensor, dims)
    return tensor.masked_fill(dead, 0).logsumexp(dims, keepdim=True).masked_fill(dead, -_INFINITY).squeeze(dims)


def _softmax(tensor: Tensor, dim: int) -> Tensor:
    dead = _dead(tensor, (dim,))
    return tensor.masked_fill(dead, 0).softmax(dim).masked_fill(dead, 0)


def _log_softmax(tensor: Tensor, dim: int) -> Tensor:
    dead = _dead(tensor, (dim,))
    return tensor.masked_fill(dead, 0).log_softmax(dim).masked_fill(dead, -_INFINITY)
