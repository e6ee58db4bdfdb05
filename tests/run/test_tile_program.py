"""Tile programs against the readers for values, bounds and derivatives: every library term, places, positions, random
graphs, lookups outside their tables.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import qkv
from qkv.core import cpu_targets, loaded, using_cpu_target
from qkv.errors import InternalError
from qkv.run.bind import Bound
from qkv.run.scores import environment
from qkv.run.tile_program import given_positions
from qkv.terms.expr import Constant, Kind, Node, Score, apply, captured_in, children, walk
from qkv.terms.keep import CustomKeep
from qkv.terms.score import CustomScore
from qkv.terms.values import evaluate
from tests.run.tiles import GROUPED, IMAGE, PLAIN, Flat, Place, at, bound_call
from tests.terms.graphs import reals, truths, wholes

SIZES = {"b": 2, "h": 2, "g": 3, "i": 45, "j": 61, "d": 4, "e": 4}
SLACK = 3  # columns beyond a place, which nothing may touch


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def flags(*shape: int) -> torch.Tensor:
    return drawn(*shape) > -0.5


def ids(*shape: int) -> torch.Tensor:
    return drawn(*shape).mul(2).long().sort(-1).values


REALS, SLOPES, LONG, TABLE = drawn(61), drawn(3), ids(100), drawn(61)

MASKS: dict[str, qkv.Keep] = {
    "causal": qkv.causal(),
    "window": qkv.causal() & qkv.window(7),
    "both sides": qkv.window(3, 5),
    "prefix": qkv.causal() | qkv.prefix(21),
    "sinks": qkv.causal() & (qkv.window(4) | qkv.first(2)),
    "dilated": qkv.causal() & qkv.dilated(3),
    "not": ~qkv.causal(),
    "documents": qkv.causal() & qkv.documents(ids(2, 100)),
    "documents of bytes": qkv.documents(ids(100).to(torch.int8), "j"),
    "padding": qkv.padding(flags(2, 61)),
    "a full mask": qkv.padding(flags(2, 6, 45, 61), "b (h g) i j"),
    "a mask by strides": qkv.padding(flags(61, 45).transpose(0, 1), "i j"),
    "blocks": qkv.blocks(flags(8, 8), 8),
    "bigbird": qkv.bigbird(block_size=4, num_random=2),
    "tree": qkv.tree([-1] + [n // 2 for n in range(44)]),
    "fractions": qkv.keep(lambda i, j: (i - j) / 3 < 4.3),
    "products": qkv.keep(lambda i, j: (i * j) % 7 < 3),
    "large numbers": qkv.keep(lambda i, j: (i * 3_000_000_019 + j * 7) % 1_000_000_007 % 3 != 1),
    "a constant": qkv.keep(lambda i, j: (i - i) < (j - j + 1)),
    "heads": qkv.keep(lambda h, g, i, j: (i - j) % (h + g + 1) == 0),
    "floats of a table": qkv.keep(lambda j: REALS[j] > REALS[j] * REALS[j] - 0.5),
}
SCORES: dict[str, Any] = {
    "softcap": qkv.softcap(5.0),
    "alibi": qkv.alibi(),
    "slopes": qkv.alibi(drawn(6).abs()),
    "bias": qkv.bias(drawn(6, 45, 61), "(h g) i j"),
    "bias of keys": qkv.bias(drawn(61), "j"),
    "bias of halves by strides": qkv.bias(drawn(61, 45).half(), "j i"),
    "bias of bfloat16": qkv.bias(drawn(45, 61).bfloat16(), "i j"),
    "bias of doubles": qkv.bias(drawn(2, 61).double(), "b j"),
    "a number": qkv.bias(drawn(1)[0], ""),
    "t5": qkv.relative_bias(drawn(32, 6)),
    "t5 of a decoder": qkv.relative_bias(drawn(32, 6), bidirectional=False),
    "clipped distances": qkv.relative_bias(drawn(9), buckets="clip"),
    "shaw": qkv.shaw(drawn(5, 4)),
    "several": [qkv.softcap(20.0), qkv.alibi(), qkv.bias(drawn(45, 61), "i j")],
    "a distance": qkv.score(lambda score, i, j: score - 0.5 * abs(i - j)),
    "a slope by row": qkv.score(lambda score, g, i, j: score - SLOPES[g] * (i - j)),
    "branches": qkv.score(lambda score, i, j: qkv.where(score > 0, score * score, torch.sigmoid(score) + i)),
    "a reciprocal": qkv.score(lambda score, i, j: score / (1 + abs(i - j)) + torch.sin(0.1 * i)),
    "by row alone": qkv.score(lambda score, i: qkv.where(i < 0, score, 0.5 * i)),
    "wide numbers": qkv.score(lambda score, i, j: score + ((i * 40_503 + 12_345) % 67_108_859 * j) / 1e9),
}


def compare(bound: Bound, places: list[Place] | None = None, rows: tuple[str, ...] | None = None) -> None:
    """The core's scores and verdicts at many places against the readers' answers."""
    flat = Flat.of(bound, rows=rows)
    terms = flat.program.bind(bound, rows)
    raw, mask = flat.raw(), flat.mask()
    expected = flat.expected(raw)
    for place in places or flat.places():
        start = at(raw, place)
        work = torch.full((start.shape[0], start.shape[1] + SLACK), 777.0, dtype=raw.dtype)
        work[:, :-SLACK] = start.masked_fill(~at(mask, place), math.nan)  # a dropped pair may hold anything
        assert terms.evaluate(*place, work.data_ptr(), work.stride(0), True) == -1
        wanted, found = at(expected, place), work[:, :-SLACK]
        assert bool((work[:, -SLACK:] == 777.0).all())
        assert torch.equal(wanted == -math.inf, found == -math.inf), place
        close = 4e-6 if raw.dtype == torch.float32 else 1e-14
        torch.testing.assert_close(found, wanted, rtol=close, atol=close)
        verdict, kept = terms.verdict(*place), at(mask, place)
        assert not (verdict == 0 and bool(kept.any())) and not (verdict == 1 and not bool(kept.all())), (place, verdict)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str, dtype: torch.dtype) -> None:
    compare(bound_call(qkv.Spec(GROUPED, keep=MASKS[name]), SIZES, dtype, align="end"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCORES)
def test_scores(name: str, dtype: torch.dtype) -> None:
    compare(bound_call(qkv.Spec(GROUPED, score=SCORES[name], keep=qkv.causal()), SIZES, dtype, align="end"))


@pytest.mark.parametrize("name", SCORES)
def test_a_place_that_is_known_to_be_kept_needs_no_mask(name: str) -> None:
    bound = bound_call(qkv.Spec(GROUPED, score=SCORES[name], keep=qkv.causal()), SIZES, positions={"i": 16})
    flat = Flat.of(bound)
    raw = flat.raw()[1].clone()
    flat.program.bind(bound).evaluate(1, 0, flat.rows, 0, flat.keys, raw.data_ptr(), raw.stride(0), False)
    spec = qkv.Spec(GROUPED, score=SCORES[name])
    wanted = Flat.of(bound_call(spec, SIZES, positions={"i": 16})).expected(flat.raw())[1]
    torch.testing.assert_close(raw, wanted, rtol=4e-6, atol=4e-6)


FORMS: dict[str, dict[str, Any]] = {
    "start": {"align": "start"},
    "an offset": {"positions": {"i": 9}},
    "before the keys": {"positions": {"i": -20}},
    "tensors": {"positions": {"i": torch.arange(45) * 2 - 7, "j": torch.arange(61).flip(0)}},
    "a tensor for each batch": {"positions": {"i": (torch.arange(90).view(2, 45) % 50, "b i")}},
    "keys of each batch": {
        "positions": {"i": 3, "j": (torch.arange(122).view(2, 61) * 7 % 60, "b j")},
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["causal", "window", "fractions", "bigbird", "documents", "heads"])
def test_positions_of_every_form_and_masks(name: str, form: str) -> None:
    # documents are read at positions, which must lie in the table
    if name == "documents" and form in ("before the keys", "tensors"):
        keep: qkv.Keep = qkv.keep(lambda i, j: LONG[torch.clamp(i, 0, 99)] == LONG[torch.clamp(j, 0, 99)])
    else:
        keep = MASKS[name]
    compare(bound_call(qkv.Spec(GROUPED, keep=keep), SIZES, **FORMS[form]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["alibi", "t5", "shaw", "clipped distances", "a distance"])
def test_positions_of_every_form_and_scores(name: str, form: str) -> None:
    bound = bound_call(qkv.Spec(GROUPED, score=SCORES[name], keep=qkv.causal()), SIZES, **FORMS[form])
    assert bool(given_positions(bound)) == ("tensor" in form or "keys of" in form)
    compare(bound)


IMAGE_SIZES = {"b": 1, "h": 2, "y": 5, "x": 9, "m": 6, "n": 23, "d": 4, "e": 4}


@pytest.mark.parametrize(
    "parts",
    [
        {"keep": qkv.keep(lambda y, x, m, n: (abs(y - m) <= 1) & (abs(x - n) <= 3))},
        {"keep": qkv.causal(query="x", key="n") & qkv.window(2, 2, query="y", key="m")},
        {"score": qkv.bias(drawn(5, 9, 6, 23), "y x m n")},
        {"score": qkv.bias(drawn(9, 23), "x n")},
        {"score": qkv.alibi(query="x", key="n", head="h"), "keep": qkv.keep(lambda y, m: m <= y)},
        {"keep": qkv.causal(query="y", key="m"), "score": qkv.relative_bias(drawn(32, 2), query="x", key="n")},
    ],
)
def test_several_query_and_key_coordinates(parts: dict[str, Any]) -> None:
    positions = {"y": 1, "x": 3}
    bound = bound_call(qkv.Spec(IMAGE, **parts), IMAGE_SIZES, positions=positions)
    compare(bound)
    compare(bound, rows=("x", "y"))
    inside = list(itertools.product([0, 1], [0, 17], [5, 28], [23, 31, 115], [1, 23]))
    compare(bound, places=[(s, r, n, k, m) for s, r, n, k, m in inside])


def test_rows_in_another_order() -> None:
    spec = qkv.Spec(GROUPED, keep=qkv.causal() & MASKS["heads"], score=qkv.alibi())
    compare(bound_call(spec, SIZES, align="end"), rows=("g", "i"))


@pytest.mark.parametrize("name", ["t5", "bias", "several", "a slope by row", "slopes"])
def test_places_beyond_one_tile(name: str) -> None:
    sizes = {"b": 1, "h": 2, "g": 1, "i": 70, "j": 1100, "d": 4, "e": 4}
    spec = qkv.Spec(
        "b h i d, b h j d, b h j e -> b h i e",
        keep=qkv.causal() & qkv.window(900),
        score={"bias": qkv.bias(drawn(70, 1100), "i j"), "several": [qkv.softcap(9.0), qkv.alibi()]}.get(
            name, qkv.relative_bias(drawn(32, 2)) if name == "t5" else qkv.alibi(drawn(2).abs())
        ),
    )
    places = [(1, 0, 70, 0, 1100), (0, 5, 64, 100, 1000), (1, 69, 1, 0, 1100), (0, 31, 2, 511, 2)]
    compare(bound_call(spec, sizes, align="end"), places)


@pytest.mark.parametrize(
    ("keep", "size"), [(qkv.causal(), 1), (qkv.causal() & qkv.window(200), 1), (qkv.bigbird(block_size=64), 64)]
)
def test_verdicts_of_plain_masks_are_exact(keep: qkv.Keep, size: int) -> None:
    sizes = {"b": 1, "h": 1, "i": 1024, "j": 1024, "d": 1, "e": 1}
    flat = Flat.of(bound_call(qkv.Spec(PLAIN, keep=keep), sizes))
    terms, mask = flat.program.bind(flat.bound), flat.mask()[0]
    for row, key in itertools.product(range(0, 1024, 64), range(0, 1024, 64)):
        rows, keys = (64, 64) if size == 64 else (1 + row // 20, 1 + key // 30)
        part = mask[row : row + rows, key : key + keys]
        wanted = 1 if bool(part.all()) else 2 if bool(part.any()) else 0
        found = terms.verdict(0, row, part.shape[0], key, part.shape[1])
        assert found == wanted or (found == 2 and "window" in repr(keep)), (row, key)


# ---- gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCORES)
def test_backward_against_torch(name: str, dtype: torch.dtype) -> None:
    spec = qkv.Spec(GROUPED, score=SCORES[name], keep=qkv.causal())
    backward(bound_call(spec, SIZES, dtype, align="end"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["t5", "shaw", "slopes", "bias"])
def test_backward_with_positions(name: str, form: str) -> None:
    backward(bound_call(qkv.Spec(GROUPED, score=SCORES[name], keep=qkv.causal()), SIZES, **FORMS[form]))


def test_backward_of_images() -> None:
    score = [
        qkv.bias(drawn(5, 9, 6, 23), "y x m n"),
        qkv.bias(drawn(23), "n"),
        qkv.relative_bias(drawn(9), buckets="clip", query="x", key="n"),
    ]
    backward(bound_call(qkv.Spec(IMAGE, score=score), IMAGE_SIZES, positions={"x": 2}))


def test_backward_through_two_lookups_of_one_table() -> None:
    table = drawn(9)
    score = qkv.score(
        lambda score, i, j: score * table[torch.clamp(i - j, 0, 8)] + table[j % 9] * table[(i + 2 * j) % 9] + table[3]
    )
    backward(bound_call(qkv.Spec(GROUPED, score=score, keep=qkv.causal()), SIZES, align="end"))


def backward(bound: Bound) -> None:
    """Gradients of raw scores and of every float table against torch's, which derives the reader for values."""
    assert bound.lowered.score is not None
    tables = tuple(c for c in captured_in(bound.lowered.score) if c.kind is Kind.FLOAT)
    flat = Flat.of(bound, tables)
    terms = flat.program.bind(bound)
    dtype, raw, mask = bound.working_dtype, flat.raw(), flat.mask()
    incoming = flat.raw().flip(0)
    wide = {c: bound.tables[c].detach().double().requires_grad_() for c in tables}
    start = raw.double().requires_grad_()
    env = environment(bound, {}, torch.float64, flat.unflat(start), {**bound.tables, **wide}, flat.unflat(mask))
    value = flat.flat(evaluate(bound.lowered.score, env))
    torch.where(mask, value * incoming.double(), 0.0).sum().backward()
    found = [torch.zeros(t.tensor.shape if t not in wide else wide[t].shape, dtype=dtype) for t in flat.program.tables]
    addresses = [g.data_ptr() if t in wide else 0 for g, t in zip(found, flat.program.tables, strict=True)]
    addresses += [0] * len(flat.program.given)
    d_scores = incoming.masked_fill(~mask, math.nan)
    for shared in range(flat.shared):  # in pieces that meet at odd places
        for row0, row1 in itertools.pairwise([0, 5, flat.rows // 2, flat.rows]):
            for key0, key1 in itertools.pairwise([0, flat.keys // 3, flat.keys]):
                raws, part = (x[shared, row0:row1, key0:key1] for x in (raw, d_scores))
                assert raws.stride() == part.stride()
                place = (shared, row0, row1 - row0, key0, key1 - key0)
                terms.backward(*place, raws.data_ptr(), part.data_ptr(), part.stride(0), True, addresses)
    close = 2e-5 if dtype == torch.float32 else 1e-12
    assert start.grad is not None or not any(isinstance(n, Score) for n in walk(bound.lowered.score))
    wanted = torch.zeros_like(raw) if start.grad is None else start.grad.to(dtype)
    assert bool(((d_scores - wanted).abs() <= close * (wanted.abs() + incoming.abs())).all())  # slopes cancel
    for table, gradient in zip(flat.program.tables, found, strict=True):
        if table in wide:
            expected = wide[table].grad
            assert expected is not None
            scale = float(expected.abs().max())
            torch.testing.assert_close(gradient.double(), expected, rtol=close, atol=close * max(1.0, scale))


# ---- rows of a table of values


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_a_table_of_values(form: str) -> None:
    bound = bound_call(qkv.Spec(GROUPED, score=qkv.shaw(drawn(5, 4), drawn(5, 4))), SIZES, **FORMS[form])
    assert bound.lowered.row_table is not None
    flat = Flat.of(bound)
    wanted = flat.flat(evaluate(bound.lowered.row_table[1], environment(bound, {}, torch.float32)))
    found = torch.full((flat.rows, flat.keys + SLACK), -9, dtype=torch.int32)
    assert flat.program.bind(bound).rows(1, 0, flat.rows, 0, flat.keys, found.data_ptr(), found.stride(0)) == -1
    assert torch.equal(found[:, :-SLACK].long(), wanted[1])
    assert bool((found[:, -SLACK:] == -9).all())


# ---- lookups outside their tables


@pytest.mark.parametrize(
    ("keep", "score", "outside"),
    [
        (None, lambda score, i, j: score + TABLE[i - j], True),
        (qkv.causal(), lambda score, i, j: score + TABLE[i - j], False),
        (qkv.causal(), lambda score, i, j: score + TABLE[i - j + 17], True),
        (None, lambda score, i, j: qkv.where(i >= j, TABLE[i - j], score), False),
        (None, lambda score, i, j: qkv.where(i < j, score, TABLE[i - j] * 2.0), False),
        (None, lambda score, i, j: qkv.where((i >= j) & (TABLE[i - j] > 0), score, 1.0), False),
        (None, lambda score, i, j: qkv.where((i < j) | (TABLE[i - j] > 0), score, 1.0), False),
        (None, lambda score, i, j: qkv.where((i < j) | (TABLE[i - j] > 0), score, TABLE[i - j]), False),
        (None, lambda score, i, j: qkv.where((i > j) & (TABLE[i - j] > 0), score, TABLE[i - j]), True),
        (None, lambda score, i, j: score + TABLE[torch.clamp(i - j, 0, 60)], False),
    ],
)
def test_lookups_outside_their_tables(keep: Any, score: Any, outside: bool) -> None:
    spec = qkv.Spec(PLAIN, keep=keep, score=qkv.score(score))
    sizes = {"b": 1, "h": 1, "i": 61, "j": 61, "d": 1, "e": 1}
    bound = bound_call(spec, sizes)
    flat = Flat.of(bound)
    raw = flat.raw()[0]
    number = flat.program.bind(bound).evaluate(0, 0, 61, 0, 61, raw.data_ptr(), 61, True)
    assert (number != -1) == outside
    if outside:
        assert flat.program.lookups[number].table.tensor is TABLE


# ---- random graphs

INEXACT = frozenset(("sqrt", "exp", "log", "tanh", "sigmoid", "erf", "sin", "cos", "pow"))
BROKEN = frozenset(("floor", "mod", "floordiv", "lt", "le", "eq", "ne", "gt", "ge"))


def exact(node: Node, *others: str) -> bool:
    """Whether two readers must agree on every bit: no function of a library occurs, and none of ``others``."""
    return not any(getattr(n, "operation", "") in {*INEXACT, *others} for n in walk(node))


def delicate(node: Node, *others: str) -> bool:
    """Whether a jump stands on a number that two readers may round differently."""
    return any(
        getattr(n, "operation", "") in BROKEN and not all(exact(c, *others) for c in children(n)) for n in walk(node)
    )


def outside_at(bound: Bound, node: Node, dtype: torch.dtype, mask: torch.Tensor | None) -> bool:
    """Whether the reader for values notes a lookup outside its table at a pair that counts."""
    env = environment(bound, {}, dtype)
    evaluate(node, env)
    return any(bool((where if mask is None else where & mask).any()) for _, where in env.outside)


RANDOM = {"b": 1, "h": 1, "i": 21, "j": 23, "d": 1, "e": 1}


@given(truths(), st.integers(-4, 12), st.booleans())
@settings(max_examples=300, deadline=None)
def test_random_masks(node: Node, first: int, tensors: bool) -> None:
    assume(not delicate(node))
    positions: dict[str, Any] = {"i": first, "j": 2}
    if tensors:
        positions = {"i": torch.arange(21) + first, "j": torch.arange(23).flip(0)}
    bound = bound_call(qkv.Spec(PLAIN, keep=CustomKeep(("i", "j"), node)), RANDOM, positions=positions)
    if bound.lowered.keep is None:
        return
    flat = Flat.of(bound)
    raw = torch.zeros(21, 23)
    terms = flat.program.bind(bound)
    outside = terms.evaluate(0, 0, 21, 0, 23, raw.data_ptr(), 23, True)
    assert (outside != -1) == outside_at(bound, bound.lowered.keep, torch.float64, None)
    assert torch.equal(raw == 0, flat.mask()[0])
    for place in flat.places():
        verdict, kept = terms.verdict(*place), at(flat.mask(), place)
        assert not (verdict == 0 and bool(kept.any())) and not (verdict == 1 and not bool(kept.all()))


@given(st.one_of(reals(), wholes()), truths(), st.integers(-4, 12), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=300, deadline=None)
def test_random_scores(node: Node, mask: Node, first: int, dtype: torch.dtype) -> None:
    assume(not delicate(node, "div") and exact(mask, "div"))  # by a number, a float is multiplied
    graph = apply(
        "add", apply("mul", Score(), Constant(2.0)), apply("select", mask, apply("float", node), Constant(1.0))
    )
    spec = qkv.Spec(PLAIN, score=CustomScore(("i", "j"), graph), keep=qkv.causal())
    bound = bound_call(spec, RANDOM, dtype, positions={"i": first, "j": 2})
    flat = Flat.of(bound)
    raw = flat.raw()[0].clone()
    wanted = flat.expected(flat.raw())[0]
    outside = flat.program.bind(bound).evaluate(0, 0, 21, 0, 23, raw.data_ptr(), 23, True)
    env = environment(bound, {}, dtype, flat.unflat(flat.raw()))
    assert bound.lowered.score is not None
    evaluate(bound.lowered.score, env)
    seen = any(bool((where & flat.unflat(flat.mask())).any()) for _, where in env.outside)
    assert (outside != -1) == seen
    if exact(node, "div"):
        assert torch.equal(raw.nan_to_num(nan=123.0), wanted.nan_to_num(nan=123.0))
    else:
        close = 1e-4 if dtype == torch.float32 else 1e-11
        torch.testing.assert_close(raw, wanted, rtol=close, atol=close, equal_nan=True)


# ---- what is no program


def graph_with(**changes: Any) -> Any:
    """A graph of two positions compared, with parts exchanged."""
    nodes = [(1, 1, [], 0, 0, 0.0), (1, 1, [], 1, 0, 0.0), (14, 0, [1, 0], -1, 0, 0.0)]
    parts: dict[str, Any] = {
        "nodes": nodes, "num_coordinates": 2, "num_tables": 0, "keep": 2, "score": -1, "by_score": -1, "row": -1,
        "gradients": [], "keep_guards": [], "score_guards": [], "row_guards": [],
    }  # fmt: skip
    return loaded().Graph(**{**parts, **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nodes": [(1, 1, [], 9, 0, 0.0)], "keep": -1}, "node 0 .* reads coordinate 9, which is not there"),
        ({"nodes": [(99, 1, [], 0, 0, 0.0)], "keep": -1}, "node 0 .* has no known operation"),
        ({"nodes": [(1, 7, [], 0, 0, 0.0)], "keep": -1}, "node 0 .* has no known kind"),
        ({"nodes": [(18, 0, [0], -1, 0, 0.0)], "keep": -1}, "node 0 .* does not stand before it"),
        ({"nodes": [(5, 2, [], 0, 0, 0.0)], "keep": -1}, "node 0 .* reads table 0, which is not there"),
        ({"nodes": [(6, 1, [0, 0, 0, 0], 0, 0, 0.0)], "keep": -1}, "more than three operands"),
        ({"keep": 5}, 'the part "keep" .* is node 5, which is not there'),
        ({"keep": 1}, 'the part "keep" .* has another kind'),
        ({"score_guards": [(0, 2)]}, "is of node 0, which is no lookup"),
        ({"num_tables": -1}, "a negative number"),
    ],
)
def test_what_is_no_graph_is_an_internal_error(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InternalError, match=says):
        graph_with(**changes)


@pytest.mark.parametrize(
    ("coordinates", "tables", "says"),
    [
        ([(1, 4, 1, 0)], [], "binds 1 coordinates and 0 tables; its graph has 2 and 0"),
        ([(1, 0, 1, 0), (2, 4, 1, 0)], [], "out of range"),
        ([(1, 4, 0, 0), (2, 4, 1, 0)], [], "out of range"),
        ([(9, 4, 1, 0), (2, 4, 1, 0)], [], "out of range"),
        ([(1, 4, 1, 0), (2, 4, 1, 0)], [(0, 6, [3], [1], False)], "binds 2 coordinates and 1 tables"),
    ],
)
def test_what_does_not_fit_its_graph_is_an_internal_error(coordinates: Any, tables: Any, says: str) -> None:
    with pytest.raises(InternalError, match=says):
        graph_with().bind(coordinates, tables, False, [])


def test_calls_that_differ_in_nothing_share_their_programs() -> None:
    spec = qkv.Spec(GROUPED, keep=qkv.causal(), score=qkv.softcap(3.0))
    first, again = (bound_call(spec, SIZES, align="end") for _ in range(2))
    assert Flat.of(first).program.bind(first) is Flat.of(again).program.bind(again)
    other = bound_call(spec, SIZES, align="start")
    assert Flat.of(first).program.bind(first) is not Flat.of(other).program.bind(other)


def test_programs_that_read_a_callers_mask_are_made_anew() -> None:
    mask = flags(2, 61)
    spec = qkv.Spec(GROUPED, keep=qkv.padding(mask))
    compare(bound_call(spec, SIZES))
    mask.logical_not_()
    compare(bound_call(spec, SIZES))


@pytest.mark.parametrize("target", cpu_targets())
def test_every_target(target: str) -> None:
    with using_cpu_target(target):
        for name in ("window", "bigbird", "documents"):
            test_masks(name, torch.float32)
        for name in ("several", "bias of halves by strides", "bias of bfloat16", "t5", "branches", "a reciprocal"):
            test_scores(name, torch.float32)
            test_backward_against_torch(name, torch.float32)
        test_backward_against_torch("t5", torch.float64)
