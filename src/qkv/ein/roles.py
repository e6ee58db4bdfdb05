"""Checking attention's roles: whether softmax, sum and scores run over the coordinates that they must.

Roles follow from where a coordinate stands (keys, values and queries as sets), never from its name or size: the key is
what softmax normalises and the sum consumes, the feature is what scores contract, and a query is never consumed.
``softmax[q] as given`` says that something else is meant.
"""

from __future__ import annotations

from collections.abc import Iterable

from .calls import Calls
from .graph import Node, conjuncts, factors, plain

_SEARCHED = 64
"""How many nodes are looked at for a softmax below a product, and for a contraction below a softmax."""

_AFTER = {"ge": ("first", False), "gt": ("first", True), "le": ("second", False), "lt": ("second", True)}


def below(node: Node, wanted: str) -> Node | None:
    """The first node of the kind below pointwise operations: ``softmax``, or ``contraction``."""
    stack, count = [node], 0
    while stack and count < _SEARCHED:
        current = stack.pop()
        count += 1
        if current.op == "softmax" and wanted == "softmax":
            return current
        if (
            current.op == "reduce"
            and wanted == "contraction"
            and current.data[0] == "sum"
            and len(carrying(current)) > 1
        ):
            return current
        if current.op in ("point", "cast", "strategy"):
            stack.extend(reversed(current.args))
    return None


def carrying(contraction: Node) -> list[Node]:
    """The factors that a sum multiplies, those with coordinates."""
    return [f for f in factors(contraction.args[0]) if f.coords]


def shown(names: Iterable[str]) -> str:
    """Coordinates as the text has them."""
    return ", ".join(map(plain, names))


class Roles(Calls):
    """The check of one sum."""

    def roles(self, node: Node) -> None:
        """Looks for a softmax among the factors of a sum, and for the scores below it."""
        parts = factors(node.args[0])
        summed = set(node.data[1])
        for weights in parts:
            softmax = below(weights, "softmax")
            if softmax is None or softmax.data[0] != "softmax" or softmax.data[2]:
                continue
            contraction = below(softmax.args[0], "contraction")
            if contraction is None:
                continue
            values = [p for p in parts if p is not weights and p.coords]
            if not values:
                continue
            self.attention(summed, softmax, contraction, values)
            return

    def attention(self, summed: set[str], softmax: Node, contraction: Node, values: list[Node]) -> None:
        """The roles of one attention."""
        keys = set(softmax.data[1])
        carried = {c for v in values for c in v.coords}
        scored = set(softmax.coords)
        over, consumed = shown(softmax.data[1]), shown(sorted(summed))
        sides = [
            f"scores: [{shown(softmax.args[0].coords)}] = {self.text(contraction.span)}",
            "values: " + ", ".join(f"{self.describe(v)} [{shown(v.coords)}]" for v in values),
        ]
        if not keys & summed:
            if summed & scored:
                self.wrong(
                    softmax,
                    f"softmax runs over {over}, and the sum over {consumed}: the query is normalised or consumed.",
                    sides,
                    f"softmax[{consumed}](...), so that the weights of the keys that are summed add up to one",
                )
            return
        if keys <= summed and not keys & carried:
            self.wrong(
                softmax,
                f"the values do not have {over}, over which softmax runs: the key is summed away before it "
                "meets a value.",
                sides,
                f"values with {over}: write {over} where they have another sequence",
            )
            return
        parts = carrying(contraction)
        contracted = contraction.data[1]
        for name in contracted:
            holders = [self.describe(p) for p in parts if name in p.coords]
            if len(holders) == 1:
                self.wrong(
                    contraction,
                    f"scores contract over {plain(name)}, which only {holders[0]} has: that is no feature.",
                    sides,
                    "sum over a coordinate that queries and keys both have",
                )
                return
        kept = [
            c
            for c in contraction.coords
            if all(c in p.coords for p in parts) and c not in carried and not c.startswith("..")
        ]
        shared = [c for c in contracted if c in carried]
        if shared and (kept or len(shared) < len(contracted)):
            feature = kept or [c for c in contracted if c not in carried]
            self.wrong(
                contraction,
                f"scores contract over {plain(shared[0])}, which the values have too: it is shared, and no feature.",
                sides,
                f"sum[{shown(feature)}](...): {shown(feature)} stands in queries and keys alone",
            )
            return
        self.after(softmax, keys, sides)

    def after(self, softmax: Node, keys: set[str], sides: list[str]) -> None:
        """A mask that keeps only what comes after the query: query and key were swapped, or `as given` is missing."""
        stack, count = list(softmax.args), 0
        if len(softmax.args) == 2:
            self.conditions(softmax, softmax.args[1], keys, sides)
        while stack and count < _SEARCHED:
            current = stack.pop()
            count += 1
            if current.op == "point" and current.data == "select":
                if current.args[2].op == "number" and current.args[2].data == float("-inf"):
                    self.conditions(softmax, current.args[0], keys, sides)
                stack.extend(current.args[1:])
            elif current.op in ("point", "cast"):
                stack.extend(current.args)

    def conditions(self, softmax: Node, mask: Node, keys: set[str], sides: list[str]) -> None:
        """One mask."""
        for each in conjuncts(mask):
            if each.op != "point" or each.data not in _AFTER or any(a.op != "index" for a in each.args):
                continue
            first, second = (str(a.data) for a in each.args)
            which, strict = _AFTER[each.data]
            later, earlier = (first, second) if which == "first" else (second, first)
            if later in keys and earlier not in keys:
                sign = "<" if strict else "<="
                later, earlier = plain(later), plain(earlier)
                self.wrong(
                    each,
                    f"the mask keeps the keys {later} that come after the query {earlier}, and drops those before it.",
                    [f"softmax runs over {later}, so {later} is the key and {earlier} the query"],
                    f"{later} {sign} {earlier}, or softmax[{later}] as given(...) if the future is meant",
                )
                return

    def wrong(self, node: Node, message: str, sides: list[str], fix: str) -> None:
        """Reports ``wrong-role``."""
        self.report.error(
            "wrong-role",
            message,
            node.span,
            sides=sides,
            silent="softmax and matmul take any axis; equal lengths fit either way.",
            fix=fix,
        )
