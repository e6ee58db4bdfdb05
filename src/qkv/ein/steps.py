"""Single steps of a run: values aligned by their coordinates, pointwise functions, axes moved, and lookups.

Each is made from its node once, and then takes values only. Sums and their like are ``sums``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from .attending import computed
from .elems import TORCH
from .graph import Coords, Node, plain, walk

Values = dict[int, Any]
Step = Callable[[Values], Any]


class OutsideError(Exception):
    """An index left its axis; the caller says where."""

    def __init__(self, node: Node, first: int, size: int) -> None:
        super().__init__("outside")
        self.node = node
        self.first = first
        self.size = size


class OneNode:
    """Steps that need nothing but their node and the sizes."""

    torch: Any
    size: Callable[[str], int]
    device: Any
    real: Any
    scanning: bool
    inner: set[int]

    def step(self, node: Node) -> Step:
        """What makes the value of a node; the layer above knows them all."""
        raise NotImplementedError(node.op)

    def dtype(self, elem: str) -> Any:
        """torch's element type."""
        if elem in TORCH:
            return getattr(self.torch, TORCH[elem])
        return self.torch.int64 if elem == "int" else self.real

    def aligned(self, node: Node, coords: Coords) -> Callable[[Any], Any]:
        """A view of a value over ``coords``, axes of size 1 where it lacks one."""
        if not node.coords or node.coords == coords:
            return lambda x: x
        have = [c for c in coords if c in node.coords]
        order = [node.coords.index(c) for c in have]
        missing = [n for n, c in enumerate(coords) if c not in node.coords]
        plain_order = order == list(range(len(order)))
        while missing and missing[0] == 0:  # torch adds axes at the left itself
            missing = [m - 1 for m in missing[1:]]

        def view(x: Any) -> Any:
            if not plain_order:
                x = x.permute(order)
            for at in missing:
                x = x.unsqueeze(at)
            return x

        return view

    def tensor(self, x: Any, elem: str) -> Any:
        """A value as a tensor."""
        return (
            x if isinstance(x, self.torch.Tensor) else self.torch.tensor(x, dtype=self.dtype(elem), device=self.device)
        )

    def now(self, node: Node) -> Any:
        """The value of a node that follows from coordinates and sizes alone."""
        values: Values = {}
        for each in walk(node):
            values[id(each)] = self.step(each)(values)
        return values[id(node)]

    def _index(self, node: Node) -> Step:
        value = self.torch.arange(self.size(node.data), device=self.device)
        return lambda values: value

    def _point(self, node: Node) -> Step:
        views = [self.aligned(a, node.coords) for a in node.args]
        ids = [id(a) for a in node.args]
        function = _pointwise(self.torch)[node.data]
        wanted = self.dtype(node.dtype)
        elems = [a.dtype for a in node.args]
        if (
            node.op == "point" and node.data in ("min", "max", "eq", "ne", "lt", "le", "gt", "ge")
        ) or node.data in _UNARY:
            dtype = next((e for e in elems if e not in ("int", "real")), elems[0])

            def compared(values: Values) -> Any:
                out = function(*(view(self.tensor(values[i], dtype)) for view, i in zip(views, ids, strict=True)))
                return out if out.dtype == wanted else out.to(wanted)

            return self.hoisted(node, compared)

        def run(values: Values) -> Any:
            out = function(*(view(values[i]) for view, i in zip(views, ids, strict=True)))
            return out if not isinstance(out, self.torch.Tensor) or out.dtype == wanted else out.to(wanted)

        return self.hoisted(node, run)

    def hoisted(self, node: Node, run: Step) -> Step:
        """What follows from coordinates alone is made once."""
        if not computed(node) or id(node) in self.inner:
            return run
        values: Values = {}
        for each in walk(node):
            if each is not node:
                values[id(each)] = self.step(each)(values)
        made = run(values)
        return lambda _: made

    def _cast(self, node: Node) -> Step:
        at, elem, dtype = id(node.args[0]), node.args[0].dtype, self.dtype(node.dtype)
        return lambda values: self.tensor(values[at], elem).to(dtype)

    def _strategy(self, node: Node) -> Step:
        at = id(node.args[0])
        return lambda values: values[at]

    _rename = _strategy

    def _only(self, node: Node) -> Step:
        at, dims = id(node.args[0]), tuple(node.args[0].coords.index(c) for c in node.data)
        return lambda values: values[at].squeeze(dims)

    def _expand(self, node: Node) -> Step:
        at, sizes = id(node.args[0]), [self.size(c) for c in node.coords]
        return lambda values: values[at].expand(sizes)

    def _split(self, node: Node) -> Step:
        whole, parts = node.data
        at, dim, sizes = id(node.args[0]), node.args[0].coords.index(whole), [self.size(c) for c in parts]
        return lambda values: values[at].unflatten(dim, sizes)

    def _merge(self, node: Node) -> Step:
        whole, parts = node.data
        source = node.args[0]
        order = [source.coords.index(c) for n in node.coords for c in (parts if n == whole else (n,))]
        at, dim = id(source), node.coords.index(whole)
        return lambda values: values[at].permute(order).flatten(dim, dim + len(parts) - 1)

    def _concat(self, node: Node) -> Step:
        into, own = node.data
        dim = node.coords.index(into)
        orders = [
            [a.coords.index(name if c == into else c) for c in node.coords]
            for a, name in zip(node.args, own, strict=True)
        ]
        ids = [id(a) for a in node.args]
        return lambda values: self.torch.cat([values[i].permute(o) for i, o in zip(ids, orders, strict=True)], dim)

    def _gather(self, node: Node) -> Step:
        source, index = node.args[0], node.args[1]
        guard = node.args[2] if len(node.args) > 2 else None
        axis = source.coords.index(node.data)
        size = self.size(node.data)
        views: dict[int, Any] = {}
        for n, c in enumerate(source.coords):
            if c != node.data:
                views[n] = self.aligned(Node("", 0, (), (c,), "int"), node.coords)(
                    self.torch.arange(self.size(c), device=self.device)
                )
        view = self.aligned(index, node.coords)
        both = tuple(dict.fromkeys((*index.coords, *(guard.coords if guard is not None else ()))))
        wide, mask = self.aligned(index, both), None if guard is None else self.aligned(guard, both)
        source_at, index_at, guard_at = id(source), id(index), None if guard is None else id(guard)
        places, sizes = range(len(source.coords)), [self.size(c) for c in node.coords]
        name = plain(node.data)

        def check(at: Any, kept: Any) -> None:
            beyond = (at < 0) | (at >= size)
            if mask is not None:
                beyond = wide(beyond) & mask(self.tensor(kept, "bool"))
            if self.torch.compiler.is_compiling():  # a graph cannot branch on values; it checks when it runs
                checked: Any = self.torch._assert_async  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
                checked(~beyond.any(), f"an index of {name} is outside 0..{size}")
            elif bool(beyond.any()):
                raise OutsideError(node, int(wide(at).expand(beyond.shape)[beyond][0]), size)

        # what follows from coordinates alone is the same at every call, but not at every step of a recurrence
        once = computed(index) and (guard is None or computed(guard)) and not self.scanning
        if once:
            check(self.tensor(self.now(index), "int"), None if guard is None else self.now(guard))

        def run(values: Values) -> Any:
            at = self.tensor(values[index_at], "int")
            if not once:
                check(at, None if guard_at is None else values[guard_at])
            if guard_at is not None:
                at = at.clamp(0, max(size - 1, 0))
            indices = tuple([view(at) if n == axis else views[n] for n in places])
            return values[source_at][indices].expand(sizes)

        return run


_UNARY = frozenset(
    {"exp", "log", "sqrt", "tanh", "sin", "cos", "abs", "floor", "relu", "sigmoid", "silu", "gelu", "erf", "not"}
)


def _select(condition: Any, chosen: Any, other: Any) -> Any:
    import torch

    if isinstance(condition, torch.Tensor):
        return torch.where(condition, chosen, other)
    return chosen if condition else other


def _pointwise(torch: Any) -> Mapping[str, Callable[..., Any]]:
    functional = torch.nn.functional
    signs: Any = operator
    return {
        "add": signs.add, "sub": signs.sub, "mul": signs.mul, "div": signs.truediv, "mod": signs.mod,
        "pow": signs.pow, "neg": signs.neg, "and": signs.and_, "or": signs.or_, "select": _select,
        "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge, "eq": torch.eq, "ne": torch.ne,
        "not": torch.logical_not, "min": torch.minimum, "max": torch.maximum, "exp": torch.exp, "log": torch.log,
        "sqrt": torch.sqrt, "tanh": torch.tanh, "sin": torch.sin, "cos": torch.cos, "abs": torch.abs,
        "floor": torch.floor, "relu": torch.relu, "sigmoid": torch.sigmoid, "silu": functional.silu,
        "gelu": functional.gelu, "erf": torch.erf,
    }  # fmt: skip
