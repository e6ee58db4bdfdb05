"""Running a graph in torch, sizes being known: every node once, operands first, with autograd.

Tensors are laid out in the order of their nodes' coordinates. A row that keeps nothing is 0, as everywhere in qkv; an
index outside its axis is an error unless a condition excludes it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from .. import limits
from ..errors import InternalError, LimitError
from ..spec import Spec, door
from ..terms.expr import Opening
from .attending import Attention, computed, product
from .elems import TORCH
from .graph import Coords, Node, plain, walk
from .lower import Lowering, number

if TYPE_CHECKING:
    from torch import Tensor

Values = dict[int, Any]
Step = Callable[[Values], Any]
_CONSTANT = frozenset({"number", "size", "point"})


class OutsideError(Exception):
    """An index left its axis; the caller says where."""

    def __init__(self, node: Node, first: int, size: int) -> None:
        super().__init__("outside")
        self.node = node
        self.first = first
        self.size = size


class Machine:
    """A graph made ready for one signature: a list of steps."""

    def __init__(self, outputs: list[Node], size: Callable[[str], int], dtype: str, device: Any) -> None:
        import torch

        self.torch = torch
        self.size = size
        self.device = device
        self.real = torch.float64 if dtype == "f64" else torch.float32
        self.outputs = outputs
        self.made = [id(o) for o in outputs]
        self.scanning = False
        self.attentions: list[tuple[Node, Lowering]] = []
        self.openings: dict[int, Opening] = {}
        self.inner: set[int] = set()
        self.after: dict[int, int] = {}
        nodes = list(walk(*outputs))
        for node in nodes:
            if node.op == "scan":
                self.inner |= {
                    id(n)
                    for n in walk(node.args[-1])
                    if any(m.op == "self" and m.data[0] == node.data[0] for m in walk(n))
                }
        needed = self.needed(nodes)
        self.steps: list[tuple[int, Step]] = [
            (id(n), self.step(n)) for n in nodes if id(n) in needed and id(n) not in self.inner and n.op != "parameter"
        ]

    def needed(self, nodes: list[Node]) -> set[int]:
        """The nodes whose values something reads: a product inside a contraction is never made."""
        wanted = {id(o) for o in self.outputs}
        for node in reversed(nodes):
            if id(node) in wanted:
                wanted |= {id(a) for a in self.reads(node)}
        return wanted

    def reads(self, node: Node) -> tuple[Node, ...]:
        """The operands that the step of a node reads."""
        parts = self.contracted(node)
        return tuple(parts) if parts is not None else node.args

    def contracted(self, node: Node) -> list[Node] | None:
        """The factors of a sum of products, which torch contracts without making the product."""
        if node.op != "reduce" or node.data[0] != "sum" or len(node.args) > 1:
            return None
        above, under = product(next(iter(node.args)))
        if under or sum(1 for a in above if a.coords) < 2 or any(a.dtype != node.dtype for a in above if a.coords):
            return None
        letters = {c for a in above for c in a.coords}
        return above if len(letters) <= 52 and set(node.data[1]) <= letters and node.dtype != "bool" else None

    def run(self, values: Values) -> list[Any]:
        """The results; ``values`` holds the parameters by the ids of their nodes."""
        for at, step in self.steps:
            values[at] = step(values)
        return [values[at] for at in self.made]

    # single nodes

    def dtype(self, elem: str) -> Any:
        """torch's element type."""
        if elem in TORCH:
            return getattr(self.torch, TORCH[elem])
        return self.torch.int64 if elem == "int" else self.real

    def step(self, node: Node) -> Step:
        """What makes the value of a node."""
        if node.op in _CONSTANT and computed(node) and not node.coords:
            value = number(node, self.size)
            return lambda values: value
        made = getattr(self, f"_{node.op}", None)
        if made is None:
            raise InternalError(f"nothing runs {node.op}; please report this")
        return cast("Step", made(node))

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

    def now(self, node: Node) -> Any:
        """The value of a node that follows from coordinates and sizes alone."""
        values: Values = {}
        for each in walk(node):
            values[id(each)] = self.step(each)(values)
        return values[id(node)]

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

    def _attention(self, node: Node) -> Step:
        lowering = Lowering(node, self.size)
        self.attentions.append((node, lowering))
        data: Attention = node.data
        q, k, v = (id(a) for a in node.args[:3])
        spec = self.spec_of(lowering)
        order = [next(a for a in lowering.captures if self.openings[id(a)] is o) for o in spec.openings]
        extras = [(id(a), a.dtype) for a in order]
        sequences = {self.size(c) for c in (*data.key, *(r for r in data.rows if r not in data.shared))}
        options: dict[str, Any] = {"align": "start"} if len(sequences) > 1 else {}
        lone = not data.values
        asked = data.strategy if data.strategy not in (None, "flash") else None

        def call(values: Values) -> Any:
            value = values[v].unsqueeze(-1) if lone else values[v]
            if not extras:
                return door().output(spec, values[q], values[k], value, options)
            given = tuple([self.tensor(values[at], elem) for at, elem in extras])
            return door().filled(spec, values[q], values[k], value, options, given)

        def run(values: Values) -> Any:
            if asked is None:
                out = call(values)
            else:
                with door().forced(asked):
                    out = call(values)
            return out.squeeze(-1) if lone else out

        return run

    def spec_of(self, lowering: Lowering) -> Spec:
        """The spec of an attention, with an opening for each tensor that its masks and scores read."""
        for node in lowering.captures:
            if id(node) not in self.openings:
                # one element stands for all: the shape is known, and what fills it comes with each call
                one = self.torch.empty((), dtype=self.dtype(node.dtype), device=self.device)
                shape = [self.size(c) for c in node.coords]
                self.openings[id(node)] = Opening(one.expand(shape), plain(node.name) or "tensor")
        return lowering.spec(self.openings)

    def _scan(self, node: Node) -> Step:
        key, time, first = node.data
        body, bases = node.args[-1], node.args[:-1]
        total = self.size(time)
        if total > limits.EIN_STEPS:
            raise LimitError(
                f"a recurrence of {total} steps is longer than {limits.EIN_STEPS}.\n  Write it in chunks, or as a sum."
            )
        others = tuple(c for c in node.coords if c != time)
        inner = [n for n in walk(body) if id(n) in self.inner]
        outer = {id(a): a for n in inner for a in n.args if id(a) not in self.inner}
        sliced = {i: a for i, a in outer.items() if time in a.coords}
        steps: list[tuple[Node, Step | None]] = []
        cut = {id(n): n for n in inner}
        replaced: dict[int, Node] = {}
        for n in (*sliced.values(), *inner):
            coords = tuple(c for c in n.coords if c != time)
            replaced[id(n)] = Node(n.op, n.data, tuple(replaced.get(id(a), a) for a in n.args), coords, n.dtype, n.span)
        self.scanning = True
        for n in inner:
            made = replaced[id(n)]
            steps.append((made, None if n.op == "self" else self.step(made)))
        self.scanning = False
        sizes = [self.size(c) for c in others]
        last = replaced.get(id(body))
        wanted = self.dtype(node.dtype)
        views = [self.aligned(b, others) for b in bases]
        del cut

        def run(values: Values) -> Any:
            made: list[Tensor] = [
                view(self.tensor(values[id(b)], node.dtype)).to(wanted).expand(sizes)
                for b, view in zip(bases, views, strict=True)
            ]
            if last is None:
                out = self.aligned(body, node.coords)(self.tensor(values[id(body)], body.dtype)).expand(
                    [self.size(c) for c in node.coords]
                )
                return self.torch.cat(
                    [
                        self.torch.stack(made, node.coords.index(time)),
                        out.narrow(node.coords.index(time), first, total - first),
                    ],
                    node.coords.index(time),
                )
            for t in range(first, total):
                here = dict(values)
                for i, a in sliced.items():
                    here[id(replaced[i])] = self.tensor(values[i], a.dtype).select(a.coords.index(time), t)
                for each, step in steps:
                    here[id(each)] = made[t - each.data[1]] if step is None else step(here)
                made.append(
                    self.aligned(last, others)(self.tensor(here[id(last)], body.dtype)).to(wanted).expand(sizes)
                )
            return self.torch.stack(made[:total], node.coords.index(time))

        del key
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
