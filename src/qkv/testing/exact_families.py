"""The input families whose answer is known bit for bit, and why it is.

Knows float spacing. Refuses to know tolerances: there is none here.

Why the ramps are exact
-----------------------
Keys hold their position in two features, ``k_j = (j div 256, j mod 256)``, and queries are ``q = +-(256 c, c)``, so the
scaled logit is ``+-c j scale``: neighbours differ by the *gap* ``g = c scale``, and softmax gives the last (up) or the
first (down) kept key the weight 1/(1 + e^-g + ...).

1. The inputs are exact. Both features of a key are at most 255 for j < 65536: eight significant bits, what bfloat16
   has. c has at most eight too, and 256 c has the same ones. A kernel that multiplies q by the scale in its own dtype
   rounds both features by the same relative amount (they differ by a power of two): logits stay proportional to j.
2. Neighbours stay apart. float32 logits have relative error of a few 2^-24; with j < 2^16 that is below g 2^-6.
3. The border's weight is 1. In float32 1 + e^-g = 1 for g > 17, and e^-g is 0 for g > 104, so with
   g >= 110 the other weights are 0 and the output is v[border], whatever v holds. c is the power of two that
   gives it: no trouble in float32, bfloat16 and float64 at any feature size, their exponents reach far enough.
4. float16 ends at 65504, so c <= 255 (256 * 255 = 65280) and g <= 255/sqrt(d), at d = 64 only 32. The other weights
   are not 0. What they add must vanish when the output is rounded: it is at most |v_j - v_border| (e^-g + e^-2g + ...),
   and half a float16 step at v is at least 2^-12 |v|. With normal v a small v_border stands next to a large v_j; a
   ratio of 2^15 needs g > 12 + 15 = 27 bits = 18.7 and, with c = 128, d <= 32 (g = 22.6; at d = 64 it is 16). Here |v|
   lies in [1, 2): the difference is below 4 and half a step is 2^-11, so g > 13 bits = 9.1 is enough; g >= 10 is
   demanded, which holds for d <= 650.
tests/testing/test_families.py shows the exactness at every feature size of the grid, in every dtype, on three kernels.

Why dyadic is exact
-------------------
q = 0 makes every logit 0 and every weight before normalisation exactly 1. V holds -2^k, 0 and 2^k, so a sum over keys
is n 2^k with |n| <= 256, because at most 256 keys of a feature are nonzero: exact in any order. Divided by a count of
2^m, m <= k, it is n 2^(k-m), and eight bits (or the power of two 256) hold n: exact in bfloat16. One key too many or
too few makes the count no power of two, or moves the sum. Rows whose count is no power of two are judged by the bound.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qkv.errors import SpecError
from qkv.testing.cases import Case, Maker, Sizes

#: the gap between neighbouring logits that makes every other weight underflow to 0 in float32
UNDERFLOW_GAP = 110.0
#: the gap that is enough in float16, where values lie in [1, 2)
FLOAT16_GAP = 10.0


def ramp(
    sizes: Sizes,
    dtype: torch.dtype = torch.float32,
    *,
    direction: Literal["up", "down"] = "up",
    keep: Tensor | None = None,
    seed: int = 0,
    layout: str = "contiguous",
    scale: float | None = None,
) -> Case:
    """Logits that rise (up) or fall (down) with the key's position: the answer is v[border], bit for bit.

    Coordinates: feature size at least 2; |v| in [1, 2). See the module's text for why it is exact.
    Edges: a row that keeps nothing is 0. Raises: SpecError for a feature size below 2, 65536 keys or more, a scale that
    is not positive, or one so small that the dtype cannot hold a gap wide enough.

    >>> case = ramp(Sizes(), torch.bfloat16)
    >>> torch.equal(case.expected[0, 3, 0], case.v[0, 1, -1])  # query head 3 reads key head 1
    True
    """
    maker = Maker("ramp", sizes, dtype, keep, seed, layout, scale)
    maker.description = maker.description[:-1] + f", direction={direction!r})"
    step = _ramp_step(sizes, dtype, sizes.feature_size**-0.5 if scale is None else scale)
    q_shape, k_shape, v_shape = sizes.shapes
    position = torch.arange(sizes.key_length)
    sign = 1.0 if direction == "up" else -1.0
    q, k = torch.zeros(q_shape), torch.zeros(k_shape)
    q[..., 0], q[..., 1] = sign * 256 * step, sign * step
    k[..., 0], k[..., 1] = (position // 256).float(), (position % 256).float()
    values = 1 + torch.rand(v_shape, generator=maker.generator) * 0.99
    v = maker.typed(torch.where(torch.rand(v_shape, generator=maker.generator) < 0.5, values, -values))
    return maker.case(
        maker.queries(q),
        maker.typed(k),
        v,
        _border_values(v, maker.kept(), direction),
        torch.ones(q_shape[:3], dtype=torch.bool),
    )


def dyadic(
    sizes: Sizes,
    dtype: torch.dtype = torch.float32,
    *,
    keep: Tensor | None = None,
    seed: int = 0,
    layout: str = "contiguous",
    scale: float | None = None,
) -> Case:
    """Equal weights over 2^m kept keys and values -2^k, 0, 2^k: the answer is a small integer, bit for bit.

    Edges: ``exact`` marks the rows that keep 2^m keys or none; the others are judged by the bound. Raises: SpecError
    when more than 2^15 keys are kept.

    >>> case = dyadic(Sizes(key_length=32))
    >>> case.tolerance, bool((case.expected == case.expected.round()).all())
    ('zero', True)
    """
    maker = Maker("dyadic", sizes, dtype, keep, seed, layout, scale)
    q_shape, k_shape, v_shape = sizes.shapes
    kept = maker.kept()
    count = kept.sum(-1)
    exact = (count & (count - 1)) == 0
    largest = int(torch.where(exact, count, 1).max()) if count.numel() else 1
    if largest > 2**15:
        raise SpecError(f"a row keeps {largest} keys; float16 holds means of at most 2^15")
    largest = max(largest, 1)
    signs = torch.randint(0, 2, v_shape, generator=maker.generator) * 2.0 - 1
    order = torch.rand(v_shape, generator=maker.generator).argsort(2).argsort(2)
    v = maker.typed(torch.where(order < min(256, max(1, 3 * sizes.key_length // 4)), signs * largest, 0.0))
    groups = sizes.query_heads // sizes.key_heads
    total = kept.double() @ v.double().repeat_interleave(groups, 1)
    mean = torch.where(exact[..., None], total / count.clamp(min=1)[..., None], torch.nan).to(dtype)
    return maker.case(maker.queries(torch.zeros(q_shape)), maker.typed(maker.normal(k_shape)), v, mean, exact)


def _ramp_step(sizes: Sizes, dtype: torch.dtype, scale: float) -> float:
    """The c of q = (256 c, c): the gap c * scale must be wide enough, and 256 c must fit the dtype."""
    if sizes.feature_size < 2 or sizes.key_length >= 65536 or not scale > 0:
        raise SpecError(
            f"a ramp needs a feature size of at least 2, fewer than 65536 keys and a positive scale; they are "
            f"{sizes.feature_size}, {sizes.key_length}, {scale}"
        )
    if dtype == torch.float16:
        if 255 * scale < FLOAT16_GAP:
            raise SpecError(
                f"float16 ends at 65504: with scale {scale:.3g} neighbouring logits differ by less than {FLOAT16_GAP}"
            )
        return 255.0
    return 2.0 ** int(torch.tensor(UNDERFLOW_GAP / scale).double().log2().ceil())


def _border_values(v: Tensor, kept: Tensor, direction: Literal["up", "down"]) -> Tensor:
    """The value of the last (up) or first (down) kept key of every row, 0 where nothing is kept."""
    batch, heads, queries, keys = kept.shape
    if keys == 0:
        return torch.zeros(batch, heads, queries, v.shape[-1], dtype=v.dtype)
    position = torch.arange(keys)
    border = (
        torch.where(kept, position, -1).amax(-1) if direction == "up" else torch.where(kept, position, keys).amin(-1)
    )
    values = v.repeat_interleave(heads // v.shape[1], 1)
    index = border.clamp(0, keys - 1)[..., None].expand(-1, -1, -1, v.shape[-1])
    return torch.where(kept.any(-1)[..., None], values.gather(2, index), 0.0)


def ramp_up(
    sizes: Sizes,
    dtype: torch.dtype = torch.float32,
    *,
    keep: Tensor | None = None,
    seed: int = 0,
    layout: str = "contiguous",
    scale: float | None = None,
) -> Case:
    """:func:`ramp` with rising logits: the last kept key's value."""
    return ramp(sizes, dtype, direction="up", keep=keep, seed=seed, layout=layout, scale=scale)


def ramp_down(
    sizes: Sizes,
    dtype: torch.dtype = torch.float32,
    *,
    keep: Tensor | None = None,
    seed: int = 0,
    layout: str = "contiguous",
    scale: float | None = None,
) -> Case:
    """:func:`ramp` with falling logits: the first kept key's value."""
    return ramp(sizes, dtype, direction="down", keep=keep, seed=seed, layout=layout, scale=scale)
