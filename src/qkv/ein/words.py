"""Taking words one after the other, and lists of axes: the parser's lowest part.

One word of look-ahead, two where a bracket may open an axis or an expression. Nesting is bounded, so that no text
exhausts the stack. Expressions are the part above (``reader``).
"""

from __future__ import annotations

from typing import NoReturn

from .. import limits
from . import tree
from .report import Report, Span
from .tokens import Tokens


class SyntaxProblem(Exception):
    """Reading cannot go on here; the report has it already."""


class Words:
    """Words and axes."""

    def __init__(self, tokens: Tokens, report: Report) -> None:
        self.tokens = tokens
        self.kinds = tokens.kinds
        self.report = report
        self.at = 0
        self.level = 0  # how deep the reading is nested
        self.height = 0  # how deep the expression that was read last is
        self.operand = False  # whether it stands right inside a reduction's parentheses

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
        if kind == "{" or (kind == "(" and after == "name" and kinds[at + 2] in (",", "name")):
            group = self.unordered() if kind == "{" else self.group()
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

    def expression(self, least: int = 0) -> tree.Expr:
        """An expression; the part above reads it."""
        raise NotImplementedError(str(least))
