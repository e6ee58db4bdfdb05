"""One problem of the suite: a spec and its inputs, what every strategy makes of it, and the float64 answer.

Knows how the definitions of the four parts go together. Refuses to know which strategy is right: there is one oracle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import qkv
from qkv.run import Result
from qkv.testing import FAMILIES, Case, OracleResult, Sizes, oracle
from tests.contract.keeps import KEEPS
from tests.contract.places import PLACES, rotated
from tests.contract.scores import SCORES, Leaves, Score
from tests.contract.weighings import WEIGHINGS, Weighing

PATTERN = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
STRATEGIES = ("reference", "chunked", "cpu", "sdpa", "linear")


@dataclass(frozen=True)
class Problem:
    """One combination of terms and inputs; equal problems have equal numbers."""

    sizes: Sizes
    keep: str = "full"
    score: str = "none"
    place: str = "none"
    weights: str = "softmax"
    dtype: torch.dtype = torch.float32
    family: str = "randn"
    layout: str = "contiguous"
    scale: float | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    @cached_property
    def mask(self) -> Tensor | None:
        """The mask by definition; None when every key is kept."""
        return KEEPS[self.keep](self.sizes, self.seed)[1]

    @cached_property
    def case(self) -> Case:
        """q, k and v."""
        return FAMILIES[self.family](
            self.sizes, self.dtype, keep=self.mask, seed=self.seed, layout=self.layout, scale=self.scale
        )

    @property
    def operands(self) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v."""
        return self.case.q, self.case.k, self.case.v

    @cached_property
    def made_score(self) -> Score:
        return SCORES[self.score](self.sizes, self.seed)

    @cached_property
    def made_weights(self) -> Weighing:
        return WEIGHINGS[self.weights](self.sizes, self.seed)

    @property
    def leaves(self) -> Leaves:
        """What is learned, in float64 for float64 problems and in float32 for all others."""
        learned = {**self.made_score.leaves, **self.made_weights.leaves}
        return {name: x.double() if self.dtype == torch.float64 else x for name, x in learned.items()}

    def spec(self, leaves: Leaves | None = None) -> qkv.Spec:
        """The spec as a user writes it."""
        leaves = self.leaves if leaves is None else leaves
        return qkv.Spec(
            PATTERN,
            position=PLACES[self.place].term,
            score=self.made_score.terms(leaves),
            keep=KEEPS[self.keep](self.sizes, self.seed)[0],
            weights=self.made_weights.term(leaves),
            scale=self.scale,
        )

    @property
    def standing(self) -> dict[str, Any]:
        """Where the queries stand, said only where it must be."""
        said = {} if self.sizes.query_length == self.sizes.key_length else {"align": "end"}
        return {**said, **self.options}

    def run(
        self,
        strategy: str,
        *,
        want: tuple[str, ...] = (),
        leaves: Leaves | None = None,
        operands: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Result:
        """What the strategy makes of it. Raises ``qkv.Refused`` where it cannot."""
        q, k, v = self.operands if operands is None else operands
        with qkv.strategy(strategy):
            return self.spec(leaves).run(q, k, v, want=want, **self.standing)

    def answer(
        self, leaves: Leaves | None = None, operands: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> OracleResult:
        """The definition in float64; differentiable in the leaves and operands that are given."""
        q, k, v = self.operands if operands is None else operands
        leaves = {name: x.double() for name, x in (self.leaves if leaves is None else leaves).items()}
        differential = self.made_weights.kind == "differential"
        q, k = q.double(), k.double()
        if differential:
            q, k = (x.unflatten(-1, (2, x.shape[-1] // 2)).movedim(-2, 0) for x in (q, k))
        q, k = rotated(PLACES[self.place], q, k, self.sizes)
        told = self.made_weights.oracle(leaves)
        if self.made_weights.kind == "linear":
            return oracle(q, k, v, keep=self.mask, **told)
        alive = torch.ones((), dtype=torch.bool) if self.mask is None else self.mask.any(-1)[..., None]
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        change = self.made_score.change(leaves, torch.where(alive, q, 0.0) * scale)
        told |= {"bias": change.bias, "softcap": change.softcap, "score": change.score, "scale": scale}
        result = oracle(q, k, v, keep=self.mask, **told)
        result = replace(result, delta=result.delta + 4 * 2.0**-24 * change.size * (result.count > 0))
        if change.rows is None:
            return result
        table, row = change.rows
        vectors = table[row]
        return replace(
            result,
            output=result.output + torch.einsum("bhij,ije->bhie", result.weights, vectors),
            magnitude=result.magnitude
            + torch.einsum("bhij,ije->bhie", result.weights.detach().abs(), vectors.detach().abs()),
            span=result.span + (vectors.detach().abs().amax() if vectors.numel() else 0.0),
        )

    @property
    def is_exact(self) -> bool:
        """Whether the family's answer, known bit for bit, is that of this problem."""
        return (self.score, self.place, self.weights) == ("none", "none", "softmax")

    def __repr__(self) -> str:
        parts = [
            self.keep,
            self.score,
            self.place,
            self.weights,
            str(self.dtype).removeprefix("torch."),
            self.family,
            f"scale={self.scale}",
            self.layout,
        ]
        return f"Problem({', '.join(parts)}, {self.sizes}, seed={self.seed})"
