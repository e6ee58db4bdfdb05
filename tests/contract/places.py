"""Every position term beside its definition: a rotation of pairs of features, in float64.

The plain angles are written out here; those of the scalings come from the term, which ``tests/terms`` holds against
transformers' own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import qkv
from qkv.terms.position import Rope
from qkv.testing import Sizes
from tests.contract.keeps import positions


@dataclass(frozen=True, slots=True)
class Place:
    """One position term, and whether its angles are the plain ones."""

    term: Rope | None
    plain: bool = True


PLACES: dict[str, Place] = {
    "none": Place(None),
    "rope": Place(qkv.rope()),
    "interleaved": Place(qkv.rope(500.0, interleaved=True)),
    "partial": Place(qkv.rope(100.0, fraction=0.5)),
    "linear": Place(qkv.rope(scaling=qkv.scaling.linear(4.0)), plain=False),
    "dynamic": Place(qkv.rope(scaling=qkv.scaling.dynamic_ntk(2.0, 32)), plain=False),
    "yarn": Place(qkv.rope(scaling=qkv.scaling.yarn(4.0, 64)), plain=False),
    "llama3": Place(qkv.rope(scaling=qkv.scaling.llama3(8.0, 1.0, 4.0, 64)), plain=False),
}
"""Every position term by name."""


def rotated(place: Place, q: Tensor, k: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """q [..., i, d] and k [..., j, d] in float64, turned by the angles of their positions."""
    q, k = q.double(), k.double()
    if place.term is None:
        return q, k
    i, j = positions(sizes)
    return _turn(place, q, i[:, 0], sizes), _turn(place, k, j[0], sizes)


def _turn(place: Place, x: Tensor, at: Tensor, sizes: Sizes) -> Tensor:
    rope = place.term
    assert rope is not None
    size = int(x.shape[-1] * rope.fraction)
    pairs = size // 2
    if place.plain:
        frequency, factor = rope.theta ** (-2.0 * torch.arange(pairs, dtype=torch.float64) / size), 1.0
    else:
        frequency, factor = rope.frequencies(x.shape[-1], sizes.key_length)
    turn = torch.polar(torch.full((len(at), pairs), factor, dtype=torch.float64), at[:, None] * frequency)
    first, second = (x[..., 0:size:2], x[..., 1:size:2]) if rope.interleaved else (x[..., :pairs], x[..., pairs:size])
    # a NaN partner makes both parts NaN, as the rotation by definition does
    real, imaginary = first * turn.real - second * turn.imag, second * turn.real + first * turn.imag
    made = torch.stack([real, imaginary], -1).flatten(-2) if rope.interleaved else torch.cat([real, imaginary], -1)
    return torch.cat([made, x[..., size:]], -1)
