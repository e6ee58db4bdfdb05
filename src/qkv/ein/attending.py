"""The parts of one attention in a written-out graph: scores, contraction, masks, queries, keys and values.

Makes one node of them, its operands with every coordinate that its role asks for, or says why none can be made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .elems import FLOATS
from .graph import Coords, Node, union, walk


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention: which coordinates play which role, and the parts of its scores.

    The node's first three operands are queries, keys and values. ``score`` is the graph of the scores in which
    ``product`` is the contraction; ``keep`` are masks; ``scales`` multiply and ``divisors`` divide the contraction.
    With a ``branch``, a feature of size 2, the weights are the first map less ``lam`` times the second, clamped.
    """

    key: Coords
    rows: Coords
    shared: Coords
    features: Coords
    values: Coords
    score: Node
    product: Node
    keep: tuple[Node, ...]
    scales: tuple[Node, ...]
    divisors: tuple[Node, ...]
    linear: bool = False
    normalize: bool = True
    strategy: str | None = None
    branch: str | None = None
    lam: Node | None = None

    @property
    def asked(self) -> str | None:
        """The strategy that must run it; None leaves it to the planner, as ``flash`` does: any fused one."""
        return None if self.strategy == "flash" else self.strategy


@dataclass(slots=True)
class Recognised:
    """A graph with attention in it, and for each sum over weights that was left the reason."""

    outputs: list[Node]
    attentions: list[Node] = field(default_factory=list[Node])
    left: list[tuple[Node, str]] = field(default_factory=list[tuple[Node, str]])
    unmet: list[tuple[Node, str]] = field(default_factory=list[tuple[Node, str]])


def product(node: Node) -> tuple[list[Node], list[Node]]:
    """Numerators and denominators of a product of products and quotients."""
    above: list[Node] = []
    under: list[Node] = []
    stack = [(node, True)]
    while stack:
        current, up = stack.pop()
        if current.op == "point" and current.data == "mul":
            stack += [(a, up) for a in reversed(current.args)]
        elif current.op == "point" and current.data == "div":
            stack += [(current.args[1], not up), (current.args[0], up)]
        elif current.op == "strategy":
            stack.append((current.args[0], up))
        else:
            (above if up else under).append(current)
    return above, under


def _is_inf(node: Node) -> bool:
    return node.op == "number" and node.data == -math.inf


def _positive(node: Node) -> bool:
    return (
        not node.coords
        and all(n.op in ("size", "number", "point") for n in walk(node))
        and not any(n.op == "number" and n.data < 0 for n in walk(node))
    )


class Attending:
    """Nodes of the new graph, each once, and attention among them."""

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        self.sizes = sizes
        self.made: dict[Any, Node] = {}
        self.found = Recognised([])

    def node(self, op: str, data: Any, args: tuple[Node, ...], coords: Coords, like: Node) -> Node:
        """The one node of these parts."""
        key = (op, data, tuple(map(id, args)), coords, like.dtype)
        if key not in self.made:
            self.made[key] = Node(op, data, args, coords, like.dtype, like.span, name=like.name)
        return self.made[key]

    def point(self, name: str, *args: Node) -> Node:
        """A pointwise node."""
        like = next((a for a in args if a.dtype in FLOATS), args[-1])
        return self.node("point", name, args, union(*(a.coords for a in args)), like)

    def multiply(self, parts: list[Node], under: list[Node]) -> Node:
        """A product and quotient as one node."""
        made = parts[0]
        for each in parts[1:]:
            made = self.point("mul", made, each)
        for each in under:
            made = self.point("div", made, each)
        return made

    def expanded(self, node: Node, wanted: Coords) -> Node:
        """The node with every wanted coordinate, repeated without copying where it lacks one."""
        missing = tuple(c for c in wanted if c not in node.coords)
        return node if not missing else self.node("expand", missing, (node,), (*missing, *node.coords), node)

    def leave(self, node: Node, why: str) -> None:
        """Remembers why a sum was not fused."""
        self.found.left.append((node, why))

    def spine(self, score: Node, keep: list[Node]) -> Node:
        """The score without masks of -inf, which are added to ``keep``."""
        if score.op == "strategy":
            return self.spine(score.args[0], keep)
        if score.op != "point":
            return score
        args = score.args
        if score.data == "select":
            if _is_inf(args[2]):
                keep.append(args[0])
                return self.spine(args[1], keep)
            if _is_inf(args[1]):
                keep.append(self.point("not", args[0]))
                return self.spine(args[2], keep)
        elif score.data == "add":
            first, second = self.spine(args[0], keep), self.spine(args[1], keep)
            for one, other in ((first, second), (second, first)):
                if one.op == "number" and one.data == 0:
                    return other
            return self.point("add", first, second)
        elif score.data in ("mul", "div") and _positive(args[1]):
            return self.point(score.data, self.spine(args[0], keep), args[1])
        elif score.data == "mul" and _positive(args[0]):
            return self.point("mul", args[0], self.spine(args[1], keep))
        return score

    def contraction(self, score: Node, keys: Coords) -> Node | None:
        """The first contraction of queries with keys below pointwise operations."""
        for node in walk_points(score):
            if node.op == "reduce" and node.data[0] == "sum" and len(node.args) == 1:
                above, _ = product(node.args[0])
                with_key = [a for a in above if set(a.coords) & set(keys)]
                without = [a for a in above if a.coords and not set(a.coords) & set(keys)]
                if with_key and without and not set(node.data[1]) & set(keys):
                    return node
        return None

    def attend(
        self,
        node: Node,
        score: Node,
        contraction: Node,
        keep: list[Node],
        others: list[Node],
        under: list[Node],
        keys: Coords,
        summed: Coords,
        *,
        linear: bool = False,
        normalize: bool = True,
        branch: str | None = None,
        lam: Node | None = None,
    ) -> Node | None:
        """The attention node, its operands expanded so that every coordinate has a role."""
        key_set = set(keys)
        above, below = product(contraction.args[0])
        features = contraction.data[1] if branch is None else (branch, *contraction.data[1])
        constant = _constant
        scales = [a for a in above if constant(a)]
        divisors = [b for b in below if constant(b)]
        q_parts = [a for a in above if not constant(a) and not set(a.coords) & key_set]
        k_parts = [a for a in above if set(a.coords) & key_set]
        q_under = [b for b in below if not constant(b) and not set(b.coords) & key_set]
        k_under = [b for b in below if set(b.coords) & key_set]
        if not any(q.coords for q in q_parts) or not k_parts:
            return self.leave(node, "the contraction has no queries apart from keys")
        if not any(set(features) & set(q.coords) for q in q_parts) or not any(
            set(features) & set(k.coords) for k in k_parts
        ):
            return self.leave(node, "the scores contract over a coordinate that queries or keys lack")
        query, key = self.multiply(q_parts, q_under), self.multiply(k_parts, k_under)
        for part in (query, key):
            if not set(features) <= set(part.coords):
                return self.leave(node, "the scores contract over a coordinate that queries or keys lack")
        v_parts = [o for o in others if set(o.coords) & key_set]
        outer = [o for o in others if not set(o.coords) & key_set]
        v_under = [u for u in under if set(u.coords) & key_set]
        outer_under = [u for u in under if not set(u.coords) & key_set]
        if not v_parts:
            return self.leave(node, f"no values have {', '.join(keys)}")
        value = self.multiply(v_parts, v_under)
        if not key_set <= set(value.coords) or not key_set <= set(key.coords):
            return self.leave(node, "keys or values lack one of several key coordinates")
        rows = tuple(
            c
            for c in union(query.coords, score.coords, *(k.coords for k in keep), key.coords)
            if c not in key_set and c not in features
        )
        if any(
            set(rows) & set(p.coords) - set(query.coords) and set(p.coords) & key_set and not p.coords for p in k_parts
        ):
            return None
        shared = tuple(c for c in rows if c in key.coords or c in value.coords)
        alone = tuple(c for c in rows if c not in shared)
        tied = tuple(c for c in value.coords if c in features)
        read = [n for n in walk_points(score) if n.op not in ("point", "strategy") and n is not contraction]
        strange = [c for part in (*read, *keep) for c in part.coords if c not in rows and c not in key_set]
        if strange:
            return self.leave(node, f"the scores depend on {strange[0]}, a feature")
        carried = tuple(c for c in value.coords if c not in key_set and c not in rows)
        if tied and set(tied) - set(carried):
            return self.leave(node, "a feature is also a coordinate of the rows")
        query = self.expanded(query, (*shared, *alone))
        key = self.expanded(key, shared)
        value = self.expanded(value, shared)
        data = Attention(
            tuple(keys),
            rows,
            shared,
            tuple(features),
            carried,
            score,
            contraction,
            tuple(keep),
            tuple(scales),
            tuple(divisors),
            linear,
            normalize,
            branch=branch,
            lam=lam,
        )
        left = tuple(c for c in summed if c not in key_set)
        order = tuple(c for c in union(node.coords, rows, carried) if c in rows or c in carried)
        extras = self.extras(score, contraction, keep)
        if lam is not None and not computed(lam) and not any(lam is e for e in extras):
            extras = (*extras, lam)
        out = self.node(
            "attention", data, (query, key, value, *extras), order, Node("", 0, (), (), query.dtype, node.span)
        )
        for each in outer:
            out = self.point("mul", out, each)
        for each in outer_under:
            out = self.point("div", out, each)
        if left:
            out = self.node("reduce", ("sum", left), (out,), tuple(c for c in out.coords if c not in left), node)
        if set(out.coords) != set(node.coords):
            return self.leave(node, f"the result would have {' '.join(out.coords)}")
        if out.dtype != node.dtype:
            out = self.node("cast", node.dtype, (out,), out.coords, node)
        return out

    def extras(self, score: Node, contraction: Node, keep: list[Node]) -> tuple[Node, ...]:
        """The tensors that scores and masks read beside the contraction."""
        found: dict[int, Node] = {}
        stack = [score, *keep]
        seen: set[int] = set()
        while stack:
            current = stack.pop()
            if current is contraction or id(current) in seen:
                continue
            seen.add(id(current))
            if current.op == "point" and current.data not in OPAQUE:
                stack += current.args
            elif current.op == "gather" and computed(current.args[1]):
                found[id(current.args[0])] = current.args[0]
            elif current.op not in ("number", "size", "index"):
                found[id(current)] = current
        return tuple(found.values())


OPAQUE = frozenset({"silu", "gelu"})
"""Pointwise functions that graphs of scores do not have."""


def computed(node: Node) -> bool:
    """Whether a value follows from coordinates and sizes alone."""
    return all(n.op in ("number", "size", "index") or (n.op == "point" and n.data not in OPAQUE) for n in walk(node))


def _constant(node: Node) -> bool:
    return not node.coords and all(n.op in ("number", "size") or n.op == "point" for n in walk(node))


def walk_points(node: Node) -> list[Node]:
    """The nodes below pointwise operations, in the order in which they are written."""
    found: list[Node] = []
    stack, seen = [node], set[int]()
    while stack:
        current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        found.append(current)
        if current.op in ("point", "strategy"):
            stack += reversed(current.args)
    return found
