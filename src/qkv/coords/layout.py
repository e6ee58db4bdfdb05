"""Layout of named tensors: renaming, parting and merging coordinates, order, and choosing places by name.

Knows which axis is which; moves no data unless a merge must. Order inside a part or a merge is major to minor, as in
patterns, and is always written by the caller.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qkv.coords.align import align
from qkv.coords.labelled import Labelled
from qkv.coords.names import checked, unknown
from qkv.coords.text import quoted, sized
from qkv.errors import CoordinateError, DtypeError, PatternError, ShapeError, SizeMismatch

if TYPE_CHECKING:
    from typing import Self


def _new_names(tensor: Labelled, names: tuple[str, ...], operation: str) -> tuple[str, ...]:
    """The names of a result, when none would stand twice."""
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise CoordinateError(
            f"{operation} would give {quoted(twice)} to two axes.\n    tensor: {sized(tensor.sizes)}\n"
            f"  Choose another name, or rename the axis that has it."
        )
    return checked(names)


class Layout(Labelled):
    """Renaming, reordering and choosing of ``Named``."""

    __slots__ = ()

    def rename(self, names: Mapping[str, str] | None = None, /, **more: str) -> Self:
        """The same tensor under other names: ``x.rename(i="seq_q")``; all at once, so names may be swapped."""
        new = {**(names or {}), **more}
        for name in new:
            if name not in self.names:
                raise unknown(name, self.sizes, "rename")
        renamed = tuple(new.get(name, name) for name in self.names)
        return self._with(self.tensor, _new_names(self, renamed, "rename"))

    def split(self, name: str, into: str, **sizes: int) -> Self:
        """One coordinate parted into several, major to minor: ``x.split("head", "h g", g=4)``.

        All sizes but one are needed. Raises SizeMismatch when they do not make the size of the coordinate.
        """
        size = self.size(name) if name in self.names else None
        if size is None:
            raise unknown(name, self.sizes, "split")
        parts = checked(tuple(into.split()))
        if not parts:
            raise PatternError(f'split of "{name}" is given no names.\n  Name the parts, major first: "h g"')
        for part in sizes:
            if part not in parts:
                raise unknown(part, dict.fromkeys(parts, 0) | sizes, "split")
        solved = self._solved(name, size, parts, sizes)
        at = self.names.index(name)
        names = (*self.names[:at], *parts, *self.names[at + 1 :])
        parted = self.tensor.reshape(self.tensor.shape[:at] + solved + self.tensor.shape[at + 1 :])
        return self._with(parted, _new_names(self, names, "split"))

    def merge(self, names: str, *, into: str) -> Self:
        """Several coordinates as one, major to minor in the order written: ``x.merge("h g", into="head")``.

        The new coordinate stands where the first of them stood. Data are copied when their axes are not neighbours.
        """
        picked = self.pick((names,), "merge")
        if not picked:
            raise CoordinateError(
                f'merge into "{into}" is given no names.\n    tensor: {sized(self.sizes)}\n'
                '  Name the parts, major first: x.merge("h g", into="head")'
            )
        before = [name for name in self.names[: self.names.index(picked[0])] if name not in picked]
        after = [name for name in self.names if name not in picked and name not in before]
        result = _new_names(self, (*before, into, *after), "merge")
        tensor = self.order(*before, *picked, *after).tensor
        return self._with(tensor.flatten(len(before), len(before) + len(picked) - 1), result)

    def order(self, *names: str) -> Self:
        """The same tensor with its axes in the order written, as a view: ``x.order("b i h d")``. All must be named."""
        picked = self.pick(names, "order")
        left_out = [name for name in self.names if name not in picked]
        if left_out:
            raise CoordinateError(
                f"order leaves out {quoted(left_out)}.\n    tensor: {sized(self.sizes)}\n"
                f'  Name every coordinate: x.order("{" ".join((*picked, *left_out))}")'
            )
        if picked == self.names:
            return self
        return self._with(self.tensor.permute([self.names.index(name) for name in picked]), picked)

    def only(self, name: str) -> Self:
        """The tensor without a coordinate whose size is 1; SizeMismatch when it is not."""
        size = self.size(name)
        if size != 1:
            raise SizeMismatch(
                f'coordinate "{name}" has size {size}, and only() asks for 1.\n    tensor: {sized(self.sizes)}\n'
                f'  Choose one with .at({name}=0), or reduce it with .sum("{name}") or .mean("{name}").',
                coordinate=name,
                seen={"tensor": size},
            )
        at = self.names.index(name)
        return self._with(self.tensor.squeeze(at), self.names[:at] + self.names[at + 1 :])

    def at(self, **places: int | Labelled) -> Self:
        """One place of each named coordinate, which is dropped: ``x.at(i=3)``; -1 is the last.

        A place may also be a named tensor of integers, such as ``table.at(bucket=distance)``: the coordinate gives way
        to the names of the places, and coordinates that both carry are paired. Such places are never negative.
        Raises ShapeError when a place lies outside.
        """
        result = self
        for name, place in places.items():
            if name not in self.names:
                raise unknown(name, self.sizes, "at")
            result = result._gather(name, place) if isinstance(place, Labelled) else result._select(name, place)
        return result

    def slice(self, **parts: builtins.slice) -> Self:
        """A part of each named coordinate, as a view: ``x.slice(i=slice(2, 5))``; steps are positive."""
        tensor = self.tensor
        for name, part in parts.items():
            if name not in self.names:
                raise unknown(name, self.sizes, "slice")
            if not isinstance(part, builtins.slice):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all type checked
                raise ShapeError(
                    f'slice of "{name}" is given {part!r:.60}, which is no slice.\n'
                    f"  Write x.slice({name}=slice(2, 5)), or x.at({name}=2) for one place."
                )
            start, stop, step = part.indices(self.size(name))
            if step < 0:
                raise ShapeError(
                    f'slice of "{name}" goes backwards, which a view cannot.\n    {name}: {part}\n'
                    f"  Use a positive step, or x.tensor.flip({self.names.index(name)}) named anew."
                )
            index = tuple(builtins.slice(start, stop, step) if n == name else builtins.slice(None) for n in self.names)
            tensor = tensor[index]
        return self._with(tensor, self.names)

    def index(self, name: str) -> Self:
        """The indices 0, 1, ... of one coordinate, integers with its name: ``x.index("j") <= x.index("i")``."""
        import torch

        return self._with(torch.arange(self.size(name), device=self.device), (name,))

    def to(self, *where: Any, **how: Any) -> Self:
        """The tensor in another dtype or on another device: everything that ``torch.Tensor.to`` takes."""
        return self._map(lambda tensor: tensor.to(*where, **how))

    def detach(self) -> Self:
        """The tensor without its history: no gradient flows to what it came from."""
        return self._map(lambda tensor: tensor.detach())

    def _solved(self, name: str, size: int, parts: tuple[str, ...], given: Mapping[str, int]) -> tuple[int, ...]:
        known = {part: given[part] for part in parts if part in given}
        shown = " ".join(f"{part}={known.get(part, '?')}" for part in parts)
        for part, number in known.items():
            if type(number) is not int or number < 0:
                raise SizeMismatch(
                    f'split gives "{part}" the size {number!r}, and a size is an integer from 0.\n'
                    f"    {name}={size} into {shown}\n  Write for example {part}=2",
                    coordinate=part,
                )
        missing = [part for part in parts if part not in known]
        product = math.prod(known.values())
        if len(missing) > 1 or (missing and product == 0):
            raise SizeMismatch(
                f'split of "{name}" leaves the sizes of {quoted(missing)} open.\n    {name}={size} into {shown}\n'
                f"  Give all but one, such as {missing[-1]}=2",
                coordinate=missing[0],
            )
        if (missing and size % product) or (not missing and product != size):
            parted = " * ".join(f"{part}={number}" for part, number in known.items())
            relation = "is not a multiple of" if missing else "is not"
            raise SizeMismatch(
                f"{name}={size} {relation} {parted}{'' if len(known) == 1 else f' = {product}'}.\n"
                f"    {name}={size} into {shown}\n  The parts of a coordinate must make its size.",
                coordinate=name,
                seen={"tensor": size},
            )
        return tuple(known.get(part, size // product if missing else 0) for part in parts)

    def _select(self, name: str, place: int) -> Self:
        at, size = self.names.index(name), self.size(name)
        if type(place) is not int:
            raise CoordinateError(
                f'at("{name}") is given {place!r:.60}, which is no place.\n    tensor: {sized(self.sizes)}\n'
                f"  A place is an integer, or a named tensor of integers: x.at({name}=3)"
            )
        if not -size <= place < size:
            raise ShapeError(
                f"{name}={place} lies outside.\n    tensor: {sized(self.sizes)}\n"
                f'  "{name}" has {size} places, counted from 0.'
            )
        return self._with(self.tensor.select(at, place), self.names[:at] + self.names[at + 1 :])

    def _gather(self, name: str, places: Labelled) -> Self:
        import torch

        if places.dtype.is_floating_point or places.dtype.is_complex or places.dtype == torch.bool:
            raise DtypeError(
                f'at("{name}") is given places {places!r}, and integers are expected.\n  Convert: x.to(torch.int64)'
            )
        if name in places.names:
            raise CoordinateError(
                f'at("{name}") is given places that carry "{name}" themselves.\n    tensor: {sized(self.sizes)}\n'
                f'    places: {sized(places.sizes)}\n  Rename them first: places.rename({name}="...")'
            )
        size = self.size(name)
        if places.tensor.numel() and not 0 <= int(places.tensor.min()) <= int(places.tensor.max()) < size:
            raise ShapeError(
                f'places from {int(places.tensor.min())} to {int(places.tensor.max())} of "{name}" lie outside.\n'
                f'    tensor: {sized(self.sizes)}\n  "{name}" has {size} places, counted from 0.'
            )
        whole = self._with(places.tensor.to(torch.int64), places.names)
        indices = [whole if n == name else self.index(n) for n in self.names]
        labels = ["places" if n == name else f'index of "{n}"' for n in self.names]
        names, tensors = align(indices, labels, "at")
        return self._with(self.tensor[tuple(tensors)], names)
