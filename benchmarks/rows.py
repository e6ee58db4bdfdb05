"""One measured figure as data: its spread, what it is held against, and whether it keeps its bounds.

Refuses to measure, and to print.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Work:
    """What one call has to do at least, to be held against what the machine reaches: ``amount`` flops or bytes.

    ``peak`` measures the machine, in the same unit a second; ``of`` names what it measures. The best peak of all rounds
    counts, or, with ``varies``, each round's own: what a shared cache holds of an array changes with the neighbours.
    """

    amount: float
    of: str
    unit: str
    peak: Callable[[], float]
    varies: bool = False

    def share(self, times: Sequence[float], peaks: Sequence[float]) -> float:
        """The part of the peak that the median call reaches; both sequences are by round."""
        if self.varies:
            return statistics.median(self.amount / t / p for t, p in zip(times, peaks, strict=True))
        return self.amount / statistics.median(times) / max(peaks)


@dataclass(frozen=True)
class Row:
    """One measured figure: its median, its spread, and, where they apply, a ratio, a share of a peak, and bounds."""

    label: str
    shapes: str
    unit: str
    median: float
    low: float
    high: float
    rounds: int
    ratio: float | None = None  # the base's time divided by this one's: above 1 is faster
    ratio_low: float | None = None
    ratio_high: float | None = None
    below: float | None = None
    base: str | None = None  # what the ratio is to
    at_least: float | None = None  # the bound of the ratio
    rate: float | None = None  # of work done at the median, a second
    rate_unit: str = ""
    share: float | None = None  # of the peak that was measured in the same rounds
    share_of: str | None = None
    share_at_least: float | None = None
    others: float = 0.0  # what other work took of the machine meanwhile

    @property
    def missed(self) -> bool:
        """Whether a bound is not kept; a figure that is not a number keeps none."""
        return (
            (self.below is not None and not self.median < self.below)
            or (self.at_least is not None and not (self.ratio is not None and self.ratio >= self.at_least))
            or (self.share_at_least is not None and not (self.share is not None and self.share >= self.share_at_least))
        )

    @property
    def unbound(self) -> Row:
        """The same figure without bounds, for sizes at which they say nothing."""
        return replace(self, below=None, at_least=None, share_at_least=None)


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, least and greatest."""
    return statistics.median(values), min(values), max(values)
