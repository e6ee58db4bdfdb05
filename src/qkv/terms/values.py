"""The reader for values: an expression graph evaluated in torch, over coordinates laid out for broadcasting.

Every coordinate comes as a tensor with one long axis, in a fixed order of axes, so that each value has exactly the
axes it depends on. A lookup outside its table is clamped for safety and noted; the caller decides whether a kept key
saw it. This module refuses to know which axes those are: dense, by blocks and for one row are all the same to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from ..errors import InternalError
from .expr import Apply, Captured, Constant, Index, Kind, Lookup, Node, Position, Score, Size, children, walk

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(slots=True)
class Environment:
    """What the leaves of a graph mean in one place.

    ``indices`` and ``positions`` map coordinates to int64 tensors that broadcast against each other; ``tables`` maps
    captured tensors to the ones to read (the same ones when absent); ``dtype`` is that of float constants and results;
    ``inside`` holds the lookups that are known to stay in their tables. ``outside`` collects, for each other lookup
    that left its table, the lookup and where. Where gradients are taken by torch, ``flows`` says at which pairs they
    may flow (True for all): elsewhere, and in a branch of ``where`` that is not chosen, the score and the tables are
    read without, because a derivative that is infinite there, times 0, would be NaN.
    """

    indices: Mapping[str, Tensor]
    positions: Mapping[str, Tensor]
    sizes: Mapping[str, int]
    dtype: torch.dtype
    device: torch.device
    score: Tensor | None = None
    tables: Mapping[Captured, Tensor] = field(default_factory=dict[Captured, "Tensor"])
    inside: frozenset[Lookup] = frozenset()
    outside: list[tuple[Lookup, Tensor]] = field(default_factory=list[tuple[Lookup, "Tensor"]])
    flows: Tensor | None = None


def evaluate(node: Node, environment: Environment) -> Tensor:
    """The node's values as a tensor with the axes that it depends on (others have size 1, or are absent at the left).

    Lookups in a branch of ``where`` that is not chosen, to the right of a ``&`` whose left side is false or of a
    ``|`` whose left side is true, are not noted as outside.
    """
    return _Reader(node, environment).read(node, None)


class _Reader:
    """One evaluation: shared subgraphs are computed once, with a risky leaf in them once for each guard."""

    def __init__(self, node: Node, environment: Environment) -> None:
        self.environment = environment
        self.done: dict[tuple[int, int], Tensor] = {}
        self.guards: list[Tensor] = []  # keeps guards alive, so that their ids stay theirs
        self.risky: set[int] = set()
        for current in walk(node):
            unsafe = isinstance(current, Lookup) and bool(current.indices) and current not in environment.inside
            learned = isinstance(current, Score) or (isinstance(current, Lookup) and current.kind is Kind.FLOAT)
            unsafe = unsafe or (learned and environment.flows is not None)
            if unsafe or any(id(child) in self.risky for child in children(current)):
                self.risky.add(id(current))

    def read(self, node: Node, guard: Tensor | None) -> Tensor:
        if id(node) not in self.risky:
            guard = None
        key = (id(node), 0 if guard is None else id(guard))
        if key not in self.done:
            self.done[key] = self.compute(node, guard)
        return self.done[key]

    def compute(self, node: Node, guard: Tensor | None) -> Tensor:
        import torch

        env = self.environment
        match node:
            case Constant(value):
                dtype = (torch.bool, torch.int64, env.dtype)[node.kind]
                return torch.tensor(value, dtype=dtype, device=env.device)
            case Position(coordinate):
                return env.positions[coordinate]
            case Index(coordinate):
                return env.indices[coordinate]
            case Size(coordinate):
                return torch.tensor(env.sizes[coordinate], device=env.device)
            case Score():
                if env.score is None:
                    raise InternalError("a score was read where there is none; please report this")
                return self.flowing(env.score, guard)
            case Lookup():
                return self.look_up(node, guard)
            case Apply(operation="select"):
                test = self.read(node.operands[0], guard)
                chosen = self.guarded(node.operands[1], guard, lambda: test)
                other = self.guarded(node.operands[2], guard, lambda: ~test)
                return torch.where(test, self.cast(node.kind, chosen), self.cast(node.kind, other))
            case Apply(operation="and"):
                left = self.read(node.operands[0], guard)
                return left & self.guarded(node.operands[1], guard, lambda: left)
            case Apply(operation="or"):
                left = self.read(node.operands[0], guard)
                return left | self.guarded(node.operands[1], guard, lambda: ~left)
            case Apply():
                operands = [self.read(operand, guard) for operand in node.operands]
                if node.kind is Kind.FLOAT or any(operand.kind is Kind.FLOAT for operand in node.operands):
                    operands = [x if x.dtype == env.dtype else x.to(env.dtype) for x in operands]
                elif node.kind is Kind.INT or node.operation not in ("or", "xor", "not"):
                    operands = [x.to(torch.int64) if x.dtype == torch.bool else x for x in operands]
                if node.kind is Kind.INT and node.operation in ("floordiv", "mod"):
                    return _whole_division(node, *operands)
                return _functions()[node.operation](*operands)

    def guarded(self, node: Node, guard: Tensor | None, test: Callable[[], Tensor]) -> Tensor:
        """The node's values where only those that pass ``test`` are looked at."""
        if id(node) not in self.risky:
            return self.read(node, None)
        both = test() if guard is None else guard & test()
        self.guards.append(both)
        return self.read(node, both)

    def cast(self, kind: Kind, value: Tensor) -> Tensor:
        """A value as one of ``kind``; whole numbers are int64, so that small types cannot wrap around."""
        import torch

        dtype = (torch.bool, torch.int64, self.environment.dtype)[kind]
        return value if value.dtype == dtype else value.to(dtype)

    def look_up(self, node: Lookup, guard: Tensor | None) -> Tensor:
        env = self.environment
        table = env.tables.get(node.table, node.table.tensor)
        if node.kind is Kind.FLOAT and table.dtype != env.dtype:
            table = table.to(env.dtype)
        if not node.indices:
            return self.flowing(self.cast(node.kind, table), guard)
        indices = [self.read(index, guard) for index in node.indices]
        if node not in env.inside:
            for axis, size in enumerate(table.shape):
                beyond = (indices[axis] < 0) | (indices[axis] >= size)
                env.outside.append((node, beyond if guard is None else beyond & guard))
                indices[axis] = indices[axis].clamp(0, size - 1)
        return self.flowing(self.cast(node.kind, table[tuple(indices)]), guard)

    def flowing(self, value: Tensor, guard: Tensor | None) -> Tensor:
        """The score or an element of a table, with a gradient only where one may flow."""
        import torch

        flows = self.environment.flows
        if flows is None or not value.dtype.is_floating_point:
            return value
        return torch.where(flows if guard is None else flows & guard, value, value.detach())


def _whole_division(node: Apply, dividend: Tensor, divisor: Tensor) -> Tensor:
    """Quotient or remainder of whole numbers; by 0 the quotient is 0 and the remainder the dividend."""
    import torch

    function = _functions()[node.operation]
    if isinstance(node.operands[1], Constant) and node.operands[1].value != 0:
        return function(dividend, divisor)
    none = divisor == 0
    result = function(dividend, torch.where(none, 1, divisor))
    return torch.where(none, 0 if node.operation == "floordiv" else dividend, result)


@cache
def _functions() -> dict[str, Callable[..., Tensor]]:
    """Each operation in torch; made on first use, so that reading a mask's text needs no torch."""
    import torch

    def floor(x: Tensor) -> Tensor:
        return torch.floor(x).to(torch.int64)

    def divide_down(x: Tensor, y: Tensor) -> Tensor:
        return torch.div(x, y, rounding_mode="floor")  # floor_divide cannot be derived

    def same(x: Tensor) -> Tensor:
        return x

    return {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.true_divide, "floordiv": divide_down,
        "mod": torch.remainder, "pow": torch.pow, "neg": torch.neg, "abs": torch.abs, "min": torch.minimum,
        "max": torch.maximum, "lt": torch.lt, "le": torch.le, "eq": torch.eq, "ne": torch.ne, "gt": torch.gt,
        "ge": torch.ge, "xor": torch.logical_xor, "not": torch.logical_not, "exp": torch.exp, "log": torch.log,
        "sqrt": torch.sqrt, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "erf": torch.erf, "sin": torch.sin,
        "cos": torch.cos, "float": same, "floor": floor,
    }  # fmt: skip
