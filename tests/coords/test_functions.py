"""The functions are the methods, coordinates first."""

from __future__ import annotations

import inspect

import pytest
import torch

from qkv.coords import functions
from qkv.coords.named import Named
from qkv.errors import CoordinateError

REDUCTIONS = ["sum", "mean", "prod", "max", "min", "any", "all", "logsumexp", "softmax", "log_softmax"]
ALONG_ONE = ["argmax", "argmin", "cumsum"]
POINTWISE = ["exp", "log", "sqrt", "tanh", "sin", "cos", "abs", "floor", "relu", "sigmoid", "erf"]
OTHERS = ["dot", "minimum", "maximum", "concat", "where"]


def x() -> Named:
    return Named(torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)), "b i j")


def same(a: Named, b: Named) -> bool:
    return a.names == b.names and torch.equal(a.tensor, b.tensor)


def test_every_function_is_tested_here():
    public = [name for name, value in vars(functions).items() if inspect.isfunction(value) and name[0] != "_"]
    assert sorted(set(public) - {"nameless"}) == sorted(REDUCTIONS + ALONG_ONE + POINTWISE + OTHERS)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name):
    function, method = getattr(functions, name), getattr(x(), name)
    keep = x() > 0.5
    assert same(function("j", x()), method("j"))
    assert same(function("i j", x()), method("i", "j"))
    assert same(function(("i", "j"), x(), where=keep), method("i", "j", where=keep))


@pytest.mark.parametrize("name", ALONG_ONE)
def test_along_one(name):
    assert same(getattr(functions, name)("j", x()), getattr(x(), name)("j"))


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(name):
    assert same(getattr(functions, name)(x()), getattr(x(), name)())


def test_the_others():
    y = Named(torch.rand(4, 5), "j k")
    assert same(functions.dot(x(), y, "j"), x().dot(y, "j"))
    assert same(functions.minimum(x(), y), x().minimum(y))
    assert same(functions.maximum(x(), 0.5), x().maximum(0.5))
    assert same(functions.where(x() > 0.5, x(), 0), x().where(x() > 0.5, 0))
    assert functions.concat(y, y, axis="k").sizes == {"j": 4, "k": 10}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_the_tensor_must_be_named(name, message):
    function = getattr(functions, name)
    assert message(CoordinateError, lambda: function("j", torch.zeros(2)))[0] == (
        f"{name} is given a Tensor of shape (2,) without names, beside named tensors."
    )
    assert message(CoordinateError, lambda: function("j", 3)) == [
        f"{name} is given 3, and a named tensor is expected.",
        f'  Coordinates come first, the tensor second: qkv.{name}("j", qkv.Named(tensor, "i j"))',
    ]


def test_functions_without_coordinates_say_what_they_take(message):
    assert message(CoordinateError, lambda: functions.maximum(1, 2)) == [
        "maximum is given 1, and a named tensor is expected.",
        '  Name the axes of its tensor: qkv.maximum(qkv.Named(tensor, "i j"), other)',
    ]
    assert message(CoordinateError, lambda: functions.dot(1, x(), "j"))[1].endswith(
        'qkv.dot(qkv.Named(tensor, "i j"), other, "j")'
    )
    assert message(CoordinateError, lambda: functions.exp(1))[1].endswith('qkv.exp(qkv.Named(tensor, "i j"))')


@pytest.mark.parametrize("names", [(), "", ("",), " ", None, 2, ["j"]])
def test_coordinates_must_be_named(names, message):
    assert message(CoordinateError, lambda: functions.sum(names, x())) == [
        f"sum is given {names!r} where coordinates are expected.",
        '  Coordinates come first, the tensor second: qkv.sum("j", x)',
    ]


def test_arguments_the_wrong_way_round(message):
    assert message(CoordinateError, lambda: functions.sum(x(), "j"))[0].startswith(
        "sum is given 'j', and a named tensor"
    )


@pytest.mark.parametrize("name", [*POINTWISE, "minimum", "maximum", "dot"])
def test_pointwise_functions_need_names_too(name, message):
    arguments = (torch.zeros(2),) if name in POINTWISE else (torch.zeros(2), x())
    assert message(CoordinateError, lambda: getattr(functions, name)(*arguments))[0].startswith(
        f"{name} is given a Tensor"
    )
