"""The formatter: a text in its one spelling, comments kept.

Printing what was read and reading what was printed give the same tree. Comments stand before the statement that
followed them, or behind the one on whose line they stood.
"""

from __future__ import annotations

from . import tree
from .parser import parse
from .report import Report, Source, raised

_LEVEL = {
    "||": 1,
    "&&": 2,
    "==": 3,
    "!=": 3,
    "<": 3,
    "<=": 3,
    ">": 3,
    ">=": 3,
    "+": 4,
    "-": 4,
    "*": 5,
    "/": 5,
    "%": 5,
    "**": 7,
}
_UNARY, _CAST, _PRIMARY = 6, 8, 9
WIDTH = 110


def axis(node: tree.Axis) -> str:
    """One axis."""
    match node:
        case tree.AxisName(name, _) | tree.AxisRest(name, _):
            return name
        case tree.AxisGroup(names, _, _, ordered):
            merged = ", ".join(names)
            return f"{{{merged}}}" if not ordered else f"({merged})" if len(names) > 1 else merged
        case tree.AxisAs(old, new, _):
            return f"{axis(old)} as {axis(new)}"
        case tree.AxisValue(value, _):
            return expression(value)
        case tree.AxisRange(name, _, first, last, _):
            return f"{name} in {expression(first)}..{expression(last)}"


def axes(nodes: tuple[tree.Axis, ...]) -> str:
    """A list of axes."""
    return ", ".join(axis(node) for node in nodes)


def expression(node: tree.Expr, least: int = 0) -> str:
    """An expression, in parentheses where it binds less tightly than ``least``."""
    text, level = _written(node)
    return f"({text})" if level < least else text


def _written(node: tree.Expr) -> tuple[str, int]:
    match node:
        case tree.Number(text, _):
            return text, _PRIMARY
        case tree.Name(name, _):
            return name, _PRIMARY
        case tree.Access(name, _, parts, _):
            return f"{name}[{axes(parts)}]", _PRIMARY
        case tree.Unary(operator, operand, _):
            return f"{operator}{expression(operand, _UNARY)}", _UNARY
        case tree.Binary("**", left, right, _):
            return f"{expression(left, _CAST)} ** {expression(right, _UNARY)}", 7
        case tree.Binary(operator, left, right, _):
            level = _LEVEL[operator]
            left_least = level + 1 if level == 3 else level
            return f"{expression(left, left_least)} {operator} {expression(right, level + 1)}", level
        case tree.If(condition, chosen, other, _):
            tail = _written(other)[0] if isinstance(other, tree.If) else f"{{ {expression(other)} }}"
            return f"if {expression(condition)} {{ {expression(chosen)} }} else {tail}", _PRIMARY
        case tree.Cast(operand, elem, _, _):
            return f"{expression(operand, _CAST)} as {elem}", _CAST
        case tree.SizeOf(coordinate, _):
            return f"size[{coordinate.name}]", _PRIMARY
        case tree.Reduce(operator, _, names, body, condition, given, _):
            where = "" if condition is None else f" where {expression(condition)}"
            said = " as given " if given else ""
            return f"{operator}[{axes(names)}]{said}({expression(body)}{where})", _PRIMARY
        case tree.Concat(coordinate, operands, _):
            return f"concat[{coordinate.name}]({', '.join(map(expression, operands))})", _PRIMARY
        case tree.Call(name, _, bound, arguments, _):
            brackets = "" if bound is None else f"[{', '.join(map(_bound, bound))}]"
            return f"{name}{brackets}({', '.join(map(expression, arguments))})", _PRIMARY


def _bound(bound: tree.Bound) -> str:
    text = bound.actual.name if bound.formal is None else f"{bound.formal.name} = {bound.actual.name}"
    return text if bound.renamed is None else f"{text} as {bound.renamed.name}"


def type_(node: tree.Type) -> str:
    """A type."""
    if node.axes is None:
        return node.elem
    return f"[{node.elem}; {axes(node.axes)}]" if node.axes else f"[{node.elem}]"


def _attributes(found: tuple[tree.Attribute, ...], indent: str) -> list[str]:
    return [f"{indent}#[{a.name}({a.argument})]" for a in found]


def _let(let: tree.Let, indent: str) -> list[str]:
    targets = [t.name if t.axes is None else f"{t.name}[{axes(t.axes)}]" for t in let.targets]
    named = targets[0] if len(targets) == 1 else f"({', '.join(targets)})"
    return [*_attributes(let.attributes, indent), f"{indent}let {named} = {expression(let.value)};"]


def _head(function: tree.Function) -> list[str]:
    formals = ", ".join(f.name if f.size is None else f"{f.name} = {f.size}" for f in function.coordinates)
    brackets = f"[{formals}]" if function.coordinates else ""
    parameters = [f"{p.name}: {type_(p.type)}" for p in function.parameters]
    results = [type_(r) for r in function.results]
    result = results[0] if len(results) == 1 else f"({', '.join(results)})"
    where = (
        f" where {', '.join(f'{d.first.name} # {d.second.name}' for d in function.differ)}" if function.differ else ""
    )
    line = f"fn {function.name}{brackets}({', '.join(parameters)}) -> {result}{where} {{"
    if len(line) <= WIDTH or not parameters:
        return [line]
    return [f"fn {function.name}{brackets}(", *(f"    {p}," for p in parameters), f") -> {result}{where} {{"]


class _Printer:
    """Lines, and the comments that are not yet among them."""

    def __init__(self, source: Source, comments: list[tuple[int, str]]) -> None:
        self.source = source
        self.comments = comments
        self.at = 0
        self.lines: list[str] = []
        self.ended = -1  # the line of the text on which the last statement ended

    def before(self, offset: int, indent: str) -> None:
        """The comments that stand before a place of the text."""
        while self.at < len(self.comments) and self.comments[self.at][0] < offset:
            start, text = self.comments[self.at]
            self.at += 1
            if self.source.place(start)[0] == self.ended and self.lines and "//" not in self.lines[-1]:
                self.lines[-1] += f"  {text}"
            else:
                self.lines.append(f"{indent}{text}")

    def add(self, lines: list[str], end: int) -> None:
        """A statement that ended at a place of the text."""
        self.lines += lines
        self.ended = self.source.place(max(end - 1, 0))[0]

    def function(self, function: tree.Function) -> None:
        self.lines += _attributes(function.attributes, "")
        self.lines += _head(function)
        self.ended = self.source.place(function.body_span[0])[0]
        for let in function.lets:
            self.before(let.span[0], "    ")
            self.add(_let(let, "    "), let.span[1])
        if function.values:
            self.before(function.values[0].span[0], "    ")
            values = [expression(v) for v in function.values]
            self.add(
                [f"    {values[0]}" if len(values) == 1 else f"    ({', '.join(values)})"], function.values[-1].span[1]
            )
        self.before(function.span[1] - 1, "    ")
        self.add(["}"], function.span[1])


def formatted(source: Source) -> str:
    """The text in its one spelling. Raises ``EinError`` for a text that cannot be read."""
    report = Report(source)
    found, tokens = parse(source, report)
    if report.errors:
        raise raised(source, report.errors)
    printer = _Printer(source, tokens.comments)
    previous: tree.Item | None = None
    for item in found.items:
        pending = printer.at
        first = printer.lines and (
            isinstance(item, tree.Function) or isinstance(previous, tree.Function) or type(item) is not type(previous)
        )
        printer.before(item.span[0] if previous is None else _line_end(source, previous.span[1]), "")
        if first and not (previous is None and pending == 0):
            printer.lines.append("")
        printer.before(item.span[0], "")
        match item:
            case tree.Function():
                printer.function(item)
            case tree.Let():
                printer.add(_let(item, ""), item.span[1])
            case tree.Input(name, _, kind, span):
                printer.add([f"let {name}: {type_(kind)};"], span[1])
            case tree.Use(path, span):
                printer.add([f"use {'::'.join(path)};"], span[1])
        previous = item
    printer.before(len(source.text) + 1, "")
    return "\n".join(printer.lines).lstrip("\n") + "\n" if printer.lines else ""


def _line_end(source: Source, offset: int) -> int:
    found = source.text.find("\n", offset)
    return len(source.text) if found < 0 else found


def printed(found: tree.Tree) -> str:
    """A tree as text, without comments."""
    printer = _Printer(Source(""), [])
    for item in found.items:
        match item:
            case tree.Function():
                printer.function(item)
            case tree.Let():
                printer.lines += _let(item, "")
            case tree.Input(name, _, kind, _):
                printer.lines.append(f"let {name}: {type_(kind)};")
            case tree.Use(path, _):
                printer.lines.append(f"use {'::'.join(path)};")
    return "\n".join(printer.lines) + "\n"
