"""Rules of the notation that are easily read another way, each against loops that spell it out."""

from __future__ import annotations

import pytest
import torch

import qkv


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_a_where_inside_parentheses_masks_the_outer_sum_and_not_the_inner_one() -> None:
    f = qkv.ein.source("fn f[q, k, d](A: [f64; q, k, d]) -> [f64; q] { sum[k](sum[d](A[q, k, d]) where k < q) }").f
    a = rand(4, 5, 3)
    expected = torch.stack([a[q, :q].sum() for q in range(4)])
    torch.testing.assert_close(f(a), expected)


def test_a_where_behind_the_inner_sum_in_its_own_parentheses_masks_that_one() -> None:
    # mean tells the two apart where a sum would not: what is left out is not counted
    outer = qkv.ein.source(
        "fn f[q, k, d](A: [f64; q, k, d]) -> [f64; q] { mean[k](max[d](A[q, k, d]) where k <= q) }"
    ).f
    inner = qkv.ein.source(
        "fn f[q, k, d](A: [f64; q, k, d]) -> [f64; q] { mean[k](max[d](A[q, k, d] where d <= q)) }"
    ).f
    behind = qkv.ein.source(
        "fn f[q, k, d](A: [f64; q, k, d]) -> [f64; q] { mean[k]((max[d](A[q, k, d])) where k <= q) }"
    ).f
    a = rand(3, 4, 5)
    by_outer = torch.stack([a[q].amax(-1)[: q + 1].mean() for q in range(3)])
    by_inner = torch.stack([a[q, :, : q + 1].amax(-1).mean() for q in range(3)])
    torch.testing.assert_close(outer(a), by_outer)
    torch.testing.assert_close(behind(a), by_outer)
    torch.testing.assert_close(inner(a), by_inner)
    assert not torch.allclose(by_outer, by_inner)


def test_a_where_over_the_inner_coordinate_is_unknown_outside_its_sum() -> None:
    found = qkv.ein.check("fn f[q, k, d](A: [f64; q, k, d]) -> [f64; q] { sum[k](sum[d](A[q, k, d]) where d < q) }")
    # d is a size there: the condition has q alone, and nothing of the inner sum is masked
    assert [d["code"] for d in found] == []
    f = qkv.ein.source("fn f[q, k, d](A: [f64; q, k, d]) -> [f64; q] { sum[k](sum[d](A[q, k, d]) where d < q) }").f
    a = rand(5, 2, 3)
    torch.testing.assert_close(f(a), torch.stack([a[q].sum() if q > 3 else a[q].sum() * 0 for q in range(5)]))


def test_a_table_is_looked_up_at_every_step_of_a_recurrence() -> None:
    f = qkv.ein.source(
        """fn f[T, n](x: [f64; T], I: [i64; T], E: [f64; n]) -> [f64; T] {
            let h[0] = E[I[0]];
            let h[t in 1..T] = 0.5 * h[t - 1] + E[I[t]] * x[t];
            h[T]
        }"""
    ).f
    x, at, table = rand(6).requires_grad_(), torch.tensor([0, 2, 1, 2, 0, 2]), rand(3).requires_grad_()
    steps = [table[at[0]]]
    for t in range(1, 6):
        steps.append(0.5 * steps[-1] + table[at[t]] * x[t])
    expected = torch.stack(steps)
    found = f(x, at, table)
    torch.testing.assert_close(found, expected)
    g = rand(6)
    torch.testing.assert_close(torch.autograd.grad(found, (x, table), g), torch.autograd.grad(expected, (x, table), g))


def test_a_recurrence_may_read_shifted_and_guarded_places() -> None:
    f = qkv.ein.source(
        """fn f[T, c](x: [f64; T, c]) -> [f64; T, c] {
            let h[0, c] = x[size[T] - 1, c];
            let h[t in 1..T, c] = 0.5 * h[t - 1, c] + x[size[T] - 1 - t, c] * if t > 2 { x[t - 2, c] } else { 3.0 };
            h[T, c]
        }"""
    ).f
    x = rand(6, 2)
    steps = [x[5]]
    for t in range(1, 6):
        steps.append(0.5 * steps[-1] + x[5 - t] * (x[t - 2] if t > 2 else 3.0))
    torch.testing.assert_close(f(x), torch.stack(steps))


def test_an_index_that_leaves_its_axis_at_one_step_is_an_error() -> None:
    f = qkv.ein.source(
        """fn f[T, n](I: [i64; T], E: [f64; n]) -> [f64; T] {
            let h[0] = E[0];
            let h[t in 1..T] = h[t - 1] + E[I[t]];
            h[T]
        }"""
    ).f
    assert f(torch.tensor([0, 1, 2]), rand(3)).shape == (3,)
    with pytest.raises(qkv.EinError, match="out-of-range"):
        f(torch.tensor([0, 1, 3]), rand(3))


def test_indices_of_one_access_speak_of_the_result_and_not_of_each_others_axes() -> None:
    f = qkv.ein.source(
        """fn f[q, c](X: [f64; q, c], I: [i64; c]) -> [f64; c] {
            if c > 0 { X[I[c], c - 1] } else { X[I[c], 0] }
        }"""
    ).f
    x, at = rand(3, 4), torch.tensor([0, 2, 1, 2])
    torch.testing.assert_close(f(x, at), torch.stack([x[at[c], max(c - 1, 0)] for c in range(4)]))
    g = qkv.ein.source(
        """fn g[q, c](X: [f64; q, c]) -> [f64; q, c] {
            if q > 0 && c > 0 { X[q - 1, c - 1] * X[q, c] } else { X[q, c] }
        }"""
    ).g
    expected = x.clone()
    expected[1:, 1:] = x[:-1, :-1] * x[1:, 1:]
    torch.testing.assert_close(g(x), expected)


def test_a_recurrence_that_begins_with_a_number_has_the_type_of_what_it_meets() -> None:
    f = qkv.ein.source(
        """fn f[T](A: [f64; T]) -> [f64; T] {
            let h[0] = 1.0;
            let h[t in 1..T] = h[t - 1] * A[t];
            h[T]
        }"""
    ).f
    a = rand(4)
    torch.testing.assert_close(f(a), torch.cat([torch.ones(1, dtype=torch.float64), a[1:].cumprod(0)]))


def test_a_recurrence_may_read_before_its_step_what_its_range_allows() -> None:
    f = qkv.ein.source(
        """fn f[T](A: [f64; T]) -> [f64; T] {
            let h[0] = A[0];
            let h[t in 1..T] = h[t - 1] + A[t] * A[t - 1];
            h[T]
        }"""
    ).f
    a = rand(5)
    torch.testing.assert_close(f(a), torch.cat([a[:1], a[0] + (a[1:] * a[:-1]).cumsum(0)]))
    assert [
        d["code"]
        for d in qkv.ein.check(
            "fn f[T](A: [f64; T]) -> [f64; T] { let h[0] = A[0]; let h[t in 1..T] = h[t - 1] + A[t - 2]; h[T] }"
        )
    ] == ["out-of-range"]


@pytest.mark.parametrize("between", ["f[q, c](A)", "through[q, c](A)"])
def test_a_size_that_a_called_function_fixes_is_known_where_it_is_called(between: str) -> None:
    text = f"""fn f[q = 3, c](A: [f32; q, c]) -> [f32; q] {{ sum[c](A[q, c]) }}
fn through[q, c](A: [f32; q, c]) -> [f32; q] {{ f[q, c](A) }}
fn g[q = 4, c](A: [f32; q, c]) -> [f32; q] {{ {between} }}
"""
    (found,) = qkv.ein.check(text)
    assert (found["code"], found["line"]) == ("size-conflict", 3)
    assert "q has two sizes: 4 (q = 4) and 3 (q = 3)" in found["message"]
    assert qkv.ein.check(text.replace("q = 4", "q = 3")) == ()
