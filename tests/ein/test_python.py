"""Calls from Python: plain and Named tensors, coordinates, scalars, several results, compile; and ``qkv.fn``."""

from __future__ import annotations

import pytest
import torch

import qkv

CROSS = qkv.ein.std("attention").cross
GROUPED = qkv.ein.std("attention").grouped_query


def test_named_tensors_are_matched_by_name_in_any_layout() -> None:
    q, k, v = torch.randn(2, 5, 4), torch.randn(2, 6, 4), torch.randn(2, 6, 3)
    plain = CROSS(q, k, v)
    named = CROSS(
        qkv.Named(q.permute(2, 0, 1), "d b t"),
        qkv.Named(k.permute(1, 2, 0), "s d b"),
        qkv.Named(v.permute(1, 0, 2), "s b e"),
    )
    assert named.names == ("b", "t", "e")
    torch.testing.assert_close(named.tensor, plain)


def test_coordinates_by_place_and_by_keyword() -> None:
    q, k, v = torch.randn(5, 4), torch.randn(6, 4), torch.randn(6, 3)
    a = CROSS["i", "j", "d", "e"](qkv.Named(q, "i d"), qkv.Named(k, "j d"), qkv.Named(v, "j e"))
    b = CROSS(qkv.Named(q, "i d"), qkv.Named(k, "j d"), qkv.Named(v, "j e"), t="i", s="j")
    assert a.names == b.names == ("i", "e")
    torch.testing.assert_close(a.tensor, CROSS(q, k, v))
    torch.testing.assert_close(b.tensor, CROSS(Q=q, K=k, V=v))


def test_several_results_are_a_tuple_and_scalars_are_taken() -> None:
    f = qkv.ein.source("fn f[q](x: [f32; q], s: f32) -> ([f32; q], f32) { (x[q] * s, sum[q](x[q])) }").f
    a, b = f(torch.ones(3), 2.0)
    assert a.tolist() == [2.0, 2.0, 2.0] and float(b) == 3.0
    a, _ = f(torch.ones(3), torch.tensor(4.0))
    assert a.tolist() == [4.0, 4.0, 4.0]


def test_open_sizes_are_given_by_keyword() -> None:
    f = qkv.ein.std("projected").multi_head
    x = torch.randn(2, 5, 12)
    assert f(x, x, x, h=3).shape == (2, 5, 12)
    with pytest.raises(qkv.EinError, match="size-conflict"):
        f(x, x, x, h=5)


@pytest.mark.parametrize("size", [8])
def test_planted_mistakes_are_caught_at_the_call_when_all_sizes_are_equal(size: int) -> None:
    x = torch.randn(size, size, size)
    with pytest.raises(qkv.EinError, match="same-tensor"):
        CROSS(x, x, x)
    with pytest.raises(qkv.EinError, match="same-tensor"):
        named = qkv.Named(x, "b t d")
        CROSS(named, named, qkv.Named(x, "b s e"))
    with pytest.raises(qkv.EinError, match="call-mismatch"):
        CROSS(qkv.Named(x, "b t d"), qkv.Named(x, "b d s").rename(d="s2"), qkv.Named(x, "b s e"))
    one = torch.randn(size, 1, size, size)
    with pytest.raises(qkv.EinError, match="size-conflict"):
        qkv.ein.std("positions").alibi(one.expand(size, size, size, size).clone(), one, one, torch.ones(size))


def test_a_size_one_contract_is_enforced_with_what_to_write() -> None:
    module = qkv.ein.source("fn f[q, c](x: [f32; q, c]) -> [f32; q] { x[q, c] }")
    assert [w["code"] for w in module.warnings] == ["free-coordinate"]
    assert module.f(torch.ones(3, 1)).shape == (3,)
    with pytest.raises(qkv.EinError, match=r"sum\[c\]"):
        module.f(torch.ones(3, 2))


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ((torch.ones(3, 4), torch.ones(3, 4)), "arity"),
        ((torch.ones(4), torch.ones(3, 4), torch.ones(3, 2)), "rank"),
        ((torch.ones(2, 4), torch.ones(3, 5), torch.ones(3, 2)), "size-conflict"),
        ((torch.ones(2, 4), torch.ones(3, 4), torch.ones(3, 2, dtype=torch.int64)), "dtype"),
        ((torch.ones(2, 4), torch.ones(3, 4), torch.ones(3, 2, dtype=torch.float64)), "dtype"),
        (([1.0], torch.ones(3, 4), torch.ones(3, 2)), "dtype"),
    ],
)
def test_a_wrong_call_names_its_mistake_in_eight_lines(args: tuple[object, ...], code: str) -> None:
    with pytest.raises(qkv.EinError) as raised:
        CROSS(*args)
    assert raised.value.codes == (code,)
    assert len(str(raised.value).splitlines()) <= 8


def test_an_index_outside_its_axis_is_an_error_and_not_a_wrap() -> None:
    f = qkv.ein.source("fn f[v, c, q](E: [f32; v, c], T: [i64; q]) -> [f32; q, c] { E[T[q], c] }").f
    assert f(torch.ones(3, 2), torch.tensor([0, 2])).shape == (2, 2)
    for bad in (-1, 3):
        with pytest.raises(qkv.EinError, match="out-of-range"):
            f(torch.ones(3, 2), torch.tensor([0, bad]))


@qkv.fn
def attend(Q: "..b h g q d", K: "..b h k d", V: "..b h k e") -> "..b h g q e":  # noqa: F722
    s = qkv.sum("d", Q * K) / Q.size("d") ** 0.5
    s = 30.0 * qkv.tanh(s / 30.0)
    return qkv.sum("k", qkv.softmax("k", s, where=K.index("k") <= Q.index("q")) * V)


def test_a_python_spelling_is_fused_and_right() -> None:
    q, k, v = (
        x.double().requires_grad_()
        for x in (torch.randn(2, 2, 3, 6, 4), torch.randn(2, 2, 6, 4), torch.randn(2, 2, 6, 4))
    )
    assert [p.strategy for p in attend.plan(q, k, v)] == ["cpu"]
    expected = qkv.attention(
        q, k, v, "b h g i d, b h j d, b h j e -> b h g i e", keep=qkv.causal(query="i"), score=qkv.softcap(30.0)
    )
    out = attend(q, k, v)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    g = torch.randn_like(out)
    for a, b in zip(torch.autograd.grad(out, (q, k, v), g), torch.autograd.grad(expected, (q, k, v), g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_python_spelling_is_checked_as_a_text_is() -> None:
    def wrong(Q: "q d", K: "k d", V: "k e") -> "q e":  # noqa: F722
        return qkv.sum("k", qkv.softmax("q", qkv.sum("d", Q * K)) * V)

    with pytest.raises(qkv.EinError) as raised:
        qkv.fn(wrong)
    assert "wrong-role" in raised.value.codes

    def bare(Q, K):
        return Q * K

    with pytest.raises(qkv.TraceError, match="has no coordinates"):
        qkv.fn(bare)

    def looks(Q: "q d"):  # noqa: F722
        return Q if Q > 0 else -Q

    with pytest.raises(qkv.TraceError, match=r"qkv\.where"):
        qkv.fn(looks)


OPEN = qkv.ein.source("""
fn biased[h, q, k, d](Q: [f32; h, q, d], K: [f32; h, k, d], V: [f32; h, k, d], B: [f32; h, q, k]) -> [f32; h, q, d] {
    let s[h, q, k] = sum[d](Q[h, q, d] * K[h, k, d]) / size[d] ** 0.5 + B[h, q, k];
    sum[k](softmax[k](if k <= q { s[h, q, k] } else { -inf }) * V[h, k, d])
}
fn documents[q, k, d](Q: [f32; q, d], K: [f32; k, d], D: [i64; q], E: [i64; k]) -> [f32; q, d] {
    sum[k](softmax[k](sum[d](Q[q, d] * K[k, d]) where D[q] == E[k]) * K[k, d])
}
fn looked_up[q, n, c](X: [f32; n, c], A: [i64; q]) -> [f32; q, c] { X[A[q], c] }
fn projected[t, s, m, c](X: [f32; t, m], W: [f32; m, c]) -> [f32; t, c] {
    let P[t, c] = sum[m](X[t, m] * W[m, c]);
    sum[s](softmax[s](sum[c](P[t, c] * P[t as s, c])) * P[t as s, c])
}
""")


def _arguments(name: str, size: int = 5) -> tuple[torch.Tensor, ...]:
    x = [torch.randn(2, size, 4, requires_grad=True) for _ in range(3)]
    one, two = (torch.randn(size, 4, requires_grad=True) for _ in range(2))
    ids = torch.arange(size) // 2
    return {
        "biased": (*x, torch.randn(2, size, size, requires_grad=True)),
        "documents": (one, two, ids, ids),
        "projected": (one, torch.randn(4, 3, requires_grad=True)),
        "looked_up": (one, ids),
    }[name]


@pytest.mark.parametrize("name", ["biased", "documents", "projected", "looked_up"])
def test_torch_compile_makes_one_graph(name: str) -> None:
    torch.compiler.reset()
    function = OPEN[name]
    compiled = torch.compile(lambda *args: function(*args) * 2, fullgraph=True, backend="aot_eager")
    for size in (5, 5, 7):
        args = _arguments(name, size)
        found, expected = compiled(*args), function(*args) * 2
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        learned = [x for x in args if x.requires_grad]
        slopes = [torch.autograd.grad(x.sin().sum(), learned) for x in (found, expected)]
        torch.testing.assert_close(slopes[0], slopes[1])


def test_a_graph_refuses_what_a_call_refuses() -> None:
    torch.compiler.reset()
    compiled = torch.compile(OPEN.looked_up, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"an index of n is outside 0\.\.5"):
        compiled(torch.randn(5, 4), torch.tensor([1, 5]))


@pytest.mark.parametrize("strategy", ["cpu", "chunked", "reference"])
def test_a_spec_made_once_reads_the_tensors_of_each_call(strategy: str) -> None:
    with qkv.strategy(strategy):
        for _ in range(3):
            q, k, v, b = _arguments("biased")
            raw = q @ k.transpose(1, 2) / 2 + b
            expected = raw.masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf).softmax(-1) @ v
            found = OPEN.biased(q, k, v, b)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(
                torch.autograd.grad(found.sin().sum(), (q, k, v, b)),
                torch.autograd.grad(expected.sin().sum(), (q, k, v, b)),
            )


def test_a_mask_changed_before_the_backward_is_refused() -> None:
    q, k, d, e = _arguments("documents")
    found = OPEN.documents(q, k, d, e)
    e.add_(1)
    with pytest.raises(qkv.SpecError, match="was changed in place"):
        found.sum().backward()


def test_a_strategy_that_cannot_is_refused() -> None:
    f = qkv.ein.source("#[strategy(flash)]\nfn f[q, k](A: [f32; q, k]) -> [f32; q] { sum[k](A[q, k]) }").f
    with pytest.raises(qkv.EinError, match="strategy"):
        f(torch.ones(2, 3))
    g = qkv.ein.source(
        "#[strategy(linear)]\nfn f[q, k, d](A: [f32; q, d], B: [f32; k, d]) -> [f32; q, d] "
        "{ sum[k](softmax[k](sum[d](A[q, d] * B[k, d])) * B[k, d]) }"
    ).f
    with pytest.raises(qkv.Refused):
        g(torch.ones(2, 3), torch.ones(4, 3))


@pytest.mark.parametrize("strategy", ["cpu", "sdpa", "chunked"])
def test_a_plan_says_the_strategy_that_is_asked_for(strategy: str) -> None:
    f = qkv.ein.source(
        f"#[strategy({strategy})]\nfn f[q, k, d](A: [f32; q, d], B: [f32; k, d]) -> [f32; q, d] "
        "{ sum[k](softmax[k](sum[d](A[q, d] * B[k, d])) * B[k, d]) }"
    ).f
    a = torch.randn(5, 4)
    assert [p.strategy for p in f.plan(a, a)] == [strategy]
    torch.testing.assert_close(f(a, a), (a @ a.T).softmax(-1) @ a)


def test_every_strategy_can_be_asked_for_and_no_other() -> None:
    from qkv.ein.targets import STRATEGIES

    assert set(STRATEGIES) == {"flash", *qkv.strategies()}
