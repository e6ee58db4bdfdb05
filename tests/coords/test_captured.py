"""Captured tensors: a bias or a mask against the sizes of a call."""

from __future__ import annotations

from qkv.coords.captured import fit
from qkv.coords.pattern import parse_tensor
from qkv.errors import CoordinateError, ShapeError, SizeMismatch

SIZES = {"b": 2, "h": 8, "i": 5, "j": 7, "d": 64}


def fitted(names, shape, sizes=None):
    return fit(parse_tensor(names), shape, sizes or SIZES, "bias")


def test_what_fits():
    assert fitted("h i j", (8, 5, 7)) == parse_tensor("h i j")
    assert fitted("", ()).axes == ()
    assert fitted("(b h) 1 j", (16, 1, 7)).merged == (("b", "h"),)


def test_a_rest_takes_the_last_coordinates_of_the_call():
    sizes = {"b.0": 2, "b.1": 3, "i": 5, "j": 7}
    assert fitted("..b i j", (2, 3, 5, 7), sizes).coordinates == ("b.0", "b.1", "i", "j")
    assert fitted("..b i j", (3, 5, 7), sizes).coordinates == ("b.1", "i", "j")
    assert fitted("..b i j", (5, 7), sizes).coordinates == ("i", "j")


def test_a_size_that_disagrees(message):
    assert message(SizeMismatch, lambda: fitted("h i j", (4, 5, 7))) == [
        'coordinate "h" has two sizes.',
        "    call: h=8   (b=2 h=8 i=5 j=7 d=64)",
        "    bias: h=4   (h=4 i=5 j=7)",
        '  Every tensor that carries "h" must agree.',
    ]
    lines = message(SizeMismatch, lambda: fitted("h i j", (1, 5, 7)))
    assert lines[-1] == (
        '  Every tensor that carries "h" must agree. A size of 1 does not spread: squeeze it and leave the name out.'
    )
    lines = message(SizeMismatch, lambda: fitted("(b h) j", (8, 7)))
    assert lines[:3] == [
        'the axis "(b h)" has two sizes.',
        "    call: (b h)=16   (b=2 h=8 i=5 j=7 d=64)",
        "    bias: (b h)=8   ((b h)=8 j=7)",
    ]
    assert message(SizeMismatch, lambda: fitted("1 j", (2, 7)))[0] == 'the axis "1" has two sizes.'


def test_the_error_carries_what_was_seen():
    try:
        fitted("h i j", (4, 5, 7))
    except SizeMismatch as caught:
        assert caught.coordinate == "h"
        assert caught.seen == {"call": 8, "bias": 4}
    else:
        raise AssertionError("nothing was raised")


def test_an_unknown_letter(message):
    assert message(CoordinateError, lambda: fitted("h i k", (8, 5, 7))) == [
        'bias carries "k", which no tensor of the call carries.',
        "    h i k",
        "        ^",
        "    call: b=2 h=8 i=5 j=7 d=64",
        '  The call carries "b", "h", "i", "j" and "d".',
    ]
    lines = message(CoordinateError, lambda: fitted("head j", (8, 7)))
    assert lines[-1] == '  Did you mean "h"?'


def test_the_number_of_axes(message):
    assert message(ShapeError, lambda: fitted("h i j", (5, 7))) == [
        "bias has 2 axes, and 3 are named.",
        "    names: h i j",
        "    shape: (5, 7)",
        "  Name every axis once.",
    ]
    assert message(ShapeError, lambda: fitted("j", (5, 7)))[0] == "bias has 2 axes, and 1 is named."
    assert message(ShapeError, lambda: fitted("..b i j", (7,)))[0] == "bias has 1 axis, and at least 2 are named."
    lines = message(ShapeError, lambda: fitted("..b i j", (2, 3, 5, 7), {"b.0": 3, "i": 5, "j": 7}))
    assert lines == [
        "..b stands for 2 coordinates in bias, and for 1 in the call.",
        "    names: ..b i j",
        "    shape: (2, 3, 5, 7)",
        "    call:  b.0=3 i=5 j=7",
        "  A captured tensor carries at most the coordinates of the call.",
    ]
