"""Partial results over disjoint keys, made one."""

from __future__ import annotations

import importlib

import pytest
import torch

import qkv

merging = importlib.import_module("qkv.run.merge")


def parts(*ends: int, spec: qkv.Spec = qkv.Spec(), seed: int = 0) -> tuple[list[qkv.Result], qkv.Result]:  # noqa: B008
    made = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 3, n, 4, generator=made, dtype=torch.float64) for n in (5, ends[-1], ends[-1]))
    cuts = zip((0, *ends), ends, strict=False)
    return [spec.run(q, k[:, :, a:b], v[:, :, a:b], want="lse") for a, b in cuts], spec.run(q, k, v, want="lse")


def test_two_parts_are_the_whole() -> None:
    (a, b), whole = parts(6, 10)
    merged = qkv.merge(a, b)
    torch.testing.assert_close(merged.output, whole.output, atol=1e-14, rtol=0.0)
    torch.testing.assert_close(merged.lse, whole.lse, atol=1e-14, rtol=0.0)
    assert merged.plan.strategy == "cpu"
    assert merged.plan.reason.startswith("two parts merged by lse: ")
    assert merged.plan.flops == a.plan.flops + b.plan.flops


def test_it_is_associative_and_takes_sides_alike() -> None:
    (a, b, c), whole = parts(3, 4, 10)
    left, right = qkv.merge(qkv.merge(a, b), c), qkv.merge(a, qkv.merge(b, c))
    torch.testing.assert_close(left.output, right.output, atol=1e-14, rtol=0.0)
    torch.testing.assert_close(left.output, whole.output, atol=1e-14, rtol=0.0)
    assert torch.equal(qkv.merge(a, b).output, qkv.merge(b, a).output)


def test_rows_that_keep_nothing_are_exact() -> None:
    (a, _), _ = parts(6, 10)
    empty = qkv.Spec(keep=qkv.keep(lambda i, j: j > 100))
    (none, _), _ = parts(6, 10, spec=empty)
    assert bool((none.lse == -torch.inf).all())
    for merged in (qkv.merge(a, none), qkv.merge(none, a)):
        assert torch.equal(merged.output, a.output)
        assert torch.equal(merged.lse, a.lse)
    nothing = qkv.merge(none, none)
    assert not bool(nothing.output.any())
    assert bool((nothing.lse == -torch.inf).all())


def test_extreme_levels_do_not_overflow() -> None:
    (a, b), _ = parts(6, 10)
    low, high = qkv.Result(a.output, a.lse - 1e5, {}, a.plan), qkv.Result(b.output, b.lse + 1e5, {}, b.plan)
    assert torch.equal(qkv.merge(low, high).output, b.output)
    assert torch.equal(qkv.merge(low, high).lse, high.lse)


def test_gradients_flow() -> None:
    q, k, v = (torch.randn(1, 1, n, 3, dtype=torch.float64, requires_grad=True) for n in (2, 5, 5))
    spec = qkv.Spec()

    def merged(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        a = spec.run(q, k[:, :, :2], v[:, :, :2], want="lse")
        return qkv.merge(a, spec.run(q, k[:, :, 2:], v[:, :, 2:], want="lse")).output

    grads = torch.autograd.grad(merged(q, k, v).sin().sum(), (q, k, v))
    wanted = torch.autograd.grad(spec(q, k, v).sin().sum(), (q, k, v))
    for one, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0.0)


def test_named_results() -> None:
    q, k, v = (qkv.Named(torch.randn(5, 4), f"{n} {d}") for n, d in (("i", "d"), ("j", "d"), ("j", "e")))
    a = qkv.Spec("i d, j d, j e -> i e").run(q, k, v, want="lse")
    merged = qkv.merge(a, a)
    assert merged.output.names == a.output.names
    torch.testing.assert_close(merged.output.tensor, a.output.tensor)


def test_messages() -> None:
    (a, b), _ = parts(6, 10)
    for wrong, text in ((qkv.Result(a.output, None, {}, a.plan), "a has no lse"), (3, "a is int, not a Result")):
        with pytest.raises(qkv.SpecError) as error:
            qkv.merge(wrong, b)
        assert str(error.value) == f'merge: {text}.\n  Ask for it: spec.run(q, k, v, want="lse").'
    short = qkv.Result(b.output[:, :, :2], b.lse[:, :, :2], {}, b.plan)
    with pytest.raises(qkv.ShapeError, match=r"the shapes \(2, 3, 5, 4\) and \(2, 3, 2, 4\)"):
        qkv.merge(a, short)
    single = qkv.Result(b.output.float(), b.lse.float(), {}, b.plan)
    with pytest.raises(qkv.DtypeError, match=r"torch.float64 on cpu and torch.float32 on cpu"):
        qkv.merge(a, single)
    two = qkv.Result(a.output, a.lse.unsqueeze(0), {}, a.plan)
    with pytest.raises(qkv.SpecError, match="differential weights have two maps"):
        qkv.merge(two, two)
    with pytest.raises(qkv.DtypeError, match="one result is Named and the other is not"):
        qkv.merge(a, qkv.Result(qkv.Named(b.output, "b h i e"), qkv.Named(b.lse, "b h i"), {}, b.plan))


@pytest.mark.parametrize("size", [3, 700, 20_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_short_way_gives_the_bits_of_the_long_one(
    size: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one piece, in several, and in too many; with outputs whose axes lie in another order."""
    made = torch.Generator().manual_seed(0)
    plan = parts(6, 10)[1].plan
    outputs = [torch.randn(4, size, 2, 16, generator=made, dtype=dtype).transpose(0, 2) for _ in range(2)]
    one, two = (qkv.Result(x, torch.randn(x.shape[:-1], generator=made, dtype=dtype) * 10, {}, plan) for x in outputs)
    assert merging._is_usual(one, two)
    short = qkv.merge(one, two)
    monkeypatch.setattr(merging, "_is_usual", lambda *_: False)
    long = qkv.merge(one, two)
    assert torch.equal(short.output, long.output)
    assert torch.equal(short.lse, long.lse)


def test_the_short_way_is_left_where_a_part_may_have_no_share() -> None:
    (a, b), _ = parts(6, 10)
    for level in (torch.inf, -torch.inf, torch.nan, 1e3):
        lse = b.lse.clone()
        lse[0, 0, 0] = level
        assert not merging._is_usual(a, qkv.Result(b.output, lse, {}, b.plan))
    with torch.enable_grad():
        learning = qkv.Result(a.output.clone().requires_grad_(), a.lse, {}, a.plan)
        assert not merging._is_usual(learning, b)
