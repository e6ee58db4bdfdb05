"""Rotary positions: the term that turns pairs of features of Q and K by angles that grow with the position.

A ``Rope`` is frozen data; it knows which features form a pair, how fast each pair turns, and which component of a
position turns it. Frequencies and angles are computed in float64, whatever the tensors' type, because an angle of a
distant position has no correct digits left in float16 and few in float32. This module refuses to know where queries
and keys stand: positions come from the caller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, cast, get_args

from ..errors import DtypeError, ShapeError, SpecError
from .numbers import number
from .scaling import Proportional, Scaling, plain_frequencies
from .worded import Worded

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SectionLayout = Literal["chunked", "interleaved", "axial"]
"""How several position components share the pairs; see ``rope``."""


@dataclass(frozen=True, slots=True)
class Rope(Worded):
    """Rotary position embedding as data; made by ``rope``, which explains the fields."""

    theta: float
    interleaved: bool
    fraction: float
    scaling: Scaling | None
    sections: tuple[int, ...] | None
    section_layout: SectionLayout
    query: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.theta) or self.theta <= 0:
            raise SpecError(f"rope: theta = {self.theta}.\n  It must be a finite number above 0, such as 10000.0.")
        if not 0 < self.fraction <= 1:
            raise SpecError(
                f"rope: fraction = {self.fraction}.\n  It is the rotated share of the features, above 0 and at most 1."
            )
        if self.scaling is not None and not isinstance(self.scaling, Scaling):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SpecError(
                f"rope: scaling = {self.scaling!r}.\n  Write qkv.scaling.linear(4.0), or another of qkv.scaling."
            )
        if self.section_layout not in get_args(SectionLayout):
            raise SpecError(
                f"rope: section_layout = {self.section_layout!r}.\n  Known: {', '.join(get_args(SectionLayout))}."
            )
        if self.sections is not None and (not self.sections or any(s < 1 for s in self.sections)):
            raise SpecError(f"rope: sections = {self.sections}.\n  Each is a number of pairs, at least 1.")
        if self.sections is None and self.section_layout != "chunked":
            raise SpecError(
                f"rope: section_layout = {self.section_layout!r} without sections.\n  Give sections=(16, 24, 24)."
            )

    def __repr__(self) -> str:
        plain = rope()
        said = [f"{self.theta:g}"] if self.theta != plain.theta else []
        for name in (field.name for field in fields(self)[1:]):
            value = getattr(self, name)
            said += [f"{name}={value!r}"] if value != getattr(plain, name) else []
        return f"rope({', '.join(said)})"

    @property
    def num_components(self) -> int:
        """How many numbers a position consists of: 1, or as many as there are sections."""
        return 1 if self.sections is None else len(self.sections)

    def rotary_size(self, feature_size: int) -> int:
        """How many features, from the first, belong to pairs; ``SpecError`` when that is odd or 0."""
        size = feature_size if isinstance(self.scaling, Proportional) else int(feature_size * self.fraction)
        if size < 2 or size % 2:
            raise SpecError(
                f"rope: {size} of {feature_size} features would be rotated (fraction = {self.fraction:g}).\n"
                "  Features are rotated in pairs: the number must be even and at least 2."
            )
        if self.sections is not None and sum(self.sections) != size // 2:
            raise SpecError(
                f"rope: sections {self.sections} sum to {sum(self.sections)}, not to {size // 2}.\n"
                f"  Sections count pairs, and {size} rotated features make {size // 2} of them."
            )
        return size

    def frequencies(self, feature_size: int, length: int, device: torch.device | None = None) -> tuple[Tensor, float]:
        """Return the angle per position of each pair, float64 ``[pairs]``, and the factor of cosines and sines.

        ``length`` is the number of positions in use, the largest key position + 1; only dynamic NTK and LongRoPE read
        it. Raises ``SpecError`` for a feature size that fits neither the pairing, the sections nor the scaling.
        """
        import torch

        effective = 0 if self.scaling is None else self.scaling.effective_length(length)
        numbers = _frequencies(self, feature_size, effective)
        factor = 1.0 if self.scaling is None else self.scaling.attention_factor
        return torch.tensor(numbers, dtype=torch.float64, device=device), factor

    def components(self, feature_size: int) -> tuple[int, ...]:
        """Which component of a position turns each pair."""
        pairs = self.rotary_size(feature_size) // 2
        if self.sections is None:
            return (0,) * pairs
        if self.section_layout != "interleaved":
            return tuple(c for c, section in enumerate(self.sections) for _ in range(section))
        count = len(self.sections)
        owners = [0] * pairs
        for c in range(1, count):
            for pair in range(c, min(self.sections[c] * count, pairs), count):
                owners[pair] = c
        if any(owners.count(c) != section for c, section in enumerate(self.sections)):
            raise SpecError(
                f"rope: sections {self.sections} cannot be interleaved over {pairs} pairs.\n"
                f"  Components after the first take one pair in {count}, the first the rest: sections=(24, 20, 20)."
            )
        return tuple(owners)

    def rotate(self, x: Tensor, positions: Tensor, *, length: int) -> Tensor:
        """Return ``x`` with its pairs of features turned by their positions' angles, in ``x``'s element type.

        Coordinates: ``x`` is ``[..., feature]``; ``positions`` (whole or float numbers) broadcasts to
        ``x.shape[:-1]``. With sections it has one more leading axis, one entry for each component, exactly when it
        has as many axes as ``x``; with fewer axes all components are equal, as they are for text. ``length`` is the
        number of positions in use. Computed in float32, float64 for a float64 ``x``; gradients flow to ``x``. Raises
        ``ShapeError`` for positions that do not fit, ``DtypeError`` for an ``x`` of whole numbers, ``SpecError`` as
        ``frequencies``.
        """
        import torch

        if not x.dtype.is_floating_point:
            raise DtypeError(f"rope rotates floating-point tensors, and got {x.dtype}.\n  Convert it: x.float().")
        rotated_size = self.rotary_size(x.shape[-1])
        cosine, sine = self._turns(x, positions, length)
        work = torch.float64 if x.dtype == torch.float64 else torch.float32
        cosine, sine = cosine.to(work), sine.to(work)
        rotated = x[..., :rotated_size].to(work)
        first, second = _split(rotated, self.interleaved)
        turned = (first * cosine - second * sine, second * cosine + first * sine)
        joined = torch.stack(turned, dim=-1).flatten(-2) if self.interleaved else torch.cat(turned, dim=-1)
        joined = joined.to(x.dtype)
        return joined if rotated_size == x.shape[-1] else torch.cat((joined, x[..., rotated_size:]), dim=-1)

    def _turns(self, x: Tensor, positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[..., pair]`` in float64, times the attention factor."""
        import torch

        feature_size = x.shape[-1]
        places = self._places(x, positions)
        device = x.device if x.device.type != "mps" else torch.device("cpu")  # no float64 there
        frequencies, factor = self.frequencies(feature_size, length, device)
        places = places.to(device=device, dtype=torch.float64)
        if places.shape[0] > 1:
            owner = torch.tensor(self.components(feature_size), device=device)
            angles = places.index_select(0, owner).movedim(0, -1) * frequencies
        else:
            angles = places[0].unsqueeze(-1) * frequencies
        return (angles.cos() * factor).to(x.device), (angles.sin() * factor).to(x.device)

    def _places(self, x: Tensor, positions: Tensor) -> Tensor:
        """Positions with a leading component axis, of size 1 where all components are equal; checked against ``x``."""
        count = self.num_components
        several = self.sections is not None and positions.dim() == x.dim()
        places = positions if several else positions.unsqueeze(0)
        shape, target = tuple(places.shape[1:]), tuple(x.shape[:-1])
        padded = (1,) * (len(target) - len(shape)) + shape
        fits = len(shape) <= len(target) and all(a in (1, b) for a, b in zip(padded, target, strict=True))
        if not fits or (several and places.shape[0] != count):
            with_components = ", ".join(str(n) for n in (count, *target))
            leading = f", or to ({with_components}) with one entry for each section" if self.sections else ""
            raise ShapeError(
                f"rope: positions of shape {tuple(positions.shape)} for features of shape {tuple(x.shape)}.\n"
                f"  Positions broadcast to {target}{leading}."
            )
        return places


@lru_cache(maxsize=256)
def _frequencies(rope: Rope, feature_size: int, length: int) -> tuple[float, ...]:
    size = rope.rotary_size(feature_size)

    def ladder(rotated: int) -> tuple[float, ...]:
        if rope.scaling is None:
            return plain_frequencies(rope.theta, rotated)
        return rope.scaling.frequencies(rope.theta, rotated, length)

    if rope.section_layout == "axial" and rope.sections is not None:
        return tuple(f for section in rope.sections for f in ladder(2 * section))
    numbers = ladder(size)
    if isinstance(rope.scaling, Proportional):
        turning = int(rope.fraction * feature_size // 2)
        numbers = tuple(f if k < turning else 0.0 for k, f in enumerate(numbers))
    return numbers


def _split(x: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    """The first and the second partner of every pair."""
    half = x.shape[-1] // 2
    return (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])


def rope(
    theta: float = 10000.0,
    *,
    interleaved: bool = False,
    fraction: float = 1.0,
    scaling: Scaling | None = None,
    sections: Sequence[int] | None = None,
    section_layout: SectionLayout = "chunked",
    query: str | None = None,
    key: str | None = None,
) -> Rope:
    """Return rotary position embedding: pair k of the features of Q and K turns by position * theta ** (-2k / size).

    ``interleaved=False`` pairs feature k with k + size / 2, as transformers checkpoints do; ``True`` pairs 2k with 2k
    + 1, as the original does (``permute_pairing`` converts weights). Only the first ``fraction`` of the features is
    rotated. ``scaling`` is one of ``qkv.scaling``. ``sections`` gives each component of a position (time, height,
    width) a number of pairs: ``"chunked"`` one after the other (Qwen2-VL), ``"interleaved"`` in turns (Qwen3-VL),
    ``"axial"`` one after the other, each with frequencies from the start (2-D vision). ``query`` and ``key`` name the
    sequences where the pattern leaves several candidates. Positions are compared only through their differences: a
    common offset changes no score, unless the scaling depends on the length. Raises ``SpecError`` for numbers out of
    range. Source: RoFormer, arXiv 2104.09864, section 3.2.

    >>> rope(1e6, fraction=0.5)
    rope(1e+06, fraction=0.5)
    >>> rope(1e6, fraction=0.5).rotary_size(128)
    64
    """
    made = None if sections is None else tuple(sections)
    base, share = number("rope", "theta", theta), number("rope", "fraction", fraction)
    return Rope(base, interleaved, share, scaling, made, section_layout, query, key)


def permute_pairing(
    weight: Tensor, head_size: int, *, to: Literal["interleaved", "half"], rotary_size: int | None = None
) -> Tensor:
    """Return a query or key projection's weight with each head's output features reordered for the other pairing.

    ``weight`` is ``[num_heads * head_size, ...]``, or a bias; of each head the first ``rotary_size`` features (all of
    them when absent) are reordered. Scores with the converted weights and the other ``interleaved`` are the same.
    Raises ``SpecError`` for a rotary size that is odd or too large and ``ShapeError`` when heads do not divide the
    first axis.

    >>> import torch
    >>> permute_pairing(torch.arange(8), 4, to="half")  # two heads of 4 features
    tensor([0, 2, 1, 3, 4, 6, 5, 7])
    """
    import torch

    size = head_size if rotary_size is None else rotary_size
    if size < 2 or size % 2 or size > head_size:
        raise SpecError(
            f"permute_pairing: {size} of {head_size} features.\n"
            f"  The number of rotated features is even, from 2 to {head_size}."
        )
    if weight.dim() == 0 or weight.shape[0] == 0 or weight.shape[0] % head_size:
        raise ShapeError(
            f"permute_pairing: a weight of shape {tuple(weight.shape)} is not made of heads of {head_size}.\n"
            "  The first axis is num_heads * head_size, as in torch.nn.Linear.weight."
        )
    half = size // 2
    if to == "half":
        order = [*range(0, size, 2), *range(1, size, 2)]
    elif cast(str, to) == "interleaved":
        order = [k + partner * half for k in range(half) for partner in (0, 1)]
    else:
        raise SpecError(f"permute_pairing: to = {to!r}.\n  Known: interleaved, half.")
    index = torch.tensor([*order, *range(size, head_size)], device=weight.device)
    heads = weight.reshape(-1, head_size, *weight.shape[1:])
    return heads.index_select(1, index).reshape(weight.shape)
