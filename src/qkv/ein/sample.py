"""Random arguments for a function, to try it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from .elems import is_real
from .graph import Definition
from .module import Callable_

SIZE = 8


def arguments(
    definition: Definition, sizes: Mapping[str, int], seed: int, *, rest: int = 2
) -> tuple[list[Any], dict[str, int]]:
    """Random tensors of the declared types, and the sizes that shapes leave open."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    known = {name: sizes.get(name, definition.fixed.get(name, SIZE)) for name in definition.formals}
    for each in definition.constraints:
        if each.kind in ("one", "free"):
            known[each.names[0]] = 1
    found: list[Any] = []
    for slot in definition.parameters:
        if slot.axes is None:
            found.append(0.5 if is_real(slot.elem) else True if slot.elem == "bool" else 1)
            continue
        shape = [rest if a[0].startswith("..") else _times(known, a) for a in slot.axes]
        if is_real(slot.elem):
            dtype = {"f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16}.get(slot.elem, torch.float32)
            found.append(torch.randn(shape, generator=generator).to(dtype))
        elif slot.elem == "bool":
            found.append(torch.rand(shape, generator=generator) > 0.5)
        else:
            found.append(
                torch.randint(
                    0, 2, shape, generator=generator, dtype=torch.int32 if slot.elem == "i32" else torch.int64
                )
            )
    merged = {n for s in definition.parameters for a in s.axes or () if len(a) > 1 for n in a}
    for each in definition.constraints:
        if each.kind == "product" and not merged & set(each.names):
            merged.add(each.names[1])
            known[each.names[1]] = sizes.get(each.names[1], 2)
    return found, {n: known[n] for n in known if n in merged}


def _times(known: Mapping[str, int], axis: tuple[str, ...]) -> int:
    size = 1
    for name in axis:
        size *= known[name]
    return size


def tried(function: Callable_, sizes: Mapping[str, int], seed: int) -> dict[str, Any]:
    """The shapes of the results on random tensors, and the strategies that ran attention."""
    args, extra = arguments(function.definition, sizes, seed)
    made = function(*args, **extra)
    results: tuple[Any, ...] = cast("tuple[Any, ...]", made) if isinstance(made, tuple) else (made,)
    plans = function.plan(*args, **extra)
    return {
        "name": function.definition.name,
        "results": [
            f"{'x'.join(map(str, r.shape)) or 'scalar'} {str(r.dtype).removeprefix('torch.')}" for r in results
        ],
        "strategies": [p.strategy for p in plans],
    }
