"""Pairwise covering arrays: few rows in which every allowed pair of values meets at least once.

Knows combinations. Refuses to know what the values mean, but for the standard axes at the end, which name the tables
of NUMERICS.md. The construction is greedy and deterministic: the same axes and seed give the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import torch

from qkv.errors import SpecError
from qkv.testing.cases import Sizes
from qkv.testing.families import FAMILIES
from qkv.testing.layouts import LAYOUTS, fits
from qkv.testing.masks import MASKS

Row = dict[str, Hashable]
Pair = tuple[tuple[str, Hashable], tuple[str, Hashable]]

#: candidates that are built for every row, of which the one with most new pairs is kept
CANDIDATES = 4
#: the most multiply-adds that a row of the standard grid costs
MOST_WORK = 40_000_000


@dataclass(frozen=True, slots=True)
class Grid:
    """The rows of a covering array, and the pairs that no allowed row can hold."""

    rows: tuple[Row, ...]
    impossible: tuple[Pair, ...]


def covering(
    axes: Mapping[str, Sequence[Hashable]], *, forbidden: Callable[[Row], bool] | None = None, seed: int = 0
) -> Grid:
    """Rows over ``axes`` in which every pair of values of two axes occurs, unless no allowed row can hold it.

    ``forbidden`` is given rows with some axes missing and says whether they are out already; a row it forbids must
    stay forbidden when axes are added. Pairs that cannot be completed are proved impossible by search and listed.
    Edges: one axis gives one row per value; no axes give no rows.
    Raises: SpecError for an axis without values or with a value twice.

    >>> len(covering({"a": [0, 1], "b": [0, 1], "c": [0, 1]}).rows)
    4
    """
    for name, values in axes.items():
        if not values or len(set(values)) != len(values):
            raise SpecError(f'axis "{name}" needs values, each once: {list(values)}')
    if len(axes) < 2:
        return Grid(tuple({name: value} for name, values in axes.items() for value in values), ())
    search = _Search(axes, forbidden or (lambda row: False), random.Random(seed))
    rows: list[Row] = []
    impossible: list[Pair] = []
    while search.open:
        pair = next(iter(search.open))
        candidates = [row for row in (search.complete(dict(pair)) for _ in range(CANDIDATES)) if row is not None]
        if not candidates:
            impossible.append(pair)
            del search.open[pair]
            continue
        best = max(candidates, key=lambda row: sum(pair in search.open for pair in pairs(row)))
        rows.append({name: best[name] for name in axes})
        for covered in pairs(rows[-1]):
            search.open.pop(covered, None)
    return Grid(tuple(rows), tuple(impossible))


def pairs(row: Mapping[str, Hashable]) -> list[Pair]:
    """Every pair of (axis, value) that a row holds, in the order of its axes."""
    return list(combinations(row.items(), 2))


class _Search:
    """Completes partial rows, preferring values that meet open pairs, and goes back where nothing fits."""

    def __init__(
        self, axes: Mapping[str, Sequence[Hashable]], forbidden: Callable[[Row], bool], generator: random.Random
    ) -> None:
        self.axes, self.forbidden, self.generator = axes, forbidden, generator
        self.place = {name: place for place, name in enumerate(axes)}
        # the largest axes first: their pairs decide how many rows there are
        order = sorted(combinations(axes, 2), key=lambda names: -len(axes[names[0]]) * len(axes[names[1]]))
        every = [((a, x), (b, y)) for a, b in order for x in axes[a] for y in axes[b]]
        self.open: dict[Pair, None] = dict.fromkeys(every)

    def complete(self, row: Row) -> Row | None:
        if self.forbidden(row):
            return None
        missing = [name for name in self.axes if name not in row]
        self.generator.shuffle(missing)
        return self._extend(row, missing)

    def _extend(self, row: Row, missing: list[str]) -> Row | None:
        if not missing:
            return row
        name, rest = missing[0], missing[1:]
        for value in self._best_first(row, name):
            longer = {**row, name: value}
            if not self.forbidden(longer):
                whole = self._extend(longer, rest)
                if whole is not None:
                    return whole
        return None

    def _best_first(self, row: Row, name: str) -> list[Hashable]:
        values = list(self.axes[name])
        self.generator.shuffle(values)
        return sorted(values, key=lambda value: -self._gain(row, name, value))

    def _gain(self, row: Row, name: str, value: Hashable) -> int:
        place = self.place[name]
        return sum(
            (((other, seen), (name, value)) if self.place[other] < place else ((name, value), (other, seen)))
            in self.open
            for other, seen in row.items()
        )


_LENGTHS = (1, 2, 3, 15, 16, 17, 63, 64, 65, 127, 128, 129, 257)

#: the axes of NUMERICS.md that any attention function has; ``value`` other takes its size from OTHER_VALUE_SIZE
STANDARD_AXES: dict[str, tuple[Hashable, ...]] = {
    "query_length": _LENGTHS,
    "key_length": (0, *_LENGTHS, 1024),
    "feature_size": (1, 8, 16, 40, 59, 64, 80, 128, 192, 256, 576),
    "family": tuple(FAMILIES),
    "keep": MASKS,
    "layout": LAYOUTS,
    "heads": ((1, 1), (4, 4), (6, 2), (8, 1), (12, 3)),
    "dtype": (torch.float32, torch.bfloat16, torch.float16),
    "batch": (1, 2, 3, 7),
    "value": ("same", "other"),
}

#: the value size of a row whose axis ``value`` is ``other``
OTHER_VALUE_SIZE = {1: 3, 8: 16, 16: 40, 40: 64, 59: 32, 64: 128, 80: 59, 128: 64, 192: 128, 256: 80, 576: 512}


def standard_forbidden(row: Row) -> bool:
    """Whether a partial row of the standard axes is out: too much work, a layout or family that cannot show itself.

    Out are rows above ``MOST_WORK`` multiply-adds; ramps at feature size 1, which holds no position; poison without a
    mask; ``stride-0 heads`` with one key head; ``oversize singleton stride`` without an axis of size 1.
    """
    work = 2 * _heads(row.get("heads", (1, 1)))[0]
    for name in ("batch", "query_length", "key_length", "feature_size"):
        work *= max(1, _whole(row.get(name, 1)))
    if work > MOST_WORK:
        return True
    family = str(row.get("family", ""))
    if (family.startswith("ramp") and row.get("feature_size") == 1) or (
        family == "poison" and row.get("keep") == "full"
    ):
        return True
    if row.get("layout") == "stride-0 heads" and row.get("heads") in ((1, 1), (8, 1)):
        return True
    shape_known = {"batch", "heads", "query_length", "key_length", "feature_size"} <= row.keys()
    if row.get("layout") == "oversize singleton stride" and shape_known:
        return not all(fits(shape, "oversize singleton stride") for shape in row_sizes(row).shapes)
    return False


def row_sizes(row: Mapping[str, Hashable]) -> Sizes:
    """The sizes of one row of the standard axes; without an axis ``value`` the value size is the feature size."""
    query_heads, key_heads = _heads(row["heads"])
    feature_size = _whole(row["feature_size"])
    other = OTHER_VALUE_SIZE.get(feature_size, feature_size + 1)
    value_size = other if row.get("value") == "other" else feature_size
    return Sizes(
        batch=_whole(row["batch"]),
        query_heads=query_heads,
        key_heads=key_heads,
        query_length=_whole(row["query_length"]),
        key_length=_whole(row["key_length"]),
        feature_size=feature_size,
        value_size=value_size,
    )


@lru_cache(maxsize=8)
def standard_grid(seed: int = 0) -> Grid:
    """The covering array over the standard axes, about 200 rows. Rows are shared: read them, do not change them."""
    return covering(STANDARD_AXES, forbidden=standard_forbidden, seed=seed)


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise SpecError(f"a size must be a whole number; it is {value!r}")
    return value


def _heads(value: object) -> tuple[int, int]:
    match value:
        case (int() as query_heads, int() as key_heads):
            return query_heads, key_heads
        case _:
            raise SpecError(f"heads must be a pair, query heads and key heads; it is {value!r}")
