"""Checking what a ``let`` names: its axes, the range of a recurrence, the strategy that is asked for.

Knows one target at a time; what stands behind the equals sign is the layer above.
"""

from __future__ import annotations

from . import tree
from .graph import Constraint, Coords
from .report import near
from .roles import Roles
from .scope import Ranged

STRATEGIES = ("flash", "reference", "chunked", "cpu", "sdpa", "linear", "absorbed")
"""What may stand in ``#[strategy(...)]``; ``flash`` is any fused exact one."""


class Targets(Roles):
    """The left side of a ``let``, and its attributes."""

    def target_axes(self, target: tree.Target) -> tuple[Coords, ...] | None:
        """The coordinates of each axis that a let names, ranges and first indices left out; None when one is wrong."""
        found: list[Coords] = []
        good = True
        for axis in target.axes or ():
            match axis:
                case tree.AxisName() | tree.AxisRest():
                    if self.open and isinstance(axis, tree.AxisName):
                        self.declare(axis.name, axis.span)
                    good &= self.knows(axis)
                    found.append((axis.name,))
                case tree.AxisGroup(names, spans, span, ordered):
                    if not ordered:
                        self.report.error(
                            "split-order",
                            f"nothing says which of {' and '.join(names)} is major on this axis of {target.name}.",
                            span,
                            silent="reshape takes either order; heads and features would be mixed.",
                            fix=f"({', '.join(names)}) with {names[0]} major, or ({', '.join(reversed(names))})",
                        )
                        good = False
                        continue
                    for name, where in zip(names, spans, strict=True):
                        good &= self.knows(tree.AxisName(name, where))
                    found.append(names)
                case tree.AxisRange():
                    good &= self.range(axis)
                    found.append((axis.name,))
                case tree.AxisValue(value, span):
                    if not (isinstance(value, tree.Number) and value.text.isdigit() and len(value.text) < 6):
                        self.report.error(
                            "syntax",
                            "a first index of a recurrence is a number as it is written.",
                            span,
                            fix=f"let {target.name}[0, ...] = ...;",
                        )
                        good = False
                    found.append(())
                case tree.AxisAs(_, _, span):
                    self.report.error("syntax", "what a let names is not renamed.", span, fix="the new name alone")
                    good = False
        flat = [n for a in found for n in a]
        for name in flat:
            if flat.count(name) > 1:
                self.report.error(
                    "duplicate", f"{target.name} names {name} twice.", target.span, fix="each axis its own coordinate"
                )
                return None
        return tuple(found) if good else None

    def range(self, axis: tree.AxisRange) -> bool:
        """A coordinate with a range; what it ranges over, if that is a coordinate, has its size."""
        first, last = axis.first, axis.last
        begin = (
            int(first.text)
            if isinstance(first, tree.Number) and first.text.isdigit() and len(first.text) < 10
            else None
        )
        if begin is None:
            self.report.error(
                "syntax",
                "a range begins at a number as it is written.",
                first.span,
                fix="0..T, or 1..T in a recurrence",
            )
            return False
        over: str | None = None
        if isinstance(last, tree.SizeOf):
            if not self.knows(last.coordinate):
                return False
            over = last.coordinate.name
        elif isinstance(last, tree.Name):
            if not self.knows(tree.AxisName(last.name, last.span)):
                return False
            over = last.name
        elif isinstance(last, tree.Number) and last.text.isdigit() and len(last.text) < 10:
            self.constraints.append(Constraint("fixed", (axis.name,), axis.span, int(last.text)))
        else:
            self.report.error(
                "syntax",
                "a range ends at a coordinate or a number.",
                last.span,
                fix=f"{begin}..T, T being a coordinate",
            )
            return False
        self.coordinates.setdefault(axis.name, axis.name_span)
        self.used.add(axis.name)
        self.ranges[axis.name] = Ranged(over, begin)
        if over is not None and over != axis.name:
            self.constraints.append(Constraint("equal", (axis.name, over), axis.span))
        return True

    def strategy(self, attributes: tuple[tree.Attribute, ...]) -> str | None:
        """The strategy that the attributes ask for."""
        found: str | None = None
        for each in attributes:
            if each.name != "strategy":
                self.report.error(
                    "strategy", f'no attribute is called "{each.name}".', each.span, fix="#[strategy(flash)]"
                )
            elif each.argument not in STRATEGIES:
                self.report.error(
                    "strategy",
                    f'no strategy is called "{each.argument}".',
                    each.argument_span,
                    sides=[f"known: {' '.join(STRATEGIES)}"],
                    fix=" or ".join(near(each.argument, STRATEGIES)) or "flash",
                )
            elif found is not None:
                self.report.error("duplicate", "two strategies are asked for.", each.span, fix="one of them")
            else:
                found = each.argument
        return found
