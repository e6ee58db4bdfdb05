"""A spec as data, and its coordinates: rests, merged heads, several sequences and keys, axes of size one."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

import qkv
from qkv.spec import DEFAULT_PATTERN


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASK = torch.ones(1, 3).bool()
PARTS: dict[str, dict[str, object]] = {
    "nothing": {},
    "keep": {"keep": qkv.causal() & qkv.window(3)},
    "scores": {"score": (qkv.softcap(3.0), qkv.alibi())},
    "position": {"position": qkv.rope(500.0)},
    "weights": {"weights": qkv.sigmoid(-1.0)},
    "scale": {"scale": 0.5},
    "captured": {"keep": qkv.padding(MASK, "b j")},
}


@pytest.mark.parametrize("name", PARTS)
def test_equal_parts_make_equal_specs(name: str) -> None:
    spec, twin = qkv.Spec(**PARTS[name]), qkv.Spec(DEFAULT_PATTERN, **PARTS[name])  # type: ignore[arg-type]
    assert spec == twin
    assert hash(spec) == hash(twin)
    others = [qkv.Spec(**parts) for other, parts in PARTS.items() if other != name]  # type: ignore[arg-type]
    assert all(spec != other for other in others)
    assert {spec: 1}[twin] == 1


def test_equality_is_by_what_is_said_and_of_tensors_by_identity() -> None:
    assert qkv.Spec(keep=qkv.causal()) == qkv.Spec(keep=qkv.causal())
    assert qkv.Spec(keep=qkv.padding(MASK, "b j")) == qkv.Spec(keep=qkv.padding(MASK, "b j"))
    assert qkv.Spec(keep=qkv.padding(MASK, "b j")) != qkv.Spec(keep=qkv.padding(MASK.clone(), "b j"))
    assert qkv.Spec(scale=1) == qkv.Spec(scale=1.0)
    assert qkv.Spec(score=qkv.softcap(2.0)) == qkv.Spec(score=[qkv.softcap(2.0)])
    assert qkv.Spec(score=()) == qkv.Spec()
    two = (qkv.softcap(2.0), qkv.alibi())
    assert qkv.Spec(score=two) != qkv.Spec(score=two[::-1])


def test_a_run_changes_no_spec() -> None:
    spec = qkv.Spec(keep=qkv.causal())
    before = hash(spec)
    spec(*(_drawn(n, 1, 2, 3, 4) for n in range(3)))
    assert (spec, hash(spec)) == (qkv.Spec(keep=qkv.causal()), before)
    for twin in (copy.deepcopy(spec), dataclasses.replace(spec)):
        assert (twin, hash(twin)) == (spec, before)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.scale = 2.0  # type: ignore[misc]


def test_replaced_parts_are_checked() -> None:
    spec = qkv.Spec(keep=qkv.causal(), scale=0.5)
    assert dataclasses.replace(spec, scale=None) == qkv.Spec(keep=qkv.causal())
    with pytest.raises(qkv.SpecError, match=r"^linear weights take no scale"):
        dataclasses.replace(spec, weights=qkv.linear())


def test_repr() -> None:
    pattern = '"b h i d, b h j d, b h j e -> b h i e"'
    assert repr(qkv.Spec()) == f"Spec({pattern})"
    assert repr(qkv.Spec(score=qkv.softcap(2.0))) == f"Spec({pattern}, score=softcap(2))"
    parts = {**PARTS["keep"], **PARTS["scores"], **PARTS["weights"], **PARTS["scale"], "position": qkv.rope()}
    assert repr(qkv.Spec(**parts)) == (  # type: ignore[arg-type]
        f"Spec({pattern}, position=rope(), score=(softcap(3), alibi()), keep=causal() & window(3), "
        "weights=sigmoid(bias=-1), scale=0.5)"
    )


def test_which_specs_hold_tensors_of_the_callers() -> None:
    assert qkv.Spec(keep=qkv.padding(MASK, "b j")).captures
    assert qkv.Spec(weights=qkv.softmax(sink=torch.zeros(2))).captures
    assert qkv.Spec(score=qkv.shaw(torch.zeros(5, 4))).captures
    assert not qkv.Spec().captures
    assert not qkv.Spec(score=qkv.alibi()).captures


@pytest.mark.parametrize("name", "hbdx")
def test_causal_relates_a_query_and_a_key(name: str) -> None:
    kind = qkv.CoordinateError if name in "dx" else qkv.PositionError
    for term in (qkv.causal(query=name), qkv.causal(key=name)):
        with pytest.raises(kind) as caught:
            qkv.Spec(keep=term)
        assert type(caught.value) is kind


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (2, 3, 2)], ids=len)
def test_a_rest(lead: tuple[int, ...]) -> None:
    spec = qkv.Spec("..b i d, ..b j d, ..b j e -> ..b i e", keep=qkv.causal())
    q, k, v = (_drawn(n, *lead, 5, 4) for n in range(3))
    result = spec.run(q, k, v, want=("lse", "weights"))
    torch.testing.assert_close(result.output, _causal(q, k, v))
    weights = result.stats["weights"]
    assert weights.shape == (*lead, 5, 5)
    torch.testing.assert_close(weights @ v, result.output)
    if lead:
        assert result.lse.shape == (*lead, 5)


def test_a_rest_of_queries_and_one_of_keys() -> None:
    q, k, v = _drawn(0, 2, 3, 5, 4), _drawn(1, 2, 6, 4), _drawn(2, 2, 6, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    out = qkv.Spec("b ..i d, b j d, b j e -> b ..i e")(q, k, v)
    torch.testing.assert_close(out, attend(q.flatten(1, 2), k, v).view(q.shape))
    keys, values = (x.view(2, 3, 2, 4) for x in (k, v))
    torch.testing.assert_close(
        qkv.Spec("b i d, b ..j d, b ..j e -> b i e")(q[:, 0], keys, values), attend(q[:, 0], k, v)
    )


def test_a_rest_names_the_axes_of_a_captured_tensor() -> None:
    pattern = "..b i d, ..b j d, ..b j e -> ..b i e"
    bias = _drawn(3, 2, 3, 5, 5)
    q, k, v = (_drawn(n, 2, 3, 5, 4) for n in range(3))
    spec = qkv.Spec(pattern, score=qkv.bias(bias, "..b i j"))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(spec(q, k, v), expected)
    with pytest.raises(qkv.ShapeError, match=r"^bias: the tensor has 4 axes"):
        spec(q[0], k[0], v[0])


def test_merged_heads_are_major_to_minor() -> None:
    q, k, v = _drawn(0, 2, 6, 5, 4), _drawn(1, 2, 2, 5, 4), _drawn(2, 2, 2, 5, 4)
    neighbours = qkv.Spec("b (h g) i d, b h j d, b h j e -> b (h g) i e", keep=qkv.causal())(q, k, v)
    torch.testing.assert_close(neighbours, _causal(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)))
    turns = qkv.Spec("b (g h) i d, b h j d, b h j e -> b (g h) i e", keep=qkv.causal())(q, k, v)
    torch.testing.assert_close(turns, _causal(q, k.repeat(1, 3, 1, 1), v.repeat(1, 3, 1, 1)))
    back = qkv.Spec("b (h g) i d, b h j d, b h j e -> b i (g h) e", keep=qkv.causal())(q, k, v)
    parted = neighbours.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(back, parted.transpose(1, 2))


def test_one_key_head_for_all_needs_the_sequence_named() -> None:
    pattern = "b h i d, b j d, b j e -> b h i e"
    with pytest.raises(qkv.PositionError, match=r"^causal.*: which query coordinate is the sequence") as caught:
        qkv.Spec(pattern, keep=qkv.causal())
    assert 'causal(query="i")' in str(caught.value)
    q, k, v = _drawn(0, 2, 3, 5, 4), _drawn(1, 2, 5, 4), _drawn(2, 2, 5, 4)
    out = qkv.Spec(pattern, keep=qkv.causal(query="i"))(q, k, v)
    torch.testing.assert_close(out, _causal(q, k[:, None].expand_as(q), v[:, None].expand_as(q)))


def test_several_key_coordinates() -> None:
    pattern = "b i d, b y x d, b y x e -> b i e"
    q, k, v = _drawn(0, 2, 3, 4), _drawn(1, 2, 3, 2, 4), _drawn(2, 2, 3, 2, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(qkv.Spec(pattern)(q, k, v), attend(q, k.flatten(1, 2), v.flatten(1, 2)))
    rows = torch.arange(3)[:, None] >= torch.arange(3).repeat_interleave(2)
    result = qkv.Spec(pattern, keep=qkv.causal(key="y")).run(q, k, v, want=("argmax", "weights"))
    torch.testing.assert_close(result.output, attend(q, k.flatten(1, 2), v.flatten(1, 2), attn_mask=rows))
    assert result.stats["weights"].shape == (2, 3, 3, 2)
    assert result.stats["argmax"].equal(result.stats["weights"].flatten(2).argmax(-1))


def test_axes_written_1() -> None:
    q, k, v = (_drawn(n, 2, 5, 4) for n in range(3))
    spec = qkv.Spec("b 1 i d, b j 1 d, b j e -> b i 1 e", keep=qkv.causal())
    result = spec.run(q[:, None], k[:, :, None], v, want="lse")
    torch.testing.assert_close(result.output, _causal(q, k, v)[:, :, None])
    assert result.lse.shape == (2, 5, 1)
    with pytest.raises(qkv.SizeMismatch, match=r'^an axis written "1" has size 2'):
        spec(q[:, None].expand(2, 2, 5, 4), k[:, :, None], v)
