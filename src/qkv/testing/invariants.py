"""What must stay the same when a call is changed in a way that does not matter: one small function for each.

Knows pairs of calls, and whether the promise is of equal bits or of two answers within their bounds. Refuses to know
the grid: these run at one modest size each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qkv.errors import SpecError
from qkv.testing.bounds import output_tolerance, worst_case_ratio, worst_ratio
from qkv.testing.cases import Case, Sizes
from qkv.testing.families import extreme, poison, randn, sharp
from qkv.testing.layouts import LAYOUTS, fits
from qkv.testing.masks import make_keep
from qkv.testing.oracle import oracle


class Attention(Protocol):
    """The function under test; layout b h i d."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        causal: bool = False,
        mask: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """The output [b, h, i, e]."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """Where an invariant is tried: the function, what it supports, a dtype and a seed."""

    fn: Attention
    supports: frozenset[str]
    dtype: torch.dtype
    seed: int

    def sizes(self, **changes: int) -> Sizes:
        """Three batch entries, 4 query heads over 2 key heads (4 where grouped heads are not supported), 17 x 33."""
        sizes = {"batch": 3, "query_heads": 4, "key_heads": 2 if "gqa" in self.supports else 4}
        return Sizes(**{**sizes, "query_length": 17, "key_length": 33, "feature_size": 16, "value_size": 16, **changes})

    def keep(self, name: str = "random", **changes: int) -> Tensor:
        """A mask that fits the sizes."""
        sizes = self.sizes(**changes)
        return make_keep(name, sizes.batch, sizes.query_length, sizes.key_length, seed=self.seed)

    def call(self, case: Case, mask: Tensor | None = None) -> Tensor:
        """The function's answer; it is given the mask only where there is one."""
        if mask is None:
            return self.fn(case.q, case.k, case.v)
        return self.fn(case.q, case.k, case.v, mask=mask)


def _equal(x: Tensor, y: Tensor) -> float:
    """0 for equal values, NaN equal to NaN; inf otherwise."""
    same = x.shape == y.shape and bool(((x == y) | (x.isnan() & y.isnan())).all())
    return 0.0 if same else float("inf")


def _near(x: Tensor, y: Tensor, case: Case, other: Case | None = None) -> float:
    """The difference of two answers to one question over the sum of their tolerances."""
    tolerance = output_tolerance(case.reference(), x.dtype)
    tolerance = tolerance + (tolerance if other is None else output_tolerance(other.reference(), x.dtype))
    difference = (x.double() - y.double()).abs()
    ratio = torch.where(difference == 0, 0.0, difference / tolerance)
    return float(torch.where(ratio.isfinite(), ratio, torch.inf).max())


def _with(case: Case, **tensors: Tensor | None) -> Case:
    values = {"q": case.q, "k": case.k, "v": case.v, "keep": case.keep, **tensors}
    q, k, v = values["q"], values["k"], values["v"]
    if q is None or k is None or v is None:
        raise SpecError("a case needs q, k and v")
    return Case(q, k, v, values["keep"], None, None, case.scale, case.description)


def repeatability(at: Setting) -> float:
    """The same call twice gives the same bits."""
    case = randn(at.sizes(query_length=65, key_length=129), at.dtype, seed=at.seed)
    return _equal(at.call(case), at.call(case))


def contiguous_twin(at: Setting) -> float:
    """Every layout gives the bits that the contiguous tensors give."""
    worst = 0.0
    for layout in LAYOUTS:
        sizes = at.sizes(batch=1)
        if all(fits(shape, layout) for shape in sizes.shapes):
            case = randn(sizes, at.dtype, seed=at.seed, layout=layout)
            twin = _with(case, q=case.q.contiguous(), k=case.k.contiguous(), v=case.v.contiguous())
            worst = max(worst, _equal(at.call(case), at.call(twin)))
    return worst


def keys_permuted(at: Setting) -> float:
    """Keys, values and the mask's columns in another order give an answer within the bounds of the first."""
    keep = at.keep() if "mask" in at.supports else None
    case = sharp(at.sizes(), at.dtype, keep=keep, seed=at.seed)
    order = torch.randperm(case.k.shape[2], generator=torch.Generator().manual_seed(at.seed))
    moved = _with(case, k=case.k[:, :, order], v=case.v[:, :, order], keep=None if keep is None else keep[..., order])
    return _near(at.call(case, keep), at.call(moved, moved.keep), case)


def batch_permuted(at: Setting) -> float:
    """Batch entries in another order give the same answers in that order, within the bound."""
    case = sharp(at.sizes(), at.dtype, seed=at.seed)
    order = torch.tensor([2, 0, 1])
    moved = _with(case, q=case.q[order], k=case.k[order], v=case.v[order])
    return _near(at.call(case)[order], at.call(moved), moved)


def neighbours_changed(at: Setting) -> float:
    """Other batch entries, even when they hold NaN or large numbers, do not change one bit of this one."""
    case = randn(at.sizes(), at.dtype, seed=at.seed)
    before = at.call(case)[1]
    worst = 0.0
    for value in (1000.0, torch.nan):
        changed = [x.clone() for x in (case.q, case.k, case.v)]
        for x in changed:
            x[0], x[2] = value, -value
        worst = max(worst, _equal(before, at.call(_with(case, q=changed[0], k=changed[1], v=changed[2]))[1]))
    return worst


def values_scaled(at: Setting) -> float:
    """Values times 8 give the output times 8, bit for bit, where it is a normal number."""
    case = randn(at.sizes(), at.dtype, seed=at.seed)
    output, scaled = at.call(case), at.call(_with(case, v=8 * case.v))
    normal = output.abs() >= torch.finfo(at.dtype).smallest_normal
    return _equal(8 * output[normal], scaled[normal])


def logits_shifted(at: Setting) -> float:
    """The same constant on every logit changes nothing beyond the bounds: 16, through a feature that all keys share."""
    case = sharp(at.sizes(), at.dtype, seed=at.seed)
    q, k, shifted = case.q.clone(), case.k.clone(), case.k.clone()
    q[..., 0], k[..., 0], shifted[..., 0] = 4.0, 0.0, 16.0
    case, other = _with(case, q=q, k=k), _with(case, q=q, k=shifted)
    return _near(at.call(case), at.call(other), case, other)


def documents_concatenated(at: Setting) -> float:
    """Two documents in one call, kept apart by the mask, give what two calls give."""
    case = sharp(at.sizes(key_length=17), at.dtype, seed=at.seed)
    document = torch.arange(17) >= 6
    keep = (document[:, None] == document[None, :])[None, None].expand(3, 1, 17, 17)
    parts = [
        _with(case, q=case.q[:, :, part], k=case.k[:, :, part], v=case.v[:, :, part]) for part in (~document, document)
    ]
    separate = torch.cat([at.call(part) for part in parts], 2)
    return _near(at.call(case, keep), separate, _with(case, keep=keep))


def aliased_inputs(at: Setting) -> float:
    """One tensor given as q, k and v gives the bits that three copies give."""
    x = randn(at.sizes(key_heads=4, key_length=17), at.dtype, seed=at.seed).q
    return _equal(at.fn(x, x, x), at.fn(x.clone(), x.clone(), x.clone()))


def explicit_scale(at: Setting) -> float:
    """The scale that is given is the one that is used: 1, 0.3, 0 and -0.25."""
    case = randn(at.sizes(), at.dtype, seed=at.seed)
    given = (1.0, 0.3, 0.0, -0.25)
    return max(
        worst_ratio(at.fn(case.q, case.k, case.v, scale=scale), oracle(case.q, case.k, case.v, scale=scale))
        for scale in given
    )


def whole_mask(at: Setting) -> float:
    """A mask that keeps everything gives what no mask gives, within the bounds."""
    case = sharp(at.sizes(), at.dtype, seed=at.seed)
    return _near(at.call(case), at.call(case, at.keep("full")), case)


def mask_for_each_head(at: Setting) -> float:
    """A mask [b, h, i, j] that differs between heads."""
    sizes = at.sizes()
    generator = torch.Generator().manual_seed(at.seed)
    keep = torch.rand(sizes.batch, sizes.query_heads, 17, 33, generator=generator) < 0.5
    case = sharp(sizes, at.dtype, keep=keep, seed=at.seed)
    return worst_case_ratio(at.call(case, keep), case)


def mask_for_all(at: Setting) -> float:
    """A mask [1, 1, i, j] that the whole batch shares."""
    keep = at.keep()[:1]
    case = sharp(at.sizes(), at.dtype, keep=keep, seed=at.seed)
    return worst_case_ratio(at.call(case, keep), case)


def nan_that_others_keep(at: Setting) -> float:
    """A NaN key that some queries keep leaves no trace in the queries that do not."""
    keep = at.keep("window")
    case = poison(at.sizes(), at.dtype, keep=keep, seed=at.seed, partial=True)
    return worst_case_ratio(at.call(case, keep), case)


def large_logits(at: Setting) -> float:
    """Logits of 3e5 give no NaN and stay within the bound, at a length of several tiles."""
    case = extreme(at.sizes(key_length=257), at.dtype, seed=at.seed)
    return worst_case_ratio(at.call(case), case)


def empty_batch(at: Setting) -> float:
    """No batch entries give an empty output of the right shape."""
    case = randn(at.sizes(batch=0), at.dtype, seed=at.seed)
    return _equal(at.call(case), case.q.new_zeros(0, 4, 17, 16))


def no_queries(at: Setting) -> float:
    """No queries give an empty output of the right shape."""
    case = randn(at.sizes(query_length=0), at.dtype, seed=at.seed)
    return _equal(at.call(case), case.q.new_zeros(3, 4, 0, 16))


#: every invariant, with the options that it needs
INVARIANTS: dict[Callable[[Setting], float], frozenset[str]] = {
    repeatability: frozenset(),
    contiguous_twin: frozenset(),
    keys_permuted: frozenset(),
    batch_permuted: frozenset(),
    neighbours_changed: frozenset(),
    values_scaled: frozenset(),
    logits_shifted: frozenset(),
    documents_concatenated: frozenset({"mask"}),
    aliased_inputs: frozenset(),
    explicit_scale: frozenset({"scale"}),
    whole_mask: frozenset({"mask"}),
    mask_for_each_head: frozenset({"mask"}),
    mask_for_all: frozenset({"mask"}),
    nan_that_others_keep: frozenset({"mask"}),
    large_logits: frozenset(),
    empty_batch: frozenset(),
    no_queries: frozenset(),
}


def invariant(
    name: str,
    fn: Attention,
    dtype: torch.dtype = torch.float32,
    *,
    supports: frozenset[str] = frozenset(),
    seed: int = 0,
) -> float:
    """The worst ratio of one invariant: 0 or at most 1 is right, inf where bits must be equal and are not.

    ``supports`` may hold ``gqa`` and ``mask``, which make the inputs richer.
    Raises: SpecError for an unknown name; whatever ``fn`` raises.

    >>> invariant("values_scaled", torch.nn.functional.scaled_dot_product_attention, torch.bfloat16)
    0.0
    """
    named = {check.__name__: check for check in INVARIANTS}
    if name not in named:
        raise SpecError(f'there is no invariant "{name}".\n    invariants: {", ".join(named)}')
    return named[name](Setting(fn, supports, dtype, seed))
