"""Counting the pairs that a keep graph keeps, exactly, without looking at each of them.

Blocks of queries and keys are bounded first: one that keeps all or nothing is counted by its area. In the others the
parts of the graph that the block decides are replaced by constants; what is left often depends on one coordinate, or
on the difference of both, and is then counted along one axis (``tally``). This module makes a graph over two
positions of one over any coordinates; it refuses to know which mask it counts.
"""

from __future__ import annotations

from collections.abc import Mapping

from .. import limits
from ..errors import CoordinateError, LimitError, SpecError
from .expr import (
    Apply,
    Constant,
    Index,
    Lookup,
    Node,
    Position,
    Size,
    apply,
    children,
    coordinates_read,
    substitute,
    walk,
)
from .tally import Integers, Tally


def count(
    node: Node,
    *,
    query: str,
    key: str,
    num_queries: int,
    num_keys: int,
    offset: int = 0,
    at: Mapping[str, int] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> int:
    """Return how many of ``num_queries * num_keys`` pairs the bool graph ``node`` keeps.

    Query i stands at position i + ``offset``, key j at position j; ``at`` fixes every other coordinate that the graph
    reads, and ``sizes`` says how many elements such a coordinate has, where the graph asks.
    Empty axes give 0. Raises ``CoordinateError`` for a coordinate that nothing fixes, ``SpecError`` for negative sizes.

    >>> from qkv.terms.expr import Position, apply
    >>> count(apply("le", Position("j"), Position("i")), query="i", key="j", num_queries=4, num_keys=4)
    10
    """
    whole = (max(num_queries, 1), max(num_keys, 1))
    cells = count_cells(
        node,
        query=query,
        key=key,
        num_queries=num_queries,
        num_keys=num_keys,
        cell=whole,
        offset=offset,
        at=at,
        sizes=sizes,
    )
    return int(cells.sum())


def count_cells(
    node: Node,
    *,
    query: str,
    key: str,
    num_queries: int,
    num_keys: int,
    cell: tuple[int, int],
    offset: int = 0,
    at: Mapping[str, int] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Integers:
    """Return the number of kept pairs in each cell of ``cell[0]`` queries by ``cell[1]`` keys, as an int64 matrix.

    The last row and column of cells may be smaller. Other arguments and errors are those of ``count``.
    """
    if num_queries < 0 or num_keys < 0:
        raise SpecError(f"count of {num_queries} queries and {num_keys} keys.\n  Both are at least 0.")
    if max(num_queries, num_keys) > limits.COUNTED_POSITIONS:
        raise LimitError(
            f"count of {num_queries} queries and {num_keys} keys: more than {limits.COUNTED_POSITIONS} of one.\n"
            "  Counting takes time in proportion to the longer side; count a shorter part."
        )
    known = {**(sizes or {}), query: num_queries, key: num_keys}
    plain = _fixed(node, query, key, offset, at or {}, known)
    return Tally(plain, query, key, offset).cells(num_queries, num_keys, cell)


def _fixed(node: Node, query: str, key: str, offset: int, at: Mapping[str, int], sizes: Mapping[str, int]) -> Node:
    """The graph over the positions of ``query`` and ``key`` alone."""
    replacements: dict[Node, Node] = {
        Index(query): apply("sub", Position(query), Constant(offset)),
        Index(key): Position(key),
    }
    for coordinate in coordinates_read(node) - {query, key}:
        if coordinate in at:
            replacements[Position(coordinate)] = replacements[Index(coordinate)] = Constant(int(at[coordinate]))
    replacements |= {Size(coordinate): Constant(size) for coordinate, size in sizes.items()}
    plain = substitute(node, replacements)
    missing = sorted(coordinates_read(plain) - {query, key})
    if missing:
        sized = any(isinstance(n, Size) and n.coordinate == missing[0] for n in walk(plain))
        advice = f'sizes={{"{missing[0]}": 8}}' if sized else f'at={{"{missing[0]}": 0}}'
        raise CoordinateError(
            f'the mask also depends on "{missing[0]}", and one matrix of "{query}" by "{key}" is counted.\n'
            f"  Say where: {advice}."
        )
    return plain


def check_tables(node: Node, ends: Mapping[str, int]) -> None:
    """``SpecError`` for a captured table that is shorter than the positions that it is read at, outside a ``where``."""
    if isinstance(node, Lookup):
        for index, size in zip(node.indices, node.table.extents(len(node.indices)), strict=True):
            if isinstance(index, Position | Index) and size is not None and ends.get(index.coordinate, 0) > size:
                raise SpecError(
                    f'{node.table!r} is read at {ends[index.coordinate]} places of "{index.coordinate}", '
                    f"and has {size}.\n  Count or draw no more than the table has."
                )
    guarded = isinstance(node, Apply) and node.operation == "select"
    for child in children(node)[: 1 if guarded else None]:
        check_tables(child, ends)
