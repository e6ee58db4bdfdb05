"""Bounds: sound on every graph and block, decisive on the masks that kernels meet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qkv.terms.expr import Captured, Constant, Index, Kind, Lookup, Node, Position, Score, Size, apply, look_up, walk
from qkv.terms.interval import Block, Interval, all_bounds, bounds, stays_inside
from qkv.terms.ranges import RangeTable, learn
from qkv.terms.trace import trace_named
from qkv.terms.values import evaluate
from tests.terms.graphs import REAL, SQUARE, TABLE_SIZE, WHOLE, environment, reals, truths, wholes

QUERY, KEY = Position("i"), Position("j")


def block(i: tuple[float, float], j: tuple[float, float], **sizes: int) -> Block:
    places = {"i": Interval.of(*i), "j": Interval.of(*j)}
    return Block(places, places, sizes)


def contains(bound: Interval, values: torch.Tensor) -> bool:
    """Whether each value lies within the bounds, or is NaN where that was announced."""
    found = values.double().numpy()
    nan = np.isnan(found)
    within = (found >= bound.low) & (found <= bound.high)
    return bool(np.all(np.where(nan, bound.nan, within)))


GRAPHS = st.one_of(truths(), wholes(), reals())
EDGES = st.tuples(st.integers(-4, 30), st.integers(0, 5))


@given(GRAPHS, EDGES, EDGES, st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=500)
@example(apply("le", apply("min", apply("log", QUERY), Constant(5.0)), Constant(5.0)), (-2, 3), (0, 0), torch.float64)
@example(apply("lt", apply("mul", QUERY, Constant(0.1)), Constant(3.3)), (33, 0), (0, 0), torch.float32)
@example(apply("le", apply("exp", apply("mul", QUERY, Constant(9.0))), Constant(1e30)), (0, 5), (0, 5), torch.float32)
@example(apply("ge", apply("floor", apply("div", KEY, QUERY)), Constant(3)), (0, 1), (5, 1), torch.float64)
@example(apply("mod", QUERY, KEY), (-4, 5), (0, 3), torch.float64)
def test_bounds_are_sound(node: Node, i: tuple[int, int], j: tuple[int, int], dtype: torch.dtype) -> None:
    """Every value of every node of the graph lies within its bounds, NaN and rounding included."""
    edges = (i[0], i[0] + i[1]), (j[0], j[0] + j[1])
    found = all_bounds(node, block(*edges))
    env = environment(*edges[0], *edges[1], dtype=dtype)
    for part in walk(node):
        values = evaluate(part, env)
        bound = found[id(part)]
        assert contains(bound, values), f"{values} outside [{bound.low}, {bound.high}]"


def test_unsound_bounds_would_be_noticed() -> None:
    values = evaluate(apply("sub", QUERY, KEY), environment(0, 3, 0, 3))
    assert contains(Interval.of(-3, 3), values)
    assert not contains(Interval.of(-3, 2), values)
    assert not contains(Interval.of(-2, 3), values)
    assert not contains(Interval.of(-1, 1), torch.tensor([float("nan")]))


@given(GRAPHS, st.lists(st.tuples(EDGES, EDGES), min_size=1, max_size=5))
@settings(max_examples=200)
def test_many_blocks_at_once_are_each_alone(node: Node, edges: list[tuple[tuple[int, int], tuple[int, int]]]) -> None:
    def pairs(axis: int) -> Interval:
        first = np.array([e[axis][0] for e in edges], dtype=np.float64)
        return Interval.of(first, first + np.array([e[axis][1] for e in edges], dtype=np.float64))

    together = {"i": pairs(0), "j": pairs(1)}
    found = bounds(node, Block(together, together, {}))
    low, high = (np.broadcast_to(x, (len(edges),)) for x in (found.low, found.high))
    for n, (i, j) in enumerate(edges):
        alone = bounds(node, block((i[0], i[0] + i[1]), (j[0], j[0] + j[1])))
        assert low[n] == alone.low
        assert high[n] == alone.high


def graph(function: Callable[..., object]) -> Node:
    return trace_named(function, Kind.BOOL)[1]


DOCUMENTS = torch.arange(1024) // 100
PADDING = torch.arange(1024) < 700
ROWS = torch.stack([DOCUMENTS, DOCUMENTS.flip(0)])
BLOCK_TABLE = torch.eye(16, dtype=torch.bool)

TIGHT = {
    "causal": lambda i, j: j <= i,
    "window": lambda i, j: (j <= i) & (i - j < 100),
    "two-sided window": lambda i, j: abs(i - j) <= 90,
    "prefix": lambda i, j: (j <= i) | (j < 200),
    "window and first": lambda i, j: (j <= i) & ((i - j < 100) | (j < 64)),
    "documents": lambda i, j: (DOCUMENTS[i] == DOCUMENTS[j]) & (j <= i),
    "documents of one row": lambda i, j: ROWS[1, i] == ROWS[1, j],
    "padding": lambda i, j: PADDING[j] & (j <= i),
    "chunks": lambda i, j: (i // 128 == j // 128) & (j <= i),
    "block table": lambda i, j: BLOCK_TABLE[i // 64, j // 64],
}


@pytest.mark.parametrize("name", TIGHT)
@pytest.mark.parametrize("side", [16, 64])
def test_decisive_masks_are_decided(name: str, side: int) -> None:
    """Blocks that are empty or full are known to be, for masks whose blocks kernels skip."""
    node = graph(TIGHT[name])
    mask = evaluate(node, environment(0, 1023, 0, 1023)).view(1024 // side, side, 1024 // side, side)
    kept = mask.sum(dim=(1, 3)).numpy()
    starts = np.arange(0, 1024, side, dtype=np.float64)
    places = {
        "i": Interval.of(starts[:, None], starts[:, None] + side - 1),
        "j": Interval.of(starts[None], starts[None] + side - 1),
    }
    found = bounds(node, Block(places, places, {}))
    assert np.array_equal(np.broadcast_to(found.low, kept.shape) == 1, kept == side * side)
    assert np.array_equal(np.broadcast_to(found.high, kept.shape) == 0, kept == 0)


@pytest.mark.parametrize(
    ("node", "low", "high"),
    [
        (apply("add", QUERY, KEY), 2 + 10, 5 + 14),
        (apply("sub", QUERY, KEY), 2 - 14, 5 - 10),
        (apply("mul", apply("sub", QUERY, Constant(3)), KEY), -14, 28),
        (apply("floordiv", KEY, Constant(4)), 2, 3),
        (apply("floordiv", KEY, Constant(-4)), -4, -3),
        (apply("mod", KEY, Constant(16)), 10, 14),
        (apply("mod", KEY, Constant(8)), 2, 6),
        (apply("mod", KEY, Constant(12)), 0, 11),
        (apply("neg", KEY), -14, -10),
        (apply("abs", apply("sub", QUERY, Constant(4))), 0, 2),
        (apply("abs", apply("neg", KEY)), 10, 14),
        (apply("min", KEY, Constant(12)), 10, 12),
        (apply("max", KEY, Constant(12)), 12, 14),
        (apply("select", apply("lt", QUERY, Constant(9)), KEY, Constant(0)), 10, 14),
        (apply("select", apply("gt", QUERY, Constant(9)), KEY, Constant(0)), 0, 0),
        (apply("select", apply("gt", QUERY, Constant(3)), KEY, Constant(0)), 0, 14),
        (apply("float", KEY), 10, 14),
        (apply("floor", apply("float", KEY)), 10, 14),
        (Size("h"), 7, 7),
        (Index("i"), 2, 5),
    ],
)
def test_exact_bounds(node: Node, low: float, high: float) -> None:
    found = bounds(node, block((2, 5), (10, 14), h=7))
    assert (float(found.low), float(found.high)) == (low, high)


@pytest.mark.parametrize("operation", ["exp", "log", "sqrt", "tanh", "sigmoid", "div", "erf", "sin", "cos"])
def test_floats_are_bounded_closely(operation: str) -> None:
    """Wider than the values by rounding only, but for sin, cos and erf, which are bounded by 1."""
    operands = (KEY, QUERY) if operation == "div" else (apply("float", KEY),)
    node = apply(operation, *operands)
    found = bounds(node, block((2, 5), (10, 14)))
    values = evaluate(node, environment(2, 5, 10, 14))
    assert contains(found, values)
    if operation not in ("sin", "cos", "erf"):
        assert float(found.low) == pytest.approx(float(values.min()), rel=1e-4, abs=1e-4)
        assert float(found.high) == pytest.approx(float(values.max()), rel=1e-4, abs=1e-4)
    else:
        assert abs(float(found.high)) < 1.001


def test_comparisons_with_nan_are_not_decided() -> None:
    maybe = apply("log", apply("float", QUERY))
    below = bounds(apply("le", maybe, Constant(float("inf"))), block((-1, 5), (0, 0)))
    assert (float(below.low), float(below.high)) == (0, 1)
    differs = bounds(apply("ne", maybe, maybe), block((-1, -1), (0, 0)))
    assert float(differs.high) == 1
    sure = bounds(apply("lt", apply("log", apply("float", QUERY)), Constant(9.0)), block((1, 5), (0, 0)))
    assert float(sure.low) == 1


def test_the_score_is_not_known() -> None:
    found = bounds(apply("lt", Score(), Constant(float("inf"))), block((0, 0), (0, 0)))
    assert (float(found.low), float(found.high)) == (0, 1)


def test_numbers_beyond_64_bits_are_not_known() -> None:
    square = apply("mul", QUERY, QUERY)
    huge = apply("mul", apply("mul", square, square), apply("mul", square, square))
    found = bounds(apply("gt", huge, Constant(0)), block((10**5, 10**5), (0, 0)))
    assert (float(found.low), float(found.high)) == (0, 1)
    value = evaluate(huge, environment(10**5, 10**5, 0, 0)).item()
    assert value != (10**5) ** 8, "int64 wraps around, as announced"


def test_lookups_that_stay_inside() -> None:
    table = Captured(torch.arange(10.0))
    near = look_up(table, (apply("max", apply("min", apply("sub", QUERY, KEY), Constant(9)), Constant(0)),))
    far = look_up(table, (QUERY,))
    pair = look_up(Captured(torch.zeros(3, 4)), (apply("mod", QUERY, Constant(3)), KEY))
    node = apply("add", apply("add", near, far), pair)
    assert stays_inside(node, block((0, 9), (0, 3))) == {near, far, pair}
    assert stays_inside(node, block((0, 10), (0, 3))) == {near, pair}
    assert stays_inside(node, block((-1, 9), (0, 4))) == {near}


@given(
    st.integers(1, 70),
    st.integers(1, 4),
    st.lists(
        st.tuples(st.integers(-3, 80), st.integers(0, 80), st.integers(-1, 4), st.integers(0, 2)),
        min_size=1,
        max_size=4,
    ),
)
def test_range_tables(length: int, lines: int, asked: list[tuple[int, int, int, int]]) -> None:
    """Extremes of clamped stretches, exact when the other index is known and sound when it is not."""
    values = np.random.default_rng(length).integers(-50, 50, size=(lines, length)).astype(np.float64)
    longest = length >= lines
    table = RangeTable(values)
    first = np.array([a[0] for a in asked], dtype=np.float64)
    last = first + np.array([a[1] for a in asked])
    line = np.array([a[2] for a in asked], dtype=np.float64)
    until = line + np.array([a[3] for a in asked])
    low, high = table.query([line, first], [until, last])
    for n in range(len(asked)):
        rows = slice(int(np.clip(line[n], 0, lines - 1)), int(np.clip(until[n], 0, lines - 1)) + 1)
        columns = slice(int(np.clip(first[n], 0, length - 1)), int(np.clip(last[n], 0, length - 1)) + 1)
        inner = values[rows, columns]
        assert low[n] <= inner.min()
        assert high[n] >= inner.max()
        if (line[n] == until[n]) if longest and lines < length else lines == 1:
            assert (low[n], high[n]) == (inner.min(), inner.max())


def test_long_range_tables_are_kept_in_chunks() -> None:
    values = np.arange(300_000, dtype=np.float64)
    table = RangeTable(values)
    assert table.whole.low.nbytes < 40e6
    low, high = table.query([np.array([1000.0, 0.0])], [np.array([2000.0, 299_999.0])])
    assert 990 <= low[0] <= 1000
    assert 2000 <= high[0] <= 2010
    assert (low[1], high[1]) == (0, 299_999)


def test_what_cannot_be_learnt() -> None:
    assert learn(Captured(torch.tensor([1.0, float("nan")]))) is None
    assert learn(Captured(torch.tensor([], dtype=torch.int64))) is None
    assert learn(Captured(torch.tensor([2**60, 2**60 + 1]))) is None
    assert learn(Captured(torch.zeros(3, device="meta"))) is None
    assert learn(WHOLE) is not None
    assert learn(REAL) is not None
    assert learn(SQUARE) is not None
    assert learn(Captured(torch.ones(4, requires_grad=True))) is not None
    unknown = bounds(Lookup(Captured(torch.tensor([True, False], device="meta")), (QUERY,)), block((0, 1), (0, 0)))
    assert (float(unknown.low), float(unknown.high)) == (0, 1)


def test_large_ids_that_float64_cannot_tell_apart() -> None:
    ids = Captured(torch.tensor([2**60, 2**60 + 1]))
    node = apply("eq", Lookup(ids, (QUERY,)), Lookup(ids, (KEY,)))
    found = bounds(node, block((0, 0), (1, 1)))
    assert (float(found.low), float(found.high)) == (0, 1)
    assert not evaluate(node, environment(0, 0, 1, 1)).item()


def test_tables_under_vmap_are_not_known() -> None:
    def under(values: torch.Tensor) -> torch.Tensor:
        found = bounds(Lookup(Captured(values), (QUERY,)), block((0, 1), (0, 0)))
        assert float(found.high) == np.inf
        return values

    torch.func.vmap(under)(torch.zeros(2, 3))


def test_what_was_learnt_is_shared() -> None:
    tables: dict[Captured, RangeTable | None] = {}
    places = {"i": Interval.of(0, TABLE_SIZE - 1), "j": Interval.of(0, 0)}
    bounds(look_up(WHOLE, (QUERY,)), Block(places, places, {}, tables))
    assert set(tables) == {WHOLE}
    kept = tables[WHOLE]
    bounds(look_up(WHOLE, (KEY,)), Block(places, places, {}, tables))
    assert tables[WHOLE] is kept
