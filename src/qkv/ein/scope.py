"""What one function can see while it is checked: its coordinates, its values, and where errors go.

Knows names and how messages call them. What an expression means is the checkers' matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from . import tree
from .graph import Constraint, Coords, Definition, Node
from .report import Report, Span, near

SILENT = "with equal sizes every shape fits, and numbers come out."


@dataclass(slots=True)
class Value:
    """A parameter, an input or a let: its node, and the coordinates of each axis as they were declared."""

    name: str
    node: Node
    axes: tuple[Coords, ...] | None
    span: Span
    used: bool = False
    bases: dict[int, Node] = field(default_factory=dict[int, Node])


@dataclass(slots=True)
class Ranged:
    """A coordinate that a let gave a range: what it ranges over, if that is a coordinate, and its first index."""

    over: str | None
    first: int | None


class Scope:
    """The names of one function; the checkers are built on it."""

    def __init__(self, report: Report, known: Mapping[str, Definition], *, is_open: bool) -> None:
        self.report = report
        self.known = known
        self.open = is_open
        self.coordinates: dict[str, Span] = {}
        self.rests: set[str] = set()
        self.used: set[str] = set()
        self.values: dict[str, Value] = {}
        self.bound: set[str] = set()
        self.ranges: dict[str, Ranged] = {}
        self.guards: list[Node] = []
        self.constraints: list[Constraint] = []
        self.calls: list[Node] = []
        self.joining: str | None = None
        self.running: tuple[str, str] | None = None  # the name and the coordinate of the recurrence being checked

    def bad(self, span: Span, coords: Iterable[str] = (), dtype: str = "real") -> Node:
        """What stands for a mistake already reported, so that it causes no others."""
        return Node("number", 0, (), tuple(coords), dtype, span, bad=True)

    def knows(self, axis: tree.AxisName | tree.AxisRest) -> bool:
        """Whether the coordinate is declared; reports ``unknown-coordinate`` when it is not."""
        name = axis.name
        if isinstance(axis, tree.AxisRest):
            if name in self.rests:
                return True
            self.report.error(
                "unknown-coordinate",
                f"no parameter has the rest {name}.",
                axis.span,
                sides=[f"rests: {' '.join(sorted(self.rests)) or 'none'}"],
                fix=next(iter(sorted(self.rests)), f"add {name} to a parameter's type"),
            )
            return False
        if name in self.coordinates:
            self.used.add(name)
            return True
        close = near(name, self.coordinates)
        self.report.error(
            "unknown-coordinate",
            f'nothing declares the coordinate "{name}".',
            axis.span,
            sides=[f"declared: {' '.join(self.coordinates) or 'none'}"],
            fix=" or ".join(close) if close else f"add {name} to the coordinates in brackets",
        )
        return False

    def declare(self, name: str, span: Span) -> None:
        """One more coordinate."""
        if name in self.values:
            self.report.error(
                "duplicate",
                f'"{name}" is a coordinate and a tensor.',
                span,
                fix=f"{name}_ for one of the two",
            )
        self.coordinates.setdefault(name, span)

    def side(self, name: str, coords: Iterable[str]) -> str:
        """An operand as messages show it: its name and coordinates, with the sizes that the text fixes."""
        sizes = {c.names[0]: c.number for c in self.constraints if c.kind == "fixed"}
        return f"{name}: [{', '.join(f'{c}={sizes[c]}' if c in sizes else c for c in coords)}]"

    def describe(self, node: Node) -> str:
        """How messages call a value."""
        return node.name or self.text(node.span)

    def text(self, span: Span) -> str:
        """The text at a place, shortened."""
        found = " ".join(self.report.source.text[span[0] : span[1]].split())
        return found if len(found) <= 60 else f"{found[:57]}..."


def axis_names(axes: tuple[Coords, ...] | None) -> str:
    """The axes of a tensor as they are written."""
    return ", ".join(f"({', '.join(a)})" if len(a) > 1 else "".join(a) for a in axes or () if a)
