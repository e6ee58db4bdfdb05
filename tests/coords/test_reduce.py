"""Reductions over named coordinates: equal to torch, exact over nothing, blind to what is not kept."""

from __future__ import annotations

import math

import pytest
import torch

from qkv.coords.named import Named
from qkv.errors import CoordinateError, DtypeError, ShapeError, SizeMismatch

INF = math.inf


def scores() -> Named:
    return Named(torch.randn(2, 3, 4), "b i j")


def keep() -> Named:
    """The same mask each time; i=1 keeps nothing, and the names stand the other way round."""
    return Named(torch.tensor([[1, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]], dtype=torch.bool), "j i")


TORCH = {
    "sum": torch.Tensor.sum,
    "mean": torch.Tensor.mean,
    "max": torch.Tensor.amax,
    "min": torch.Tensor.amin,
    "logsumexp": torch.Tensor.logsumexp,
}


@pytest.mark.parametrize("name", TORCH)
def test_one_several_and_all_coordinates(name):
    x = scores()
    call, plain = getattr(x, name), TORCH[name]
    assert call("i").names == ("b", "j")
    assert torch.equal(call("i").tensor, plain(x.tensor, 1))
    for given in (("b", "j"), ("b j",), ("j", "b"), ("j b",)):
        assert call(*given).names == ("i",)
        assert torch.allclose(call(*given).tensor, plain(x.tensor, (0, 2)))
    assert call().names == ()
    assert torch.allclose(call().tensor, plain(x.tensor, (0, 1, 2)))
    assert torch.allclose(getattr(Named(torch.tensor(3.0), ""), name)().tensor, torch.tensor(3.0))


def test_prod():
    x = scores()
    assert torch.equal(x.prod("i").tensor, x.tensor.prod(1))
    assert torch.allclose(x.prod("b", "j").tensor, x.tensor.prod(2).prod(0))
    assert torch.allclose(x.prod().tensor, x.tensor.prod())
    assert x.prod("j", where=keep()).tensor[:, 1].eq(1).all()


def test_any_and_all():
    x = scores() > 0
    assert torch.equal(x.any("j").tensor, x.tensor.any(2))
    assert torch.equal(x.all("b", "i").tensor, x.tensor.all(1).all(0))
    assert x.any().names == x.all().names == ()
    assert not x.any("j", where=keep()).tensor[:, 1].any()
    assert x.all("j", where=keep()).tensor[:, 1].all()
    assert scores().any("j").dtype == torch.bool
    assert Named(torch.tensor(2), "").any().item() is True


def test_an_empty_rest_reduces_nothing():
    x = scores()
    for name in ("sum", "prod", "mean", "max", "min", "logsumexp"):
        assert torch.allclose(getattr(x, name)("..b").tensor, x.tensor)
    assert (x > 0).sum("..b").dtype == torch.int64
    assert torch.equal((x > 0).any("..b").tensor, x.tensor > 0)


def test_truth_values_are_counted():
    assert (scores() > -INF).sum("j").tensor.eq(4).all()


def test_index_of_the_largest_and_smallest():
    x = scores()
    assert torch.equal(x.argmax("i").tensor, x.tensor.argmax(1))
    assert torch.equal(x.argmin("j").tensor, x.tensor.argmin(2))
    assert x.argmin("j").names == ("b", "i")
    assert Named(torch.tensor([False, True, True]), "j").argmax("j").item() == 1


def test_index_over_nothing(message):
    assert message(ShapeError, lambda: Named(torch.zeros(2, 0), "i j").argmax("j")) == [
        'argmax over "j" of Named(i=2 j=0, float32): no element is there.',
        "  Give at least one.",
    ]


def test_cumsum():
    x = scores()
    assert torch.equal(x.cumsum("i").tensor, x.tensor.cumsum(1))
    assert x.cumsum("i").names == x.names


@pytest.mark.parametrize("name", ["cumsum", "argmax"])
def test_operations_along_one_coordinate(name, message):
    x = scores()
    assert message(CoordinateError, lambda: getattr(x, name)("i j")) == [
        f"{name} takes one coordinate, and 2 are named.",
        "    tensor: Named(b=2 i=3 j=4, float32)",
        "  Name one, or merge them first: x.merge(..., into=...)",
    ]
    assert message(CoordinateError, lambda: getattr(x, name)("k"))[0] == (
        f'{name} names "k", which the tensor does not carry.'
    )


def test_softmax():
    x = scores()
    assert x.softmax("i").names == x.names
    assert torch.equal(x.softmax("i").tensor, x.tensor.softmax(1))
    assert torch.equal(x.log_softmax("j").tensor, x.tensor.log_softmax(2))


def test_softmax_over_several_at_once():
    x = scores()
    together = x.tensor.permute(1, 0, 2).flatten(1).softmax(1).reshape(3, 2, 4).permute(1, 0, 2)
    assert torch.allclose(x.softmax("b", "j").tensor, together)
    assert torch.allclose(x.softmax("j b").tensor, together)
    assert torch.allclose(x.log_softmax("j", "b").exp().tensor, together)
    assert torch.allclose(x.softmax("b j").sum("b j").tensor, torch.ones(3))


def test_where_keeps_only_what_it_holds():
    x, mask = scores(), keep()
    m = mask.tensor.T
    assert x.sum("j", where=mask).names == ("b", "i")
    assert torch.allclose(x.sum("j", where=mask).tensor, (x.tensor * m).sum(2))
    count = m.sum(1).clamp(min=1)
    assert torch.allclose(x.mean("j", where=mask).tensor, (x.tensor * m).sum(2) / count)
    filled = x.tensor.masked_fill(~m, -INF)
    assert torch.equal(x.max("j", where=mask).tensor, filled.amax(2))
    assert torch.equal(x.min("j", where=mask).tensor, x.tensor.masked_fill(~m, INF).amin(2))
    alive = [0, 2]
    assert torch.allclose(x.softmax("j", where=mask).tensor[:, alive], filled.softmax(2)[:, alive])
    assert torch.allclose(x.logsumexp("j", where=mask).tensor, filled.logsumexp(2))


def test_where_may_add_names():
    x, mask = Named(torch.randn(4, 5), "j d"), keep()
    result = x.sum("j", where=mask)
    assert result.names == ("d", "i")
    assert torch.allclose(result.tensor, torch.einsum("jd,ji->di", x.tensor, mask.tensor.float()))
    mean = x.mean("j", where=mask)
    assert torch.allclose(mean.tensor, result.tensor / mask.tensor.sum(0).clamp(min=1))


def test_mean_over_a_coordinate_that_where_lacks():
    x, mask = scores(), Named(torch.tensor([True, False, True]), "i")
    assert torch.allclose(x.mean(where=mask).tensor, x.tensor[:, [0, 2]].mean())
    assert torch.allclose(x.mean("j", where=mask).tensor[:, [0, 2]], x.tensor[:, [0, 2]].mean(2))


DEAD = {"sum": 0.0, "mean": 0.0, "max": -INF, "min": INF, "prod": 1.0, "logsumexp": -INF}


@pytest.mark.parametrize("name", DEAD)
def test_a_row_that_keeps_nothing(name):
    x = Named(torch.randn(2, 3, 4, requires_grad=True), "b i j")
    row = getattr(x, name)("j", where=keep()).tensor[:, 1]
    assert torch.equal(row, torch.full_like(row, DEAD[name]))
    (gradient,) = torch.autograd.grad(row.sum(), x.tensor)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("by", ["where", "minus infinity"])
def test_weights_of_a_row_that_keeps_nothing(name, by):
    x = Named(torch.randn(2, 3, 4, requires_grad=True), "b i j")
    filled = x if by == "where" else x.where(keep(), -INF)
    weights = getattr(filled, name)("j", where=keep() if by == "where" else None)
    row = weights.tensor[:, 1]
    assert torch.equal(row, torch.full_like(row, 0.0 if name == "softmax" else -INF))
    (weights if name == "softmax" else weights.where(keep(), 0)).sum().tensor.backward()
    assert torch.isfinite(x.tensor.grad).all()
    assert x.tensor.grad[:, 1].eq(0).all()


def test_logsumexp_of_minus_infinity_has_no_gradient():
    x = Named(torch.full((2, 3), -INF, requires_grad=True), "i j")
    lse = x.logsumexp("j")
    assert lse.tensor.eq(-INF).all()
    lse.sum().tensor.backward()
    assert x.tensor.grad.eq(0).all()


@pytest.mark.parametrize("name", [*DEAD, "softmax", "log_softmax"])
def test_what_is_not_kept_never_enters(name):
    mask, clean = keep(), scores()
    x = Named(clean.tensor.where(mask.tensor.T, torch.nan).requires_grad_(), "b i j")
    result, expected = getattr(x, name)("j", where=mask), getattr(clean, name)("j", where=mask)
    assert torch.equal(result.tensor, expected.tensor)
    finite = result.tensor.where(result.tensor.isfinite(), torch.zeros(()))
    (gradient,) = torch.autograd.grad(finite.sum(), x.tensor)
    assert gradient.permute(0, 2, 1)[:, ~mask.tensor].eq(0).all()


def test_a_coordinate_of_size_zero():
    x = Named(torch.zeros(2, 0, requires_grad=True), "i j")
    for name, value in DEAD.items():
        result = getattr(x, name)("j")
        assert torch.equal(result.tensor, torch.full((2,), value)), name
    assert x.softmax("j").sizes == {"i": 2, "j": 0}
    assert x.softmax("i").sizes == {"i": 2, "j": 0}
    assert x.max("i").sizes == {"j": 0}
    assert x.mean().item() == 0
    assert Named(torch.zeros(0, dtype=torch.int32), "j").max().item() == torch.iinfo(torch.int32).min
    assert Named(torch.zeros(0, dtype=torch.int64), "j").min().item() == torch.iinfo(torch.int64).max
    assert Named(torch.zeros(0, dtype=torch.bool), "j").max().item() is False
    assert Named(torch.zeros(0, dtype=torch.bool), "j").min().item() is True


def test_integers_have_no_mean(message):
    x = Named(torch.arange(3), "j")
    for name in ("mean", "softmax", "log_softmax", "logsumexp"):
        assert message(DtypeError, lambda name=name: getattr(x, name)("j")) == [
            f"{name} is asked of Named(j=3, int64), and its result is no integer or truth value.",
            "  Convert it first: x.to(torch.float32)",
        ]
    assert x.max().item() == 2


def test_softmax_needs_a_coordinate(message):
    assert message(CoordinateError, lambda: scores().softmax()) == [
        "softmax is given no coordinate to normalise over.",
        "    tensor: Named(b=2 i=3 j=4, float32)",
        '  Name it, such as x.softmax("j")',
    ]
    assert message(CoordinateError, lambda: scores().softmax("k")) == [
        'softmax names "k", which the tensor does not carry.',
        "    tensor: b=2 i=3 j=4",
        '  It carries "b", "i" and "j".',
    ]


def test_names_are_not_numbers_and_stand_once(message):
    assert message(CoordinateError, lambda: scores().sum(-1)) == [
        "sum is given -1, and a coordinate is a name.",
        '  Axes are named, never counted: write the name, such as "j"',
    ]
    assert message(CoordinateError, lambda: scores().sum("i j", "i")) == [
        'sum names "i" twice.',
        "    tensor: b=2 i=3 j=4",
        "  Name each coordinate once.",
    ]
    assert message(CoordinateError, lambda: Named(torch.zeros(2, 3), "head seq_k").max("seq"))[-1] == (
        '  Did you mean "seq_k"?'
    )


def test_where_must_be_named_truth(message):
    x = scores()
    assert message(CoordinateError, lambda: x.sum("j", where=torch.ones(4, dtype=torch.bool)))[0] == (
        "where= of sum is given a Tensor of shape (4,) without names, beside named tensors."
    )
    assert message(CoordinateError, lambda: x.softmax("j", where=True)) == [
        "where= of softmax is True, and a named truth tensor is expected.",
        '  Name it: qkv.Named(mask, "i j"); it holds where an element is kept.',
    ]
    assert message(DtypeError, lambda: x.mean("j", where=x)) == [
        "where= of mean is Named(b=2 i=3 j=4, float32), and truth values are expected.",
        "  A mask says what is kept: compare, such as where=mask > 0",
    ]
    assert message(SizeMismatch, lambda: x.sum("j", where=Named(torch.ones(5, dtype=torch.bool), "j")))[:3] == [
        'coordinate "j" has two sizes.',
        "    tensor: j=4   (b=2 i=3 j=4)",
        "    where:  j=5   (j=5)",
    ]


def test_dot_is_einsum():
    q, k = Named(torch.randn(2, 3, 4, 5), "b h i d"), Named(torch.randn(5, 2, 7), "d b j")
    result = q.dot(k, "d")
    assert result.names == ("b", "h", "i", "j")
    assert torch.allclose(result.tensor, torch.einsum("bhid,dbj->bhij", q.tensor, k.tensor), atol=1e-6)
    assert torch.allclose(q.dot(k, "b d").tensor, torch.einsum("bhid,dbj->hij", q.tensor, k.tensor), atol=1e-5)
    assert torch.allclose(q.dot(k, "d", "b").tensor, q.dot(k, "b d").tensor)
    assert torch.allclose(result.tensor, (q * k).sum("d").tensor, atol=1e-6)


def test_dot_promotes_types():
    a = Named(torch.ones(3, dtype=torch.float16), "d")
    assert a.dot(Named(torch.ones(3), "d"), "d").dtype == torch.float32
    assert Named(torch.arange(3), "d").dot(Named(torch.arange(3), "d"), "d").item() == 5


def test_dot_says_what_is_missing(message):
    q, k = Named(torch.zeros(2, 4), "i d"), Named(torch.zeros(3, 4), "j d")
    both = ["    left:  i=2 d=4", "    right: j=3 d=4"]
    assert message(CoordinateError, lambda: q.dot(k)) == [
        "dot is given no coordinate to contract.",
        *both,
        '  Name it, such as a.dot(b, "d"); both carry "d".',
    ]
    assert message(CoordinateError, lambda: q.dot(Named(torch.zeros(3), "j")))[-1].endswith("both carry none.")
    assert message(CoordinateError, lambda: q.dot(k, "i")) == [
        'dot contracts "i", which only the left operand carries.',
        *both,
        '  To sum it away, write .sum("i") on that operand.',
    ]
    assert message(CoordinateError, lambda: q.dot(k, "j"))[0] == (
        'dot contracts "j", which only the right operand carries.'
    )
    assert message(CoordinateError, lambda: q.dot(k, "dd"))[-1] == '  Did you mean "d"?'
    assert message(CoordinateError, lambda: q.dot(2.0, "d")) == [
        "dot is given 2.0, and a named tensor is expected.",
        "  With a number, write a * b.",
    ]
    assert message(CoordinateError, lambda: q.dot(k.tensor, "d"))[0].startswith("dot is given a Tensor of shape (3, 4)")
    assert message(DtypeError, lambda: (q > 0).dot(k > 0, "d"))[-1] == "  Convert one: x.to(torch.int64)"


def test_dot_checks_sizes(message):
    q = Named(torch.zeros(2, 4), "i d")
    assert message(SizeMismatch, lambda: q.dot(Named(torch.zeros(3, 1), "j d"), "d")) == [
        'coordinate "d" has two sizes.',
        "    left:  d=4   (i=2 d=4)",
        "    right: d=1   (j=3 d=1)",
        '  Every operand of dot that carries "d" must agree. A size of 1 does not spread; '
        ".only('d') drops such an axis.",
    ]


@pytest.mark.parametrize("name", ["sum", "mean", "max", "logsumexp", "softmax", "log_softmax", "prod", "cumsum"])
def test_gradients(name):
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: getattr(Named(x, "b i j"), name)("j").tensor, x)
    if name not in ("cumsum", "log_softmax"):
        mask = keep()

        def kept(x):
            result = getattr(Named(x, "b i j"), name)("j", where=mask).tensor
            return result.masked_fill(result.isinf(), 0)

        assert torch.autograd.gradcheck(kept, x)


def test_dot_gradients():
    a = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: Named(a, "b i d").dot(Named(b, "d j"), "d").tensor, (a, b))


def test_attention_written_out_equals_torch():
    q, k, v = (torch.randn(2, 3, 6, 8) for _ in range(3))
    x, y, z = Named(q, "b h i d"), Named(k, "b h j d"), Named(v, "b h j e")
    weights = (x.dot(y, "d") * 8**-0.5).softmax("j", where=y.index("j") <= x.index("i"))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(weights.dot(z, "j").tensor, expected, atol=1e-6)
