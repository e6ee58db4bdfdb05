"""The data that a pattern becomes: axes of one tensor, tensors of one call.

Knows names, merging and rests as data, comparison and printing. It does not read text (``pattern``), and does not
know what a coordinate is for (``roles``) or how large it is (``sizes``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from qkv.errors import InternalError

# A name as it stands in a text: rests that were expanded have a dot in theirs.
_WORD = re.compile(r"[A-Za-z0-9_.]+")


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a tensor: one coordinate, a merged axis, a rest, or an axis of size one.

    ``names`` lists the coordinates major to minor; it is empty for the axis ``1``. ``rest`` says that the one name
    stands for zero or more coordinates. ``start`` and ``end`` are the place in the text that was parsed (the whole
    text of a ``Pattern``, not the part of one tensor) and take no part in comparison.
    """

    names: tuple[str, ...]
    rest: bool = False
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)

    def __str__(self) -> str:
        if self.rest:
            return f"..{self.names[0]}"
        if not self.names:
            return "1"
        return self.names[0] if len(self.names) == 1 else f"({' '.join(self.names)})"


@dataclass(frozen=True, slots=True)
class TensorPattern:
    """The axes of one tensor, in order. Two are equal when their axes are; spacing does not matter."""

    text: str = field(compare=False)
    axes: tuple[Axis, ...]

    def __str__(self) -> str:
        return " ".join(map(str, self.axes))

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Every coordinate, flat and in order; a rest ``b`` appears as ``..b``."""
        return tuple(f"..{name}" if axis.rest else name for axis in self.axes for name in axis.names)

    @property
    def rests(self) -> tuple[str, ...]:
        """The names of the rests, without dots: at most one for a pattern that was parsed."""
        return tuple(axis.names[0] for axis in self.axes if axis.rest)

    @property
    def merged(self) -> tuple[tuple[str, ...], ...]:
        """The coordinates of each axis that holds more than one, major to minor."""
        return tuple(axis.names for axis in self.axes if len(axis.names) > 1)

    def place(self, coordinate: str) -> tuple[int, int]:
        """Where a coordinate stands in ``text``: start and end. Not for the parts of a Pattern, which has its own."""
        return _place(self, self.text, coordinate)

    def expand(self, counts: Mapping[str, int]) -> TensorPattern:
        """The same pattern with each rest replaced by that many coordinates: ``..b`` with 2 becomes ``b.0 b.1``.

        A rest that ``counts`` does not name stays. Users cannot type the new names, so they never collide.
        """
        if not any(name in counts for name in self.rests):
            return self
        return _laid_out(_expanded(self, counts), 0)

    def rename(self, names: Mapping[str, str]) -> TensorPattern:
        """The same axes under other names; a name that ``names`` lacks stays."""
        return _laid_out(_renamed(self, names), 0)


def _place(tensor: TensorPattern, text: str, coordinate: str) -> tuple[int, int]:
    for axis in tensor.axes:
        if axis.rest and coordinate == str(axis):
            return axis.start, axis.end
        if not axis.rest and coordinate in axis.names:
            word = list(_WORD.finditer(text, axis.start, axis.end))[axis.names.index(coordinate)]
            return word.start(), word.end()
    raise InternalError(f"{coordinate!r} was looked for in {tensor} of {text!r}; please report this.")


def _expanded(tensor: TensorPattern, counts: Mapping[str, int]) -> list[Axis]:
    axes: list[Axis] = []
    for axis in tensor.axes:
        if axis.rest and axis.names[0] in counts:
            axes += [Axis((f"{axis.names[0]}.{number}",)) for number in range(counts[axis.names[0]])]
        else:
            axes.append(axis)
    return axes


def _renamed(tensor: TensorPattern, names: Mapping[str, str]) -> list[Axis]:
    return [replace(axis, names=tuple(names.get(name, name) for name in axis.names)) for axis in tensor.axes]


def _laid_out(axes: Sequence[Axis], offset: int) -> TensorPattern:
    """The axes with their places in a text written anew, which begins at ``offset`` of a longer one."""
    placed: list[Axis] = []
    start = offset
    for axis in axes:
        placed.append(replace(axis, start=start, end=start + len(str(axis))))
        start = placed[-1].end + 1
    return TensorPattern(" ".join(map(str, axes)), tuple(placed))


@dataclass(frozen=True, slots=True)
class Pattern:
    """The coordinates of every tensor of one call. Two are equal when their axes are; spacing does not matter."""

    text: str = field(compare=False)
    query: TensorPattern
    key: TensorPattern
    value: TensorPattern
    output: TensorPattern
    _hash: int = field(init=False, compare=False, repr=False)

    @classmethod
    def of(cls, *names: Sequence[str]) -> Pattern:
        """The pattern of four tensors with one coordinate for each axis: the names of Q, K, V and the output."""
        return cls._laid_out([[Axis((name,)) for name in each] for each in names])

    @classmethod
    def _laid_out(cls, axes: Sequence[Sequence[Axis]]) -> Pattern:
        text = ""
        tensors: list[TensorPattern] = []
        for each, after in zip(axes, (", ", ", ", " -> ", ""), strict=True):
            tensors.append(_laid_out(each, len(text)))
            text += tensors[-1].text + after
        return cls(text, *tensors)

    def __post_init__(self) -> None:
        # Every cached step of a call looks a pattern up; walking forty axes each time would cost more than the lookup.
        object.__setattr__(self, "_hash", hash((self.query, self.key, self.value, self.output)))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(
        self,
    ) -> tuple[type[Pattern], tuple[str, TensorPattern, TensorPattern, TensorPattern, TensorPattern]]:
        # The stored hash is of this process only, so a copy in another process must be built anew.
        return Pattern, (self.text, self.query, self.key, self.value, self.output)

    def __str__(self) -> str:
        return f"{self.query}, {self.key}, {self.value} -> {self.output}"

    @property
    def tensors(self) -> dict[str, TensorPattern]:
        """The four tensors under ``q``, ``k``, ``v`` and ``output``."""
        return {"q": self.query, "k": self.key, "v": self.value, "output": self.output}

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Every coordinate of the call once, in the order of first appearance; a rest appears as ``..b``."""
        return tuple(dict.fromkeys(name for tensor in self.tensors.values() for name in tensor.coordinates))

    @property
    def rests(self) -> tuple[str, ...]:
        """The names of all rests of the call, without dots, in the order of first appearance."""
        return tuple(dict.fromkeys(name for tensor in self.tensors.values() for name in tensor.rests))

    def expand(self, counts: Mapping[str, int]) -> Pattern:
        """The same pattern with each rest replaced by that many coordinates, in every tensor."""
        if not any(name in counts for name in self.rests):
            return self
        return self._laid_out([_expanded(tensor, counts) for tensor in self.tensors.values()])

    def rename(self, names: Mapping[str, str]) -> Pattern:
        """The same pattern under other names; a name that ``names`` lacks stays."""
        return self._laid_out([_renamed(tensor, names) for tensor in self.tensors.values()])

    def place(self, tensor: str, coordinate: str) -> tuple[int, int]:
        """Where a coordinate of ``"q"``, ``"k"``, ``"v"`` or ``"output"`` stands in ``text``: start and end."""
        return _place(self.tensors[tensor], self.text, coordinate)
