"""Named tensors at the door: a pattern read off their names, or tensors brought into a spec's pattern by name.

Names settle what positions cannot: two tensors of the decoder given to a cross-attention that names ``seq_q`` and
``seq_k`` are refused even when their lengths agree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..coords import Named, TensorPattern
from ..errors import CoordinateError, SizeMismatch

if TYPE_CHECKING:
    from torch import Tensor

    from ..spec import Spec
    from .bind import Frame


def pattern_of(q: Any, k: Any, v: Any) -> str:
    """The pattern that three Named tensors say by their names; the output has q's order, with value features for
    features.

    Raises ``PatternError`` through the rules of roles, and ``CoordinateError`` when only some of the three are Named.
    """
    tensors = _all_named(q, k, v)
    query, key, value = (tensor.names for tensor in tensors)
    features = [n for n in query if n in key and n not in value]
    tied = not features and bool(query) and query[-1:] == key[-1:] == value[-1:]
    kept = [n for n in query if n not in features]
    output = kept if tied else [*kept, *(n for n in value if n not in key and n not in query)]
    return ", ".join(" ".join(names) for names in (query, key, value)) + " -> " + " ".join(output)


def any_named(q: object, k: object, v: object) -> bool:
    """Whether one of the three is Named; then all must be."""
    return isinstance(q, Named) or isinstance(k, Named) or isinstance(v, Named)


def _all_named(q: Any, k: Any, v: Any) -> tuple[Named, Named, Named]:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Named):
            raise CoordinateError(
                f"{name} is {type(tensor).__name__} without names, and others are Named.\n"
                f'  Name it: qkv.Named({name}, "b h j d"), or give three plain tensors and a pattern.'
            )
    return q, k, v


def arranged(spec: Spec, q: Any, k: Any, v: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The three tensors in the order of the spec's pattern, matched by name; a merged axis is made of its parts.

    Raises ``CoordinateError`` when a tensor's names are not its pattern's.
    """
    tensors = dict(zip("qkv", _all_named(q, k, v), strict=True))
    made: list[Tensor] = []
    for name, tensor in tensors.items():
        pattern = spec.parsed.tensors[name]
        rests = _rest_names(pattern, tensor)
        flat = [n for axis in pattern.axes for n in (rests if axis.rest else axis.names)]
        if sorted(flat) != sorted(tensor.names):
            raise _wrong_names(spec, name, pattern, tensor, flat, tensors)
        ordered = tensor.order(*flat).tensor if flat else tensor.tensor
        sizes = dict(zip(flat, ordered.shape, strict=True))
        shape: list[int] = []
        for axis in pattern.axes:
            shape.extend(sizes[n] for n in rests) if axis.rest else shape.append(
                math.prod(sizes[n] for n in axis.names)
            )
        made.append(ordered.reshape(shape))
    _same_sizes(tensors)
    return made[0], made[1], made[2]


def _rest_names(pattern: TensorPattern, tensor: Named) -> tuple[str, ...]:
    own = {n for axis in pattern.axes if not axis.rest for n in axis.names}
    return tuple(n for n in tensor.names if n not in own) if pattern.rests else ()


def _wrong_names(
    spec: Spec, name: str, pattern: TensorPattern, tensor: Named, flat: list[str], tensors: dict[str, Named]
) -> CoordinateError:
    missing, extra = [n for n in flat if n not in tensor.names], [n for n in tensor.names if n not in flat]
    renames = ", ".join(f'{e}="{m}"' for e, m in zip(extra, missing, strict=False))
    given = "\n".join(f"    {n}: {' '.join(f'{c}={s}' for c, s in t.sizes.items())}" for n, t in tensors.items())
    advice = (
        f"If these are the ones that are meant, rename: {name}.rename({renames}); otherwise another tensor belongs "
        "here."
        if renames
        else "Add or reduce the coordinate."
    )
    told = f"Missing: {', '.join(missing)}. " if missing else ""
    told += f"Not asked for: {', '.join(extra)}. " if extra else ""
    return CoordinateError(
        f'{name} has the coordinates "{" ".join(tensor.names)}", and the spec asks for "{pattern}".\n{given}\n'
        f"    pattern: {spec.pattern}\n"
        "  "
        f"{told}{advice}"
    )


def _same_sizes(tensors: dict[str, Named]) -> None:
    """One name, one size, across all three; patterns with merged axes could hide a disagreement."""
    seen: dict[str, tuple[str, int]] = {}
    for label, tensor in tensors.items():
        for name, size in tensor.sizes.items():
            other, first = seen.setdefault(name, (label, size))
            if first != size:
                raise SizeMismatch(
                    f'coordinate "{name}" has two sizes.\n    {other}: {name}={first}\n    {label}: {name}={size}\n'
                    f'  Every tensor that carries "{name}" must agree.',
                    coordinate=name,
                    seen={other: first, label: size},
                )


def named_output(made: Frame, output: Tensor) -> Named:
    """The output with its coordinates' names, merged axes parted."""
    pattern = made.lowered.pattern.output
    names = [n for axis in pattern.axes for n in axis.names]
    return Named(output.reshape([made.sizes[n] for n in names]), tuple(n.replace(".", "_") for n in names))
