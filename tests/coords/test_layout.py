"""Renaming, parting, merging, ordering and choosing by name."""

from __future__ import annotations

import pytest
import torch

from qkv.coords.named import Named
from qkv.errors import CoordinateError, DtypeError, LimitError, PatternError, ShapeError, SizeMismatch


def x() -> Named:
    return Named(torch.arange(24.0).reshape(2, 3, 4), "b i d")


def test_rename():
    assert x().rename(i="seq_q").names == ("b", "seq_q", "d")
    assert x().rename({"i": "j"}, d="e").names == ("b", "j", "e")
    assert x().rename(i="d", d="i").names == ("b", "d", "i")
    assert x().rename().names == x().names
    tensor = torch.zeros(2)
    assert Named(tensor, "b").rename(b="c").tensor is tensor
    rest = Named(torch.zeros(2, 3, 4), "..b d")
    assert rest.rename({"b.0": "x", "b.1": "y"}).names == ("x", "y", "d")


def test_rename_refuses(message):
    assert message(CoordinateError, lambda: x().rename(j="i")) == [
        'rename names "j", which the tensor does not carry.',
        "    tensor: b=2 i=3 d=4",
        '  It carries "b", "i" and "d".',
    ]
    assert message(CoordinateError, lambda: x().rename(i="d")) == [
        'rename would give "d" to two axes.',
        "    tensor: b=2 i=3 d=4",
        "  Choose another name, or rename the axis that has it.",
    ]
    message(PatternError, lambda: x().rename(i="2"))
    message(PatternError, lambda: x().rename(i=3))
    message(LimitError, lambda: x().rename(i="n" * 65))


def test_split_is_major_to_minor():
    a = x().split("d", "h g", g=2)
    assert a.names == ("b", "i", "h", "g")
    assert torch.equal(a.tensor, x().tensor.reshape(2, 3, 2, 2))
    assert x().split("d", "h g", h=4).sizes["g"] == 1
    assert x().split("d", "h g", h=4, g=1).sizes == {"b": 2, "i": 3, "h": 4, "g": 1}
    assert x().split("d", "d g", g=2).names == ("b", "i", "d", "g")
    assert x().split("d", "e").names == ("b", "i", "e")
    assert Named(torch.zeros(0, 3), "n d").split("n", "b m", m=2).sizes == {"b": 0, "m": 2, "d": 3}


def test_split_of_a_strided_tensor():
    a = x().order("d i b").split("d", "h g", g=2)
    assert torch.equal(a.tensor, x().tensor.permute(2, 1, 0).reshape(2, 2, 3, 2))


def test_split_refuses(message):
    assert message(CoordinateError, lambda: x().split("e", "h g", g=2))[0] == (
        'split names "e", which the tensor does not carry.'
    )
    assert message(SizeMismatch, lambda: x().split("d", "h g")) == [
        'split of "d" leaves the sizes of "h" and "g" open.',
        "    d=4 into h=? g=?",
        "  Give all but one, such as g=2",
    ]
    assert message(SizeMismatch, lambda: x().split("d", "h g", g=3)) == [
        "d=4 is not a multiple of g=3.",
        "    d=4 into h=? g=3",
        "  The parts of a coordinate must make its size.",
    ]
    assert message(SizeMismatch, lambda: x().split("d", "h g", h=3, g=2)) == [
        "d=4 is not h=3 * g=2 = 6.",
        "    d=4 into h=3 g=2",
        "  The parts of a coordinate must make its size.",
    ]
    assert message(SizeMismatch, lambda: x().split("d", "h g", g=0))[0] == 'split of "d" leaves the sizes of "h" open.'
    assert message(SizeMismatch, lambda: x().split("d", "h g", g=2.0))[0] == (
        'split gives "g" the size 2.0, and a size is an integer from 0.'
    )
    assert message(CoordinateError, lambda: x().split("d", "h g", group=2))[0].startswith('split names "group"')
    assert message(CoordinateError, lambda: x().split("d", "i g", g=2))[0] == 'split would give "i" to two axes.'
    assert message(CoordinateError, lambda: x().split("d", "g g", g=2))[0] == '"g" names two axes of one tensor.'
    assert message(PatternError, lambda: x().split("d", " ")) == [
        'split of "d" is given no names.',
        '  Name the parts, major first: "h g"',
    ]
    message(PatternError, lambda: x().split("d", "(h g) k", g=2))


def test_merge_is_major_to_minor():
    assert x().merge("i d", into="f").sizes == {"b": 2, "f": 12}
    assert torch.equal(x().merge("i d", into="f").tensor, x().tensor.reshape(2, 12))
    swapped = x().merge("d i", into="f")
    assert swapped.names == ("b", "f")
    assert torch.equal(swapped.tensor, x().tensor.transpose(1, 2).reshape(2, 12))
    apart = x().merge("d b", into="f")
    assert apart.names == ("i", "f")
    assert torch.equal(apart.tensor, x().tensor.permute(1, 2, 0).reshape(3, 8))
    assert x().merge("i d", into="d").names == ("b", "d")
    assert x().merge("d", into="e").names == ("b", "i", "e")


def test_merge_of_neighbours_is_a_view():
    a = x()
    assert a.merge("b i", into="n").tensor.data_ptr() == a.tensor.data_ptr()


def test_merge_refuses(message):
    assert message(CoordinateError, lambda: x().merge("", into="f")) == [
        'merge into "f" is given no names.',
        "    tensor: b=2 i=3 d=4",
        '  Name the parts, major first: x.merge("h g", into="head")',
    ]
    assert message(CoordinateError, lambda: x().merge("i d", into="b"))[0] == 'merge would give "b" to two axes.'
    assert message(CoordinateError, lambda: x().merge("i j", into="f"))[0].startswith('merge names "j"')


def test_order():
    for given in (("d b i",), ("d", "b", "i"), ("d b", "i")):
        assert x().order(*given).names == ("d", "b", "i")
    assert torch.equal(x().order("d b i").tensor, x().tensor.permute(2, 0, 1))
    a = x()
    assert a.order("b i d") is a
    assert a.order("i b d").tensor.data_ptr() == a.tensor.data_ptr()


def test_order_names_every_coordinate(message):
    assert message(CoordinateError, lambda: x().order("d b")) == [
        'order leaves out "i".',
        "    tensor: b=2 i=3 d=4",
        '  Name every coordinate: x.order("d b i")',
    ]
    assert message(CoordinateError, lambda: x().order("d b i j"))[0].startswith('order names "j"')


def test_only(message):
    one = Named(torch.zeros(2, 1, 3), "b c d")
    assert one.only("c").sizes == {"b": 2, "d": 3}
    assert message(SizeMismatch, lambda: one.only("d")) == [
        'coordinate "d" has size 3, and only() asks for 1.',
        "    tensor: b=2 c=1 d=3",
        '  Choose one with .at(d=0), or reduce it with .sum("d") or .mean("d").',
    ]
    assert message(CoordinateError, lambda: one.only("k"))[0].startswith('size names "k"')


def test_at_drops_coordinates():
    a = x()
    assert a.at(i=1).names == ("b", "d")
    assert torch.equal(a.at(i=-1, b=0).tensor, a.tensor[0, -1])
    assert a.at() is a


def test_at_refuses(message):
    assert message(ShapeError, lambda: x().at(i=3)) == [
        "i=3 lies outside.",
        "    tensor: b=2 i=3 d=4",
        '  "i" has 3 places, counted from 0.',
    ]
    assert message(ShapeError, lambda: x().at(i=-4))[0] == "i=-4 lies outside."
    assert message(CoordinateError, lambda: x().at(j=0))[0].startswith('at names "j"')
    for place in (1.0, True, slice(1, 2), None):
        assert message(CoordinateError, lambda place=place: x().at(i=place))[0] == (
            f'at("i") is given {place!r}, which is no place.'
        )


def test_at_places_that_are_named():
    table, places = Named(torch.randn(5, 2), "bucket h"), Named(torch.randint(0, 5, (3, 4)), "i j")
    result = table.at(bucket=places)
    assert result.names == ("i", "j", "h")
    assert torch.equal(result.tensor, table.tensor[places.tensor])


def test_places_that_share_a_coordinate_are_paired():
    a, places = x(), Named(torch.tensor([[0, 2, 2], [1, 0, 1]]), "b n")
    result = a.at(i=places)
    assert result.names == ("b", "n", "d")
    assert torch.equal(result.tensor, torch.stack([a.tensor[b][places.tensor[b]] for b in range(2)]))


def test_gradients_flow_into_a_table():
    table = Named(torch.randn(5, requires_grad=True), "bucket")
    table.at(bucket=Named(torch.tensor([1, 1, 3], dtype=torch.int32), "i")).sum().tensor.backward()
    assert table.tensor.grad.tolist() == [0, 2, 0, 1, 0]


def test_named_places_are_checked(message):
    assert message(ShapeError, lambda: x().at(i=Named(torch.tensor([0, 3]), "n"))) == [
        'places from 0 to 3 of "i" lie outside.',
        "    tensor: b=2 i=3 d=4",
        '  "i" has 3 places, counted from 0.',
    ]
    message(ShapeError, lambda: x().at(i=Named(torch.tensor([-1]), "n")))
    assert message(DtypeError, lambda: x().at(i=Named(torch.tensor([0.0]), "n"))) == [
        'at("i") is given places Named(n=1, float32), and integers are expected.',
        "  Convert: x.to(torch.int64)",
    ]
    message(DtypeError, lambda: x().at(i=Named(torch.tensor([True]), "n")))
    assert message(CoordinateError, lambda: x().at(i=Named(torch.tensor([0]), "i"))) == [
        'at("i") is given places that carry "i" themselves.',
        "    tensor: b=2 i=3 d=4",
        "    places: i=1",
        '  Rename them first: places.rename(i="...")',
    ]
    assert message(SizeMismatch, lambda: x().at(i=Named(torch.tensor([0]), "b")))[0] == 'coordinate "b" has two sizes.'
    assert x().at(i=Named(torch.zeros(0, dtype=torch.int64), "n")).sizes == {"b": 2, "n": 0, "d": 4}


def test_slice():
    a = x()
    assert torch.equal(a.slice(i=slice(1, None), d=slice(None, None, 2)).tensor, a.tensor[:, 1:, ::2])
    assert a.slice(i=slice(5, 9)).sizes["i"] == 0
    assert a.slice(i=slice(-2, None)).sizes["i"] == 2
    assert a.slice(d=slice(0, 2)).tensor.data_ptr() == a.tensor.data_ptr()


def test_slice_refuses(message):
    assert message(ShapeError, lambda: x().slice(i=2)) == [
        'slice of "i" is given 2, which is no slice.',
        "  Write x.slice(i=slice(2, 5)), or x.at(i=2) for one place.",
    ]
    assert message(ShapeError, lambda: x().slice(i=slice(None, None, -1))) == [
        'slice of "i" goes backwards, which a view cannot.',
        "    i: slice(None, None, -1)",
        "  Use a positive step, or x.tensor.flip(1) named anew.",
    ]
    assert message(CoordinateError, lambda: x().slice(j=slice(1)))[0].startswith('slice names "j"')


def test_index():
    i, j = x().index("i"), Named(torch.zeros(5), "j").index("j")
    assert i.tensor.tolist() == [0, 1, 2]
    assert i.dtype == torch.int64
    assert torch.equal((j <= i).tensor, torch.ones(5, 3, dtype=torch.bool).triu())
    assert (j <= i).names == ("j", "i")


def test_to_and_detach():
    a = Named(torch.zeros(2, requires_grad=True), "b")
    assert a.to(torch.float64).dtype == torch.float64
    assert a.to("meta").device.type == "meta"
    assert not a.detach().tensor.requires_grad
    assert a.to(dtype=torch.int32).names == ("b",)


@pytest.mark.parametrize("text", ["b i d", "d i b", "i d b"])
def test_split_and_merge_are_inverse(text):
    a = x().order(text)
    assert torch.equal(a.split("d", "h g", g=2).merge("h g", into="d").tensor, a.tensor)
