"""What a layer's work is made of: parts with their operations and formulas, pairs by a named convention, bytes moved.

A multiply and an add are two operations. Knows how to collect and add up. Refuses to know which parts a layer has
(``flops``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..errors import SpecError
from .layer import Kind

SOFTMAX_FLOPS = 5
"""Operations for a pair: scale, subtract the largest, exponential, add to the sum, divide."""


class Convention(StrEnum):
    """Which pairs count."""

    EXACT = "exact"
    """The visible ones."""
    HALF = "half"
    """All, but half of the square that the new tokens form with themselves; windows and chunks are not seen."""
    FULL = "full"
    """All of them, as an implementation that masks afterwards computes."""


class LatentForm(StrEnum):
    """How latent attention is computed."""

    EXPANDED = "expanded"
    """Keys and values of every token of the context are rebuilt from the latents, then attended to."""
    ABSORBED = "absorbed"
    """Queries go into the latents' space, which are attended to as they are."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a layer's work: its operations and the formula; ``is_product`` for matrix products."""

    name: str
    flops: int
    formula: str
    is_product: bool = True


@dataclass(frozen=True, slots=True)
class Work:
    """What one layer does for ``queries`` new tokens of each of ``batch`` sequences of ``keys`` tokens.

    Bytes are those of a fused kernel, each tensor moved once: ``weight_bytes`` of the projections, ``read_bytes`` of
    the cache, ``write_bytes`` of new keys and values, ``activation_bytes`` of input, queries, result and output.
    """

    kind: Kind
    convention: Convention
    pairs: int
    parts: tuple[Part, ...]
    weight_bytes: int
    read_bytes: int
    write_bytes: int
    activation_bytes: int
    left_out: str = ""

    @property
    def flops(self) -> int:
        """All operations."""
        return sum(part.flops for part in self.parts)

    @property
    def product_flops(self) -> int:
        """Operations of matrix products alone: what torch's counter counts."""
        return sum(part.flops for part in self.parts if part.is_product)

    @property
    def bytes(self) -> int:
        """All bytes moved."""
        return self.weight_bytes + self.read_bytes + self.write_bytes + self.activation_bytes

    @property
    def intensity(self) -> float:
        """Operations for each byte moved; 0 where nothing is moved."""
        return self.flops / self.bytes if self.bytes else 0.0

    def part(self, name: str) -> int:
        """The operations of the part called ``name``; 0 where the layer has none."""
        return sum(part.flops for part in self.parts if part.name == name)

    def backward_flops(self, *, recompute: bool = True) -> int:
        """Operations of the gradients: two products for each product of the forward, twice its softmax, and, where
        scores are made again instead of kept, the scores once more.
        """
        softmax = self.flops - self.product_flops
        again = self.part("scores") + softmax if recompute else 0
        return 2 * self.product_flops + 2 * softmax + again


def to_convention(value: Convention | str) -> Convention:
    """The convention called ``value``. Raises ``SpecError`` for a name that none has."""
    try:
        return Convention(value)
    except ValueError:
        raise SpecError(f'convention "{value}" is not known.\n  Known: {", ".join(Convention)}.') from None


def to_form(value: LatentForm | str) -> LatentForm:
    """The form of latent attention called ``value``. Raises ``SpecError`` for a name that none has."""
    try:
        return LatentForm(value)
    except ValueError:
        raise SpecError(f'latent="{value}" is not known.\n  Known: {", ".join(LatentForm)}.') from None


class Parts:
    """Collects parts with their formulas; every one is multiplied by the batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.parts: list[Part] = []
        self.weights = 0

    def project(self, name: str, tokens: int, size_in: int, size_out: int) -> None:
        """A linear map of ``tokens`` rows; its weights are moved once, whatever the batch."""
        if tokens and size_in and size_out:
            self.add(name, 2 * tokens * size_in * size_out, f"2 x {tokens:,} x {size_in:,} x {size_out:,}")
            self.weights += size_in * size_out

    def pairs(self, name: str, pairs: int, heads: int, size: int) -> None:
        self.add(name, 2 * pairs * heads * size, f"2 x {pairs:,} pairs x {heads} heads x {size}")

    def add(self, name: str, flops: int, formula: str, *, is_product: bool = True) -> None:
        batch = f" x batch {self.batch}" if self.batch > 1 else ""
        self.parts.append(Part(name, flops * self.batch, formula + batch, is_product))

    def softmax(self, pairs: int, heads: int) -> None:
        self.add(
            "softmax",
            SOFTMAX_FLOPS * pairs * heads,
            f"{SOFTMAX_FLOPS} x {pairs:,} pairs x {heads} heads",
            is_product=False,
        )
