"""Steps that reduce: sums and their like, softmax, contractions.

A row that keeps nothing is 0 in softmax and -inf in logsumexp, as everywhere in qkv.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from .attending import product
from .graph import Coords, Node
from .steps import OneNode, Step, Values


class Sums(OneNode):
    """Reductions."""

    def _cumsum(self, node: Node) -> Step:
        at, dim = id(node.args[0]), node.coords.index(node.data)
        return lambda values: values[at].cumsum(dim)

    def kept(self, node: Node, fill: Any) -> tuple[Callable[[Values], Any], Coords]:
        """The operand of a reduction with ``fill`` where its condition does not hold, and its coordinates."""
        body = node.args[0]
        if len(node.args) == 1:
            elem, at = body.dtype, id(body)
            return (lambda values: self.tensor(values[at], elem)), body.coords
        mask = node.args[1]
        coords = tuple(dict.fromkeys((*body.coords, *mask.coords)))
        view, seen = self.aligned(body, coords), self.aligned(mask, coords)

        def run(values: Values) -> Any:
            return self.torch.where(
                seen(self.tensor(values[id(mask)], "bool")), view(self.tensor(values[id(body)], body.dtype)), fill
            )

        return run, coords

    def _softmax(self, node: Node) -> Step:
        kind, names = node.data
        operand, coords = self.kept(node, -math.inf)
        dims = tuple(coords.index(c) for c in names)

        def run(values: Values) -> Any:
            x = operand(values)
            dead = (
                (x == -math.inf).all(dim=dims[0], keepdim=True)
                if len(dims) == 1
                else (x == -math.inf).flatten().view(x.shape).amin(dims, keepdim=True)
            )
            lse = self.torch.logsumexp(x.masked_fill(dead, 0), dims, keepdim=True)
            if kind == "log_softmax":
                return (x.masked_fill(dead, 0) - lse).masked_fill(dead, -math.inf)
            return self.torch.exp(x.masked_fill(dead, 0) - lse).masked_fill(dead, 0)

        return run

    def _reduce(self, node: Node) -> Step:
        parts = self.contracted(node)
        if parts is not None:
            return self.einsum(node, parts)
        kind, names = node.data
        integer = node.args[0].dtype in ("int", "i32", "i64")
        info = self.torch.iinfo(self.dtype(node.args[0].dtype)) if integer else None
        fill = {
            "sum": 0, "mean": 0, "prod": 1, "any": False, "all": True, "logsumexp": -math.inf,
            "max": info.min if info else -math.inf, "min": info.max if info else math.inf,
        }.get(kind, 0)  # fmt: skip
        operand, coords = self.kept(node, fill)
        dims = [coords.index(c) for c in names]
        count: Step | None = None
        if kind == "mean" and len(node.args) == 2:
            mask = node.args[1]
            seen = self.aligned(mask, coords)
            sizes = [self.size(c) for c in coords]
            count = lambda values: seen(self.tensor(values[id(mask)], "bool")).expand(sizes).sum(dims).clamp(min=1)  # noqa: E731
        function = None if kind == "prod" else _reductions(self.torch)[kind]

        def run(values: Values) -> Any:
            x = operand(values)
            if count is not None:
                return x.sum(dims) / count(values)
            if function is None:  # torch multiplies along one axis at a time
                for dim in sorted(dims, reverse=True):
                    x = x.prod(dim)
                return x
            return function(x, dims)

        return run

    def einsum(self, node: Node, parts: list[Node]) -> Step:
        """A contraction."""
        letters = {c: n for n, c in enumerate(dict.fromkeys(c for p in parts for c in p.coords))}
        tensors = [(id(p), [letters[c] for c in p.coords]) for p in parts if p.coords]
        scalars = [id(p) for p in parts if not p.coords]
        out = [letters[c] for c in node.coords]

        def run(values: Values) -> Any:
            operands: list[Any] = []
            for at, axes in tensors:
                operands += [values[at], axes]
            made = self.torch.einsum(*operands, out)
            for at in scalars:
                made = made * values[at]
            return made

        return run

    def contracted(self, node: Node) -> list[Node] | None:
        """The factors of a sum of products, which torch contracts without making the product."""
        if node.op != "reduce" or node.data[0] != "sum" or len(node.args) > 1:
            return None
        above, under = product(next(iter(node.args)))
        if under or sum(1 for a in above if a.coords) < 2 or any(a.dtype != node.dtype for a in above if a.coords):
            return None
        letters = {c for a in above for c in a.coords}
        return above if len(letters) <= 52 and set(node.data[1]) <= letters and node.dtype != "bool" else None


def _reductions(torch: Any) -> Mapping[str, Callable[[Any, list[int]], Any]]:
    def logsumexp(x: Any, dims: list[int]) -> Any:
        dead = (x == -math.inf).to(torch.uint8).amin(dims, keepdim=True).bool()
        return x.masked_fill(dead, 0).logsumexp(dims, keepdim=True).masked_fill(dead, -math.inf).squeeze(dims)

    def every(x: Any, dims: list[int]) -> Any:
        return x.logical_not().sum(dims) == 0

    def some(x: Any, dims: list[int]) -> Any:
        return x.sum(dims) > 0

    def first(x: Any, dims: list[int]) -> Any:
        return x.argmax(dims[0])

    def least(x: Any, dims: list[int]) -> Any:
        return x.argmin(dims[0])

    return {
        "sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin, "any": some, "all": every,
        "logsumexp": logsumexp, "argmax": first, "argmin": least,
    }  # fmt: skip
