"""Checking calls: which coordinate stands for which, and whether every argument has what its parameter wants.

Arguments are matched by name, never by place in memory. A function's own coordinates are its own: two of them may
stand for one of the caller's, which says "self".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from . import tree
from .elems import FLOATS, fits
from .expressions import POINTWISE, Expressions
from .graph import Constraint, Coords, Definition, Node, Slot, union
from .report import near
from .scope import SILENT

_TRIED = 5
"""Permutations are tried for at most this many coordinates: 120 of them."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A call's coordinates: for each formal one the actual, what each is called in the result, and what rests hold."""

    names: Mapping[str, str]
    renamed: Mapping[str, str]
    rests: Mapping[str, Coords]


@dataclass(frozen=True, slots=True)
class Called:
    """What a call node holds: the function, the binding, and which of the results it is."""

    function: Definition
    binding: Binding
    number: int


class Calls(Expressions):
    """Calls of pointwise functions and of definitions."""

    def call(self, call: tree.Call) -> Node:
        """A call with one result."""
        nodes = self.called(call)
        if len(nodes) != 1:
            self.report.error(
                "arity",
                f"{call.name} has {len(nodes)} results, and one value is wanted here.",
                call.span,
                fix="let (a[..], b[..]) = " + self.text(call.span) + ";",
            )
            return self.bad(call.span)
        return nodes[0]

    def called(self, call: tree.Call) -> list[Node]:
        """The results of a call."""
        function = self.known.get(call.name)
        if function is None:
            if call.name in POINTWISE:
                return [self.point(call)]
            arguments = [self.value(each) for each in call.arguments]
            close = near(call.name, [*self.known, *POINTWISE])
            self.report.error(
                "unknown-name",
                f'no function is called "{call.name}".',
                call.name_span,
                sides=[f"functions: {' '.join(list(self.known)[:12]) or 'none here'}"],
                fix=" or ".join(close) if close else f"fn {call.name}[...](...) -> [...] {{ ... }}",
            )
            return [self.bad(call.span, union(*(a.coords for a in arguments)))]
        arguments = [self.value(each) for each in call.arguments]
        coords = union(*(a.coords for a in arguments))
        if len(arguments) != len(function.parameters):
            self.report.error(
                "arity",
                f"{call.name} takes {len(function.parameters)} "
                f"argument{'s' * (len(function.parameters) != 1)}, and {len(arguments)} are given.",
                call.span,
                sides=[f"{call.name}({', '.join(f'{p.name}: {p}' for p in function.parameters)})"],
                fix=f"{call.name}({', '.join(p.name for p in function.parameters)})",
            )
            return [self.bad(call.span, coords, r.elem) for r in function.results]
        bad = [self.bad(call.span, coords, r.elem) for r in function.results]
        if not function.readable or any(a.bad for a in arguments):  # what is wrong there is told there
            return bad
        given = self.given_names(call, function)
        if given is None:
            return bad
        names, renamed = given
        names = self.settled(call, function, arguments, names)
        if names is None:
            return bad
        binding = self.fitted(call, function, arguments, names, renamed)
        if binding is None or not self.types(call, function, arguments) or not self.distinct(call, function, binding):
            return bad
        self.inherit(call, function, binding)
        made = self.results(call, function, arguments, binding)
        self.calls += made or []
        return made or bad

    def inherit(self, call: tree.Call, function: Definition, binding: Binding) -> None:
        """The sizes that a function fixes are fixed where it is called."""
        fixed = {c.names[0]: c.number for c in function.constraints if c.kind == "fixed"} | function.fixed
        self.constraints += [
            Constraint("fixed", (binding.names[name],), call.span, size)
            for name, size in fixed.items()
            if name in binding.names
        ]

    def given_names(self, call: tree.Call, function: Definition) -> tuple[dict[str, str], dict[str, str]] | None:
        """What the brackets say: the actual coordinate of each formal one, and new names for the result."""
        names: dict[str, str] = {}
        renamed: dict[str, str] = {}
        if call.coordinates is None:
            return names, renamed
        places = [f for f in function.formals if f in function.settled] if function.settled else list(function.formals)
        listed = [b for b in call.coordinates if b.formal is None]
        wanted = list(function.formals) if len(listed) == len(function.formals) else places
        if listed and len(listed) != len(wanted) and len(listed) == len(call.coordinates):
            self.report.error(
                "arity",
                f"{call.name} has {len(wanted)} coordinates, and {len(listed)} are given.",
                call.span,
                sides=[f"{call.name}[{', '.join(wanted)}]"],
                fix=(
                    f"{call.name}[{', '.join(wanted)}](...), or by name: "
                    f"{call.name}[{wanted[0] if wanted else 'q'} = ...](...)"
                ),
            )
            return None
        at = 0
        for bound in call.coordinates:
            if bound.formal is None:
                formal = wanted[at] if at < len(wanted) else ""
                at += 1
            else:
                formal = bound.formal.name
            if formal not in function.formals:
                where = bound.formal or bound.actual
                self.report.error(
                    "unknown-coordinate",
                    f'{call.name} has no coordinate "{where.name}".',
                    where.span,
                    sides=[f"{call.name}[{', '.join(function.formals)}]"],
                    fix=" or ".join(near(where.name, function.formals))
                    or f"one of {' '.join(function.formals) or 'none'}",
                )
                return None
            if formal in names:
                self.report.error(
                    "duplicate",
                    f"{formal} of {call.name} is given twice.",
                    bound.span,
                    fix=f"{formal} = one of the two",
                )
                return None
            for axis in (bound.actual, bound.renamed):
                if axis is not None and self.open:
                    self.coordinates.setdefault(axis.name, axis.span)
                if axis is not None and not self.knows(axis):
                    return None
            names[formal] = bound.actual.name
            if bound.renamed is not None:
                renamed[formal] = bound.renamed.name
        return names, renamed

    def settled(
        self, call: tree.Call, function: Definition, arguments: Sequence[Node], names: dict[str, str]
    ) -> dict[str, str] | None:
        """The binding with what the arguments settle: the same name, or the only one that is left on both sides."""
        made = dict(names)
        for slot, argument in zip(function.parameters, arguments, strict=True):
            for formal in slot.coords:
                if not formal.startswith("..") and formal not in made and formal in argument.coords:
                    made[formal] = formal
        for slot, argument in zip(function.parameters, arguments, strict=True):
            open_ = [f for f in slot.coords if not f.startswith("..") and f not in made]
            if not open_:
                continue
            taken = {made[f] for f in slot.coords if f in made}
            if slot.rest is not None:
                others = [
                    set(a.coords) - {made[f] for f in s.coords if f in made}
                    for s, a in zip(function.parameters, arguments, strict=True)
                    if s.rest == slot.rest and all(f in made for f in s.coords if not f.startswith(".."))
                ]
                taken |= others[0] if others else {c for c in argument.coords if c.startswith("..")}
            left = [c for c in argument.coords if c not in taken]
            if len(open_) == 1 and len(left) == 1:
                made[open_[0]] = left[0]
                continue
            self.report.error(
                "call-mismatch",
                f"nothing says which coordinate of {self.describe(argument)} is {open_[0]} of {call.name}.",
                argument.span if argument.span != (0, 0) else call.span,
                sides=[
                    self.side(f"{call.name}'s {slot.name}", slot.coords),
                    self.side(self.describe(argument), argument.coords),
                ],
                silent=SILENT,
                fix=f"{call.name}[{self.listed(function, made)}](...)",
            )
            return None
        for formal in function.formals:
            if formal in made or formal not in function.settled:
                continue
            if formal in self.coordinates:
                self.used.add(formal)
                made[formal] = formal
                continue
            self.report.error(
                "call-mismatch",
                f"nothing says what {formal} of {call.name} is called here.",
                call.span,
                sides=[f"{call.name} -> {', '.join(map(str, function.results))}"],
                fix=f"{call.name}[{formal} = ...](...)",
            )
            return None
        return made

    def listed(self, function: Definition, made: Mapping[str, str]) -> str:
        """The coordinates of a call by name, dots where one is open."""
        dots = "..."
        return ", ".join(f"{f} = {made.get(f, dots)}" for f in function.formals if f in function.settled)

    def fitted(
        self,
        call: tree.Call,
        function: Definition,
        arguments: Sequence[Node],
        names: dict[str, str],
        renamed: dict[str, str],
    ) -> Binding | None:
        """The binding with what the rests hold, once every argument fits its parameter."""
        rests: dict[str, Coords] = {}
        for n, (slot, argument) in enumerate(zip(function.parameters, arguments, strict=True)):
            if not self.fit(slot, argument, names, rests):
                self.mismatch(call, function, arguments, names, n)
                return None
        return Binding(names, renamed, rests)

    def fit(self, slot: Slot, argument: Node, names: Mapping[str, str], rests: dict[str, Coords]) -> bool:
        """Whether an argument has exactly the coordinates that its parameter wants; settles its rest."""
        wanted = [names[f] for f in slot.coords if not f.startswith("..")]
        if len(set(wanted)) < len(wanted):
            return False
        extra = tuple(c for c in argument.coords if c not in wanted)
        if any(c not in argument.coords for c in wanted):
            return False
        if slot.rest is None:
            return not extra
        if any(c in names.values() for c in extra):
            return False
        known = rests.setdefault(slot.rest, extra)
        return set(known) == set(extra)

    def mismatch(
        self, call: tree.Call, function: Definition, arguments: Sequence[Node], names: dict[str, str], n: int
    ) -> None:
        """Reports an argument that does not fit: another order of the coordinates, one tensor for two, or neither."""
        slot, argument = function.parameters[n], arguments[n]
        expected = [names.get(c, c) for c in slot.coords]
        place = call.arguments[n].span
        sides = [
            self.side(f"{call.name} wants {slot.name}", expected),
            self.side(f"given {self.describe_argument(call, n)}", argument.coords),
        ]
        same = [m for m, other in enumerate(arguments) if m != n and other is argument]
        lacking = [c for c in expected if c not in argument.coords and not c.startswith("..")]
        if same and lacking:
            other = function.parameters[same[0]]
            mine = {f: names[f] for f in slot.coords if f in names}
            theirs = {f: names[f] for f in other.coords if f in names}
            formal = next((f for f, a in mine.items() if a == lacking[0]), "")
            own = next((a for f, a in theirs.items() if f not in mine and a in argument.coords), lacking[0])
            fixed = [own if f == formal else names[f] for f in function.formals if f in names]
            self.report.error(
                "same-tensor",
                f"{self.describe_argument(call, n)} is given for {slot.name} and for {other.name}, and "
                f"lacks {lacking[0]}.",
                place,
                sides=sides,
                silent="one tensor fits twice, and attends to itself.",
                fix=f"{call.name}[{', '.join(fixed)}](...) for self-attention, or the tensor that has {lacking[0]}",
            )
            return
        fix = self.permuted(call, function, arguments, names)
        if not fix and len(lacking) == 1:
            others = [c for c in argument.coords if c not in expected and not c.startswith("..")]
            if len(others) == 1 and isinstance(call.arguments[n], tree.Access | tree.Name):
                fix = f"{others[0]} as {lacking[0]} in {self.describe_argument(call, n)}, if that is what it is"
        if not fix:
            extra = [c for c in argument.coords if c not in expected]
            fix = (
                f"sum[{', '.join(extra)}](...) or another tensor"
                if extra and not lacking
                else f"a tensor with {', '.join(expected)}"
            )
        self.report.error(
            "call-mismatch",
            f"argument {n + 1} of {call.name} does not have the coordinates of {slot.name}.",
            place,
            sides=sides,
            silent="arguments are matched by place; " + SILENT,
            fix=fix,
        )

    def describe_argument(self, call: tree.Call, n: int) -> str:
        """An argument as it is written."""
        written = call.arguments[n]
        return written.name if isinstance(written, tree.Name | tree.Access) else self.text(written.span)

    def permuted(self, call: tree.Call, function: Definition, arguments: Sequence[Node], names: dict[str, str]) -> str:
        """The call with its coordinates in an order that would fit; empty when there is none."""
        formals = [f for f in function.formals if f in names]
        if call.coordinates is None or not 2 <= len(formals) <= _TRIED:
            return ""
        actual = [names[f] for f in formals]
        for order in permutations(actual):
            if list(order) == actual:
                continue
            tried = dict(zip(formals, order, strict=True))
            rests: dict[str, Coords] = {}
            if all(self.fit(s, a, tried, rests) for s, a in zip(function.parameters, arguments, strict=True)):
                return f"{call.name}[{', '.join(order)}]({', '.join(self.text(a.span) for a in call.arguments)})"
        return ""

    def types(self, call: tree.Call, function: Definition, arguments: Sequence[Node]) -> bool:
        """Whether the element types fit; ``float`` is one type in one call."""
        generic = ""
        for n, (slot, argument) in enumerate(zip(function.parameters, arguments, strict=True)):
            elem = argument.dtype
            if slot.axes is None and argument.coords:
                self.report.error(
                    "rank",
                    f"{slot.name} of {call.name} is a scalar, and this has {' '.join(argument.coords)}.",
                    call.arguments[n].span,
                    fix="one number",
                )
                return False
            wanted = slot.elem
            if wanted == "float" and elem in FLOATS:
                wanted = generic = generic or elem
            if not fits(elem, wanted):
                self.report.error(
                    "dtype",
                    f"{slot.name} of {call.name} is {slot.elem}, and {self.describe_argument(call, n)} is {elem}.",
                    call.arguments[n].span,
                    sides=[f"{call.name}'s {slot.name}: {slot}"]
                    + ([f"float is {generic} in this call"] if slot.elem == "float" and generic else []),
                    silent="it would convert, and round." if elem != "bool" else "True would count as 1.",
                    fix=f"({self.text(call.arguments[n].span)}) as {wanted if wanted != 'float' else 'f32'}",
                )
                return False
        return True

    def distinct(self, call: tree.Call, function: Definition, binding: Binding) -> bool:
        """Whether coordinates that the signature says are different ones are."""
        for first, second, _ in function.differ:
            one, other = binding.names.get(first), binding.names.get(second)
            if one is not None and one == other:
                self.report.error(
                    "same-tensor",
                    f"{call.name} says {first} # {second}, and both are {one} in this call.",
                    call.span,
                    sides=[f"{call.name}[{', '.join(f'{f} = {a}' for f, a in binding.names.items())}]"],
                    silent="one tensor fits twice, and attends to itself.",
                    fix=(
                        f"a tensor with a sequence of its own for {second}, or a function without `where "
                        f"{first} # {second}`"
                    ),
                )
                return False
        return True

    def results(
        self, call: tree.Call, function: Definition, arguments: Sequence[Node], binding: Binding
    ) -> list[Node] | None:
        """The nodes of the results; None, with an error reported, where one would have a coordinate twice."""
        made: list[Node] = []
        generic = next(
            (
                a.dtype
                for s, a in zip(function.parameters, arguments, strict=True)
                if s.elem == "float" and a.dtype in FLOATS
            ),
            "float",
        )
        for number, slot in enumerate(function.results):
            coords: list[str] = []
            for formal in slot.coords:
                if formal.startswith(".."):
                    coords += binding.rests.get(formal, ())
                else:
                    coords.append(binding.renamed.get(formal, binding.names[formal]))
            twice = next((c for c in coords if coords.count(c) > 1), None)
            if twice is not None:
                self.twice(call, function, binding, slot, twice)
                return None
            elem = generic if slot.elem == "float" else slot.elem
            made.append(
                Node("call", Called(function, binding, number), tuple(arguments), tuple(coords), elem, call.span)
            )
        return made

    def twice(self, call: tree.Call, function: Definition, binding: Binding, slot: Slot, name: str) -> None:
        """Reports a result that would have one coordinate twice."""
        both = [f for f in slot.coords if binding.names.get(f) == name]
        last = both[-1] if both else name
        written = [
            f"{binding.names[f]} as {name}_{last}" if f == last else binding.names[f]
            for f in function.formals
            if f in binding.names
        ]
        self.report.error(
            "duplicate-result",
            f"the result of {call.name} has {' and '.join(both) or name}, and both are {name} in this call.",
            call.span,
            sides=[f"{call.name} -> {slot}"],
            silent="two axes of one size are two axes; which is which is lost.",
            fix=f"{call.name}[{', '.join(written)}](...), so that the result has {name} and {name}_{last}",
        )
