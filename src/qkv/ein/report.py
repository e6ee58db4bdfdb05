"""What is wrong with a text, where, and what to write instead: diagnostics, and how they are printed.

A diagnostic prints as at most eight lines: what is wrong, the place, the line, carets, both sides, why plain tensors
would have stayed silent, and what to write. This module knows texts and places; it refuses to know the rules.
"""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from .. import limits
from ..errors import EinError

Span = tuple[int, int]
Severity = Literal["error", "warning"]

CODES: dict[str, str] = {
    "syntax": "the text cannot be read here",
    "limit": "the text or what it describes is larger than a limit",
    "unknown-name": "a tensor, function or strategy that nothing declares",
    "unknown-coordinate": "a coordinate that nothing declares",
    "wrong-coordinate": "an axis is indexed by another coordinate, without `as`",
    "free-coordinate": "a coordinate of the expression that the target neither declares nor reduces",
    "unbound-coordinate": "a declared coordinate that the expression does not have",
    "absent-reduction": "a reduction over a coordinate that the expression does not have",
    "wrong-role": "attention that normalises, sums or contracts the wrong coordinate",
    "duplicate-result": "a call whose result would carry one coordinate twice",
    "split-order": "a coordinate split or merged without saying which part is major",
    "call-mismatch": "an argument without the coordinates of its parameter",
    "same-tensor": "one tensor given where two different sequences are wanted",
    "size-conflict": "one coordinate with two sizes",
    "concat-mismatch": "operands that differ in more than the coordinate that is joined",
    "out-of-range": "an index that leaves its axis",
    "recursion": "a function that calls itself, or a recurrence that is not one",
    "strategy": "a strategy that cannot run what it is asked to run",
    "dtype": "an element type that does not fit",
    "rank": "a number of indices that is not the number of axes",
    "arity": "a number of arguments that is not the number of parameters",
    "duplicate": "one name for two things",
    "unused": "a name that nothing uses",
}
"""Every code, and what it means."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake: its ``code``, the message, the place as character offsets, both sides, and what to write instead."""

    code: str
    message: str
    span: Span
    severity: Severity = "error"
    sides: tuple[str, ...] = ()
    silent: str = ""
    fix: str = ""


@dataclass(slots=True)
class Source:
    """A text and its name, with places as lines and columns."""

    text: str
    name: str = "<text>"
    starts: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.starts = [0]
        self.starts += [n + 1 for n, letter in enumerate(self.text) if letter == "\n"]

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column of a character, both counted from 1."""
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a line."""
        end = self.starts[number] - 1 if number < len(self.starts) else len(self.text)
        return self.text[self.starts[number - 1] : end].rstrip("\r")

    def data(self, found: Diagnostic) -> dict[str, Any]:
        """The diagnostic as plain data; lines and columns are counted from 1, ends are exclusive."""
        line, column = self.place(found.span[0])
        end_line, end_column = self.place(max(found.span[1], found.span[0] + 1))
        return {
            "code": found.code,
            "severity": found.severity,
            "message": found.message,
            "file": self.name,
            "line": line,
            "column": column,
            "end_line": end_line,
            "end_column": end_column,
            "sides": list(found.sides),
            "silent": found.silent,
            "fix": found.fix,
        }

    def show(self, found: Diagnostic) -> str:
        """The diagnostic in at most eight lines."""
        number, column = self.place(min(found.span[0], len(self.text)))
        shown, start = _window(_printable(self.line(number)), column - 1)
        width = max(1, min(found.span[1] - found.span[0], len(shown) - start))
        edge = f"{number:>5} | "
        lines = [
            f"{found.severity}[{found.code}]: {found.message}",
            f"  --> {self.name}:{number}:{column}",
            f"{edge}{shown}",
            f"{' ' * (len(edge) - 2)}| {' ' * start}{'^' * width}",
        ]
        lines += [f"    {side}" for side in found.sides[:2]]
        lines += [f"  torch: {found.silent}"] if found.silent else []
        lines += [f"  write: {found.fix}"] if found.fix else []
        return "\n".join(lines)


_SHOWN = 110


def _printable(line: str) -> str:
    """The line with something to see for each character that a terminal would obey: carets stay where they belong."""
    return "".join(c if c.isprintable() else " " if c == "\t" else "\ufffd" for c in line)


def _window(line: str, column: int) -> tuple[str, int]:
    """A part of the line that fits on a screen and holds the column, and the column in it."""
    if len(line) <= _SHOWN:
        return line, column
    first = max(0, min(column - 40, len(line) - _SHOWN))
    return line[first : first + _SHOWN], column - first


class Report:
    """The diagnostics found so far, bounded in number."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: list[Diagnostic] = []
        self._seen: set[tuple[str, Span]] = set()

    def error(
        self, code: str, message: str, span: Span, *, sides: Iterable[str] = (), silent: str = "", fix: str = ""
    ) -> None:
        """One more error; a second one of the same code at the same place is not kept."""
        self._add(Diagnostic(code, message, span, "error", tuple(sides), silent, fix))

    def warning(
        self, code: str, message: str, span: Span, *, sides: Iterable[str] = (), silent: str = "", fix: str = ""
    ) -> None:
        """One more warning."""
        self._add(Diagnostic(code, message, span, "warning", tuple(sides), silent, fix))

    def _add(self, found: Diagnostic) -> None:
        if (found.code, found.span) not in self._seen and len(self.found) < limits.EIN_DIAGNOSTICS:
            self._seen.add((found.code, found.span))
            self.found.append(found)

    @property
    def errors(self) -> list[Diagnostic]:
        """The errors, in the order of the text."""
        return sorted((d for d in self.found if d.severity == "error"), key=lambda d: d.span)

    @property
    def all(self) -> list[Diagnostic]:
        """Errors and warnings, in the order of the text."""
        return sorted(self.found, key=lambda d: d.span)


def raised(source: Source, found: Iterable[Diagnostic]) -> EinError:
    """The exception that shows the diagnostics: the first ten, and how many more there are."""
    listed = list(found)
    parts = [source.show(each) for each in listed[:10]]
    if len(listed) > 10:
        parts.append(f"... and {len(listed) - 10} more")
    return EinError("\n\n".join(parts), diagnostics=tuple(source.data(each) for each in listed))


def near(name: str, known: Iterable[str]) -> list[str]:
    """The known names that are spelled like ``name``, at most two."""
    names = [n for n in known if not n.startswith("..")]
    if len(names) > limits.NAMES_COMPARED or len(name) > limits.NAME_CHARACTERS:
        return []
    return difflib.get_close_matches(name, names, n=2)
