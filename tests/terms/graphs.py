"""Random graphs over the positions "i" and "j", and what they are evaluated in; shared by the tests of the readers."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from qkv.terms.expr import Captured, Constant, Kind, Node, Position, apply, look_up
from qkv.terms.values import Environment

TABLE_SIZE = 24
WHOLE = Captured(torch.arange(TABLE_SIZE) * 7 % 11 - 3, "whole")
REAL = Captured(torch.linspace(-2.0, 3.0, TABLE_SIZE), "real")
TRUTH = Captured(torch.arange(TABLE_SIZE) % 3 == 0, "truth")
SQUARE = Captured((torch.arange(TABLE_SIZE * 5).view(TABLE_SIZE, 5) * 13 % 29).float() - 9, "square")

WHOLE_OPERATIONS = ("add", "sub", "mul", "floordiv", "mod", "min", "max")
REAL_OPERATIONS = (*WHOLE_OPERATIONS, "div", "pow")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
FUNCTIONS = ("exp", "log", "sqrt", "tanh", "sigmoid", "erf", "sin", "cos", "float")

LEAVES = st.one_of(
    st.sampled_from([Position("i"), Position("j")]),
    st.integers(-6, 9).map(Constant),
)
REALS = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, -1.5, 0.1, 3.3, 1e-3, 1e30, float("inf"), float("-inf"), float("nan")]).map(
        Constant
    ),
    LEAVES.map(lambda n: apply("float", n)),
    LEAVES.map(lambda n: look_up(REAL, (n,))),
    st.tuples(LEAVES, LEAVES).map(lambda n: look_up(SQUARE, n)),
)


def _wholes(smaller: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return st.one_of(
        st.tuples(st.sampled_from(WHOLE_OPERATIONS), smaller, smaller).map(lambda t: apply(*t)),
        st.tuples(st.sampled_from(("neg", "abs")), smaller).map(lambda t: apply(*t)),
        smaller.map(lambda n: look_up(WHOLE, (n,))),
        st.tuples(smaller, smaller, smaller).map(lambda t: apply("select", apply("lt", t[0], t[1]), t[1], t[2])),
    )


def _reals(smaller: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return st.one_of(
        st.tuples(st.sampled_from(REAL_OPERATIONS), smaller, smaller).map(lambda t: apply(*t)),
        st.tuples(st.sampled_from((*FUNCTIONS, "neg", "abs")), smaller).map(lambda t: apply(*t)),
        st.tuples(smaller, wholes()).map(lambda t: apply("add", *t)),
        st.tuples(smaller, smaller, smaller).map(lambda t: apply("select", apply("ge", t[0], t[1]), t[1], t[2])),
    )


def wholes() -> st.SearchStrategy[Node]:
    """Graphs whose values are whole numbers."""
    return st.recursive(LEAVES, _wholes, max_leaves=6)


def reals() -> st.SearchStrategy[Node]:
    """Graphs whose values are floats, NaN and infinities among them."""
    return st.recursive(REALS, _reals, max_leaves=5)


def truths() -> st.SearchStrategy[Node]:
    """Graphs whose values are truth values."""
    atoms = st.one_of(
        st.tuples(st.sampled_from(COMPARISONS), wholes(), wholes()).map(lambda t: apply(*t)),
        st.tuples(st.sampled_from(COMPARISONS), reals(), reals()).map(lambda t: apply(*t)),
        wholes().map(lambda n: look_up(TRUTH, (n,))),
    )
    return st.recursive(
        atoms,
        lambda smaller: st.one_of(
            st.tuples(st.sampled_from(("and", "or", "xor")), smaller, smaller).map(lambda t: apply(*t)),
            smaller.map(lambda n: apply("not", n)),
            st.tuples(smaller, smaller, smaller).map(lambda t: apply("select", *t)),
        ),
        max_leaves=4,
    )


def environment(
    first_i: int, last_i: int, first_j: int, last_j: int, dtype: torch.dtype = torch.float64, **more: object
) -> Environment:
    """Every pair of positions from the first to the last, inclusive."""
    i, j = torch.arange(first_i, last_i + 1)[:, None], torch.arange(first_j, last_j + 1)[None]
    sizes = {"i": i.numel(), "j": j.numel()}
    places = {"i": i, "j": j}
    return Environment(places, places, sizes, dtype, torch.device("cpu"), **more)  # type: ignore[arg-type]


def kind_of(dtype: torch.dtype) -> Kind:
    """The kind whose values a tensor of this type holds."""
    if dtype == torch.bool:
        return Kind.BOOL
    return Kind.FLOAT if dtype.is_floating_point else Kind.INT
