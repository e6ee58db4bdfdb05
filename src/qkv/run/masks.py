"""Questions about a mask's graph that strategies ask before they say what they can run."""

from __future__ import annotations

from ..spec import Lowered
from ..terms.expr import Constant, Node, Position, apply, coordinates_read


def is_plain_causal(keep: object, query: str, key: str) -> bool:
    """Whether the mask is exactly ``position of the query >= position of the key``."""
    return keep == apply("ge", apply("sub", Position(query), Position(key)), Constant(0))


def key_only(keep: Node, lowered: Lowered) -> bool:
    """Whether the mask depends on keys (and shared coordinates) alone, so that every row keeps the same ones."""
    return not coordinates_read(keep) & set(lowered.query_order)
