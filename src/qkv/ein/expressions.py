"""Checking expressions: every one gets its coordinates and its element type, or an error that says what to write.

Arithmetic, conditions and pointwise functions stand here; calls and attention's roles are layers above. This module
knows one expression at a time and the scope it stands in.
"""

from __future__ import annotations

import math

from . import tree
from .elems import INTS, NUMBERS, meet
from .graph import Node, union
from .reductions import Reductions

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


class Expressions(Reductions):
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
