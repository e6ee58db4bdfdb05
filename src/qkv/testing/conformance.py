"""Runs anybody's attention function through the grid, the families and the invariants, and says what it breaks.

Knows the order of a run, what is left out and why, and how to make a failing example small. Refuses to know qkv's
own strategies: they are judged by the same call as everybody's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence

import torch

from qkv.errors import SpecError
from qkv.testing.checks import OPTIONS, Check, InvariantCheck
from qkv.testing.grid import STANDARD_AXES, Row, covering, standard_forbidden
from qkv.testing.invariants import INVARIANTS, Attention
from qkv.testing.masks import Align
from qkv.testing.report import Finding, NotRun, Report
from qkv.testing.row_checks import GradientCheck, RowCheck

#: everything but gradients
FORWARD: frozenset[str] = frozenset(OPTIONS) - {"backward"}
#: most runs that are spent on making one kind's example small
SHRINKING = 40
#: progress is reported when a run has lasted this long, and not more often
PROGRESS_S = 1.0

Progress = Callable[[int, int, str], None]


def conformance(
    fn: Attention,
    *,
    supports: Collection[str] = FORWARD,
    align: Align = "end",
    seed: int = 0,
    rows: Sequence[Row] | None = None,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16, torch.float16),
    progress: Progress | None = None,
) -> Report:
    """What an attention function breaks: every row of the covering grid, the invariants, its gradients if it has any.

    Coordinates: ``fn(q, k, v, *, causal=False, mask=None, scale=None)`` with q [b, h, i, d], k [b, hk, j, d],
    v [b, hk, j, e], ``mask`` [b or 1, h or 1, i, j] bool, True is kept; it returns [b, h, i, e]. ``supports`` names
    what it can do, out of ``OPTIONS``: an argument it has not is never passed, and what is not run is in the report.
    ``align`` says where causal queries stand when there are fewer of them than keys, or more: with the last keys
    (``end``, what a cache needs) or the first. ``rows`` are rows of :func:`standard_grid` to run instead of all.
    ``progress`` is called with (done, total, name of the check) at most once a second.
    Edges: exceptions of ``fn`` are findings; a row that keeps nothing must be 0. Inputs are on the CPU.
    Raises: SpecError for an unknown option.

    >>> from qkv.testing import SimulatedKernel, standard_grid
    >>> conformance(SimulatedKernel(), rows=standard_grid().rows[:3]).ok
    True
    >>> conformance(SimulatedKernel("last row unwritten"), rows=standard_grid().rows[:3]).ok
    False
    """
    unknown = set(supports) - set(OPTIONS)
    if unknown:
        known = "\n".join(f"    {name}: {meaning}" for name, meaning in OPTIONS.items())
        raise SpecError(f"supports names what there is not: {', '.join(sorted(unknown))}.\n{known}")
    known = frozenset(supports)
    passed, failures, not_run = 0, list[Finding](), list[NotRun]()
    by_kind: dict[str, Check] = {}
    checks = list(_checks(known, align, seed, rows, dtypes))
    last = time.monotonic()
    for done, check in enumerate(checks):
        if progress is not None and time.monotonic() - last > PROGRESS_S:
            last = time.monotonic()
            progress(done, len(checks), check.name)
        lacking = check.needs - known
        if lacking:
            not_run.append(NotRun(check.name, f"supports lacks {', '.join(sorted(lacking))}"))
            continue
        found = tuple(check.run(fn))
        passed += not found
        failures.extend(found)
        for finding in found:
            by_kind.setdefault(finding.kind, check)
    examples = tuple(_smallest(kind, check, fn) for kind, check in by_kind.items())
    name = getattr(fn, "__name__", type(fn).__name__)
    return Report(name, seed, passed, tuple(failures), tuple(not_run), examples)


def _checks(
    supports: frozenset[str], align: Align, seed: int, rows: Sequence[Row] | None, dtypes: Sequence[torch.dtype]
) -> Iterable[Check]:
    """Every check of a run: the invariants, the rows, and the gradients of the rows whose values are moderate."""
    for dtype in dtypes:
        for check, needs in INVARIANTS.items():
            yield InvariantCheck(check.__name__, dtype, needs, supports, seed)
    if rows is None:
        rows = covering({**STANDARD_AXES, "dtype": tuple(dtypes)}, forbidden=standard_forbidden, seed=seed).rows
    for row in rows:
        yield RowCheck(row, supports, align, seed)
    for row in rows:
        if row["family"] in ("randn", "sharp", "poison"):
            yield GradientCheck(row, supports, align, seed)


def _smallest(kind: str, check: Check, fn: Attention) -> Finding:
    """The finding of this kind with the row made as small as it goes in a fixed number of runs."""
    best = _of_kind(kind, check, fn)
    runs, improved = 0, True
    while improved:
        improved = False
        for smaller in check.smaller():
            runs += 1
            found = _of_kind(kind, smaller, fn)
            if found:
                check, best, improved = smaller, found, True
                break
            if runs >= SHRINKING:
                return best[0]
    return best[0]


def _of_kind(kind: str, check: Check, fn: Attention) -> list[Finding]:
    return [finding for finding in check.run(fn) if finding.kind == kind]
