"""Named tensors at the door of a call: all three or none, brought into the spec's pattern by name, the output named.

The matching itself is ``coords.given``; this module adds what a call knows: which argument lacks names, and that the
sizes that names carry must hold inside merged axes too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..coords import Named
from ..coords.given import arrange
from ..coords.given import pattern_of as derived
from ..errors import CoordinateError, SizeMismatch

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


def named_output(pattern: Pattern, sizes: Mapping[str, int], output: Tensor) -> Named:
    """The output under its names: merged axes parted again, an axis ``1`` dropped."""
    flat = [name for axis in pattern.output.axes for name in axis.names]
    return Named(output.reshape([sizes[name] for name in flat]), flat)
