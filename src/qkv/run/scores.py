"""The graphs of a bound call evaluated over a part of its scores: mask, score, and values by row.

Shared by every strategy that works in torch. It knows the axes of a score (shared, query-only, key) and where a
lookup outside its table was seen by a kept key, which is an error; it refuses to know how scores become weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import SpecError
from ..terms.expr import Captured, Lookup, Node, describe
from ..terms.values import Environment, evaluate

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .bind import Bound

Ranges = Mapping[str, tuple[int, int]]


def environment(
    bound: Bound,
    ranges: Ranges,
    dtype: torch.dtype,
    score: Tensor | None = None,
    tables: Mapping[Captured, Tensor] | None = None,
    flows: Tensor | None = None,
) -> Environment:
    """What the leaves of the call's graphs mean within ``ranges``; ``flows`` as in ``Environment``."""
    indices, positions = bound.places.part(ranges)
    return Environment(
        indices,
        positions,
        bound.frame.sizes,
        dtype,
        bound.frame.device,
        score,
        bound.tables if tables is None else tables,
        bound.inside,
        flows=flows,
    )


def kept(bound: Bound, ranges: Ranges) -> Tensor | None:
    """Which pairs are kept within ``ranges``, over the axes of a score; None when all are.

    Fractions in a mask are float64 in every strategy, so that all of them keep the same pairs.
    """
    import torch

    node = bound.lowered.keep
    if node is None:
        return None
    wide = torch.float64 if bound.frame.device.type != "mps" else torch.float32  # there are no others there
    env = environment(bound, ranges, wide)
    mask = evaluate(node, env)
    _check_outside(env, None)
    return mask


def changed(
    bound: Bound,
    raw: Tensor,
    keep: Tensor | None,
    ranges: Ranges,
    tables: Mapping[Captured, Tensor] | None = None,
    flows: Tensor | None = None,
) -> Tensor:
    """The score after every term, from the scaled product ``raw`` over the axes of a score; ``flows`` as in
    ``Environment``.
    """
    node = bound.lowered.score
    if node is None:
        return raw
    env = environment(bound, ranges, raw.dtype, raw, tables, flows)
    result = evaluate(node, env)
    _check_outside(env, keep)
    return result


def by_row(bound: Bound, node: Node, dtype: torch.dtype, ranges: Ranges | None = None) -> Tensor:
    """A value that no key changes, over the axes shared and query-only; each has its size, or 1 where the value does
    not depend on it.
    """
    env = environment(bound, ranges or {}, dtype)
    value = evaluate(node, env)
    _check_outside(env, None)
    rows = len(bound.lowered.shared) + len(bound.lowered.query_order)
    if value.dim() == 0:
        return value.reshape([1] * rows)
    return value.flatten(rows)[..., 0] if value.dim() > rows else value


def rows_read(bound: Bound, node: Node, keep: Tensor | None, ranges: Ranges, dtype: torch.dtype) -> Tensor:
    """Whole numbers over the axes of a score: which row of a table each pair reads."""
    env = environment(bound, ranges, dtype)
    value = evaluate(node, env)
    _check_outside(env, keep)
    return value


def _check_outside(env: Environment, keep: Tensor | None) -> None:
    for node, where in env.outside:
        seen = where if keep is None else where & keep
        if bool(seen.any()):
            raise outside_error(node)


def outside_error(node: Lookup) -> SpecError:
    """The error for a lookup that left its table at a pair that counts."""
    return SpecError(
        f"`{describe(node)}` reads outside its table, whose shape is {tuple(node.table.tensor.shape)}.\n"
        "  Give a larger table, or bound the index: torch.clamp(i - j, 0, n - 1), or qkv.where(inside, table[...], "
        "other)."
    )
