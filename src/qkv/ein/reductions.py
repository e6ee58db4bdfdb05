"""Checking reductions and concat: what runs over a coordinate, and what joins two.

Whatever is reduced must be there; operands that are joined differ in one coordinate. Knows an operand by its
coordinates and its element type; how it came to them is the layer above.
"""

from __future__ import annotations

from . import tree
from .access import Accesses
from .elems import is_real, meet
from .graph import Constraint, Node, union
from .reader import KEEPING
from .scope import SILENT


class Reductions(Accesses):
    """Sums and their like, softmax and its kin, ``only``, ``concat``."""

    def truth(self, expression: tree.Expr, where: str) -> Node:
        """A condition; the layer above knows them."""
        raise NotImplementedError(where)

    def reduce(self, reduce: tree.Reduce) -> Node:
        """Reductions, softmax and its kin, and ``only``."""
        names = [axis.name for axis in reduce.coordinates if self.knows(axis)]
        added = {n for n in names if n not in self.bound}
        self.bound |= added
        condition = None if reduce.condition is None else self.truth(reduce.condition, "where")
        if condition is not None:
            self.guards.append(condition)
        body = self.value(reduce.body)
        if condition is not None:
            self.guards.pop()
        self.bound -= added
        coords = body.coords if condition is None else union(body.coords, condition.coords)
        bad = body.bad or (condition is not None and condition.bad) or len(names) < len(reduce.coordinates)
        if not bad and not self.present(reduce, names, coords, body):
            bad = True
        dtype = self.reduced(reduce, body) if not bad else body.dtype
        args = (body,) if condition is None else (body, condition)
        if reduce.operator in ("softmax", "log_softmax"):
            return Node("softmax", (reduce.operator, tuple(names), reduce.given), args, coords, dtype, reduce.span, bad)
        if reduce.operator == "cumsum":
            return Node("cumsum", names[0] if names else "", args, coords, dtype, reduce.span, bad or len(names) != 1)
        remaining = tuple(c for c in coords if c not in names)
        if reduce.operator == "only":
            self.constraints += [Constraint("one", (name,), reduce.span) for name in names]
            return Node("only", tuple(names), args[:1], remaining, dtype, reduce.span, bad)
        node = Node("reduce", (reduce.operator, tuple(names)), args, remaining, dtype, reduce.span, bad)
        if not bad and reduce.operator == "sum":
            self.roles(node)
        return node

    def roles(self, node: Node) -> None:
        """Attention's roles; the layer above looks at them."""

    def present(self, reduce: tree.Reduce, names: list[str], coords: tuple[str, ...], body: Node) -> bool:
        """Whether the expression has every coordinate that is reduced."""
        for axis in reduce.coordinates:
            if axis.name not in coords:
                has = " ".join(coords) or "no coordinates"
                other = [c for c in coords if not c.startswith("..")]
                self.report.error(
                    "absent-reduction",
                    f"{reduce.operator} runs over {axis.name}, which the expression does not have.",
                    axis.span,
                    sides=[f"{self.describe(body)} has {has}"],
                    silent="dim=-1 names whatever axis stands last.",
                    fix=f"{reduce.operator}[{other[-1]}](...)" if other else "leave the reduction out",
                )
                return False
            if names.count(axis.name) > 1:
                self.report.error(
                    "duplicate", f"{reduce.operator} names {axis.name} twice.", axis.span, fix="name it once"
                )
                return False
        return True

    def reduced(self, reduce: tree.Reduce, body: Node) -> str:
        """The element type of a reduction, an error reported where it cannot be."""
        operator, dtype = reduce.operator, body.dtype
        if operator == "only":
            return dtype
        if operator in ("any", "all"):
            if dtype != "bool":
                self.wrong_kind(reduce, body, "truth values", f"{self.text(reduce.body.span)} != 0")
            return "bool"
        if operator in ("mean", "logsumexp", "softmax", "log_softmax") and not is_real(dtype):
            self.wrong_kind(reduce, body, "real numbers", f"{self.text(reduce.body.span)} as f32")
            return "f32"
        if dtype == "bool":
            self.wrong_kind(
                reduce,
                body,
                "numbers",
                f"{reduce.operator}[{self.names(reduce)}](if {self.text(reduce.body.span)} {{ 1 }} else {{ 0 }})",
            )
            return "i64"
        if operator in ("argmax", "argmin", "cumsum") and len(reduce.coordinates) != 1:
            self.report.error(
                "arity",
                f"{operator} takes one coordinate, and {len(reduce.coordinates)} are named.",
                reduce.span,
                fix=f"{operator}[{reduce.coordinates[0].name}](...)",
            )
        if operator in ("cumsum", "argmax", "argmin", *()) and reduce.condition is not None:
            self.report.error(
                "syntax",
                f"{operator} takes no where.",
                reduce.condition.span,
                fix="if condition { x } else { 0 } inside",
            )
        if operator not in KEEPING and reduce.given:
            self.report.error(
                "syntax",
                f"{operator} says nothing that `as given` could mean.",
                reduce.span,
                fix=f"{operator}[...](...)",
            )
        return "i64" if operator in ("argmax", "argmin") else dtype

    def names(self, reduce: tree.Reduce) -> str:
        """The coordinates of a reduction as they are written."""
        return ", ".join(axis.name for axis in reduce.coordinates)

    def wrong_kind(self, reduce: tree.Reduce, body: Node, wanted: str, fix: str) -> None:
        """Reports that a reduction is asked of the wrong element type."""
        self.report.error(
            "dtype", f"{reduce.operator} needs {wanted}, and this is {body.dtype}.", reduce.body.span, fix=fix
        )

    def concat(self, concat: tree.Concat) -> Node:
        """Operands joined along the one coordinate in which they differ."""
        into = concat.coordinate.name
        known = self.knows(concat.coordinate)
        before, self.joining = self.joining, into
        operands = [self.value(each) for each in concat.operands]
        self.joining = before
        if len(operands) < 2:
            self.report.error(
                "arity",
                f"concat joins at least two operands, and {len(operands)} is given."
                if operands
                else "concat is given nothing to join.",
                concat.span,
                fix=f"concat[{into}](old[..], fresh[..])",
            )
            return self.bad(concat.span)
        if not known or any(each.bad for each in operands):
            return self.bad(concat.span, union(*(e.coords for e in operands), (into,)), operands[0].dtype)
        own: list[str] = []
        for n, each in enumerate(operands):
            mine = self.merged(concat, operands, n, into)
            if mine is None:
                return self.bad(concat.span, union((into,), operands[0].coords), each.dtype)
            own.append(mine)
        dtype = operands[0].dtype
        for each in operands[1:]:
            met = meet(dtype, each.dtype)
            if met is None:
                self.report.error(
                    "dtype",
                    f"concat joins {dtype} and {each.dtype}.",
                    each.span,
                    fix=f"cast one: ({self.text(each.span)}) as {dtype}",
                )
                return self.bad(concat.span, union((into,), operands[0].coords), dtype)
            dtype = met
        coords = tuple(into if c == own[0] else c for c in operands[0].coords)
        parts = tuple(self.origin(each, name) for each, name in zip(operands, own, strict=True))
        self.constraints.append(Constraint("sum", (into, *parts), concat.span))
        return Node("concat", (into, tuple(own)), tuple(operands), coords, dtype, concat.span)

    def origin(self, operand: Node, name: str) -> str:
        """The coordinate whose size the joined axis of an operand has: what it was called before ``as``."""
        if operand.op == "rename":
            return next((old for old, new in operand.data if new == name), name)
        return name

    def merged(self, concat: tree.Concat, operands: list[Node], n: int, into: str) -> str | None:
        """The coordinate of operand ``n`` that is joined; None, with an error reported, where there is none."""
        names = operands[n].coords
        others = {c for m, each in enumerate(operands) if m != n for c in each.coords}
        common = set(operands[0].coords).intersection(*(e.coords for e in operands[1:]))
        lone = [c for c in names if c not in others and not c.startswith("..")]
        if into in names:
            if self.origin(operands[n], into) == into:
                return self.differ(
                    concat, operands, n, f"{into} would have two sizes: its own, and the sum", lone, common
                )
            mine = into
        elif len(lone) == 1:
            mine = lone[0]
        else:
            said = f"only it has {' and '.join(lone)}" if lone else "it has no coordinate of its own"
            return self.differ(concat, operands, n, said, lone, common)
        differs = [
            c
            for c in others
            if c not in names and c != into and all(c in e.coords for m, e in enumerate(operands) if m != n)
        ]
        if len(operands) > 2 and differs:
            return self.differ(concat, operands, n, f"it lacks {differs[0]}", lone, common)
        return mine

    def differ(
        self, concat: tree.Concat, operands: list[Node], n: int, said: str, lone: list[str], common: set[str]
    ) -> None:
        """Reports what makes operands of a concat unfit."""
        sides = [self.side(self.describe(each), each.coords) for each in operands]
        own = [next((c for c in each.coords if c not in common), "") for each in operands]
        distinct = all(own) and len(set(own)) == len(own)
        if distinct and set(operands[0].coords) - {own[0]} == common:
            fix = f"concat[k](...) with a coordinate k of its own: {' and '.join(own)} are what is joined"
        else:
            fix = "operands that differ in one coordinate: concat[k](old[..b, past, c], fresh[..b, new, c])"
        self.report.error(
            "concat-mismatch",
            f"operand {n + 1} of concat[{concat.coordinate.name}] does not fit: {said}.",
            operands[n].span,
            sides=sides,
            silent="cat joins any axis whose other sizes agree; " + SILENT,
            fix=fix,
        )
