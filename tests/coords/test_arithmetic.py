"""Arithmetic by name: equal to torch on aligned tensors, and refused where names or sizes do not meet."""

from __future__ import annotations

import operator

import numpy as np
import pytest
import torch

from qkv.coords.named import Named, where
from qkv.errors import CoordinateError, DeviceError, DtypeError, LimitError, ShapeError, SizeMismatch

FLOAT = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow]
COMPARE = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]
LOGIC = [operator.and_, operator.or_, operator.xor]


def pair(positive: bool = True) -> tuple[Named, Named, torch.Tensor, torch.Tensor]:
    a, b = torch.rand(2, 3, 4) + 0.5, torch.rand(4, 5, 2) + 0.5
    return Named(a, "b i d"), Named(b, "d j b"), a[:, :, :, None], b.permute(2, 0, 1)[:, None]


@pytest.mark.parametrize("function", FLOAT + COMPARE)
def test_operators_meet_by_name(function):
    x, y, a, b = pair()
    result = function(x, y)
    assert type(result) is Named
    assert result.names == ("b", "i", "d", "j")
    assert torch.equal(result.tensor, function(a, b))


@pytest.mark.parametrize("function", LOGIC)
def test_logic_meets_by_name(function):
    x, y, a, b = pair()
    assert torch.equal(function(x > 1, y > 1).tensor, function(a > 1, b > 1))
    assert torch.equal(function(x > 1, True).tensor, function(x.tensor > 1, True))
    assert torch.equal(function(False, x > 1).tensor, function(x.tensor > 1, False))


@pytest.mark.parametrize("function", FLOAT + COMPARE)
@pytest.mark.parametrize("number", [2, 2.5, torch.tensor(2.5), np.float32(2.5), np.int64(3)])
def test_numbers_on_either_side(function, number):
    x = pair()[0]
    plain = number if isinstance(number, torch.Tensor) else float(number)
    assert torch.allclose(function(x, number).tensor.double(), function(x.tensor, plain).double())
    assert torch.allclose(function(number, x).tensor.double(), function(plain, x.tensor).double())


def test_truth_values_count_as_numbers():
    x = pair()[0]
    assert torch.equal((x + True).tensor, x.tensor + 1)
    assert torch.equal((False * x).tensor, x.tensor * 0)


def test_a_named_number_is_promoted_as_a_number():
    x, number = pair()[0], Named(torch.tensor(2.0, dtype=torch.float64), "")
    assert (x * number).dtype == (number * x).dtype == torch.float32
    assert (number * x).names == x.names
    assert torch.equal((number - x).tensor, 2 - x.tensor)


def test_the_same_names_in_the_same_order_need_no_view():
    x = pair()[0]
    assert torch.equal((x * x).tensor, x.tensor * x.tensor)
    assert (x * x).names == x.names


def test_unary():
    x = pair()[0] - 1
    assert torch.equal((-x).tensor, -x.tensor)
    assert torch.equal(abs(x).tensor, x.tensor.abs())
    assert (+x) is x
    assert torch.equal((~(x > 0)).tensor, x.tensor <= 0)


POINTWISE = ["exp", "log", "sqrt", "tanh", "sin", "cos", "abs", "floor", "relu", "sigmoid", "erf"]


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_functions(name):
    x = pair()[0]
    result = getattr(x, name)()
    assert result.names == x.names
    assert torch.equal(result.tensor, getattr(torch, name)(x.tensor))


def test_minimum_and_maximum():
    x, y, a, b = pair()
    assert torch.equal(x.minimum(y).tensor, torch.minimum(*torch.broadcast_tensors(a, b)))
    assert torch.equal(x.maximum(1).tensor, x.tensor.clamp(min=1))
    integers = Named(torch.arange(4), "d")
    assert torch.equal(integers.maximum(1.5).tensor, torch.tensor([1.5, 1.5, 2, 3]))
    assert integers.maximum(2).dtype == torch.int64
    with pytest.raises(TypeError, match="neither a number nor a named tensor"):
        x.maximum("a")


def test_map_takes_any_pointwise_function(message):
    x = pair()[0] - 1
    assert torch.equal(x.map(torch.nn.functional.silu).tensor, torch.nn.functional.silu(x.tensor))
    assert message(ShapeError, lambda: x.map(lambda tensor: tensor.sum(0))) == [
        "map was given a function that makes (3, 4) of (2, 3, 4).",
        "    tensor: Named(b=2 i=3 d=4, float32)",
        "  Only pointwise functions keep the names; name the result of others anew.",
    ]


def test_augmented_assignment_makes_a_new_one():
    x = pair()[0]
    kept, before = x, x.tensor.clone()
    x += 1
    assert x is not kept
    assert torch.equal(kept.tensor, before)
    x *= Named(torch.ones(7), "k")
    assert x.names == ("b", "i", "d", "k")


def test_gradients_are_summed_over_what_an_operand_lacks():
    x = Named(torch.randn(2, 3, requires_grad=True), "b i")
    y = Named(torch.randn(5, requires_grad=True), "j")
    (x * y).sum().tensor.backward()
    assert torch.allclose(x.tensor.grad, y.tensor.sum().expand(2, 3))
    assert torch.allclose(y.tensor.grad, x.tensor.sum().expand(5))


def test_a_subclass_on_the_right_keeps_the_order_of_the_operands():
    class Special(Named):
        def __rsub__(self, other):
            return super().__rsub__(other)

    left, right = Named(torch.rand(2, 3), "b i"), Special(torch.rand(5), "j")
    result = left - right
    assert type(result) is Special
    assert result.names == ("b", "i", "j")
    assert torch.equal(result.tensor, left.tensor[:, :, None] - right.tensor)


def test_sizes_that_disagree(message):
    left, right = Named(torch.zeros(2, 128), "b j"), Named(torch.zeros(127, 2), "j b")
    assert message(SizeMismatch, lambda: left + right) == [
        'coordinate "j" has two sizes.',
        "    left:  j=128   (b=2 j=128)",
        "    right: j=127   (j=127 b=2)",
        '  Every operand of "+" that carries "j" must agree. Was the last value dropped?',
    ]
    with pytest.raises(SizeMismatch) as caught:
        _ = left + right
    assert caught.value.coordinate == "j"
    assert caught.value.seen == {"left": 128, "right": 127}
    lines = message(SizeMismatch, lambda: left - Named(torch.zeros(64), "j"))
    assert lines[-1] == '  Every operand of "-" that carries "j" must agree. If they are two coordinates, rename one.'


def test_sizes_in_the_order_of_the_operator(message):
    left = Named(torch.zeros(3), "j")
    lines = message(SizeMismatch, lambda: Named(torch.zeros(4), "j") < left)
    assert lines[1:3] == ["    left:  j=4   (j=4)", "    right: j=3   (j=3)"]


def test_a_size_of_one_does_not_spread(message):
    x, y = Named(torch.zeros(2, 3), "b i"), Named(torch.zeros(1, 3), "b i")
    for call in (lambda: x * y, lambda: y * x, lambda: x == y):
        lines = message(SizeMismatch, call)
        assert lines[-1].endswith("A size of 1 does not spread; .only('b') drops such an axis.")


def test_tensors_need_names(message):
    x = Named(torch.zeros(2, 3), "b i")
    for given, kind in ((torch.zeros(3), "Tensor"), (np.zeros(3), "ndarray")):
        for call in (lambda g=given: x * g, lambda g=given: g * x):
            assert message(CoordinateError, call) == [
                f'"*" is given a {kind} of shape (3,) without names, beside named tensors.',
                '  Name its axes: qkv.Named(tensor, "..."). Only numbers and tensors of rank 0 need no names.',
            ]


def test_other_things_are_left_to_python():
    x = Named(torch.zeros(2), "b")
    for other in ("a", None, [1, 2], object()):
        with pytest.raises(TypeError):
            _ = x + other
        with pytest.raises(TypeError):
            _ = other + x
    assert (x == None) is False  # noqa: E711
    assert (x != "a") is True
    assert x in [x]
    assert len({x, Named(x.tensor, "b")}) == 2, "hashed by what it is"


def test_results_have_a_limit_of_axes_too(message):
    left, right = (Named(torch.zeros([1] * 20), [f"{letter}{n}" for n in range(20)]) for letter in "ab")
    assert message(LimitError, lambda: left + right) == [
        '"+" meets 40 coordinates, and at most 32 are carried.',
        "  Reduce some, or rename those that are meant to be the same.",
    ]


def test_devices(message):
    x, y = Named(torch.zeros(2), "b"), Named(torch.zeros(2, 3, device="meta"), "b i")
    assert message(DeviceError, lambda: x + y) == [
        'the operands of "+" live on different devices.',
        "    left: cpu",
        "    right: meta",
        "  Move one with .to(device).",
    ]
    message(DeviceError, lambda: x + Named(torch.zeros(2, device="meta"), "b"))
    assert (y * Named(torch.tensor(2.0), "")).names == ("b", "i"), "a single number is moved by torch"


def test_where_meets_by_name():
    keep, x, y = Named(torch.rand(3, 5) > 0.5, "i j"), Named(torch.randn(5, 2), "j b"), Named(torch.randn(2), "b")
    result = where(keep, x, y)
    assert result.names == ("i", "j", "b")
    assert torch.equal(result.tensor, torch.where(keep.tensor[:, :, None], x.tensor[None], y.tensor))
    assert torch.equal(where(keep, x, 0).tensor, torch.where(keep.tensor[:, :, None], x.tensor[None], 0))
    assert torch.equal(where(keep, 1.0, 0.0).tensor, keep.tensor.float())
    assert torch.equal(
        where(keep, torch.tensor(1.0), x).tensor, torch.where(keep.tensor[:, :, None], 1.0, x.tensor[None])
    )
    assert torch.equal(x.where(keep, 0).tensor, where(keep, x, 0).tensor)


def test_where_refuses(message):
    keep, x = Named(torch.ones(3, dtype=torch.bool), "j"), Named(torch.zeros(3), "j")
    assert message(DtypeError, lambda: where(x, x, 0)) == [
        "the condition of where is Named(j=3, float32), and truth values are expected.",
        "  Compare: where(x > 0, ...)",
    ]
    assert message(CoordinateError, lambda: where(True, x, 0)) == [
        "the condition of where is True, and a named truth tensor is expected.",
        '  Name it: qkv.Named(mask, "i j")',
    ]
    assert message(CoordinateError, lambda: where(keep.tensor, x, 0))[0] == (
        "where is given a Tensor of shape (3,) without names, beside named tensors."
    )
    assert message(CoordinateError, lambda: where(keep, x.tensor, 0))[0] == (
        "then of where is given a Tensor of shape (3,) without names, beside named tensors."
    )
    assert message(CoordinateError, lambda: where(keep, x, "a")) == [
        "otherwise of where is 'a', and a number or a named tensor is expected.",
        '  Name a tensor\'s axes: qkv.Named(tensor, "...")',
    ]
    assert message(SizeMismatch, lambda: where(keep, Named(torch.zeros(4), "j"), 0))[:3] == [
        'coordinate "j" has two sizes.',
        "    condition: j=3   (j=3)",
        "    then:      j=4   (j=4)",
    ]
