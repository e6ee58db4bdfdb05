"""Where the elements of each coordinate stand: indices, positions, and their bounds over blocks.

A coordinate's positions are its indices plus an offset, or a tensor that the caller gave. Coordinates are laid out over
the axes of a score, so that everything broadcasts. This module knows ``positions=`` and ``align=``, and every mistake
that can be made with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..coords import Axis
from ..coords.pattern import parse_tensor
from ..errors import DeviceError, DtypeError, PositionError, ShapeError
from ..terms.interval import Array, Interval

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..spec import Lowered

SECTION = "section"
"""The name, in a position tensor's pattern, of the axis that counts components of multi-section rotary positions."""


@dataclass(frozen=True, slots=True)
class Place:
    """One coordinate's positions: ``offset`` plus the index, or ``given`` over the score's axes; ``components`` for the
    rotation alone.
    """

    offset: int = 0
    given: Tensor | None = None
    components: Tensor | None = None


class Places:
    """The coordinates of one call over the axes ``names``, in which scores are laid out."""

    def __init__(
        self, names: tuple[str, ...], sizes: Mapping[str, int], places: Mapping[str, Place], device: torch.device
    ) -> None:
        import torch

        self.names = names
        self.sizes = sizes
        self.places = places
        self.axis = {name: n for n, name in enumerate(names)}
        self.indices: dict[str, Tensor] = {}
        self.positions: dict[str, Tensor] = {}
        for name in names:
            index = torch.arange(sizes[name], device=device).view([-1 if n == name else 1 for n in names])
            place = places.get(name, Place())
            self.indices[name] = index
            self.positions[name] = (
                place.given if place.given is not None else index + place.offset if place.offset else index
            )

    def part(self, ranges: Mapping[str, tuple[int, int]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Indices and positions within ``ranges`` (coordinate to first and one past the last); others are whole."""
        return (
            {n: self.cut(x, ranges) for n, x in self.indices.items()},
            {n: self.cut(x, ranges) for n, x in self.positions.items()},
        )

    def cut(self, tensor: Tensor, ranges: Mapping[str, tuple[int, int]]) -> Tensor:
        """The part of a tensor over the score's axes that lies within ``ranges``; axes of size 1 stay."""
        for name, (start, stop) in ranges.items():
            axis = self.axis[name]
            if tensor.shape[axis] == self.sizes[name] and not (start == 0 and stop == self.sizes[name]):
                tensor = tensor.narrow(axis, start, stop - start)
        return tensor

    def bounds(self, edges: Mapping[str, Array]) -> tuple[dict[str, Interval], dict[str, Interval]]:
        """Bounds of indices and positions for blocks: ``edges[name]`` holds each block's first index and one past its
        last, ``[2, ...]``; others are whole.
        """
        indices: dict[str, Interval] = {}
        positions: dict[str, Interval] = {}
        for name in self.names:
            pair = edges.get(name)
            first, last = (np.zeros(()), np.asarray(self.sizes[name] - 1.0)) if pair is None else (pair[0], pair[1] - 1)
            indices[name] = Interval.of(first, last)
            place = self.places.get(name, Place())
            positions[name] = (
                Interval.of(first + place.offset, last + place.offset)
                if place.given is None
                else self._given_bounds(name, place.given, pair)
            )
        return indices, positions

    def _given_bounds(self, name: str, given: Tensor, edges: Array | None) -> Interval:
        if given.device.type != "cpu" or given.numel() == 0:
            return Interval.of(-np.inf, np.inf)
        values = given.movedim(self.axis[name], 0).reshape(given.shape[self.axis[name]], -1)
        low, high = values.amin(dim=1).double().numpy(), values.amax(dim=1).double().numpy()
        if edges is None:
            return Interval.of(low.min(), high.max())
        flat = edges.reshape(2, -1).astype(np.int64)
        lows = np.array([low[a:b].min() for a, b in flat.T])
        highs = np.array([high[a:b].max() for a, b in flat.T])
        return Interval.of(lows.reshape(edges.shape[1:]), highs.reshape(edges.shape[1:]))

    def rotation(self, name: str, axes: tuple[str, ...]) -> Tensor:
        """The positions of ``name`` over the axes ``axes``, for a rotation; with components as the leading axis where
        they were given.
        """
        place = self.places.get(name, Place())
        tensor = self.positions[name] if place.components is None else place.components
        lead = tensor.dim() - len(self.names)
        keep = [lead + self.axis[a] for a in axes]
        others = [lead + n for n in range(len(self.names)) if self.names[n] not in axes]
        return (
            tensor.permute(*range(lead), *keep, *others).flatten(lead + len(keep))[..., 0]
            if others
            else tensor.permute(*range(lead), *keep)
        )

    def largest(self, name: str) -> int:
        """One more than the largest position of ``name``: how many positions are in use."""
        place = self.places.get(name, Place())
        tensor = place.components if place.components is not None else place.given
        if tensor is None:
            return self.sizes[name] + place.offset
        return int(tensor.max()) + 1 if tensor.numel() else 0


def resolve(
    lowered: Lowered,
    sizes: Mapping[str, int],
    positions: Mapping[str, Any] | None,
    align: str | None,
    device: torch.device,
) -> dict[str, Place]:
    """Each coordinate's place, from what the caller said. Raises ``PositionError`` when nothing says where the queries
    stand.
    """
    if align not in (None, "start", "end"):
        raise PositionError(
            f'align="{align}" is not known.\n'
            '  "start": the first query stands at the first key; "end": the last query stands at the last key.'
        )
    names = (*lowered.shared, *lowered.query_order, *lowered.key)
    places: dict[str, Place] = {}
    for name, value in (positions or {}).items():
        if name not in names:
            raise PositionError(
                f'positions: "{name}" is not a coordinate of the scores.\n    scores have: {" ".join(names)}\n'
                "  Name the query or the key coordinate."
            )
        places[name] = place_of(name, value, names, sizes, device)
    for query, key in sorted(lowered.relations):
        at = places.get(query)
        # components of a rotation say nothing of the order in which masks and distances compare
        if at is not None and (at.components is None or (query, key) not in lowered.compared):
            continue
        if key in places and (at is None or places[key].components is None):
            raise PositionError(
                f'positions are given for the keys "{key}" and not for the queries "{query}".\n'
                f'  Give both: positions={{"{query}": ..., "{key}": ...}}.'
            )
        if align is None and sizes[query] != sizes[key]:
            raise PositionError(
                f"nothing says where the queries stand among the keys.\n    queries: {query}={sizes[query]}\n"
                f"    keys:    {key}={sizes[key]}\n    pattern: {lowered.pattern.text}\n"
                '  Say align="end" (the last query stands at the last key, as in decoding), align="start", or '
                f'positions={{"{query}": first}}.'
            )
        offset = sizes[key] - sizes[query] if align == "end" else 0
        places[query] = Place(offset=offset, components=None if at is None else at.components)
    if align is not None and any(places[name].components is None for name in positions or ()):
        raise PositionError(f'align="{align}" and positions are both given.\n  Give one of them; positions says more.')
    return places


def _tensor_and_pattern(name: str, value: object) -> tuple[Tensor, str]:
    """A position tensor and the pattern of its axes, which is the coordinate alone when none is given."""
    parts = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value, name)
    if len(parts) != 2 or not hasattr(parts[0], "requires_grad") or not isinstance(parts[1], str):
        raise PositionError(
            f'positions["{name}"] is {value!r}.\n'
            f'  Give the first position, a tensor with one for each element, or (tensor, "b {name}").'
        )
    return cast("Tensor", parts[0]), parts[1]


def _written_out(axis: Axis, names: tuple[str, ...]) -> tuple[str, ...]:
    """The coordinates of an axis of a position tensor, a rest's written out as the call has them."""
    if not axis.rest:
        return axis.names[:1]
    return tuple(n for n in names if n.rsplit(".", 1)[0] == axis.names[0].removeprefix("..") and "." in n)


def place_of(name: str, value: Any, names: tuple[str, ...], sizes: Mapping[str, int], device: torch.device) -> Place:
    """One entry of ``positions=``, checked."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Place(offset=value)
    tensor, pattern = _tensor_and_pattern(name, value)
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or str(tensor.dtype) == "torch.bool":
        raise DtypeError(f'positions["{name}"] are {tensor.dtype}.\n  Positions are whole numbers: tensor.long().')
    if tensor.device != device:
        raise DeviceError(
            f'positions["{name}"] are on {tensor.device}, q on {device}.\n  Move them: positions.to(q.device).'
        )
    written = parse_tensor(pattern).axes
    if any(len(axis.names) > 1 for axis in written):
        raise ShapeError(
            f'positions["{name}"]: the pattern "{pattern}" merges coordinates.\n'
            f'  Give each an axis of its own: tensor.unflatten(...), with the pattern "b {name}".'
        )
    axes = [n for axis in written for n in _written_out(axis, names)]
    expected = tuple(
        int(tensor.shape[n]) if a == SECTION else sizes.get(a, -1) for n, a in enumerate(axes[: tensor.dim()])
    )
    if (
        tensor.dim() != len(axes)
        or tuple(tensor.shape) != expected
        or name not in axes
        or any(a not in (*names, SECTION) for a in axes)
    ):
        wanted = " ".join(f"{a}={sizes[a]}" if a in sizes else a for a in axes)
        raise ShapeError(
            f'positions["{name}"] have the shape {tuple(tensor.shape)}; the pattern "{pattern}" means {wanted}.\n'
            f'  Give one position for each element of "{name}", or (tensor, "b {name}").'
        )
    whole = tensor.long()
    order = [axes.index(n) for n in names if n in axes]
    shape = [sizes[n] if n in axes else 1 for n in names]
    if SECTION in axes:
        return Place(components=whole.permute(axes.index(SECTION), *order).reshape(-1, *shape))
    return Place(given=whole.permute(order).reshape(shape))
