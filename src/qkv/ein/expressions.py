"""Checking expressions: every one gets its coordinates and its element type, or an error that says what to write.

Accesses, arithmetic, conditions, reductions and concat stand here; calls and attention's roles are layers above. This
module knows one expression at a time and the scope it stands in.
"""

from __future__ import annotations

import math
from typing import Any

from . import tree
from .access import Accesses
from .elems import INTS, NUMBERS, is_real, meet
from .graph import Constraint, Node, union
from .reader import KEEPING
from .report import Span
from .scope import SILENT

POINTWISE: dict[str, int] = {
    "exp": 1, "log": 1, "sqrt": 1, "tanh": 1, "sin": 1, "cos": 1, "abs": 1, "floor": 1, "relu": 1, "sigmoid": 1,
    "silu": 1, "gelu": 1, "erf": 1, "min": 2, "max": 2,
}  # fmt: skip
"""Pointwise functions and their number of arguments."""

OPERATIONS = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "%": "mod", "**": "pow", "<": "lt", "<=": "le", ">": "gt",
    ">=": "ge", "==": "eq", "!=": "ne", "&&": "and", "||": "or",
}  # fmt: skip
"""The operation of each sign."""
_COMPARISONS = frozenset({"<", "<=", ">", ">=", "==", "!="})


class Expressions(Accesses):
    """One expression after another."""

    def value(self, expression: tree.Expr) -> Node:
        """The node of an expression."""
        match expression:
            case tree.Access():
                return self.access(expression)
            case tree.Binary():
                return self.binary(expression)
            case tree.Number():
                return self.number(expression)
            case tree.Name():
                return self.named(expression)
            case tree.Reduce():
                return self.reduce(expression)
            case tree.Call():
                return self.call(expression)
            case tree.Unary():
                return self.unary(expression)
            case tree.If():
                return self.condition(expression)
            case tree.Cast():
                operand = self.value(expression.operand)
                return Node(
                    "cast", expression.elem, (operand,), operand.coords, expression.elem, expression.span, operand.bad
                )
            case tree.SizeOf():
                known = self.knows(expression.coordinate)
                return Node("size", expression.coordinate.name, (), (), "int", expression.span, bad=not known)
            case tree.Concat():
                return self.concat(expression)

    def number(self, number: tree.Number) -> Node:
        """A number as it is written."""
        text = number.text
        if text in ("true", "false"):
            return Node("number", text == "true", (), (), "bool", number.span)
        if text == "inf":
            return Node("number", math.inf, (), (), "real", number.span)
        digits = text.replace("_", "")
        if digits.isdigit():
            if len(digits) > 18:
                self.report.error(
                    "limit",
                    "a whole number does not fit into 64 bits.",
                    number.span,
                    fix=f"{digits[:1]}e{len(digits) - 1}",
                )
                return self.bad(number.span)
            return Node("number", int(digits), (), (), "int", number.span)
        return Node("number", float(digits), (), (), "real", number.span)

    def unary(self, unary: tree.Unary) -> Node:
        """``-x`` and ``!x``."""
        operand = self.value(unary.operand)
        wanted = unary.operator == "!"
        if not operand.bad and (operand.dtype == "bool") != wanted:
            said = "a truth value" if operand.dtype == "bool" else f"a number ({operand.dtype})"
            self.report.error(
                "dtype",
                f"{unary.operator} is asked of {said}.",
                unary.span,
                fix=f"{self.text(unary.operand.span)} != 0" if wanted else f"!{self.text(unary.operand.span)}",
            )
            return self.bad(unary.span, operand.coords, "bool" if wanted else "real")
        if operand.op == "number" and not operand.bad and not wanted:
            return Node("number", -operand.data, (), (), operand.dtype, unary.span)
        return Node(
            "point", "not" if wanted else "neg", (operand,), operand.coords, operand.dtype, unary.span, operand.bad
        )

    def binary(self, binary: tree.Binary) -> Node:
        """Arithmetic, comparisons and logic."""
        operator = binary.operator
        left = self.value(binary.left)
        if operator in ("&&", "||") and left.dtype == "bool" and not left.bad:
            # What stands behind && is looked at only where the first holds, so an index there may rely on it.
            self.guards.append(left if operator == "&&" else self.negated(left))
            right = self.value(binary.right)
            self.guards.pop()
        else:
            right = self.value(binary.right)
        bad = left.bad or right.bad
        coords = left.coords if left.coords == right.coords else union(left.coords, right.coords)
        dtype = (
            self.result(operator, left, right, binary)
            if not bad
            else "bool"
            if operator in _COMPARISONS or operator in ("&&", "||")
            else meet(left.dtype, right.dtype) or "real"
        )
        if dtype is None:
            return self.bad(
                binary.span, coords, "bool" if operator in ("&&", "||") or operator in _COMPARISONS else left.dtype
            )
        return Node("point", OPERATIONS[operator], (left, right), coords, dtype, binary.span, bad)

    def result(self, operator: str, left: Node, right: Node, binary: tree.Binary) -> str | None:
        """The element type of an operation; None, with an error reported, where there is none."""
        if operator in ("&&", "||"):
            if left.dtype == right.dtype == "bool":
                return "bool"
            wrong = binary.left if left.dtype != "bool" else binary.right
            self.report.error(
                "dtype",
                f"{operator} joins truth values, and this is a number.",
                wrong.span,
                fix=f"{self.text(wrong.span)} != 0",
            )
            return None
        met = meet(left.dtype, right.dtype)
        if met is None or (met == "bool" and operator not in ("==", "!=")):
            sides = [f"left:  {left.dtype} ({self.describe(left)})", f"right: {right.dtype} ({self.describe(right)})"]
            boolean = "bool" in (left.dtype, right.dtype)
            fix = (
                f"if {self.text(binary.left.span if left.dtype == 'bool' else binary.right.span)} {{ 1 }} "
                f"else {{ 0 }} for a number"
                if boolean
                else f"{self.text(binary.right.span)} as {left.dtype}"
            )
            self.report.error(
                "dtype",
                f"{operator} is asked of {left.dtype} and {right.dtype}.",
                binary.span,
                sides=sides,
                fix=fix,
                silent="it would convert one of them, and round." if not boolean else "True would count as 1.",
            )
            return None
        if operator in _COMPARISONS:
            return "bool"
        if operator == "/" and met in INTS:
            return "real"
        if operator == "**" and met in INTS and not (right.op == "number" and right.data >= 0):
            return "real"
        return met

    def negated(self, node: Node) -> Node:
        """The opposite of a condition."""
        return Node("point", "not", (node,), node.coords, "bool", node.span, node.bad)

    def truth(self, expression: tree.Expr, where: str) -> Node:
        """A condition."""
        node = self.value(expression)
        if not node.bad and node.dtype != "bool":
            self.report.error(
                "dtype",
                f"the condition of {where} is a number ({node.dtype}).",
                expression.span,
                fix=f"{self.text(expression.span)} != 0",
            )
            return self.bad(expression.span, node.coords, "bool")
        return node

    def condition(self, choice: tree.If) -> Node:
        """``if``: both branches are values; an index in one of them may rely on the condition."""
        test = self.truth(choice.condition, "if")
        self.guards.append(test)
        chosen = self.value(choice.chosen)
        self.guards[-1] = self.negated(test)
        other = self.value(choice.other)
        self.guards.pop()
        bad = test.bad or chosen.bad or other.bad
        dtype = meet(chosen.dtype, other.dtype)
        if dtype is None:
            if not bad:
                self.report.error(
                    "dtype",
                    f"the branches of if are {chosen.dtype} and {other.dtype}.",
                    choice.span,
                    fix=f"{self.text(choice.other.span)} as {chosen.dtype}",
                )
            return self.bad(choice.span, union(chosen.coords, other.coords), chosen.dtype)
        return Node(
            "point",
            "select",
            (test, chosen, other),
            union(test.coords, chosen.coords, other.coords),
            dtype,
            choice.span,
            bad,
        )

    # reductions

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

    # concat

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

    def point(self, call: tree.Call) -> Node:
        """A pointwise function."""
        arguments = [self.value(each) for each in call.arguments]
        count = POINTWISE[call.name]
        if len(arguments) != count:
            self.report.error(
                "arity",
                f"{call.name} takes {count} argument{'s' if count > 1 else ''}, and {len(arguments)} are given.",
                call.span,
                fix=f"{call.name}({', '.join('xy'[:count])})"
                + (f", or {call.name}[k](x) to reduce" if count > 1 else ""),
            )
            return self.bad(call.span, union(*(a.coords for a in arguments)))
        coords = union(*(a.coords for a in arguments))
        bad = any(a.bad for a in arguments)
        dtype: str | None = arguments[0].dtype
        if count == 2:
            dtype = meet(arguments[0].dtype, arguments[1].dtype)
        if not bad and dtype not in NUMBERS:
            self.report.error(
                "dtype",
                f"{call.name} is asked of {' and '.join(a.dtype for a in arguments)}.",
                call.span,
                fix=f"{call.name} of numbers of one type",
            )
            bad = True
        dtype = dtype or "real"
        if call.name == "floor":
            dtype = "int" if dtype in ("int", "real") else dtype
        elif call.name not in ("abs", "min", "max", "relu") and dtype in INTS:
            dtype = "real"
        return Node("point", call.name, tuple(arguments), coords, dtype, call.span, bad)

    def call(self, call: tree.Call) -> Node:
        """A call; the layer above knows functions."""
        raise NotImplementedError(call.name)

    def span_of(self, node: Any) -> Span:
        """The place of a tree's part."""
        return node.span
