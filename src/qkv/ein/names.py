"""Names that the notation keeps for itself: its words, reductions and functions."""

from __future__ import annotations

from .expressions import POINTWISE
from .reader import KEEPING, REDUCTIONS
from .tokens import KEYWORDS

BUILT_IN = frozenset({*REDUCTIONS, *KEEPING, *POINTWISE, "concat", "only", "size"})
"""What no function and no let may be called."""


def taken() -> frozenset[str]:
    """Every name that a text cannot give, or had better not."""
    return BUILT_IN | KEYWORDS | {"given"}
