"""Named tensors at the door of a call: all three or none, brought into the spec's pattern by name, the output named.

The matching itself is ``coords.given``; this module adds what a call knows: which argument lacks names, and that the
sizes that names carry must hold inside merged axes too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..coords import Named, roles
from ..coords.given import arrange
from ..coords.given import pattern_of as derived
from ..errors import CoordinateError, SizeMismatch
from .result import Result

if TYPE_CHECKING:
    from torch import Tensor

    from ..coords import Pattern
    from ..spec import Spec


def any_named(q: object, k: object, v: object) -> bool:
    """Whether one of the three is Named; then all must be."""
    return isinstance(q, Named) or isinstance(k, Named) or isinstance(v, Named)


def pattern_of(q: Any, k: Any, v: Any) -> str:
    """The pattern that three Named tensors make when none is written.

    Raises ``CoordinateError`` when only some of the three are Named.
    """
    return str(derived(*_all_named(q, k, v).values()))


def _all_named(q: Any, k: Any, v: Any) -> dict[str, Named]:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Named):
            raise CoordinateError(
                f"{name} is {type(tensor).__name__} without names, and others are Named.\n"
                f'  Name it: qkv.Named({name}, "b h j d"), or give three plain tensors and a pattern.'
            )
    return {"q": q, "k": k, "v": v}


def arranged(
    spec: Spec, q: Any, k: Any, v: Any, options: Mapping[str, Any]
) -> tuple[Pattern, dict[str, Tensor], dict[str, Any]]:
    """The pattern as the tensors' names write it, the tensors in its order, and the options with the sizes of merged
    coordinates, which the tensors' names settle.

    Raises ``CoordinateError`` when a tensor's names are not its pattern's, ``SizeMismatch`` for a name of
    two sizes.
    """
    given = _all_named(q, k, v)
    pattern, tensors = arrange(spec.parsed, given)
    sizes = _one_size_each(given)
    merged = {n for tensor in spec.parsed.tensors.values() for axis in tensor.merged for n in axis}
    known: dict[str, int] = {**{n: sizes[n] for n in merged if n in sizes}, **(options.get("sizes") or {})}
    return pattern, tensors, {**options, "sizes": known or None}


def _one_size_each(given: Mapping[str, Named]) -> dict[str, int]:
    seen: dict[str, tuple[str, int]] = {}
    for argument, tensor in given.items():
        for name, size in tensor.sizes.items():
            other, first = seen.setdefault(name, (argument, size))
            if first != size:
                raise SizeMismatch(
                    f'coordinate "{name}" has two sizes.\n    {other}: {name}={first}\n    {argument}: {name}={size}\n'
                    f'  Every tensor that carries "{name}" must agree.',
                    coordinate=name,
                    seen={other: first, argument: size},
                )
    return {name: size for name, (_, size) in seen.items()}


def named_result(pattern: Pattern, sizes: Mapping[str, int], result: Result) -> Result:
    """The result with every tensor under its names; a leading axis of differential weights is called ``map``."""
    flat = [name for axis in pattern.output.axes for name in axis.names]
    found = roles(pattern)
    rows = [name for name in flat if name not in found.value_feature]
    sequences = [name for name in found.query_only if name in found.query_candidates]
    groups = [name for name in found.query_only if name not in found.query_candidates]
    scores = [*found.shared, *sequences, *groups, *found.key]

    def named(tensor: Tensor, names: list[str], axes: int) -> Named:
        lead = tensor.shape[: tensor.dim() - axes]
        shape = (*lead, *(sizes[name] for name in names))
        return Named(tensor.reshape(shape), (*(["map"] if lead else []), *names))

    kept = sum(1 for axis in pattern.output.axes if any(n in rows for n in axis.names) or not axis.names)
    stats = {
        n: named(x, scores, len(scores)) if n == "weights" else named(x, rows, kept) for n, x in result.stats.items()
    }
    return replace(
        result,
        output=Named(result.output.reshape([sizes[name] for name in flat]), flat),
        lse=None if result.lse is None else named(result.lse, rows, kept),
        stats=stats,
    )
