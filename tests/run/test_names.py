"""Named tensors at the door: matched by name in any order, the pattern derived, results named; none taken by chance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import qkv
from qkv import Named


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Q, K, V = _drawn(0, 2, 2, 3, 4), _drawn(1, 2, 2, 5, 4), _drawn(2, 2, 2, 5, 6)
NQ, NK, NV = Named(Q, "b h i d"), Named(K, "b h j d"), Named(V, "b h j e")
ALL = ("lse", "max_logit", "entropy", "argmax", "weights")


def test_the_pattern_is_derived() -> None:
    out = qkv.attention(NQ, NK, NV)
    assert out.names == ("b", "h", "i", "e")
    assert out.tensor.equal(qkv.attention(Q, K, V))


def test_a_derived_pattern_follows_the_names_of_q() -> None:
    out = qkv.attention(NQ.order("i h b d"), NK.order("j d b h"), NV)
    assert out.names == ("i", "h", "b", "e")
    torch.testing.assert_close(out.order("b h i e").tensor, qkv.attention(Q, K, V))


def test_the_order_of_names_does_not_matter() -> None:
    spec = qkv.Spec(keep=qkv.causal())
    out = spec(NQ.order("d i h b"), NK.order("j h d b"), NV.order("e b h j"), align="end")
    assert out.names == ("b", "h", "i", "e")
    torch.testing.assert_close(out.tensor, spec(Q, K, V, align="end"))


def test_every_result_is_named() -> None:
    result, plain = (qkv.Spec().run(*x, want=ALL) for x in ((NQ, NK, NV), (Q, K, V)))
    assert result.output.names == ("b", "h", "i", "e")
    assert result.lse.names == ("b", "h", "i")
    assert {n: x.names for n, x in result.stats.items()} == {
        "max_logit": ("b", "h", "i"),
        "entropy": ("b", "h", "i"),
        "argmax": ("b", "h", "i"),
        "weights": ("b", "h", "i", "j"),
    }
    assert result.lse.tensor.equal(plain.lse)
    assert all(x.tensor.equal(plain.stats[n]) for n, x in result.stats.items())
    assert repr(result).startswith("Result(output=Named(b=2 h=2 i=3 e=6, float32), lse=Named(b=2 h=2 i=3, float32), ")


def test_two_maps_have_a_name_of_their_own() -> None:
    spec = qkv.Spec(weights=qkv.differential(0.5))
    result = spec.run(NQ, NK, NV, want="lse")
    assert result.lse.names == ("map", "b", "h", "i")
    assert result.lse.tensor.equal(spec.run(Q, K, V, want="lse").lse)


def test_merged_axes_are_made_from_parts_and_parted_again() -> None:
    spec = qkv.Spec("b (h g) i d, b h j d, b h j e -> b i (h g e)", keep=qkv.causal())
    q = _drawn(4, 2, 2, 3, 5, 4)
    result = spec.run(Named(q, "b h g i d"), NK, NV, want=("lse", "weights"))
    assert result.output.names == ("b", "i", "h", "g", "e")
    assert result.lse.names == ("b", "i", "h", "g")
    assert result.stats["weights"].names == ("b", "h", "i", "g", "j")
    plain = spec.run(q.flatten(1, 2), K, V, want=("lse", "weights"))
    assert result.output.tensor.flatten(2).equal(plain.output)
    assert result.lse.tensor.flatten(2).equal(plain.lse)
    assert result.stats["weights"].tensor.equal(plain.stats["weights"])


def test_sizes_that_names_settle_need_not_be_given() -> None:
    spec = qkv.Spec("b i (h d), b j (h d), b j (h e) -> b i (h e)")
    flat = [x.transpose(1, 2).flatten(2) for x in (Q, K, V)]
    with pytest.raises(qkv.SizeMismatch, match="cannot be solved"):
        spec(*flat)
    out = spec(NQ, NK, NV)
    assert out.names == ("b", "i", "h", "e")
    assert out.tensor.flatten(2).equal(spec(*flat, sizes={"h": 2}))


def test_a_rest_takes_the_names_that_are_left() -> None:
    spec = qkv.Spec("..b i d, ..b j d, ..b j e -> ..b i e")
    assert spec(NQ, NK, NV).names == ("b", "h", "i", "e")
    assert spec(NQ, NK, NV).tensor.equal(qkv.attention(Q, K, V))
    assert spec(*(x.at(b=0, h=1) for x in (NQ, NK, NV))).names == ("i", "e")
    with pytest.raises(qkv.CoordinateError, match=r"^\.\.b stands for .* elsewhere, and for .* in k\."):
        spec(NQ, NK.at(b=0), NV)


def test_an_axis_of_size_one_needs_no_name() -> None:
    spec = qkv.Spec("b 1 i d, b j d, b j e -> b 1 i e")
    out = spec(NQ.at(h=0), NK.at(h=0), NV.at(h=0))
    assert out.names == ("b", "i", "e")
    torch.testing.assert_close(out.tensor, qkv.attention(Q, K, V)[:, 0])
    assert spec(Q[:, :1], K[:, 0], V[:, 0]).squeeze(1).equal(out.tensor)


def test_plans_and_options_are_those_of_plain_tensors() -> None:
    spec = qkv.Spec(keep=qkv.causal())
    assert spec.plan(NQ, NK, NV, align="end") == spec.plan(Q, K, V, align="end")
    where = torch.tensor([[0, 4, 2], [1, 3, 0]])
    for options in (
        {"align": "end"},
        {"positions": {"i": (where, "b i")}},
        {"align": "end", "dropout": 0.5, "seed": 1},
    ):
        assert spec(NQ, NK, NV, **options).tensor.equal(spec(Q, K, V, **options))


@pytest.mark.parametrize("named", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)], ids=str)
def test_all_three_or_none(named: tuple[int, ...]) -> None:
    mixed = [(NQ, NK, NV)[n] if n in named else (Q, K, V)[n] for n in range(3)]
    first = "qkv"[next(n for n in range(3) if n not in named)]
    for call in (qkv.attention, qkv.Spec(), qkv.Spec().run, qkv.Spec().plan):
        with pytest.raises(qkv.CoordinateError, match=f"^{first} is Tensor without names, and others are Named"):
            call(*mixed)


def test_equal_lengths_do_not_make_one_sequence_the_other() -> None:
    """Two tensors of the decoder, where the second must come from the encoder, though all lengths agree."""
    decoder, twice = Named(Q, "b h i d"), Named(_drawn(5, 2, 2, 3, 4), "b h i d")
    values = Named(_drawn(6, 2, 2, 3, 4), "b h i e")
    with pytest.raises(qkv.CoordinateError) as caught:
        qkv.Spec()(decoder, twice, values)
    lines = str(caught.value).split("\n")
    assert lines[0] == 'k does not carry "j", which the pattern asks of it.'
    assert lines[-1] == '  Equal lengths do not make "i" be "j"; if it is meant, write k.rename(i="j")'
    with pytest.raises(qkv.PatternError, match=r'^"i" stands in both Q and K, so nothing tells queries from keys\.'):
        qkv.attention(decoder, twice, values)
    assert qkv.Spec()(decoder, twice.rename(i="j"), values.rename(i="j")).names == ("b", "h", "i", "e")


def test_a_name_has_one_size() -> None:
    with pytest.raises(qkv.SizeMismatch) as caught:
        qkv.attention(NQ, NK, NV.slice(j=slice(0, 4)))
    assert str(caught.value).split("\n")[:3] == ['coordinate "j" has two sizes.', "    k: j=5", "    v: j=4"]
    assert caught.value.coordinate == "j"


def test_types_are_checked_under_names_too() -> None:
    with pytest.raises(qkv.DtypeError, match=r"^v is torch\.float64 and q is torch\.float32"):
        qkv.attention(NQ, NK, Named(V.double(), "b h j e"))
    with pytest.raises(qkv.DeviceError, match=r"^k is on the meta device"):
        qkv.attention(NQ, Named(K.to("meta"), "b h j d"), NV)


def test_gradients_reach_the_tensors() -> None:
    operands = [x.clone().requires_grad_() for x in (Q, K, V)]
    qkv.attention(*(Named(x, n.names) for x, n in zip(operands, (NQ, NK, NV), strict=True))).tensor.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in operands)
