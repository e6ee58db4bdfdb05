"""The parser's upper half: items and statements, and going on after a mistake.

A statement that cannot be read is reported, left out, and reading goes on behind its semicolon, so that independent
mistakes of one text are all found.
"""

from __future__ import annotations

from .. import limits
from . import tree
from .reader import ELEMS, Reader
from .report import Report, Source, Span
from .tokens import Tokens, read
from .words import SyntaxProblem


class Parser(Reader):
    """A whole text."""

    def parse(self) -> tree.Tree:
        """Every item that could be read."""
        items: list[tree.Item] = []
        while self.kinds[self.at] != "end":
            before = self.at
            try:
                items.append(self.item())
            except SyntaxProblem:
                self.level = 0
                self.operand = False
                self.skip_item(before)
        return tree.Tree(tuple(items))

    def skip_item(self, before: int) -> None:
        """Goes on at the next item."""
        self.at = max(self.at, before + 1) if self.kinds[self.at] != "end" else self.at
        while self.kinds[self.at] not in ("fn", "use", "end", "#"):
            if self.kinds[self.at] == "let" and self.at > before:
                return
            self.at += 1

    def item(self) -> tree.Item:
        """``fn``, ``let`` or ``use``, with the attributes before."""
        start = self.tokens.starts[self.at]
        attributes = self.attributes()
        kind = self.kinds[self.at]
        if kind == "fn":
            return self.function(attributes, start)
        if kind == "let":
            if self.kinds[self.at + 1] == "name" and self.kinds[self.at + 2] == ":":
                return self.input(start)
            return self.let(attributes, start)
        if kind == "use":
            return self.use()
        self.fail(
            f"a definition is expected, and {self.shown()} stands there.",
            fix="fn, let or use; a value belongs inside a function",
        )

    def attributes(self) -> tuple[tree.Attribute, ...]:
        """``#[strategy(flash)]``, any number of them."""
        found: list[tree.Attribute] = []
        while self.kinds[self.at] == "#":
            start = self.tokens.starts[self.at]
            self.at += 1
            self.expect("[", "after #")
            name, _ = self.word("in an attribute")
            self.expect("(", "after the name of an attribute")
            argument, where = self.word("in an attribute")
            self.expect(")", "after the argument of an attribute")
            self.expect("]", "after an attribute")
            found.append(tree.Attribute(name, argument, self.since(start), where))
        return tuple(found)

    def use(self) -> tree.Use:
        """``use std::attention;``."""
        start = self.tokens.starts[self.at]
        self.at += 1
        path = [self.word("after use")[0]]
        while self.accept("::"):
            path.append(self.word("after ::")[0])
        self.expect(";", "after use")
        return tree.Use(tuple(path), self.since(start))

    def input(self, start: int) -> tree.Input:
        """``let X: [f32; q, c];``."""
        self.at += 1
        name, span = self.word("after let")
        self.expect(":", "after the name of an input")
        type_ = self.type()
        if self.kinds[self.at] == "=":
            self.fail(
                "a let has a type or a value, and here are both.",
                fix=f"let {name}[..] = ...; the type follows from the value",
            )
        self.expect(";", "after an input")
        return tree.Input(name, span, type_, self.since(start))

    def type(self) -> tree.Type:
        """``[f32; ..b, q, c]`` or a scalar's."""
        start = self.tokens.starts[self.at]
        if self.kinds[self.at] == "name":
            elem, span = self.elem()
            return tree.Type(elem, span, None, span)
        self.expect("[", "where a type begins: [f32; ..b, q, c]")
        elem, span = self.elem()
        axes: tuple[tree.Axis, ...] = ()
        if self.accept(";"):
            axes = self.axes("]", types=True)
        else:
            self.expect("]", "after an element type")
        return tree.Type(elem, span, axes, self.since(start))

    def elem(self) -> tuple[str, Span]:
        """An element type."""
        elem, span = self.word("where an element type stands")
        if elem not in ELEMS:
            self.fail(f'"{elem}" is no element type.', fix=f"one of {' '.join(ELEMS)}", span=span)
        return elem, span

    def let(self, attributes: tuple[tree.Attribute, ...], start: int) -> tree.Let:
        """``let s[..] = value;``."""
        self.expect("let", "where a statement begins")
        targets: list[tree.Target] = []
        if self.accept("("):
            while not self.accept(")"):
                targets.append(self.target())
                if not self.accept(","):
                    self.expect(")", "after the names of a let")
                    break
        else:
            targets.append(self.target())
        self.expect("=", "after what a let names")
        value = self.expression()
        self.expect(";", "after a let")
        return tree.Let(tuple(targets), value, attributes, self.since(start))

    def target(self) -> tree.Target:
        """``s[..b, q, k]``."""
        name, span = self.word("after let")
        axes = self.axes("]", types=True) if self.accept("[") else None
        return tree.Target(name, span, axes, self.since(span[0]))

    def function(self, attributes: tuple[tree.Attribute, ...], start: int) -> tree.Function:
        """A definition; statements in its body that cannot be read are left out."""
        self.at += 1
        name, name_span = self.word("after fn")
        formals = self.formals() if self.accept("[") else ()
        self.expect("(", "before the parameters of a function")
        parameters: list[tree.Parameter] = []
        while not self.accept(")"):
            parameter, span = self.word("as the name of a parameter")
            self.expect(":", "between a parameter and its type")
            parameters.append(tree.Parameter(parameter, span, self.type()))
            if len(parameters) > limits.EIN_ARGUMENTS:
                self.fail(f"a function has more than {limits.EIN_ARGUMENTS} parameters.")
            if not self.accept(","):
                self.expect(")", "after the parameters")
                break
        self.expect("->", "before the type of the result")
        results: list[tree.Type] = []
        if self.accept("("):
            while not self.accept(")"):
                results.append(self.type())
                if not self.accept(","):
                    self.expect(")", "after the types of the results")
                    break
        else:
            results.append(self.type())
        differ = self.differing() if self.accept("where") else ()
        body_start = self.tokens.starts[self.at]
        self.expect("{", "before the body of a function")
        lets, values = self.body(len(results))
        self.expect("}", "after the result of a function")
        return tree.Function(
            name,
            name_span,
            formals,
            tuple(parameters),
            tuple(results),
            differ,
            lets,
            values,
            attributes,
            self.since(start),
            (body_start, self.since(start)[1]),
        )

    def formals(self) -> tuple[tree.Formal, ...]:
        """The coordinates of a function, up to and with the closing bracket."""
        found: list[tree.Formal] = []
        while not self.accept("]"):
            name, span = self.word("in the coordinates of a function; a rest such as ..b is not listed")
            size = None
            if self.accept("="):
                self.expect("number", "after =")
                text = self.tokens.texts[self.at - 1]
                if not text.replace("_", "").isdigit() or len(text) > 12:
                    self.fail(f"a size is a whole number, and {text[:20]} is none.", span=self.tokens.span(self.at - 1))
                size = int(text)
            found.append(tree.Formal(name, span, size))
            if not self.accept(","):
                self.expect("]", "after the coordinates of a function")
                break
        return tuple(found)

    def differing(self) -> tuple[tree.Differ, ...]:
        """``q # k``, several with commas."""
        found: list[tree.Differ] = []
        while True:
            first = self.coordinate("in where")
            self.expect("#", "between two coordinates that differ")
            second = self.coordinate("after #")
            found.append(tree.Differ(first, second, (first.span[0], second.span[1])))
            if not self.accept(",") or self.kinds[self.at] == "{":
                return tuple(found)

    def body(self, results: int) -> tuple[tuple[tree.Let, ...], tuple[tree.Expr, ...]]:
        """The statements and the value of a function, up to its closing brace, which is not taken."""
        lets: list[tree.Let] = []
        while True:
            level = self.level
            start = self.at
            try:
                attributes = self.attributes()
                if self.kinds[self.at] != "let":
                    break
                lets.append(self.let(attributes, self.tokens.starts[start]))
            except SyntaxProblem:
                self.level = level
                self.operand = False
                self.skip_statement(start)
        if self.kinds[self.at] == "}":
            return tuple(lets), ()
        try:
            values = self.values(results)
        except SyntaxProblem:
            self.level = 0
            self.operand = False
            self.skip_statement(self.at)
            values = ()
        return tuple(lets), values

    def values(self, results: int) -> tuple[tree.Expr, ...]:
        """The value of a function: one expression, or several in parentheses."""
        if results == 1 or self.kinds[self.at] != "(":
            return (self.expression(),)
        self.at += 1
        found: list[tree.Expr] = []
        while not self.accept(")"):
            found.append(self.expression())
            if not self.accept(","):
                self.expect(")", "after the values of a function")
                break
        return tuple(found)

    def skip_statement(self, before: int) -> None:
        """Goes on behind the statement's semicolon, or at the end of the body."""
        self.at = max(self.at, before)
        depth = 0
        while (kind := self.kinds[self.at]) not in ("end", "fn", "use"):
            if kind in ("let", "#") and depth == 0 and self.at > before:
                return
            if kind == "{":
                depth += 1
            elif kind == "}":
                if depth == 0:
                    return
                depth -= 1
            self.at += 1
            if kind == ";" and depth == 0:
                return


def parse(source: Source, report: Report) -> tuple[tree.Tree, Tokens]:
    """The tree of a text and its words; what cannot be read is in the report and not in the tree."""
    tokens = read(source.text, report)
    return Parser(tokens, report).parse(), tokens
