"""Covering arrays: complete, deterministic, and complete even where combinations are forbidden."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.errors import SpecError
from qkv.testing import STANDARD_AXES, Sizes, covering, pairs, row_sizes, standard_forbidden, standard_grid
from qkv.testing.grid import MOST_WORK, Row

AXES = {"a": [0, 1, 2], "b": ["x", "y"], "c": [False, True], "d": [1, 2, 3, 4]}


def uncovered(axes: dict[str, Any], rows: tuple[Row, ...]) -> set[Any]:
    """Every pair of values of two axes that no row holds."""
    names = list(axes)
    wanted = {
        ((a, x), (b, y))
        for place, a in enumerate(names)
        for b in names[place + 1 :]
        for x, y in product(axes[a], axes[b])
    }
    return wanted - {pair for row in rows for pair in pairs(row)}


def test_complete_and_small() -> None:
    grid = covering(AXES)
    assert uncovered(AXES, grid.rows) == set()
    assert grid.impossible == ()
    assert 12 <= len(grid.rows) <= 15  # 12 is the least: the two largest axes alone have 12 pairs


def test_a_missing_row_is_seen() -> None:
    assert uncovered(AXES, covering(AXES).rows[1:])


def test_deterministic_by_seed() -> None:
    assert covering(AXES, seed=5) == covering(AXES, seed=5)
    assert covering(AXES, seed=5) != covering(AXES, seed=6)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3))))
def test_forbidden_combinations(sizes: list[int], banned: set[tuple[int, int]]) -> None:
    """Pairs of the first two axes are banned, and with the third axis at 0 everything with the second at 0."""
    axes: dict[str, list[Hashable]] = {f"x{place}": list(range(size)) for place, size in enumerate(sizes)}

    def forbidden(row: Row) -> bool:
        return (row.get("x0"), row.get("x1")) in banned or (row.get("x1") == 0 and row.get("x2") == 0)

    grid = covering(axes, forbidden=forbidden)
    assert not any(forbidden(row) for row in grid.rows)
    assert all(set(row) == set(axes) for row in grid.rows)
    allowed = [
        row
        for row in (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
        if not forbidden(row)
    ]
    possible = {pair for row in allowed for pair in pairs(row)}
    missed = uncovered(axes, grid.rows)
    assert missed == set(grid.impossible)
    assert missed & possible == set()


def test_edges() -> None:
    assert covering({}).rows == ()
    assert covering({"a": [1, 2]}).rows == ({"a": 1}, {"a": 2})
    assert covering({"a": [1], "b": [2]}, forbidden=lambda row: True).rows == ()
    for values in ([], [1, 1]):
        with pytest.raises(SpecError, match=r'axis "b" needs values, each once'):
            covering({"a": [1], "b": values})


@pytest.mark.parametrize("seed", [0, 1])
def test_the_standard_grid(seed: int) -> None:
    grid = standard_grid(seed)
    assert 190 <= len(grid.rows) <= 215
    assert uncovered(dict(STANDARD_AXES), grid.rows) == set(grid.impossible)
    assert set(grid.impossible) == {
        (("feature_size", 1), ("family", "ramp up")),
        (("feature_size", 1), ("family", "ramp down")),
        (("family", "poison"), ("keep", "full")),
        (("layout", "stride-0 heads"), ("heads", (1, 1))),
        (("layout", "stride-0 heads"), ("heads", (8, 1))),
    }
    assert not any(standard_forbidden(row) for row in grid.rows)


def test_work_is_limited() -> None:
    row = {"batch": 7, "heads": (12, 3), "query_length": 257, "key_length": 1024, "feature_size": 576}
    assert MOST_WORK < 2 * 7 * 12 * 257 * 1024 * 576
    assert standard_forbidden(row)
    assert not standard_forbidden({**row, "batch": 1, "heads": (1, 1), "feature_size": 64})


def test_row_sizes() -> None:
    row: Row = {"batch": 2, "heads": (6, 2), "query_length": 3, "key_length": 0, "feature_size": 80}
    assert row_sizes(row) == Sizes(2, 6, 2, 3, 0, 80, 80)
    assert row_sizes({**row, "value": "other"}).value_size == 59
    with pytest.raises(SpecError, match=r"heads must be a pair, query heads and key heads; it is 6"):
        row_sizes({**row, "heads": 6})
    with pytest.raises(SpecError, match=r"a size must be a whole number; it is '2'"):
        row_sizes({**row, "batch": "2"})
