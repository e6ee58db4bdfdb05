"""The size of every coordinate of one call, found from the shapes of its tensors.

Knows patterns and tuples of integers: how many axes a rest stands for, which sizes agree, and which parts of a merged
axis follow from the others. It does not know tensors, dtypes or what a coordinate is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from qkv.coords.axes import Axis, Pattern, TensorPattern
from qkv.coords.roles import roles
from qkv.coords.text import did_you_mean, quoted
from qkv.errors import CoordinateError, ShapeError, SizeMismatch

Shape = tuple[int, ...]

_ARGUMENT: Final = {"q": 1, "k": 2, "v": 3}
_NUMBER_WORDS: Final = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True, slots=True)
class Solved:
    """A pattern whose rests are written out, and the size of each of its coordinates."""

    pattern: Pattern
    sizes: dict[str, int] = field(hash=False)

    def shape(self, tensor: str) -> Shape:
        """The shape of ``"q"``, ``"k"``, ``"v"`` or ``"output"``; a merged axis is the product of its parts."""
        axes = self.pattern.tensors[tensor].axes
        return tuple(math.prod(self.sizes[name] for name in axis.names) for axis in axes)


def _axis(axis: Axis, size: int) -> str:
    return f"{axis}={size}"


class _Call:
    """The tensors of one call as messages show them."""

    def __init__(self, pattern: Pattern, shapes: Mapping[str, Shape]) -> None:
        self.axes = {name: list(zip(pattern.tensors[name].axes, shape, strict=True)) for name, shape in shapes.items()}

    def line(self, tensor: str, axis: Axis, size: int, width: int) -> str:
        """``k: j=128   (argument 2: b=2 h=8 j=128 d=64)``."""
        shown = " ".join(_axis(*each) for each in self.axes[tensor])
        return f"    {tensor}: {_axis(axis, size):<{width}}   (argument {_ARGUMENT[tensor]}: {shown})"

    def fits(self, axis: Axis, size: int, besides: str) -> bool:
        """Whether no tensor but ``besides`` gives the axis another size."""
        return all(
            n == size for t, axes in self.axes.items() if t != besides for other, n in axes if other.names == axis.names
        )

    def lines(self, coordinate: str, known: Mapping[str, int]) -> str:
        """One line for each tensor that carries the coordinate, and one for ``sizes=`` when it names it."""
        found = [(t, a, n) for t, axes in self.axes.items() for a, n in axes if coordinate in a.names]
        width = max((len(_axis(a, n)) for _, a, n in found), default=0)
        lines = [self.line(t, a, n, width) for t, a, n in found]
        if coordinate in known:
            lines.append(f"    sizes: {coordinate}={known[coordinate]}")
        return "\n".join(lines)


def _advice(coordinate: str, seen: Mapping[str, int], call: _Call) -> str:
    """The last line of a disagreement: what most likely happened, and what to do."""
    values = sorted(set(seen.values()))
    rule = f'Every tensor that carries "{coordinate}" must agree.'
    if "sizes" in seen and len({size for tensor, size in seen.items() if tensor != "sizes"}) == 1:
        return f'{rule} Take "{coordinate}" out of sizes=, which is for sizes that shapes leave open.'
    if len(values) == 2 and values[1] - values[0] == 1 and values[0] > 1:
        return f"{rule} Was the last value dropped?"
    if values[0] == 1:
        lone = next(name for name, size in seen.items() if size == 1)
        return f'{rule} A size of 1 does not spread: to share {lone}, squeeze it and leave "{coordinate}" out there.'
    for tensor, size in seen.items():
        if tensor in call.axes and len(values) == 2:
            wanted = next(n for n in values if n != size)
            others = [
                str(axis)
                for axis, n in call.axes[tensor]
                if n == wanted and coordinate not in axis.names and call.fits(axis, size, besides=tensor)
            ]
            if others:
                return f'{rule} Are "{coordinate}" and "{others[0]}" swapped in {tensor}?'
    if len(values) == 2 and values[0] > 1 and values[1] % values[0] == 0 and seen.get("q") == values[1]:
        share = values[1] // values[0]
        return f"{rule} If {share} of q's share one of k's, write ({coordinate} g) in q and in the output."
    return f"{rule} Compare the layouts of these tensors with the pattern."


def _disagree(call: _Call, coordinate: str, seen: Mapping[str, int], known: Mapping[str, int]) -> SizeMismatch:
    number = len(set(seen.values()))
    headline = f'coordinate "{coordinate}" has {_NUMBER_WORDS.get(number, str(number))} sizes.'
    message = f"{headline}\n{call.lines(coordinate, known)}\n  {_advice(coordinate, seen, call)}"
    return SizeMismatch(message, coordinate=coordinate, seen=seen)


def _rank_error(name: str, tensor: TensorPattern, shape: Shape) -> ShapeError:
    number = sum(not axis.rest for axis in tensor.axes)
    least = "at least " if tensor.rests else ""
    return ShapeError(
        f"{name} has {len(shape)} ax{'is' if len(shape) == 1 else 'es'}, and its pattern names {least}{number}.\n"
        f"    pattern: {tensor}\n"
        f"    shape:   {tuple(shape)}   (argument {_ARGUMENT[name]})\n"
        f"  Give {name} with these axes, or write the pattern of the axes it has."
    )


def _counts(pattern: Pattern, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """How many coordinates each rest stands for; ShapeError when a number of axes does not fit."""
    counts: dict[str, int] = {}
    first: dict[str, str] = {}
    for name, shape in shapes.items():
        tensor = pattern.tensors[name]
        extra = len(shape) - sum(not axis.rest for axis in tensor.axes)
        if extra < 0 or (extra and not tensor.rests):
            raise _rank_error(name, tensor, shape)
        for rest in tensor.rests:
            if counts.setdefault(rest, extra) != extra:
                other = first[rest]
                raise ShapeError(
                    f"..{rest} stands for {counts[rest]} coordinates in {other} and for {extra} in {name}.\n"
                    f"    {other}: {pattern.tensors[other]} for the shape {tuple(shapes[other])}   "
                    f"(argument {_ARGUMENT[other]})\n"
                    f"    {name}: {tensor} for the shape {tuple(shape)}   (argument {_ARGUMENT[name]})\n"
                    f"  A rest stands for the same coordinates wherever it is written."
                )
            first.setdefault(rest, name)
    return counts


class _Solver:
    """Sizes found so far, and where each was seen."""

    def __init__(self, call: _Call, known: Mapping[str, int]) -> None:
        self.call, self.known = call, known
        self.sizes = dict(known)
        self.merged: list[tuple[str, Axis, int]] = []

    def single(self) -> None:
        """Sizes that stand alone on an axis."""
        seen: dict[str, dict[str, int]] = {name: {"sizes": size} for name, size in self.known.items()}
        for tensor, axes in self.call.axes.items():
            for axis, size in axes:
                if len(axis.names) > 1:
                    self.merged.append((tensor, axis, size))
                elif axis.names:
                    seen.setdefault(axis.names[0], {})[tensor] = size
                elif size != 1:
                    raise self.not_one(tensor, axis, size)
        for name, found in seen.items():
            first = next(iter(found.values()))
            if any(size != first for size in found.values()):
                ordered = {tensor: found[tensor] for tensor in (*_ARGUMENT, "sizes") if tensor in found}
                raise _disagree(self.call, name, ordered, self.known)
            self.sizes[name] = first

    def parts(self) -> None:
        """Sizes that follow from merged axes, until nothing new follows."""
        waiting = self.merged
        while waiting:
            left = [item for item in waiting if not self.part(*item)]
            if len(left) == len(waiting):
                raise self.unsolved(*left[0])
            waiting = left

    def part(self, tensor: str, axis: Axis, size: int) -> bool:
        """Whether one merged axis could be settled: checked when all parts are known, solved when one is not."""
        unknown = [name for name in axis.names if name not in self.sizes]
        given = [name for name in axis.names if name in self.sizes]
        product = math.prod(self.sizes[name] for name in given)
        if len(unknown) > 1 or (unknown and product == 0 and size == 0):
            return False
        if unknown and product and size % product == 0:
            self.sizes[unknown[0]] = size // product
        elif unknown:
            raise self.indivisible(tensor, axis, size, unknown[0], given)
        elif product != size:
            raise self.product(tensor, axis, size)
        return True

    def sources(self, names: list[str]) -> str:
        """A line for each place where one of these coordinates stands alone, or where it was given or solved."""
        lines: list[str] = []
        for name in names:
            found = [(t, a, n) for t, axes in self.call.axes.items() for a, n in axes if a.names == (name,)]
            lines += [self.call.line(t, a, n, 0) for t, a, n in found]
            if name in self.known:
                lines.append(f"    sizes: {name}={self.known[name]}")
            elif not found:
                lines.append(f"    {name}={self.sizes[name]}, solved from another merged axis")
        return "\n".join(lines)

    def not_one(self, tensor: str, axis: Axis, size: int) -> SizeMismatch:
        shown = self.call.line(tensor, axis, size, 0)
        return SizeMismatch(
            f'an axis written "1" has size {size}.\n{shown}\n  Name the axis, or give a tensor whose size is 1 there.',
            coordinate="1",
            seen={tensor: size},
        )

    def indivisible(self, tensor: str, axis: Axis, size: int, unknown: str, given: list[str]) -> SizeMismatch:
        parts = " * ".join(f"{name}={self.sizes[name]}" for name in given)
        return SizeMismatch(
            f'coordinate "{unknown}" has no size: {_axis(axis, size)} is not a multiple of {parts}.\n'
            f"{self.call.line(tensor, axis, size, 0)}\n{self.sources(given)}\n"
            f"  A merged axis is the product of its parts, major to minor. Does {axis} list what the axis holds?",
            coordinate=unknown,
            seen={tensor: size},
        )

    def product(self, tensor: str, axis: Axis, size: int) -> SizeMismatch:
        parts = " * ".join(f"{name}={self.sizes[name]}" for name in axis.names)
        product = math.prod(self.sizes[name] for name in axis.names)
        return SizeMismatch(
            f"the merged axis {axis} has size {size}, and its parts make {parts} = {product}.\n"
            f"{self.call.line(tensor, axis, size, 0)}\n{self.sources(list(axis.names))}\n"
            f"  A merged axis is the product of its parts; every tensor that carries one of them must agree.",
            coordinate=str(axis),
            seen={tensor: size},
        )

    def unsolved(self, tensor: str, axis: Axis, size: int) -> SizeMismatch:
        unknown = [name for name in axis.names if name not in self.sizes]
        wanted = unknown[1:] or unknown
        given = ", ".join(f'"{name}": ...' for name in wanted)
        zero = " (a size of 0 leaves it open)" if len(unknown) == 1 else ""
        return SizeMismatch(
            f"{quoted(unknown)} cannot be solved from {_axis(axis, size)}{zero}.\n"
            f"{self.call.line(tensor, axis, size, 0)}\n"
            f"  No other tensor says {'it' if len(unknown) == 1 else 'either'}. Give the size beside the pattern: "
            f"sizes={{{given}}}",
            coordinate=unknown[0],
            seen={tensor: size},
        )


def _check_known(pattern: Pattern, known: Mapping[str, int]) -> None:
    for name in known:
        if name not in pattern.coordinates:
            near = did_you_mean(name, pattern.coordinates)
            raise CoordinateError(
                f'sizes= names "{name}", which the pattern does not carry.\n    {pattern.text}\n'
                f"  {near or 'Its coordinates are ' + quoted(pattern.coordinates) + '.'}"
            )


def _checked(known: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    # Before the cache: there True and 1.0 would be found under 1.
    for name, size in known.items():
        if type(size) is not int or size < 0:
            raise SizeMismatch(
                f'sizes= gives "{name}" the size {size!r}, and a size is an integer from 0.\n'
                f'  Write for example sizes={{"{name}": 8}}',
                coordinate=name,
            )
    return tuple(known.items())


@lru_cache(maxsize=4096)
def _solve(
    pattern: Pattern, q: Shape, k: Shape, v: Shape, known: tuple[tuple[str, int], ...]
) -> tuple[Pattern, dict[str, int]]:
    roles(pattern)
    shapes = {"q": q, "k": k, "v": v}
    expanded = pattern.expand(_counts(pattern, shapes))
    given = dict(known)
    _check_known(expanded, given)
    solver = _Solver(_Call(expanded, shapes), given)
    solver.single()
    solver.parts()
    return expanded, {name: solver.sizes[name] for name in expanded.coordinates}


def solve(pattern: Pattern, shapes: Mapping[str, Shape], known: Mapping[str, int] | None = None) -> Solved:
    """The pattern with its rests written out, and the size of every coordinate.

    ``shapes`` gives the shapes of ``"q"``, ``"k"`` and ``"v"``; ``known`` gives sizes that the shapes leave open, and
    is checked against them. A merged axis is solved when one of its parts is unknown. Sizes of 0 and 1 are sizes like
    any other; an axis written ``1`` must have size 1. Raises ShapeError when a number of axes does not fit,
    SizeMismatch when sizes disagree or cannot be solved, CoordinateError when ``known`` names what the pattern lacks,
    and PatternError when the pattern fits no roles.

    >>> from qkv.coords.pattern import parse
    >>> shapes = {"q": (2, 8, 5, 16), "k": (2, 4, 7, 16), "v": (2, 4, 7, 16)}
    >>> solve(parse("b (h g) i d, b h j d, b h j e -> b (h g) i e"), shapes).sizes["g"]
    2
    """
    given = _checked(known) if known else ()
    expanded, sizes = _solve(pattern, tuple(shapes["q"]), tuple(shapes["k"]), tuple(shapes["v"]), given)
    return Solved(expanded, dict(sizes))


def solve_open(pattern: Pattern, shapes: Mapping[str, Shape], known: Mapping[str, int] | None = None) -> Solved:
    """``solve`` for sizes that a compiler leaves open, which compare and multiply as numbers do and have no hash."""
    given = _checked(known) if known else ()
    expanded, sizes = _solve.__wrapped__(pattern, shapes["q"], shapes["k"], shapes["v"], given)
    return Solved(expanded, dict(sizes))
