"""Quotients that are attention: exponentials by their sum, products of feature maps by theirs, clamped differences.

Each has its values in the numerator's sum and its weights in both. What is no such quotient is left to others.
"""

from __future__ import annotations

import math

from .attending import Attending, product
from .graph import Coords, Node
from .making import is_number


class Quotients(Attending):
    """One quotient after another."""

    def weighed(self, node: Node, softmax: Node, others: list[Node], under: list[Node], summed: Coords) -> Node | None:
        """A softmax times values, summed; the layer above makes it attention."""
        raise NotImplementedError(node.op)

    def quotient(self, node: Node) -> Node | None:
        """``exp(s) / sum[k](exp(s))`` as a softmax; the same with values in the first sum; products of feature maps."""
        top, under = node.args
        if under.op == "point" and under.data == "select":
            return self.clamped(node)
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

    def clamped(self, node: Node) -> Node | None:
        """``sum[k](c * V) / if z > 0 { z } else { 1 }``: z sums c, the difference of two maps where it is positive."""
        top, (test, total, other) = node.args[0], node.args[1].args
        positive = test.op == "point" and test.data == "gt" and test.args[0] is total and is_number(test.args[1], 0)
        if not positive or other.op != "number" or not other.data or other.data in (math.inf, -math.inf):
            return None  # a row without positive weights is 0 only where it is divided by something
        if total.op != "reduce" or total.data[0] != "sum" or len(total.args) > 1 or top.op != "reduce":
            return None
        weights, keys = next(iter(total.args)), total.data[1]
        above, below = product(top.args[0])
        if top.data != total.data or len(top.args) > 1 or below or not any(a is weights for a in above):
            return None
        maps = self.maps(weights)
        if maps is None:
            return None
        softmax, branch, lam = maps
        if softmax.data[1] != keys:
            return None
        if self.sizes is not None and self.sizes.get(branch) != 2:
            return self.leave(top, f"{branch} has more maps than the two that are subtracted")
        keep = list(softmax.args[1:])
        score = self.spine(softmax.args[0], keep)
        contraction = self.contraction(score, keys)
        if contraction is None:
            return self.leave(top, "the scores hold no contraction of queries with keys")
        if len(lam.coords) > 1:
            return self.leave(top, "the second map's factor has more than one coordinate")
        others = _without(above, [weights]) or []
        return self.attend(node, score, contraction, keep, others, [], keys, keys, branch=branch, lam=lam)

    def maps(self, weights: Node) -> tuple[Node, str, Node] | None:
        """``relu(w[0] - lam * w[1])``: the softmax, its coordinate of two maps, and the factor."""
        if weights.op != "point" or weights.data not in ("relu", "max"):
            return None
        inner = [a for a in weights.args if not is_number(a, 0)]
        if len(inner) != 1 or inner[0].op != "point" or inner[0].data != "sub":
            return None
        first, second = inner[0].args
        parts, under = product(second)
        at = next((p for p in parts if p.op == "gather" and p.args[0].op == "softmax"), None)
        if at is None or under or first.op != "gather" or first.args[0] is not at.args[0] or first.data != at.data:
            return None
        softmax = at.args[0]
        if softmax.data[0] != "softmax" or not is_number(first.args[1], 0) or not is_number(at.args[1], 1):
            return None
        factor = _without(parts, [at])
        return softmax, at.data, self.multiply(factor, []) if factor else self.node("number", 1.0, (), (), at)

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


def _without(nodes: list[Node], taken: list[Node]) -> list[Node] | None:
    """The nodes but those of ``taken``, each of which must be among them; else None."""
    left = list(nodes)
    for each in taken:
        at = next((n for n, x in enumerate(left) if x is each), None)
        if at is None:
            return None
        del left[at]
    return left
