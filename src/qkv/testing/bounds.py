"""The only place where tolerances live: elementwise bounds around the float64 oracle.

Knows NUMERICS.md's table and units in the last place. Refuses to know norms over a whole output: they are set by its
largest rows and hide a zeroed tail.

Calibration, of the rows that NUMERICS.md proposes: the worst ratio of error to tolerance over 1,389 calls (the standard
grid for seven seeds: every family, mask and size), by a plain float32 computation and by the simulated tiled kernel of
``faults`` with 1, 2 and 3 splits, with and without sinks, 16-bit weights and 16-bit score gradients in 16-bit dtypes:

    =============  =======  ========  =======
    row            float32  bfloat16  float16
    =============  =======  ========  =======
    output            1.00      0.95     0.99
    lse               0.27      0.20     0.26
    gradient of q     0.14      0.51     0.95
    gradient of k     0.19      0.79     0.92
    gradient of v     0.20      0.93     0.95
    =============  =======  ========  =======

A ratio near 1 is a weight that underflows: the whole of it is lost, and just that is allowed. Where none does, outputs
stay below 0.15, 0.57 and 0.60.
The forms are as proposed, with the derivations that ``output_tolerance`` and ``gradient_tolerance`` name; without
those, ``extreme`` exceeds the bound at float32 too. Gradients of ``extreme`` in float16 are left out: score
gradients there exceed 65504.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qkv.errors import DtypeError, SizeMismatch
from qkv.testing.cases import Case
from qkv.testing.oracle import OracleResult
from qkv.testing.oracle_gradients import Gradient

#: unit roundoff: half the distance from 1 to the next number
ROUNDOFF: dict[torch.dtype, float] = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
#: half the distance between subnormals: what rounding can lose below the normal numbers, where it is not relative; of
#: float64 the whole distance, because the oracle is made of them too and loses its own half
UNDERFLOW: dict[torch.dtype, float] = {
    torch.float64: 2.0**-1074,
    torch.float32: 2.0**-150,
    torch.float16: 2.0**-25,
    torch.bfloat16: 2.0**-134,
}


def output_tolerance(result: OracleResult, dtype: torch.dtype) -> Tensor:
    """How far each element of an output in ``dtype`` may lie from the oracle's.

    Coordinates: [b, h, i, e], float64. float16 and bfloat16: 2u A + u|o| + 2 delta A; float32 and float64:
    (16 + 2 sqrt(L)) u A + delta A, L the row's kept keys, A its sum of |w_j v_j|, delta the error of a logit.
    Three places where the first-order form is not the whole derivation:
    an error delta of logits changes weights by e^delta - 1, which is written for delta and differs where logits
    reach 3e5, and never moves an average of values by more than |o| + max |v|;
    below the normal numbers rounding is absolute: half a subnormal step of ``dtype`` for the result and 2^-150 for each
    product summed in float32;
    weights lose what underflows in the dtype that holds them (``OracleResult.lost``).
    Edges: 0 in a row that keeps nothing. Raises: DtypeError for other dtypes.
    """
    u = roundoff(dtype)
    count = result.count.double()[..., None]
    moved = torch.expm1(_delta(result.delta, dtype))[..., None] * result.magnitude
    size = result.output.detach().abs()
    if dtype in (torch.float16, torch.bfloat16):
        bound = 2 * u * result.magnitude + u * size + torch.minimum(2 * moved, size + result.span)
    else:
        bound = (16 + 2 * count.sqrt()) * u * result.magnitude + torch.minimum(moved, size + result.span)
    if dtype != torch.float64:
        bound = bound + result.lost[torch.float16 if dtype == torch.float16 else torch.float32]
    return torch.where(count > 0, bound + _absolute(count, dtype), 0.0)


def lse_tolerance(result: OracleResult, dtype: torch.dtype = torch.float32) -> Tensor:
    """How far each lse may lie from the oracle's: delta + (8 + sqrt(L)) 2^-24 max(1, |lse|).

    Coordinates: [b, h, i], float64. ``dtype`` is the dtype the lse was accumulated in, float32 or float64.
    Edges: 0 in a row that keeps nothing, where lse is exactly -inf. Raises: DtypeError when the oracle has no lse.
    """
    if result.lse is None:
        raise DtypeError("these weights have no lse")
    u = roundoff(torch.float64 if dtype == torch.float64 else torch.float32)
    size = result.lse.detach().abs().clamp(min=1)
    bound = _delta(result.delta, dtype) + (8 + result.count.double().sqrt()) * u * size
    return torch.where(result.count > 0, bound, 0.0)


def gradient_tolerance(gradient: Gradient) -> Tensor:
    """How far each element of a gradient may lie from the oracle's: the output's form, with its own A.

    Coordinates: the operand's. float16 and bfloat16: 2u A + u|g| + D; float32 and float64: (16 + 2 sqrt(L)) u A + D;
    L is the most products that one element sums, D the terms of A times e^(2 delta) - 1: to first order 2 delta A,
    because a weight and the row sum that is subtracted beside it both carry delta.
    Edges: 0 where no term exists. Underflow is added as for the output.
    """
    u = roundoff(gradient.dtype)
    if gradient.dtype in (torch.float16, torch.bfloat16):
        bound = 2 * u * gradient.magnitude + u * gradient.value.abs()
    else:
        bound = (16 + 2 * gradient.count**0.5) * u * gradient.magnitude
    absolute = _absolute(torch.tensor(gradient.count, dtype=torch.float64), gradient.dtype)
    return torch.where(gradient.magnitude > 0, bound + gradient.spread + gradient.lost + absolute, 0.0)


def worst_ratio(actual: Tensor, result: OracleResult, dtype: torch.dtype | None = None) -> float:
    """The largest error of an output over its tolerance; at most 1 means right.

    Coordinates: ``actual`` [b, h, i, e]; ``dtype`` is that of the kernel's inputs and outputs, by default ``actual``'s.
    Edges: inf where one is NaN and the other not, or where the tolerance is 0 and the values differ; 0 for no elements.
    Raises: SizeMismatch when the shapes differ.

    >>> from qkv.testing import oracle
    >>> round(worst_ratio(torch.ones(1, 1, 1, 1) + 2**-21, oracle(*torch.ones(3, 1, 1, 1, 1))), 3)
    0.364
    """
    return _worst(actual, result.output, output_tolerance(result, actual.dtype if dtype is None else dtype))


def worst_lse_ratio(actual: Tensor, result: OracleResult) -> float:
    """The largest error of an lse over its tolerance; at most 1 means right. Edges: as :func:`worst_ratio`."""
    tolerance = lse_tolerance(result, actual.dtype)
    return _worst(actual, torch.empty(0) if result.lse is None else result.lse, tolerance)


def worst_gradient_ratio(actual: Tensor, gradient: Gradient) -> float:
    """The largest error of a gradient over its tolerance; at most 1 means right. Edges: as :func:`worst_ratio`."""
    return _worst(actual, gradient.value, gradient_tolerance(gradient))


def worst_codec_ratio(x: Tensor, restored: Tensor, step: Tensor) -> float:
    """The largest |x - restored| over half a quantization step; at most 1 means right, with nothing added.

    Coordinates: any shape; ``step`` broadcasts. Edges: a step of 0 demands equality.
    """
    return _worst(restored, x.double(), (step.double() / 2).expand(x.shape))


def worst_case_ratio(actual: Tensor, case: Case) -> float:
    """The largest of :func:`case_ratios`; at most 1 means right, where the answer is known exactly 0."""
    ratio = case_ratios(actual, case, case.reference())
    return float(ratio.max()) if ratio.numel() else 0.0


def case_ratios(actual: Tensor, case: Case, result: OracleResult) -> Tensor:
    """The error of every element of a case's output over its tolerance, given the case's ``reference()``.

    Coordinates: ``actual`` and the result [b, h, i, e], in the case's dtype and in float64.
    Edges: in rows that are known exactly 0 or inf, and -0.0 equals 0.0; elsewhere as :func:`worst_ratio`.
    Raises: SizeMismatch when the shapes differ, DtypeError when the dtypes do.
    """
    if actual.dtype != case.q.dtype:
        raise DtypeError(f"the output is {actual.dtype}, the inputs are {case.q.dtype}")
    ratio = _ratios(actual, result.output, output_tolerance(result, actual.dtype))
    if case.expected is None or case.exact is None:
        return ratio
    hit = torch.where(actual.detach() == case.expected, 0.0, torch.inf).double()
    return torch.where(case.exact[..., None], hit, ratio)


def roundoff(dtype: torch.dtype) -> float:
    """The unit roundoff of a float dtype. Raises: DtypeError for any other."""
    if dtype not in ROUNDOFF:
        raise DtypeError(f"there is no bound for {dtype}; there is for {', '.join(map(str, ROUNDOFF))}")
    return ROUNDOFF[dtype]


def _delta(delta: Tensor, dtype: torch.dtype) -> Tensor:
    return delta * 2.0**-29 if dtype == torch.float64 else delta


def _absolute(count: Tensor, dtype: torch.dtype) -> Tensor:
    """What rounding loses below the normal numbers, where it is not relative: of the result, and of each product."""
    return UNDERFLOW[dtype] + count * UNDERFLOW[torch.float64 if dtype == torch.float64 else torch.float32]


def _worst(actual: Tensor, expected: Tensor, tolerance: Tensor) -> float:
    ratio = _ratios(actual, expected, tolerance)
    return float(ratio.max()) if ratio.numel() else 0.0


def _ratios(actual: Tensor, expected: Tensor, tolerance: Tensor) -> Tensor:
    if actual.shape != expected.shape:
        raise SizeMismatch(f"the shape is {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    actual, expected = actual.detach().double().cpu(), expected.detach().double()
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    ratio = (actual - expected).abs() / tolerance
    return torch.where(same, 0.0, torch.where(ratio.isfinite(), ratio, torch.inf))
