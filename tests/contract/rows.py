"""The covering arrays of the suite: which problems are run, chosen so that every pair of values of two axes meets.

Three arrays: one over everything; one inside what ``sdpa`` runs and one inside what ``linear`` runs, which the first
meets too seldom.
Knows combinations; what is left out has its reason here, and its error in ``tests/spec``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import cast

import torch

from qkv.testing import STANDARD_AXES, covering, row_sizes, standard_forbidden
from tests.conftest import SEED
from tests.contract.keeps import KEEPS
from tests.contract.places import PLACES
from tests.contract.problem import Problem
from tests.contract.scores import SCORES
from tests.contract.weighings import WEIGHINGS

Row = dict[str, Hashable]
Axes = Mapping[str, tuple[Hashable, ...]]

EVERYTHING: Axes = {
    **STANDARD_AXES,
    "dtype": (torch.float32, torch.bfloat16, torch.float16, torch.float64),
    "keep": tuple(KEEPS),
    "score": tuple(SCORES),
    "place": tuple(PLACES),
    "weights": tuple(WEIGHINGS),
    "scale": (None, 0.3, 1.0),
}

#: two lengths in one axis: the queries', and how many more keys there are
_LENGTHS = ((1, 0), (2, 0), (15, 0), (17, 0), (64, 0), (129, 0), (257, 0), (1, 128), (16, 49), (65, 62), (128, -63))

FUSED: Axes = {
    **EVERYTHING,
    "lengths": _LENGTHS,
    "feature_size": (1, 8, 40, 64, 192),
    "place": ("none", "rope", "interleaved"),
    "keep": ("full", "causal"),
    "score": ("none",),
    "weights": ("softmax",),
}
STATES: Axes = {
    **FUSED,
    "keep": ("full", "causal", "padding"),
    "weights": tuple(name for name in WEIGHINGS if name.startswith("linear")),
    "scale": (None,),
    "family": tuple(name for name in STANDARD_AXES["family"] if name != "poison"),
}

#: the most multiply-adds of a row: every one is run by every strategy, and by the oracle in float64
MOST_WORK = 12_000_000

#: masks under which no key after its query is kept
CAUSAL = frozenset({"causal", "window", "documents", "sinks", "blocks"})


def senseless(row: Row) -> bool:
    """Whether a partial row is out: its parts make no sense together, or its family cannot show itself."""
    weights, score, place = str(row.get("weights", "")), str(row.get("score", "none")), row.get("place", "none")
    differential = weights in ("differential", "paper", "clamped")
    odd = row.get("feature_size") in (1, 59)
    if weights.startswith("linear") and (score != "none" or row.get("scale") is not None):
        return True  # no score stands before a softmax
    if differential and (odd or score.startswith("shaw")):
        return True  # features are split in half
    if place != "none" and odd:
        return True  # features are rotated in pairs
    if weights == "linear decay" and "keep" in row and row["keep"] not in CAUSAL:
        return True  # the oracle's decay grows beyond the query; tests/run has the symmetric one
    if _work(row) > MOST_WORK:
        return True
    if "lengths" in row:
        queries, more = cast("tuple[int, int]", row["lengths"])
        if row.get("keep") == "causal" and more and weights != "linear decay":
            return True  # tests/spec reads that refusal
        row = {**row, "query_length": queries, "key_length": queries + more}
    return standard_forbidden({name: value for name, value in row.items() if name != "keep"} | _masked(row))


def _work(row: Row) -> int:
    """Multiply-adds, as far as the row's sizes are known."""
    queries, more = cast("tuple[int, int]", row.get("lengths", (row.get("query_length", 1), 0)))
    keys = cast(int, row["key_length"]) if "key_length" in row else queries + more
    heads, _ = cast("tuple[int, int]", row.get("heads", (1, 1)))
    sizes = (heads, queries, keys, *(cast(int, row.get(name, 1)) for name in ("batch", "feature_size")))
    return math.prod(max(1, size) for size in sizes)


def _masked(row: Row) -> Row:
    """The mask as the standard grid knows it: only whether there is one matters there."""
    return {"keep": "full" if row["keep"] == "full" else "causal"} if "keep" in row else {}


def array(axes: Axes) -> tuple[Row, ...]:
    """The rows of one array."""
    if "lengths" in axes:
        axes = {name: values for name, values in axes.items() if name not in ("query_length", "key_length")}
    return covering(axes, forbidden=senseless, seed=SEED).rows


@lru_cache
def problems(name: str) -> tuple[Problem, ...]:
    """The problems of one array; each has a seed of its own."""
    axes = {"everything": EVERYTHING, "fused": FUSED, "states": STATES}[name]
    return tuple(_problem(row, SEED + number) for number, row in enumerate(array(axes)))


def _problem(row: Row, seed: int) -> Problem:
    if "lengths" in row:
        queries, more = cast("tuple[int, int]", row["lengths"])
        row = {**row, "query_length": queries, "key_length": queries + more}

    def text(name: str) -> str:
        return str(row[name])

    return Problem(
        row_sizes(row),
        keep=text("keep"),
        score=text("score"),
        place=text("place"),
        weights=text("weights"),
        dtype=cast("torch.dtype", row["dtype"]),
        family=text("family"),
        layout=text("layout"),
        scale=cast("float | None", row["scale"]),
        seed=seed,
    )
