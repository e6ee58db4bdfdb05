"""Judges for anybody's attention: a float64 oracle, input families, bounds, a covering grid and a conformance suite.

Knows torch and nothing of qkv's strategies, so that it can judge them and every other function.
"""

from __future__ import annotations

from qkv.testing.bounds import case_ratios as case_ratios
from qkv.testing.bounds import (
    gradient_tolerance as gradient_tolerance,
)
from qkv.testing.bounds import (
    lse_tolerance as lse_tolerance,
)
from qkv.testing.bounds import (
    output_tolerance as output_tolerance,
)
from qkv.testing.bounds import (
    roundoff as roundoff,
)
from qkv.testing.bounds import (
    worst_case_ratio as worst_case_ratio,
)
from qkv.testing.bounds import (
    worst_codec_ratio as worst_codec_ratio,
)
from qkv.testing.bounds import (
    worst_gradient_ratio as worst_gradient_ratio,
)
from qkv.testing.bounds import (
    worst_lse_ratio as worst_lse_ratio,
)
from qkv.testing.bounds import (
    worst_ratio as worst_ratio,
)
from qkv.testing.cases import Case as Case
from qkv.testing.cases import Sizes as Sizes
from qkv.testing.checks import OPTIONS as OPTIONS
from qkv.testing.conformance import conformance as conformance
from qkv.testing.exact_families import dyadic as dyadic
from qkv.testing.exact_families import ramp as ramp
from qkv.testing.exact_families import ramp_down as ramp_down
from qkv.testing.exact_families import ramp_up as ramp_up
from qkv.testing.families import (
    FAMILIES as FAMILIES,
)
from qkv.testing.families import (
    extreme as extreme,
)
from qkv.testing.families import (
    poison as poison,
)
from qkv.testing.families import (
    randn as randn,
)
from qkv.testing.families import (
    sharp as sharp,
)
from qkv.testing.faults import FAULTS as FAULTS
from qkv.testing.faults import NEEDS_MORE_THAN_A_CALL as NEEDS_MORE_THAN_A_CALL
from qkv.testing.faults import SimulatedKernel as SimulatedKernel
from qkv.testing.faults_backward import BACKWARD_FAULTS as BACKWARD_FAULTS
from qkv.testing.faults_backward import SimulatedBackward as SimulatedBackward
from qkv.testing.faults_backward import differentiable as differentiable
from qkv.testing.grid import (
    STANDARD_AXES as STANDARD_AXES,
)
from qkv.testing.grid import (
    Grid as Grid,
)
from qkv.testing.grid import (
    covering as covering,
)
from qkv.testing.grid import (
    pairs as pairs,
)
from qkv.testing.grid import (
    row_sizes as row_sizes,
)
from qkv.testing.grid import (
    standard_forbidden as standard_forbidden,
)
from qkv.testing.grid import (
    standard_grid as standard_grid,
)
from qkv.testing.invariants import INVARIANTS as INVARIANTS
from qkv.testing.invariants import invariant as invariant
from qkv.testing.layouts import LAYOUTS as LAYOUTS
from qkv.testing.layouts import fits as fits
from qkv.testing.layouts import lay_out as lay_out
from qkv.testing.masks import MASKS as MASKS
from qkv.testing.masks import make_keep as make_keep
from qkv.testing.oracle import OracleResult as OracleResult
from qkv.testing.oracle import oracle as oracle
from qkv.testing.oracle_gradients import Gradient as Gradient
from qkv.testing.oracle_gradients import oracle_gradients as oracle_gradients
from qkv.testing.oracle_weights import Differential as Differential
from qkv.testing.oracle_weights import Linear as Linear
from qkv.testing.oracle_weights import Sigmoid as Sigmoid
from qkv.testing.report import Finding as Finding
from qkv.testing.report import NotRun as NotRun
from qkv.testing.report import Report as Report
