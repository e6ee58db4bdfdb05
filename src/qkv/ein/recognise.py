"""Recognising attention in a written-out graph, however it is spelled.

A softmax of scores made by a contraction, and then a contraction with values over the same coordinate, becomes one
node; so do exponentials divided by their sum, differences of softmaxes, and products of feature maps divided by their
sum. What is left, and why, is kept for ``explain``. This module knows graphs; it refuses to know tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .attending import Recognised, product, walk_points
from .graph import Coords, Node, walk
from .quotients import Quotients


class Recogniser(Quotients):
    """One pass over a graph, operands first."""

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
                data = replace(data, strategy=name)
            done[id(old)] = self.node(old.op, data, args, old.coords, old)
        return done[id(node.args[0])]

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

    def weighed(self, node: Node, softmax: Node, others: list[Node], under: list[Node], summed: Coords) -> Node | None:
        """A softmax times values, summed."""
        keys = softmax.data[1]
        keep = list(softmax.args[1:])
        score = self.spine(softmax.args[0], keep)
        contraction = self.contraction(score, keys)
        if contraction is None:
            return self.leave(node, "the scores hold no contraction of queries with keys")
        return self.attend(node, score, contraction, keep, others, under, keys, summed)


def recognise(outputs: list[Node], sizes: Mapping[str, int] | None = None) -> Recognised:
    """The graph of ``outputs`` with attention recognised; where ``sizes`` are known, for these."""
    return Recogniser(sizes).run(outputs)
