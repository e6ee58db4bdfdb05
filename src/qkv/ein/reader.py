"""The parser's middle part: expressions, by recursive descent.

Statements and items are the upper part's matter (``parser``), words and axes the lower one's (``words``).
"""

from __future__ import annotations

from .. import limits
from . import tree
from .report import Span
from .words import SyntaxProblem, Words

REDUCTIONS = frozenset({"sum", "prod", "max", "min", "mean", "any", "all", "logsumexp", "argmax", "argmin"})
KEEPING = frozenset({"softmax", "log_softmax", "cumsum"})
ELEMS = ("f16", "bf16", "f32", "f64", "i32", "i64", "bool", "float")

_LEVELS: dict[str, int] = {
    "||": 1, "&&": 2, "==": 3, "!=": 3, "<": 3, "<=": 3, ">": 3, ">=": 3, "+": 4, "-": 4, "*": 5, "/": 5, "%": 5,
}  # fmt: skip
_COMPARE, _UNARY = 3, 6


class Reader(Words):
    """Expressions."""

    def expression(self, least: int = 0) -> tree.Expr:
        """An expression whose operators bind at least as tightly as ``least``."""
        self.deeper()
        left = self.unary()
        height = self.height
        kinds = self.kinds
        while True:
            operator = kinds[self.at]
            level = _LEVELS.get(operator, -1)
            if level < max(least, 1):
                break
            if (
                level == _COMPARE
                and isinstance(left, tree.Binary)
                and _LEVELS.get(left.operator) == _COMPARE
                and kinds[self.at - 1] != ")"
            ):
                self.fail("comparisons are not chained.", fix="a <= b && b <= c")
            self.at += 1
            right = self.expression(level + 1)
            height = max(height, self.height) + 1
            if height > limits.EIN_DEPTH:
                self.too_deep()
            left = tree.Binary(operator, left, right, (left.span[0], right.span[1]))
        self.height = height
        self.level -= 1
        return left

    def unary(self) -> tree.Expr:
        """``-x``, ``!x``, or a power."""
        kind = self.kinds[self.at]
        if kind in ("-", "!"):
            start = self.tokens.starts[self.at]
            self.at += 1
            self.deeper()
            operand = self.unary()
            self.level -= 1
            self.height += 1
            return tree.Unary(kind, operand, (start, operand.span[1]))
        base = self.postfix()
        if self.kinds[self.at] != "**":
            return base
        height = self.height
        self.at += 1
        self.deeper()
        exponent = self.unary()
        self.level -= 1
        self.height = max(height, self.height) + 1
        return tree.Binary("**", base, exponent, (base.span[0], exponent.span[1]))

    def postfix(self) -> tree.Expr:
        """A primary expression and the casts behind it."""
        value = self.primary()
        count = 0
        while self.kinds[self.at] == "as":
            self.at += 1
            elem, span = self.word("after as")
            if elem not in ELEMS:
                self.fail(f'"{elem}" is no element type.', fix=f"one of {' '.join(ELEMS)}", span=span)
            value = tree.Cast(value, elem, span, (value.span[0], span[1]))
            self.height += 1
            count += 1
            if count > limits.EIN_DEPTH:
                self.too_deep()
        return value

    def primary(self) -> tree.Expr:
        """A number, a name, an access, a call, a condition, or something in parentheses."""
        kind, at = self.kinds[self.at], self.at
        span = self.tokens.span(at)
        self.height = 1
        if kind == "name":
            self.at += 1
            after = self.kinds[self.at]
            if after == "[":
                return self.bracketed(self.tokens.texts[at], span)
            if after == "(":
                return self.call(self.tokens.texts[at], span, None)
            return tree.Name(self.tokens.texts[at], span)
        if kind in ("number", "true", "false", "inf"):
            self.at += 1
            return tree.Number(self.tokens.texts[at], span)
        if kind == "(":
            self.at += 1
            value = self.enclosed()
            self.expect(")", "after an expression in parentheses")
            return value
        if kind == "if":
            return self.condition()
        return self.fail(
            f"a value is expected, and {self.shown()} stands there.", fix="a number, a tensor X[..b, q, c], or a call"
        )

    def condition(self) -> tree.If:
        """``if c { a } else { b }``."""
        start = self.tokens.starts[self.at]
        self.at += 1
        self.deeper()
        test = self.expression()
        height = self.height
        self.expect("{", "after the condition of if")
        chosen = self.enclosed()
        height = max(height, self.height)
        self.expect("}", "after the first branch of if")
        self.expect("else", "after the first branch of if: every if has both")
        other: tree.Expr
        if self.kinds[self.at] == "if":
            other = self.condition()
        else:
            self.expect("{", "after else")
            other = self.enclosed()
            self.expect("}", "after the second branch of if")
        self.height = max(height, self.height) + 1
        self.level -= 1
        return tree.If(test, chosen, other, self.since(start))

    def bracketed(self, name: str, span: Span) -> tree.Expr:
        """What begins ``name[``: a reduction, a call with coordinates, a size, a concat, or an access."""
        if name == "size":
            self.at += 1
            coordinate = self.coordinate("in size[...]")
            self.expect("]", "after the coordinate of size")
            return tree.SizeOf(coordinate, self.since(span[0]))
        if name in REDUCTIONS or name in KEEPING or name == "only":
            return self.reduction(name, span)
        if name == "concat":
            self.at += 1
            coordinate = self.coordinate("in concat[...]")
            self.expect("]", "after the coordinate of concat")
            operands = self.arguments()
            return tree.Concat(coordinate, operands, self.since(span[0]))
        start = self.at
        self.at += 1
        close = self.closing()
        if self.kinds[close + 1] == "(":
            return self.call(name, span, self.bindings())
        self.at = start + 1
        axes = self.axes("]")
        return tree.Access(name, span, axes, self.since(span[0]))

    def closing(self) -> int:
        """Where the bracket before the next word closes; the end mark if it never does. Looks ahead a bounded way."""
        depth, at = 1, self.at
        last = min(len(self.kinds) - 1, self.at + 16 * limits.AXES_PER_TENSOR)
        while at < last:
            kind = self.kinds[at]
            if kind in ("[", "]"):
                depth += 1 if kind == "[" else -1
                if depth == 0:
                    return at
            elif kind in (";", "end"):
                break
            at += 1
        return len(self.kinds) - 2

    def coordinate(self, where: str) -> tree.AxisName:
        """One coordinate."""
        name, span = self.word(where)
        return tree.AxisName(name, span)

    def bindings(self) -> tuple[tree.Bound, ...]:
        """The coordinates of a call, up to and with the closing bracket."""
        found: list[tree.Bound] = []
        while not self.accept("]"):
            first = self.coordinate("in the coordinates of a call")
            formal = None
            if self.accept("="):
                formal, first = first, self.coordinate("after =")
            renamed = self.coordinate("after as") if self.accept("as") else None
            found.append(tree.Bound(formal, first, renamed, self.since((formal or first).span[0])))
            if not self.accept(","):
                self.expect("]", "after the coordinates of a call")
                break
        return tuple(found)

    def reduction(self, name: str, span: Span) -> tree.Reduce:
        """``sum[k](x where c)``, with ``as given`` and ``where`` also behind."""
        self.at += 1
        names: list[tree.AxisName | tree.AxisRest] = []
        while not self.accept("]"):
            names.append(self.rest() if self.kinds[self.at] == ".." else self.coordinate(f"in {name}[...]"))
            if not self.accept(","):
                self.expect("]", f"after the coordinates of {name}")
                break
        if not names:
            self.fail(f"{name}[] names no coordinate.", fix=f"{name}[k](...)", span=self.since(span[0]))
        given = self.given()
        self.expect("(", f"after {name}[...]")
        body = self.enclosed(operand=True)
        height = self.height
        condition = None
        if self.accept("where"):
            condition = self.enclosed()
            height = max(height, self.height)
        self.expect(")", f"after the operand of {name}")
        given = self.given() or given
        # in sum[k](sum[d](x) where c) the condition belongs to the parentheses that it stands in
        if condition is None and not self.operand and self.kinds[self.at] == "where":
            self.at += 1
            condition = self.expression(_COMPARE - 2)
            height = max(height, self.height)
        self.height = height + 1
        return tree.Reduce(name, span, tuple(names), body, condition, given, self.since(span[0]))

    def enclosed(self, *, operand: bool = False) -> tree.Expr:
        """An expression in parentheses or braces; ``operand`` says that they are a reduction's."""
        before, self.operand = self.operand, operand
        found = self.expression()
        self.operand = before
        return found

    def given(self) -> bool:
        """Takes ``as given``, if it stands here."""
        following = self.at + 1
        if self.kinds[self.at] == "as" and self.kinds[following] == "name" and self.tokens.texts[following] == "given":
            self.at += 2
            return True
        return False

    def arguments(self) -> tuple[tree.Expr, ...]:
        """``(a, b)``."""
        self.expect("(", "before arguments")
        found: list[tree.Expr] = []
        height = 0
        while not self.accept(")"):
            found.append(self.enclosed())
            height = max(height, self.height)
            if len(found) > limits.EIN_ARGUMENTS:
                self.report.error(
                    "limit",
                    f"a call has more than {limits.EIN_ARGUMENTS} arguments.",
                    self.here(),
                    fix="concatenate them in steps",
                )
                raise SyntaxProblem
            if not self.accept(","):
                self.expect(")", "after the arguments")
                break
        self.height = height + 1
        return tuple(found)

    def call(self, name: str, span: Span, coordinates: tuple[tree.Bound, ...] | None) -> tree.Expr:
        """The arguments of a call, and the call."""
        if name in REDUCTIONS - {"min", "max"} or name in KEEPING or name in ("only", "concat"):
            self.fail(f"{name} does not say over which coordinate.", fix=f"{name}[k](...)", span=span)
        arguments = self.arguments()
        return tree.Call(name, span, coordinates, arguments, self.since(span[0]))
