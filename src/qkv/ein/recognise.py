"""Recognising attention in a written-out graph, however it is spelled.

A softmax of scores made by a contraction, and then a contraction with values over the same coordinate, becomes one
node; so do exponentials divided by their sum, differences of softmaxes, and products of feature maps divided by their
sum. What is left, and why, is kept for ``explain``. This module knows graphs; it refuses to know tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from .elems import FLOATS
from .graph import Coords, Node, union, walk


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention: which coordinates play which role, and the parts of its scores.

    The node's first three operands are queries, keys and values. ``score`` is the graph of the scores in which
    ``product`` is the contraction; ``keep`` are masks; ``scales`` multiply and ``divisors`` divide the contraction.
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


class Recogniser:
    """One pass over a graph, operands first."""

    def __init__(self) -> None:
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

    def run(self, outputs: list[Node]) -> Recognised:
        """The graph with attention in it."""
        plain = {
            id(n) for root in walk(*outputs) if root.op == "strategy" and root.data == "reference" for n in walk(root)
        }
        done: dict[int, Node] = {}
        for old in walk(*outputs):
            args = tuple(done[id(a)] for a in old.args)
            node = self.node(old.op, old.data, args, old.coords, old)
            if old.op == "strategy":
                node = self.asked(node)
            elif id(old) in plain:
                pass
            elif old.op == "point" and old.data == "div":
                node = self.quotient(node) or node
            elif old.op == "reduce" and old.data[0] == "sum":
                node = self.sum(node) or node
            done[id(old)] = node
        self.found.outputs = [done[id(o)] for o in outputs]
        used = {id(n) for n in walk(*self.found.outputs)}
        self.found.attentions = [n for n in walk(*self.found.outputs) if n.op == "attention"]
        self.found.left = [(n, why) for n, why in self.found.left if id(n) in used]
        return self.found

    def asked(self, node: Node) -> Node:
        """A value for which a strategy is asked: every attention in it is run by that one."""
        name = node.data
        if name == "reference":
            return node.args[0]
        inside = [n for n in walk(node.args[0]) if n.op == "attention"]
        if not inside:
            self.found.unmet.append((node, name))
            return node.args[0]
        done: dict[int, Node] = {}
        for old in walk(node.args[0]):
            args = tuple(done[id(a)] for a in old.args)
            data = old.data
            if old.op == "attention" and data.strategy is None:
                values = {f: getattr(data, f) for f in Attention.__slots__}
                data = Attention(**{**values, "strategy": name})
            done[id(old)] = self.node(old.op, data, args, old.coords, old)
        return done[id(node.args[0])]

    # quotients

    def quotient(self, node: Node) -> Node | None:
        """``exp(s) / sum[k](exp(s))`` as a softmax; the same with values in the first sum; products of feature maps."""
        top, under = node.args
        if under.op != "reduce" or under.data[0] != "sum":
            return None
        associated = self.associated(node)
        if associated is not None:
            return associated
        keys, weights = under.data[1], under.args[0]
        mask = under.args[1:]
        if weights.op == "point" and weights.data == "exp" and top is weights and not mask:
            return self.node("softmax", ("softmax", keys), (self.unshifted(weights.args[0], keys),), node.coords, node)
        if top.op != "reduce" or top.data[0] != "sum" or not set(keys) <= set(top.data[1]) or top.args[1:] != mask:
            return None
        above, below = product(top.args[0])
        if weights not in above:
            inner, inner_below = product(weights)
            if inner_below or not all(any(f is a for a in above) for f in inner):
                return None
            for each in inner:
                above.remove(each)
            above.append(weights)
        if below:
            return None
        if weights.op == "point" and weights.data == "exp" and not mask:
            softmax = self.node(
                "softmax", ("softmax", keys), (self.unshifted(weights.args[0], keys),), weights.coords, weights
            )
            others = [a for a in above if a is not weights]
            return self.weighed(top, softmax, others, [], top.data[1])
        return self.linear(top, weights, [a for a in above if a is not weights], keys, mask, normalize=True)

    def unshifted(self, score: Node, keys: Coords) -> Node:
        """The score without what is the same for all keys and subtracted for safety."""
        if score.op == "point" and score.data == "sub" and not set(keys) & set(score.args[1].coords):
            return score.args[0]
        return score

    def linear(
        self, top: Node, weights: Node, others: list[Node], keys: Coords, mask: tuple[Node, ...], *, normalize: bool
    ) -> Node | None:
        """Products of feature maps as weights."""
        keep = list(mask)
        if (
            weights.op == "point"
            and weights.data == "select"
            and weights.args[2].op == "number"
            and weights.args[2].data == 0
        ):
            keep.append(weights.args[0])
            weights = weights.args[1]
        if weights.op != "reduce" or weights.data[0] != "sum" or len(weights.args) > 1:
            return None
        return self.attend(top, weights, weights, keep, others, [], keys, top.data[1], linear=True, normalize=normalize)

    def associated(self, node: Node) -> Node | None:
        """``sum[d](q * sum[k](r * v)) / sum[d](q * sum[k](r))``: products of feature maps, the keys summed first.

        Without its divisor this is a chain of two contractions like any other, and is left to them.
        """
        top, under = node.args
        if top.op != "reduce" or top.data != under.data or len(top.args) + len(under.args) > 2:
            return None
        above, below = product(top.args[0])
        total, total_below = product(under.args[0])
        if below or total_below:
            return None
        state = next((a for a in above if a.op == "reduce" and a.data[0] == "sum" and a not in total), None)
        sums = next((a for a in total if a.op == "reduce" and a.data[0] == "sum" and a not in above), None)
        if state is None or sums is None or state.data != sums.data or state.args[1:] != sums.args[1:]:
            return None
        queries = [a for a in above if a is not state]
        inner, inner_below = product(state.args[0])
        mapped, mapped_below = product(sums.args[0])
        values = _without(inner, mapped)
        keys = state.data[1]
        if (
            inner_below
            or mapped_below
            or not values
            or not queries
            or _without([a for a in total if a is not sums], queries) != []
            or len(total) != len(above)
            or any(set(keys) & set(q.coords) for q in queries)
        ):
            return None
        pairs = self.multiply([*queries, *mapped], [])
        coords = tuple(c for c in pairs.coords if c not in top.data[1])
        weights = self.node("reduce", top.data, (pairs,), coords, top)
        whole = self.node("reduce", state.data, (self.multiply([weights, *values], []),), node.coords, node)
        return self.attend(
            whole, weights, weights, list(state.args[1:]), values, [], keys, keys, linear=True, normalize=True
        )

    # sums

    def sum(self, node: Node) -> Node | None:
        """A sum over weights and values as attention, if it is."""
        above, under = product(node.args[0])
        summed = set(node.data[1])
        masked = node.args[1:]
        for n, weights in enumerate(above):
            others = above[:n] + above[n + 1 :]
            if weights.op == "softmax" and weights.data[0] == "softmax" and set(weights.data[1]) <= summed:
                if masked:
                    return self.leave(node, "the sum over the values has a mask of its own; put it into softmax")
                return self.weighed(node, weights, others, under, node.data[1])
            if weights.op == "point" and weights.data in ("add", "sub") and not under and not masked:
                made = self.difference(node, weights, others)
                if made is not None:
                    return made
            if (
                weights.op == "point"
                and weights.data == "select"
                and not under
                and weights.args[2].op == "number"
                and weights.args[2].data == 0
                and others
            ):
                inner = weights.args[1]
                if inner.op == "reduce" and inner.data[0] == "sum" and len(node.data[1]) == 1:
                    made = self.linear(node, weights, others, node.data[1], masked, normalize=False)
                    if made is not None:
                        return made
        if any(n.op == "softmax" for part in above for n in walk_points(part)):
            return self.leave(node, "the weights are changed after softmax in a way that no sum of attentions is")
        return None

    def difference(self, node: Node, weights: Node, others: list[Node]) -> Node | None:
        """``sum[k]((w1 - lam * w2) * V)`` as a difference of two attentions."""
        terms: list[Node] = []
        for term in weights.args:
            above, _ = product(term)
            if not any(a.op == "softmax" for a in above):
                return None
            whole = term
            for other in others:
                whole = self.point("mul", whole, other)
            summed = self.node("reduce", node.data, (whole,), node.coords, node)
            made = self.sum(summed)
            if made is None:
                return None
            terms.append(made)
        return self.point(weights.data, *terms)

    def leave(self, node: Node, why: str) -> None:
        """Remembers why a sum was not fused."""
        self.found.left.append((node, why))

    def weighed(self, node: Node, softmax: Node, others: list[Node], under: list[Node], summed: Coords) -> Node | None:
        """A softmax times values, summed."""
        keys = softmax.data[1]
        keep = list(softmax.args[1:])
        score = self.spine(softmax.args[0], keep)
        contraction = self.contraction(score, keys)
        if contraction is None:
            return self.leave(node, "the scores hold no contraction of queries with keys")
        return self.attend(node, score, contraction, keep, others, under, keys, summed)

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
    ) -> Node | None:
        """The attention node, its operands expanded so that every coordinate has a role."""
        key_set = set(keys)
        above, below = product(contraction.args[0])
        features = contraction.data[1]
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
        strange = [c for part in (score, *keep) for c in part.coords if c not in rows and c not in key_set]
        if strange:
            return self.leave(node, f"the scores depend on {strange[0]}, a feature")
        carried = tuple(c for c in value.coords if c not in key_set and c not in rows)
        if tied and set(tied) - set(carried):
            return self.leave(node, "a feature is also a coordinate of the rows")
        query = self.expanded(query, (*shared, *alone), features)
        key = self.expanded(key, shared, (*keys, *features))
        value = self.expanded(value, shared, (*keys, *carried))
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
        )
        left = tuple(c for c in summed if c not in key_set)
        order = tuple(c for c in union(node.coords, rows, carried) if c in rows or c in carried)
        extras = self.extras(score, contraction, keep)
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

    def multiply(self, parts: list[Node], under: list[Node]) -> Node:
        """A product and quotient as one node."""
        made = parts[0]
        for each in parts[1:]:
            made = self.point("mul", made, each)
        for each in under:
            made = self.point("div", made, each)
        return made

    def expanded(self, node: Node, wanted: Coords, others: Coords) -> Node:
        """The node with every wanted coordinate, repeated without copying where it lacks one."""
        missing = tuple(c for c in wanted if c not in node.coords)
        del others
        return node if not missing else self.node("expand", missing, (node,), (*missing, *node.coords), node)


def _without(nodes: list[Node], taken: list[Node]) -> list[Node] | None:
    """The nodes but those of ``taken``, each of which must be among them; else None."""
    left = list(nodes)
    for each in taken:
        at = next((n for n, x in enumerate(left) if x is each), None)
        if at is None:
            return None
        del left[at]
    return left


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


def recognise(outputs: list[Node]) -> Recognised:
    """The graph of ``outputs`` with attention recognised."""
    return Recogniser().run(outputs)
