"""From a recognised attention to a spec: the pattern, the mask, the score and the scale, sizes being known.

Coordinates become positions, tensors that scores and masks read become captured ones. Knows terms and specs; what a
strategy does with them is not its matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..coords.pattern import parse
from ..errors import InternalError
from ..spec import Spec
from ..terms.expr import Captured, Constant, Index, Position, Score, apply, look_up
from ..terms.expr import Node as Term
from ..terms.keep import CustomKeep
from ..terms.score import CustomScore
from ..terms.weights import Differential, Linear, Weights
from .attending import OPAQUE, Attention, computed, walk_points
from .graph import Node, plain, walk

_SAME = {
    "add", "sub", "mul", "div", "mod", "pow", "neg", "abs", "min", "max", "lt", "le", "gt", "ge", "eq", "ne", "and", "or",  # noqa: E501
    "not", "exp", "log", "sqrt", "tanh", "sigmoid", "erf", "sin", "cos", "floor", "select",
}  # fmt: skip


def as_it_is(x: Any) -> Any:
    """The feature map of tensors that were mapped already."""
    return x


def number(node: Node, size: Callable[[str], int]) -> float | int | bool:
    """The value of a node without coordinates and tensors."""
    if node.op == "number":
        return node.data
    if node.op == "size":
        return size(node.data)
    if node.op != "point":
        raise InternalError(f"{node.op} is no number; please report this")
    x = [number(a, size) for a in node.args]
    match node.data:
        case "add":
            return x[0] + x[1]
        case "sub":
            return x[0] - x[1]
        case "mul":
            return x[0] * x[1]
        case "div":
            return x[0] / x[1] if x[1] else math.copysign(math.inf, x[0]) if x[0] else math.nan
        case "pow":
            return x[0] ** x[1]
        case "neg":
            return -x[0]
        case "sqrt":
            return math.sqrt(x[0])
        case "exp":
            return math.exp(x[0])
        case "log":
            return math.log(x[0])
        case "floor":
            return math.floor(x[0])
        case "mod":
            return x[0] % x[1]
        case "min":
            return min(x)
        case "max":
            return max(x)
        case "abs":
            return abs(x[0])
        case "select":
            return x[1] if x[0] else x[2]
        case "lt":
            return x[0] < x[1]
        case "le":
            return x[0] <= x[1]
        case "gt":
            return x[0] > x[1]
        case "ge":
            return x[0] >= x[1]
        case "eq":
            return x[0] == x[1]
        case "ne":
            return x[0] != x[1]
        case "not":
            return not x[0]
        case "and":
            return bool(x[0] and x[1])
        case "or":
            return bool(x[0] or x[1])
        case "tanh":
            return math.tanh(x[0])
        case "sin":
            return math.sin(x[0])
        case "cos":
            return math.cos(x[0])
        case "sigmoid":
            return 1 / (1 + math.exp(-x[0]))
        case "erf":
            return math.erf(x[0])
        case _:
            raise InternalError(f"{node.data} of numbers is not known; please report this")


class Lowering:
    """One attention node for known sizes: a spec, made once where it captures nothing."""

    def __init__(self, node: Node, size: Callable[[str], int]) -> None:
        self.node = node
        self.data: Attention = node.data
        self.size = size
        self.names = _short(node)
        self.group = _group(node)
        self.scaled: dict[int, Node] = {}
        self.scale = 1.0
        for each in self.data.scales:
            self.scale *= number(each, size)
        for each in self.data.divisors:
            self.scale /= number(each, size)
        self.inside = self.outer_scale(self.data.score)
        self.captures = node.args[3:]

    def outer_scale(self, score: Node) -> Node:
        """The largest node that is the contraction times numbers; its factors go into the scale."""
        product = self.data.product
        above: dict[int, Node] = {}
        for parent in _points(score):
            for child in parent.args:
                above.setdefault(id(child), parent)
        current = product
        while True:
            parent = above.get(id(current))
            if parent is None or parent.data not in ("mul", "div"):
                return current
            other = parent.args[1] if parent.args[0] is current else parent.args[0]
            if not computed(other) or other.coords or (parent.data == "div" and parent.args[0] is not current):
                return current
            factor = float(number(other, self.size))
            if not math.isfinite(factor) or factor == 0:
                return current
            self.scale = self.scale * factor if parent.data == "mul" else self.scale / factor
            current = parent

    def _pattern(self) -> str:
        data, node = self.data, self.node
        tied = {f: f"{self.names[f]}_value" for f in data.features if f in data.values}
        query = " ".join(self.names[c] for c in node.args[0].coords)
        key = " ".join(self.names[c] for c in node.args[1].coords)
        value = " ".join(tied.get(c, self.names[c]) for c in node.args[2].coords)
        output = " ".join(self._output(c, tied) for c in node.coords if self._output(c, tied))
        if not data.values:
            value, output = f"{value} one_value", f"{output} one_value"
        return f"{query}, {key}, {value} -> {output}"

    def _output(self, name: str, tied: Mapping[str, str]) -> str:
        """A coordinate of the result as the pattern has it: a group of heads stands with its head."""
        if self.group is not None and name in self.group:
            head, group = self.group
            return f"({self.names[head]} {self.names[group]})" if name == head else ""
        return tied.get(name, self.names[name])

    @property
    def made(self) -> tuple[tuple[int, ...] | None, int, tuple[int, int]]:
        """What is done to a result whose heads stand with their groups: where they are parted, and then the order."""
        if self.group is None:
            return None, 0, (0, 0)
        head, group = self.group
        coords = [c for c in self.node.coords if c != group]
        at = coords.index(head)
        coords.insert(at + 1, group)
        return tuple(coords.index(c) for c in self.node.coords), at, (self.size(head), self.size(group))

    @property
    def sequences(self) -> set[int]:
        """The lengths of keys and of queries, heads left out."""
        data = self.data
        own = [r for r in data.rows if r not in data.shared and (self.group is None or r != self.group[1])]
        return {self.size(c) for c in (*data.key, *own)}

    def spec(self, tensors: Mapping[int, Captured]) -> Spec:
        """The spec, captured tensors or openings given by the ids of their nodes."""
        data = self.data
        made = _Terms(self, tensors)
        keep: Term | None = None
        for each in data.keep:
            condition = made.term(each)
            keep = condition if keep is None else apply("and", keep, condition)
        kept = None if keep is None else CustomKeep((), keep)
        pattern = self._pattern()
        parse(pattern)
        if data.linear:
            return Spec(pattern, keep=kept, weights=Linear(as_it_is, None, data.normalize, None))
        score = made.term(data.score)
        return Spec(
            pattern,
            keep=kept,
            score=None if score == Score() else CustomScore((), score),
            weights=self.maps(tensors),
            scale=self.scale,
        )

    def maps(self, tensors: Mapping[int, Captured]) -> Weights | None:
        """The weights of two maps, clamped; None for softmax."""
        branch, lam = self.data.branch, self.data.lam
        if branch is None or lam is None:
            return None
        factor = float(number(lam, self.size)) if computed(lam) else tensors[id(lam)]
        head = self.names[lam.coords[0]] if lam.coords else None
        return Differential(factor, None, self.names[branch], "clamp", 1e-5, head)


class _Terms:
    """Graphs of coordinates as terms have them."""

    def __init__(self, lowering: Lowering, tensors: Mapping[int, Captured]) -> None:
        self.lowering = lowering
        self.tensors = tensors
        self.done: dict[int, Term] = {}

    def term(self, node: Node) -> Term:
        found = self.done.get(id(node))
        if found is None:
            found = self.done[id(node)] = self.make(node)
        return found

    def make(self, node: Node) -> Term:
        low = self.lowering
        if node is low.inside:
            return Score()
        if node.op == "strategy":
            return self.term(node.args[0])
        if node.op == "number":
            return Constant(node.data)
        if node.op == "size":
            return Constant(low.size(node.data))
        if node.op == "index":
            return Position(low.names[node.data])
        if node.op == "point" and node.data not in OPAQUE:
            return self.point(node)
        if node.op == "gather" and computed(node.args[1]):
            table = node.args[0]
            index = self.term(node.args[1])
            indices = tuple(index if c == node.data else Index(low.names[c]) for c in table.coords)
            return look_up(self.tensors[id(table)], indices)
        return look_up(self.tensors[id(node)], tuple(Index(low.names[c]) for c in node.coords))

    def point(self, node: Node) -> Term:
        args = [self.term(a) for a in node.args]
        name = node.data
        if name == "relu":
            return apply("max", args[0], Constant(0))
        if (
            name == "floor"
            and node.args[0].op == "point"
            and node.args[0].data == "div"
            and all(a.dtype in ("int", "i32", "i64") for a in node.args[0].args)
        ):
            return apply("floordiv", *(self.term(a) for a in node.args[0].args))
        if name in ("le", "lt", "ge", "gt") and all(isinstance(a, Position) for a in args):
            # One spelling for one comparison, by which strategies know the causal mask.
            first, second = (args[1], args[0]) if name in ("le", "lt") else (args[0], args[1])
            return apply("ge" if name in ("le", "ge") else "gt", apply("sub", first, second), Constant(0))
        if name not in _SAME:
            raise InternalError(f"{name} is no operation of a score; please report this")
        return apply(name, *args)


def _group(node: Node) -> tuple[str, str] | None:
    """A shared head and the query coordinate that is a group of heads beside it, as strategies know grouped heads.

    Of two query coordinates the group is the one that no mask or score compares with the key; where none is compared,
    the one that stands farther from the features.
    """
    data: Attention = node.data
    query = node.args[0].coords
    alone = [c for c in query if c in data.rows and c not in data.shared]
    heads = [c for c in query if c in data.shared]
    if len(alone) != 2 or not heads:
        return None
    compared = {n.data for part in (data.score, *data.keep) for n in walk(part) if n.op == "index"}
    groups = [c for c in alone if c not in compared]
    if not groups:
        return None
    return heads[-1], groups[0]


def _points(node: Node) -> list[Node]:
    return [n for n in walk_points(node) if n.op in ("point", "strategy")]


def _short(node: Node) -> dict[str, str]:
    """A name that patterns can have for each coordinate."""
    made: dict[str, str] = {}
    data: Attention = node.data
    for name in (*data.rows, *data.key, *data.features, *data.values):
        short = plain(name)
        if name != short or short in made.values():
            short = name.replace(".", "_")
            while short in made.values():
                short += "_"
        made[name] = short
    return made
