"""What a Named is: a tensor and its names, checked once and then trusted."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from qkv import limits
from qkv.coords.named import Named
from qkv.errors import CoordinateError, LimitError, PatternError, ShapeError


def named(*shape: int, names: str) -> Named:
    return Named(torch.randn(shape), names)


def test_names_as_text_or_sequence():
    tensor = torch.randn(2, 3)
    for names in ("b i", ("b", "i"), ["b", "i"], iter(("b", "i"))):
        x = Named(tensor, names)
        assert x.names == ("b", "i")
        assert x.tensor is tensor
        assert x.sizes == {"b": 2, "i": 3}
    assert Named(torch.tensor(1.0), "").names == ()
    assert Named(torch.nn.Parameter(tensor), "b i").tensor.requires_grad


def test_a_rest_takes_the_axes_that_are_left():
    x = named(2, 3, 4, 5, names="..b i d")
    assert x.names == ("b.0", "b.1", "i", "d")
    assert named(4, 5, names="..b i d").names == ("i", "d")
    assert x.sum("..b").names == ("i", "d")
    assert x.order("i d ..b").names == ("i", "d", "b.0", "b.1")


def test_there_is_nothing_but_tensor_and_names():
    x = named(2, names="b")
    assert Named.__slots__ == ()
    with pytest.raises(AttributeError):
        x.other = 1


def test_repr_says_names_sizes_and_dtype():
    assert repr(Named(torch.zeros(2, 8, 16, 64), "b h i d")) == "Named(b=2 h=8 i=16 d=64, float32)"
    assert repr(Named(torch.zeros(3, dtype=torch.bool), "j")) == "Named(j=3, bool)"
    assert repr(Named(torch.tensor(1), "")) == "Named(no coordinates, int64)"
    assert repr(Named(torch.zeros(3, device="meta"), "j")) == "Named(j=3, float32, meta)"


def test_size_dtype_device():
    x = named(2, 3, names="b i")
    assert (x.size("i"), x.dtype, x.device) == (3, torch.float32, torch.device("cpu"))


def test_copies_and_pickles():
    x = named(2, 3, names="b i")
    for again in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):  # noqa: S301
        assert type(again) is Named
        assert again.names == x.names
        assert torch.equal(again.tensor, x.tensor)
    assert copy.copy(x).tensor is x.tensor
    assert copy.deepcopy(x).tensor is not x.tensor


def test_numbers():
    one = Named(torch.tensor([[2.5]]), "b i")
    assert (one.item(), float(one), int(one)) == (2.5, 2.5, 2)
    assert bool(one)
    assert not Named(torch.tensor(0), "")


def test_many_elements_are_no_number(message):
    x = named(2, 3, names="b i")
    assert message(ShapeError, x.item) == [
        "Named(b=2 i=3, float32) has 6 elements, and one number is asked.",
        "  Reduce it by name first, such as .sum('b', 'i')",
    ]
    message(ShapeError, lambda: float(x))
    message(ShapeError, lambda: int(x))
    with pytest.raises(TypeError, match="complex"):
        float(Named(torch.tensor(1j), ""))


def test_many_elements_are_neither_true_nor_false(message):
    x = named(2, 3, names="b i")
    expected = [
        "Named(b=2 i=3, bool) has 6 elements, so it is neither true nor false.",
        "  Say which is meant with .all() or .any(); combine conditions with & | ~, and choose with qkv.where.",
    ]
    assert message(ShapeError, lambda: bool(x > 0)) == expected
    assert message(ShapeError, lambda: (x > 0) and (x < 1)) == expected
    assert message(ShapeError, lambda: 0 < x < 1) == expected
    message(ShapeError, lambda: bool(Named(torch.zeros(0), "i")))


def test_places_are_named(message):
    x = named(2, 3, names="b i")
    for call in (lambda: x[0], lambda: x[:, None], lambda: x["b"]):
        assert message(CoordinateError, call) == [
            "axes of Named(b=2 i=3, float32) are named, so they cannot be indexed by place.",
            "  Write x.at(i=3) for one element of a coordinate, and x.slice(i=slice(2, 5)) for a part.",
        ]
    with pytest.raises(TypeError):
        iter(x)
    with pytest.raises(TypeError):
        list(x)
    with pytest.raises(TypeError):
        x[0] = 1
    with pytest.raises(TypeError):
        len(x)


def test_matmul_names_dot(message):
    x = named(2, 3, names="b i")
    for call in (lambda: x @ x, lambda: x @ x.tensor, lambda: np.ones((2, 2)) @ x, lambda: x.tensor @ x):
        assert message(CoordinateError, call) == [
            '"@" does not say which coordinate of Named(b=2 i=3, float32) is contracted.',
            '  Name it: a.dot(b, "d"); this tensor carries "b" and "i".',
        ]


def test_the_number_of_names(message):
    assert message(ShapeError, lambda: named(2, 3, names="b i d")) == [
        "the tensor has 2 axes, and 3 are named.",
        "    names: b i d",
        "  Name every axis, or write ..b for any number of leading ones.",
    ]
    assert (
        message(ShapeError, lambda: named(2, names="..b i d"))[0] == "the tensor has 1 axis, and at least 2 are named."
    )
    assert message(ShapeError, lambda: named(2, 3, names="i"))[0] == "the tensor has 2 axes, and 1 is named."
    assert message(ShapeError, lambda: Named(torch.zeros(2, 3), ("b",))) == [
        "the tensor has 2 axes, and 1 names are given.",
        "    names: b",
        "    shape: (2, 3)",
        "  Name every axis once.",
    ]


def test_merged_axes_are_parted_first(message):
    assert message(PatternError, lambda: named(2, 8, names="b (h g)")) == [
        '"(h g)" is not the name of one axis.',
        "    b (h g)",
        "      ^^^^^",
        '  Give the axis one name, and part it with its sizes: qkv.Named(x, "h_g").split("h_g", "h g", ...)',
    ]
    assert message(PatternError, lambda: named(2, 1, names="b 1"))[-1] == (
        "  Squeeze the axis, or give it a name: a size of 1 is a size like any other."
    )


def test_names_that_are_none(message):
    for names in (("b", "2"), ("b", ""), ("b", "h i"), ("b", "h.x"), ("b", "é")):
        lines = message(PatternError, lambda names=names: Named(torch.zeros(2, 3), names))
        assert lines == [
            f"{names[1]!r} is not a name.",
            '  Names begin with a letter or _, and have letters, digits and _; or write one text: "b h i d"',
        ]
    message(PatternError, lambda: Named(torch.zeros(2, 3), (0, 1)))
    assert message(CoordinateError, lambda: Named(torch.zeros(2, 3), ("b", "b"))) == [
        '"b" names two axes of one tensor.',
        "    names: b b",
        "  Each axis has its own name, even where two lengths agree.",
    ]
    assert message(PatternError, lambda: Named(torch.zeros(2, 3), "b b"))[0] == '"b" stands twice in the tensor.'


def test_limits(message):
    long = "n" * (limits.NAME_CHARACTERS + 1)
    assert message(LimitError, lambda: Named(torch.zeros(1), (long,)))[0] == (
        "a coordinate's name has 65 characters, and at most 64 are read."
    )
    many = tuple(f"n{number}" for number in range(limits.AXES_PER_TENSOR + 1))
    assert message(LimitError, lambda: Named(torch.zeros([1] * len(many)), many)) == [
        "33 axes are named, and at most 32 are carried.",
        "  Merge axes before.",
    ]


def test_what_is_no_tensor(message):
    assert message(ShapeError, lambda: Named([1, 2], "i")) == [
        "names were given for list [1, 2], which is not a tensor.",
        "  Give a torch.Tensor: torch.as_tensor(...) makes one.",
    ]
    message(ShapeError, lambda: Named(np.zeros(3), "i"))
    message(ShapeError, lambda: Named(None, "i"))
    assert message(CoordinateError, lambda: Named(named(2, names="b"), "i")) == [
        "Named(b=2, float32) has names already.",
        '  Rename with x.rename(old="new"), reorder with x.order("..."), or name x.tensor anew.',
    ]


def test_an_unknown_name_suggests_the_nearest(message):
    x = named(2, 3, names="batch seq_q")
    assert message(CoordinateError, lambda: x.size("seq_k")) == [
        'size names "seq_k", which the tensor does not carry.',
        "    tensor: batch=2 seq_q=3",
        '  Did you mean "seq_q"?',
    ]
    assert message(CoordinateError, lambda: x.size("z"))[-1] == '  It carries "batch" and "seq_q".'
    assert message(CoordinateError, lambda: x.size("b"))[-1] == '  Did you mean "batch"?'
    assert message(CoordinateError, lambda: x.size("Batch"))[-1] == '  Did you mean "batch"?'
    assert message(CoordinateError, lambda: Named(torch.tensor(1), "").size("b"))[-1] == "  It carries no coordinates."


def test_wrapping_costs_little():
    import timeit

    tensor = torch.zeros(2, 8, 16, 64)
    number = 20_000
    best = min(timeit.repeat(lambda: Named(tensor, "b h i d"), number=number, repeat=9)) / number
    # Measured 0.3 to 0.5 microseconds; the promise of the design is below one, on a machine that is not busy.
    assert best < 3e-6


def test_named_code_compiles_whole():
    def attention(q, k, v):
        q, k, v = Named(q, "b i d"), Named(k, "b j d"), Named(v, ("b", "j", "e"))
        scores = q.dot(k, "d") * 0.5
        weights = scores.softmax("j", where=scores.index("j") <= scores.index("i"))
        return weights.dot(v, "j").order("b i e").tensor

    q, k, v = torch.randn(2, 5, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 3)
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    assert torch.equal(compiled(q, k, v), attention(q, k, v))
