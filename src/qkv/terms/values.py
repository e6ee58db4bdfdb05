"""The reader for values: an expression graph evaluated in torch, over coordinates laid out for broadcasting.

Every coordinate comes as a tensor with one long axis, in a fixed order of axes, so that each value has exactly the axes it
depends on. A lookup outside its table is clamped for safety and noted; the caller decides whether a kept key saw it.
This module refuses to know which axes those are: dense, by blocks and for one row are all the same to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import InternalError
from .expr import Apply, Captured, Constant, Index, Kind, Lookup, Node, Position, Score, Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(slots=True)
class Environment:
    """What the leaves of a graph mean in one place.

    ``indices`` and ``positions`` map coordinates to int64 tensors that broadcast against each other; ``tables`` maps captured
    tensors to the ones to read (the same ones when absent); ``dtype`` is that of float constants and results; ``inside`` holds
    the lookups that are known to stay in their tables. ``outside`` collects, for each other lookup that left its table,
    the lookup and where.
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


def evaluate(node: Node, environment: Environment) -> Tensor:
    """The node's values as a tensor with the axes that it depends on (others have size 1, or are absent at the left).

    Lookups in a branch of ``where`` that is not chosen, or behind the false side of ``&``, are not noted as outside.
    """
    return _Reader(environment).read(node, None)


class _Reader:
    """One evaluation: shared subgraphs are computed once for each guard under which they stand."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.done: dict[tuple[int, int], Tensor] = {}
        self.guards: list[Tensor] = []  # keeps guards alive, so that their ids stay theirs

    def read(self, node: Node, guard: Tensor | None) -> Tensor:
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
                return env.score
            case Lookup():
                return self.look_up(node, guard)
            case Apply(operation="select"):
                test = self.read(node.operands[0], guard)
                branches = [self.cast(o, node.kind, self.read(o, self.both(guard, g))) for o, g in zip(node.operands[1:], (test, ~test), strict=True)]
                return torch.where(test, *branches)
            case Apply(operation="and"):
                left = self.read(node.operands[0], guard)
                return left & self.read(node.operands[1], self.both(guard, left))
            case Apply():
                operands = [self.read(operand, guard) for operand in node.operands]
                if any(o.kind is Kind.FLOAT for o in node.operands) or OPERATORS_IN_FLOAT.get(node.operation, False):
                    operands = [x if x.dtype == env.dtype else x.to(env.dtype) for x in operands]
                elif node.kind is Kind.INT or node.operation not in ("or", "xor", "not"):
                    operands = [x.to(torch.int64) if x.dtype == torch.bool else x for x in operands]
                return _functions()[node.operation](*operands)

    def both(self, guard: Tensor | None, test: Tensor) -> Tensor:
        made = test if guard is None else guard & test
        self.guards.append(made)
        return made

    def cast(self, node: Node, kind: Kind, value: Tensor) -> Tensor:
        import torch

        if kind is Kind.FLOAT:
            return value if value.dtype == self.environment.dtype else value.to(self.environment.dtype)
        return value.to(torch.int64) if kind is Kind.INT and value.dtype == torch.bool else value

    def look_up(self, node: Lookup, guard: Tensor | None) -> Tensor:
        env = self.environment
        table = env.tables.get(node.table, node.table.tensor)
        if node.kind is Kind.FLOAT and table.dtype != env.dtype:
            table = table.to(env.dtype)
        if not node.indices:
            return table
        indices = [self.read(index, guard) for index in node.indices]
        if node in env.inside:
            return table[tuple(indices)]
        safe: list[Tensor] = []
        for index, size in zip(indices, table.shape, strict=True):
            beyond = (index < 0) | (index >= size)
            env.outside.append((node, beyond if guard is None else beyond & guard))
            safe.append(index.clamp(0, size - 1))
        return table[tuple(safe)]


OPERATORS_IN_FLOAT = dict.fromkeys(("div", "exp", "log", "sqrt", "tanh", "sigmoid", "erf", "sin", "cos", "float"), True)
"""Operations whose operands become floats even when all of them are whole numbers."""

_cache: dict[str, Callable[..., Tensor]] = {}


def _functions() -> dict[str, Callable[..., Tensor]]:
    """Each operation in torch; made on first use, so that reading a mask's text needs no torch."""
    if not _cache:
        import torch

        _cache.update(
            {
                "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.true_divide, "floordiv": torch.floor_divide,
                "mod": torch.remainder, "pow": torch.pow, "neg": torch.neg, "abs": torch.abs, "min": torch.minimum, "max": torch.maximum,
                "lt": torch.lt, "le": torch.le, "eq": torch.eq, "ne": torch.ne, "gt": torch.gt, "ge": torch.ge,
                "or": torch.logical_or, "xor": torch.logical_xor, "not": torch.logical_not,
                "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "erf": torch.erf,
                "sin": torch.sin, "cos": torch.cos, "float": lambda x: x, "floor": lambda x: torch.floor(x).to(torch.int64),
            }
        )  # fmt: skip
    return _cache
