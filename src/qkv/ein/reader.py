"""The parser's lower half: taking words one after the other, lists of axes, and expressions.

Recursive descent with one word of look-ahead (two where a bracket may open an axis or an expression). Nesting is
bounded, so that no text exhausts the stack. Statements and items are the upper half's matter (``parser``).
"""

from __future__ import annotations

from typing import NoReturn

from .. import limits
from . import tree
from .report import Report, Span
from .tokens import Tokens

REDUCTIONS = frozenset({"sum", "prod", "max", "min", "mean", "any", "all", "logsumexp", "argmax", "argmin"})
KEEPING = frozenset({"softmax", "log_softmax", "cumsum"})
ELEMS = ("f16", "bf16", "f32", "f64", "i32", "i64", "bool", "float")

_LEVELS: dict[str, int] = {
    "||": 1, "&&": 2, "==": 3, "!=": 3, "<": 3, "<=": 3, ">": 3, ">=": 3, "+": 4, "-": 4, "*": 5, "/": 5, "%": 5,
}  # fmt: skip
_COMPARE, _UNARY = 3, 6


class SyntaxProblem(Exception):
    """Reading cannot go on here; the report has it already."""


class Reader:
    """Words, axes and expressions."""

    def __init__(self, tokens: Tokens, report: Report) -> None:
        self.tokens = tokens
        self.kinds = tokens.kinds
        self.report = report
        self.at = 0
        self.level = 0  # how deep the reading is nested
        self.height = 0  # how deep the expression that was read last is
        self.operand = False  # whether it stands right inside a reduction's parentheses

    # words

    def here(self) -> Span:
        """The place of the next word; at the end of the text, of the last one."""
        return self.tokens.span(self.at)

    def since(self, start: int) -> Span:
        """From a character to the end of the word before the next."""
        last = max(self.at - 1, 0)
        return start, max(start, self.tokens.starts[last] + len(self.tokens.texts[last]))

    def fail(self, message: str, *, fix: str = "", span: Span | None = None) -> NoReturn:
        """Reports a ``syntax`` error and gives up this statement."""
        self.report.error("syntax", message, self.here() if span is None else span, fix=fix)
        raise SyntaxProblem

    def shown(self) -> str:
        """How messages call the next word."""
        return "the end of the text" if self.kinds[self.at] == "end" else f'"{self.tokens.texts[self.at][:40]}"'

    def accept(self, kind: str) -> bool:
        """Takes the next word if it is of the kind."""
        if self.kinds[self.at] == kind:
            self.at += 1
            return True
        return False

    def expect(self, kind: str, where: str) -> Span:
        """Takes the next word, which must be of the kind."""
        if self.kinds[self.at] != kind:
            wanted = "a name" if kind == "name" else "a number" if kind == "number" else f'"{kind}"'
            self.fail(
                f"{wanted} is expected {where}, and {self.shown()} stands there.",
                fix="" if kind in ("name", "number") else f"put {kind} here",
            )
        self.at += 1
        return self.tokens.span(self.at - 1)

    def word(self, where: str) -> tuple[str, Span]:
        """Takes a name."""
        span = self.expect("name", where)
        return self.tokens.texts[self.at - 1], span

    def is_word(self, text: str) -> bool:
        """Whether the next word is this name, which is special only here."""
        return self.kinds[self.at] == "name" and self.tokens.texts[self.at] == text

    def deeper(self) -> None:
        """One level of nesting more."""
        self.level += 1
        if self.level > limits.EIN_DEPTH:
            self.too_deep()

    def too_deep(self) -> NoReturn:
        """Reports that the text is nested too deeply."""
        self.report.error(
            "limit",
            f"an expression is nested more than {limits.EIN_DEPTH} levels deep.",
            self.here(),
            fix="name a part of it: let part[..] = ...;",
        )
        raise SyntaxProblem

    # axes

    def rest(self) -> tree.AxisRest:
        """``..b``."""
        start = self.tokens.starts[self.at]
        self.at += 1
        name, _ = self.word("after the dots of a rest")
        return tree.AxisRest(f"..{name}", self.since(start))

    def axes(self, close: str, *, types: bool = False) -> tuple[tree.Axis, ...]:
        """A list of axes up to ``close``, which is taken."""
        found: list[tree.Axis] = []
        while not self.accept(close):
            found.append(self.axis(types=types))
            if len(found) > limits.AXES_PER_TENSOR:
                self.report.error(
                    "limit",
                    f"a tensor has more than {limits.AXES_PER_TENSOR} axes.",
                    self.here(),
                    fix="merge axes before",
                )
                raise SyntaxProblem
            if not self.accept(","):
                self.expect(close, "after an axis")
                break
        return tuple(found)

    def axis(self, *, types: bool = False) -> tree.Axis:
        """One axis of a type, a target or an access."""
        kinds, at = self.kinds, self.at
        kind, after = kinds[at], kinds[at + 1] if at + 1 < len(kinds) else "end"
        if kind == "name" and after in (",", "]"):
            self.at += 1
            return tree.AxisName(self.tokens.texts[at], self.tokens.span(at))
        if kind == "..":
            return self.rest()
        if kind == "{":
            return self.unordered()
        if kind == "(" and after == "name" and kinds[at + 2] in (",", "name"):
            group = self.group()
            return self.renamed(group) if kinds[self.at] == "as" else group
        if kind == "name" and after == "as":
            self.at += 1
            return self.renamed(tree.AxisName(self.tokens.texts[at], self.tokens.span(at)))
        if kind == "name" and after == "name":
            return self.side_by_side()
        if kind == "name" and after == "in":
            return self.ranged()
        if types and kind == "name" and after == "*":
            return self.side_by_side()
        start = self.tokens.starts[at]
        return tree.AxisValue(self.expression(), self.since(start))

    def group(self) -> tree.AxisGroup:
        """``(head, d)``."""
        start = self.tokens.starts[self.at]
        self.expect("(", "before a merged axis")
        names: list[tuple[str, Span]] = []
        commas = 0
        while not self.accept(")"):
            names.append(self.word("in a merged axis"))
            if len(names) > limits.AXES_PER_TENSOR:
                self.fail("too many coordinates are merged in one axis.")
            if self.accept(","):
                commas += 1
            elif self.kinds[self.at] != ")" and self.kinds[self.at] != "name":
                self.expect(")", "after a merged axis")
        ordered = commas >= len(names) - 1
        return tree.AxisGroup(tuple(n for n, _ in names), tuple(s for _, s in names), self.since(start), ordered)

    def unordered(self) -> tree.AxisGroup:
        """``{head, d}``, which does not say which is major."""
        start = self.tokens.starts[self.at]
        self.at += 1
        names = [self.word("in a merged axis")]
        while self.accept(","):
            names.append(self.word("in a merged axis"))
        self.expect("}", "after a merged axis")
        return tree.AxisGroup(tuple(n for n, _ in names), tuple(s for _, s in names), self.since(start), ordered=False)

    def side_by_side(self) -> tree.AxisGroup:
        """``head d`` or ``head * d``, which do not say which is major."""
        start = self.tokens.starts[self.at]
        names = [self.word("in an axis")]
        while self.kinds[self.at] in ("name", "*"):
            self.accept("*")
            names.append(self.word("in an axis"))
        return tree.AxisGroup(tuple(n for n, _ in names), tuple(s for _, s in names), self.since(start), ordered=False)

    def renamed(self, old: tree.AxisName | tree.AxisGroup) -> tree.AxisAs:
        """What follows ``tok as``."""
        self.expect("as", "in a renaming")
        new: tree.AxisName | tree.AxisGroup
        if self.kinds[self.at] == "(":
            new = self.group()
        elif self.kinds[self.at] == "{":
            new = self.unordered()
        elif self.kinds[self.at] == "name" and self.kinds[self.at + 1] in ("name", "*"):
            new = self.side_by_side()
        else:
            name, span = self.word("after as")
            new = tree.AxisName(name, span)
        return tree.AxisAs(old, new, self.since(old.span[0]))

    def ranged(self) -> tree.AxisRange:
        """``t in 1..T``."""
        name, span = self.word("in a range")
        self.expect("in", "in a range")
        first = self.expression()
        self.expect("..", "between the first index and one past the last")
        last = self.expression()
        return tree.AxisRange(name, span, first, last, self.since(span[0]))

    # expressions

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
