"""Input families: what is fed to an attention function, because inputs matter more than tolerances.

Knows which numbers expose which fault. Refuses to know what computes: a case is data. Everything is seeded, and a
case's repr is the call that makes it. The exact families, which know their answer bit for bit, are in
``exact_families``. There is no family of ``rand`` in [0, 1): there all rows look alike and faults pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qkv.testing.cases import Case, Maker, Sizes
from qkv.testing.exact_families import dyadic, ramp_down, ramp_up

#: the largest logit of ``extreme``
EXTREME_LOGIT = 3e5


def randn(
    sizes: Sizes,
    dtype: torch.dtype = torch.float32,
    *,
    keep: Tensor | None = None,
    seed: int = 0,
    layout: str = "contiguous",
    scale: float | None = None,
) -> Case:
    """Standard normal q, k and v.

    Coordinates and layouts: see :class:`Case` and :func:`qkv.testing.lay_out`; under ``stride-0 heads`` all heads of k
    and of v are equal, and q is contiguous.
    Edges: sizes of 0 work. Raises: SizeMismatch when ``keep`` does not fit the sizes.

    >>> randn(Sizes(), torch.bfloat16, seed=3)
    randn(Sizes(batch=2, query_heads=4, ...), torch.bfloat16, seed=3, layout='contiguous')
    """
    maker = Maker("randn", sizes, dtype, keep, seed, layout, scale)
    q, k, v = maker.tensors()
    return maker.case(maker.queries(q), maker.typed(k), maker.typed(v))


def sharp(
    sizes: Sizes,
    dtype: torch.dtype = torch.float32,
    *,
    keep: Tensor | None = None,
    seed: int = 0,
    layout: str = "contiguous",
    scale: float | None = None,
) -> Case:
    """Like :func:`randn` with q four times as large: few keys share the weight, so a wrong key is seen."""
    maker = Maker("sharp", sizes, dtype, keep, seed, layout, scale)
    q, k, v = maker.tensors()
    return maker.case(maker.queries(4 * q), maker.typed(k), maker.typed(v))


def extreme(
    sizes: Sizes,
    dtype: torch.dtype = torch.float32,
    *,
    keep: Tensor | None = None,
    seed: int = 0,
    layout: str = "contiguous",
    scale: float | None = None,
) -> Case:
    """Logits up to +-3e5, and the largest float16, subnormals and -0.0 among the values.

    Edges: a bfloat16 cannot hold 65504 and takes 65280, the largest below. Subnormals are those of ``dtype``.
    """
    maker = Maker("extreme", sizes, dtype, keep, seed, layout, scale)
    q, k, v = maker.tensors()
    groups = sizes.query_heads // sizes.key_heads
    logits = (
        q @ k.repeat_interleave(groups, 1).transpose(-1, -2) * (sizes.feature_size**-0.5 if scale is None else scale)
    )
    if logits.numel():
        stretch = (EXTREME_LOGIT / logits.abs().max().clamp(min=1e-6)) ** 0.5
        q, k = q * stretch, k * stretch
    tiny = torch.finfo(dtype).smallest_normal * 2.0**-2
    largest = 65280.0 if dtype == torch.bfloat16 else 65504.0
    q, k, v = maker.queries(q), maker.typed(k), v.to(torch.float64)
    for value, chance in ((largest, 0.03), (-largest, 0.03), (tiny, 0.1), (-tiny, 0.1), (-0.0, 0.1)):
        v = torch.where(torch.rand(v.shape, generator=maker.generator) < chance, value, v)
    return maker.case(q, k, maker.typed(v))


def poison(
    sizes: Sizes,
    dtype: torch.dtype = torch.float32,
    *,
    keep: Tensor,
    seed: int = 0,
    layout: str = "contiguous",
    scale: float | None = None,
    partial: bool = False,
) -> Case:
    """Like :func:`randn`, with NaN and inf where nothing may look: keys that no query keeps, queries that keep no key.

    Edges: ``partial`` adds NaN to one key that some queries of its head keep and others do not, where there is one: NaN
    for the first, no trace for the others. Nothing is poisoned when ``keep`` keeps everything.

    >>> keep = torch.arange(33).expand(2, 1, 17, 33) < 30
    >>> poison(Sizes(), keep=keep).v.isfinite().all(-1).sum(-1)[0]
    tensor([30, 30])
    """
    maker = Maker("poison", sizes, dtype, keep, seed, layout, scale)
    q, k, v = maker.tensors()
    groups = sizes.query_heads // sizes.key_heads
    kept = maker.kept().reshape(sizes.batch, sizes.key_heads, groups, sizes.query_length, sizes.key_length)
    unused = ~kept.any(dim=2).any(dim=2)
    if layout == "stride-0 heads":
        unused = unused.all(1, keepdim=True).expand_as(unused)
    poisons = torch.tensor([torch.nan, torch.inf, torch.nan, -torch.inf])
    pattern = poisons[torch.arange(sizes.key_length) % 4][:, None]
    k = torch.where(unused[..., None], pattern, k)
    v = torch.where(unused[..., None], pattern.roll(1, 0), v)
    q = torch.where(maker.kept().any(-1)[..., None], q, torch.nan)
    if partial:
        some = kept.any(dim=2).any(dim=2) & ~kept.all(dim=2).all(dim=2)
        last = (
            torch.where(some, torch.arange(sizes.key_length), -1).amax(-1, keepdim=True) if sizes.key_length else some
        )
        chosen = some & (torch.arange(sizes.key_length) == last)
        k, v = torch.where(chosen[..., None], torch.nan, k), torch.where(chosen[..., None], torch.nan, v)
        maker.description = maker.description[:-1] + ", partial=True)"
    return maker.case(maker.queries(q), maker.typed(k), maker.typed(v))


#: every family by name; ``poison`` needs a mask
FAMILIES: dict[str, Callable[..., Case]] = {
    "randn": randn,
    "sharp": sharp,
    "extreme": extreme,
    "poison": poison,
    "ramp up": ramp_up,
    "ramp down": ramp_down,
    "dyadic": dyadic,
}
