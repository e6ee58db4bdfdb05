"""How many pairs of a query and a key are visible: closed forms for the common masks, a count for any other.

The queries are the last ``queries`` positions of ``keys``: a whole prompt where both are equal, one decoded token where
``queries`` is 1. Knows sums of integers. Refuses to approximate: what has no closed form here is counted from its mask
(``Keep.count``).
"""

from __future__ import annotations

from ..errors import SpecError
from ..terms.bigbird import BigBird, bigbird
from ..terms.keep import Keep


def _places(queries: int, keys: int) -> int:
    """The position of the first query."""
    if queries < 0 or keys < queries:
        raise SpecError(
            f"{queries} queries and {keys} keys: the queries are the last positions of the keys.\n"
            "  Give at least as many keys as queries."
        )
    return keys - queries


def _upto(n: int) -> int:
    return n * (n + 1) // 2


def full_pairs(queries: int, keys: int) -> int:
    """Every pair: ``queries * keys``. Cross-attention and encoders."""
    return queries * keys


def causal_pairs(queries: int, keys: int | None = None) -> int:
    """Pairs under ``causal()``: the sum of ``p + 1`` over the queries' positions p.

    Square: ``n (n + 1) / 2``; with an offset o = keys - queries: ``queries * o + queries (queries + 1) / 2``.

    >>> causal_pairs(4), causal_pairs(1, 100)
    (10, 100)
    """
    keys = queries if keys is None else keys
    return queries * _places(queries, keys) + _upto(queries)


def window_pairs(queries: int, keys: int | None = None, *, window: int) -> int:
    """Pairs under ``causal() & window(W)``: the sum of ``min(W, p + 1)`` over the queries' positions p.

    Square, for n >= W: ``W (W + 1) / 2 + (n - W) W``.

    >>> window_pairs(5, window=2)
    9
    """
    keys = queries if keys is None else keys
    first = _places(queries, keys)
    rising = max(0, min(keys, window) - first)  # queries that see everything before them
    return (
        queries * first + _upto(queries)
        if rising == queries
        else (rising * first + _upto(rising) + (queries - rising) * window)
    )


def chunk_pairs(queries: int, keys: int | None = None, *, chunk: int) -> int:
    """Pairs of chunked-local attention: the sum of ``p mod C + 1`` over the queries' positions p.

    >>> chunk_pairs(5, chunk=2)
    7
    """
    keys = queries if keys is None else keys
    first = _places(queries, keys)
    return _chunked(keys, chunk) - _chunked(first, chunk)


def _chunked(n: int, chunk: int) -> int:
    whole, rest = divmod(n, chunk)
    return whole * _upto(chunk) + _upto(rest)


def prefix_pairs(n: int, *, prefix: int) -> int:
    """Pairs under ``causal() | prefix(P)``, square: the causal ones, and P (P - 1) / 2 more among the first P.

    >>> prefix_pairs(8, prefix=3)
    39
    """
    within = min(n, prefix)
    return _upto(n) + within * (within - 1) // 2


def bigbird_pairs(
    n: int, *, window: int = 1, num_global: int = 1, num_random: int = 1, block_size: int = 1, seed: int = 0
) -> int:
    """Pairs under ``bigbird(...)``, square, counted block by block: random blocks may coincide with others.

    >>> bigbird_pairs(8)
    38
    """
    return visible_pairs(
        bigbird(window=window, num_global=num_global, num_random=num_random, block_size=block_size, seed=seed), n
    )


def visible_pairs(keep: Keep | None, queries: int, keys: int | None = None) -> int:
    """Pairs that ``keep`` keeps, counted exactly without an array of them; every pair without a mask.

    ``visible_pairs(keep, n, m) / (n * m)`` is ``keep.density(n, m)``. Raises ``LimitError`` beyond
    ``limits.COUNTED_POSITIONS``, for a square BigBird beyond ``limits.COUNTED_BLOCKS``.

    >>> import qkv
    >>> visible_pairs(qkv.causal() & qkv.window(2), 5), visible_pairs(None, 2, 3)
    (9, 6)
    """
    keys = queries if keys is None else keys
    if keep is None:
        return queries * keys
    if isinstance(keep, BigBird) and queries == keys:
        return keep.square_pairs(keys)
    return keep.count(queries, keys, offset=_places(queries, keys))
